//! `[join]`: the keys that all drivers have, and each driver's own. A key that means something else to another driver
//! is described once for each meaning.

use super::{ADVERTISE, CERTIFICATE, CIDR, Form, HOST, INTERFACE, IP, Key, Kind, PEM, TEXT, URL};
use crate::config::DRIVERS;

const ENDPOINT: Form = Form { name: "a machine with its TCP port", pattern: "^[0-9A-Za-z:.\\[\\]-]+:[0-9]+$" };
const PATH: Form = Form { name: "an absolute path", pattern: "^/" };
const UNIT: Form = Form { name: "a systemd unit", pattern: "^[A-Za-z0-9:_.\\\\@][A-Za-z0-9:_.\\\\@-]*\\.[a-z]+$" };
const LABEL: Form = Form { name: "a label, `key=value`", pattern: "^[^=]+=" };
const TAINT: Form = Form { name: "a taint", pattern: ":(NoSchedule|PreferNoSchedule|NoExecute)$" };
const PART: Form = Form {
    name: "`coredns`, `servicelb`, `traefik`, `local-storage`, `metrics-server` or `runtimes`",
    pattern: "^(coredns|servicelb|traefik|local-storage|metrics-server|runtimes)$",
};
const SPKI_PIN: Form = Form { name: "the pin of an authority", pattern: "^sha256:[0-9A-Fa-f]{64}$" };
const CHECK: Form = Form { name: "the name of a check", pattern: "^[0-9A-Za-z._-]+$" };
const SOCKET: Form = Form { name: "the URL of a socket", pattern: "^unix:///" };
const MODE: Form = Form {
    name: "a run mode",
    pattern: "^(api|controller|db|elasticsearch|engine|lb|minio|nfs|nsq|prometheus|redis|registry)$",
};
const BRICK: Form = Form { name: "a brick, `server:/directory`", pattern: "^.+:/" };
const EXPORT: Form = Form { name: "an export, `server:/directory`", pattern: "^.+:/" };
const VOLUME: Form = Form { name: "the name of a volume", pattern: "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$" };
const OPTION: Form = Form { name: "a mount option", pattern: "^[A-Za-z0-9=_.:/@+][A-Za-z0-9=_.:/@+-]*$" };
const PROGRAM: Form = Form { name: "the name of a program", pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" };
const PERMISSIONS: Form = Form { name: "a file mode in octal", pattern: "^[0-7]{1,4}$" };

/// The drivers with a rendezvous.
const MEETING: &[&str] = &["docker-swarm", "k3s", "kubeadm"];
const KUBERNETES: &[&str] = &["k3s", "kubeadm"];
const SWARM: &[&str] = &["docker-swarm"];
const K3S: &[&str] = &["k3s"];
const KUBEADM: &[&str] = &["kubeadm"];
const AIWARE: &[&str] = &["aiware"];
const AIWARE_CONTROLLER: &[&str] = &["aiware/controller"];
const BACKENDAI: &[&str] = &["backendai"];
const BACKENDAI_MANAGER: &[&str] = &["backendai/manager"];
const GLUSTER: &[&str] = &["gluster"];
const NFS: &[&str] = &["nfs"];
const MOUNTING: &[&str] = &["gluster", "nfs"];
const EXEC: &[&str] = &["exec"];

const PINS: &str = "[\"sha256:3b1f0a6e2c9d8475fe01a2b3c4d5968778695a4b9f86d081884c7d659a2feaa0\"]";
const PINNED: &str =
    "join = { ca_cert_hashes = [\"sha256:3b1f0a6e2c9d8475fe01a2b3c4d5968778695a4b9f86d081884c7d659a2feaa0\"] }";

/// The keys: tables before what is in them, and keys of `[join]` itself before its tables.
pub const KEYS: &[Key] = &[
    Key::new("join", Kind::Table, "", "The cluster that the node joins."),
    Key::new("join.driver", Kind::Choice(DRIVERS), "\"docker-swarm\"", "The kind of cluster.").required(),
    Key::new("join.role", Kind::Choice(&["manager", "worker"]), "\"worker\"", "What the node is in the swarm.")
        .needed_by(SWARM)
        .only(SWARM),
    Key::new("join.role", Kind::Choice(&["server", "agent"]), "\"agent\"", "What the node is in the cluster.")
        .needed_by(K3S)
        .only(K3S),
    Key::new(
        "join.role",
        Kind::Choice(&["init", "control-plane", "worker"]),
        "\"worker\"",
        "What the node is in the cluster; `init` founds it.",
    )
    .needed_by(KUBEADM)
    .only(KUBEADM),
    Key::new("join.role", Kind::Choice(&["manager", "agent"]), "\"agent\"", "What the node is in the cluster.")
        .needed_by(BACKENDAI)
        .only(BACKENDAI),
    Key::new("join.role", Kind::Choice(&["server", "client"]), "\"server\"", "What the node is in the pool.")
        .needed_by(GLUSTER)
        .only(GLUSTER),
    Key::new("join.splay", Kind::Integer(0, 3600), "30", "The seconds over which first attempts are spread.")
        .default("1.2 for each machine that the configuration names"),
    Key::new("join.advertise", Kind::Text(ADVERTISE), "\"10.77.0.10\"", "What the others reach this node by.")
        .default("found out")
        .only(SWARM),
    Key::new("join.advertise", Kind::Text(IP), "\"10.77.0.10\"", "The own address that the others reach this node by.")
        .default("found out")
        .only(&["k3s", "kubeadm", "aiware", "backendai"]),
    Key::new(
        "join.managers",
        Kind::Texts(HOST),
        "[\"10.77.0.10\"]",
        "The managers, the one that founds the cluster first.",
    )
    .default("`[]`")
    .needed_by(&["docker-swarm/worker"])
    .only(SWARM),
    Key::new(
        "join.managers",
        Kind::Texts(HOST),
        "[\"10.77.0.10\"]",
        "The control-plane nodes; only to these the rendezvous gives what makes them such; not needed with a token.",
    )
    .default("the endpoint's machine")
    .needed_by(&["kubeadm/control-plane"])
    .only(KUBEADM),
    Key::new(
        "join.servers",
        Kind::Texts(HOST),
        "[\"10.77.0.10\"]",
        "The servers, the one that founds the cluster first.",
    )
    .needed_by(K3S)
    .only(K3S),
    Key::new(
        "join.servers",
        Kind::Texts(HOST),
        "[\"10.77.0.10\", \"10.77.0.11\", \"10.77.0.12\"]",
        "The servers of the pool; the first brings in the others and makes the volumes.",
    )
    .needed_by(GLUSTER)
    .only(GLUSTER),
    Key::new("join.endpoint", Kind::Text(ENDPOINT), "\"10.77.0.10:6443\"", "Where all nodes reach the API, for good.")
        .needed_by(KUBEADM)
        .only(KUBEADM),
    Key::new(
        "join.modes",
        Kind::Texts(MODE),
        "[\"engine\"]",
        "What the node runs: `api`, `controller`, `db`, `elasticsearch`, `engine`, `lb`, `minio`, `nfs`, `nsq`, \
         `prometheus`, `redis`, `registry`.",
    )
    .needed_by(AIWARE)
    .only(AIWARE),
    Key::new(
        "join.controller",
        Kind::Text(URL),
        "\"https://10.77.0.10:9000/edge/v1\"",
        "The controller's address; a controller itself needs none.",
    )
    .needed_by(AIWARE)
    .unless(AIWARE_CONTROLLER)
    .only(AIWARE),
    Key::new(
        "join.secret",
        Kind::Text(TEXT),
        "\"kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=\"",
        "The cluster secret, the same on all nodes, of `openssl rand -base64 32`; not needed with a token.",
    )
    .secret()
    .needed_by(&["docker-swarm", "k3s", "kubeadm/control-plane", "kubeadm/worker"])
    .only(MEETING),
    Key::new(
        "join.manager_secret",
        Kind::Text(TEXT),
        "\"Tq3ZxN8vLr5WbKe1YdHu7PsMc9GjXa2FoRi6tBn4lVs=\"",
        "What managers, servers and control-plane nodes prove to each other instead, so that a worker's file makes none.",
    )
    .secret()
    .only(MEETING),
    Key::new(
        "join.token",
        Kind::Text(TEXT),
        "\"SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2\"",
        "A join token of the cluster instead of the secret: `docker swarm join-token -q worker` prints it.",
    )
    .secret()
    .only(SWARM),
    Key::new(
        "join.token",
        Kind::Text(TEXT),
        "\"K103b1f0a6e2c9d8475fe01a2b3c4d5968778695a4b9f86d081884c7d659a2feaa0::server:Vb7kQ2xN9sLm4TzR\"",
        "A whole token, `K10…`, of `/var/lib/rancher/k3s/server/token`, instead of the secret.",
    )
    .secret()
    .only(K3S),
    Key::new(
        "join.token",
        Kind::Text(TEXT),
        "\"07401b.f395accd246ae52d\"",
        "A bootstrap token of `kubeadm token create` instead of the secret; with `ca_cert_hashes`.",
    )
    .secret()
    .only(KUBEADM)
    .beside(PINNED),
    Key::new(
        "join.token",
        Kind::Text(TEXT),
        "\"7d1f0a6e-2c9d-4475-be01-a2b3c4d59687\"",
        "The init token, of `uuidgen`; a controller needs it.",
    )
    .secret()
    .needed_by(AIWARE_CONTROLLER)
    .only(AIWARE),
    Key::new(
        "join.ca_cert_hashes",
        Kind::Texts(SPKI_PIN),
        PINS,
        "The pins of the cluster's authority: `sha256:` and the digest of its public key.",
    )
    .default("`[]`")
    .only(KUBEADM),
    Key::new(
        "join.discovery",
        Kind::Text(TEXT),
        "\"\"\"\napiVersion: v1\nkind: Config\nclusters:\n- name: site\n  cluster:\n    \
         server: https://10.77.0.10:6443\n    certificate-authority-data: LS0tLS1CRUdJTg==\n\"\"\"",
        "A kubeconfig with the API's address and authority, in place of the pins.",
    )
    .secret()
    .only(KUBEADM),
    Key::new(
        "join.certificate_key",
        Kind::Text(TEXT),
        "\"9f86d081884c7d659a2feaa0c55ad0153b1f0a6e2c9d8475fe01a2b3c4d59687\"",
        "What `kubeadm init phase upload-certs --upload-certs` prints; a control-plane node with a token needs it.",
    )
    .secret()
    .only(KUBEADM),
    Key::new(
        "join.allow_unpinned",
        Kind::Boolean,
        "true",
        "Accept a join in which whoever answers first is believed; there is a warning.",
    )
    .default("`false`")
    .only(&["k3s", "kubeadm", "aiware", "backendai"]),
    Key::new("join.rendezvous_port", Kind::Integer(1, 65535), "7390", "The TCP port of the rendezvous.")
        .default("`7390`")
        .only(MEETING),
    Key::new(
        "join.cluster_init",
        Kind::Boolean,
        "true",
        "Keep the state in an embedded etcd that further servers can join.",
    )
    .default("`true` with several servers")
    .only(K3S),
    Key::new("join.interface", Kind::Text(INTERFACE), "\"lan0\"", "The interface of the pods' network.")
        .default("that of the default route")
        .only(K3S),
    Key::new("join.labels", Kind::Texts(LABEL), "[\"example.com/disk=nvme\"]", "Labels of the node.")
        .default("`[]`")
        .only(KUBERNETES),
    Key::new("join.taints", Kind::Texts(TAINT), "[\"gpu=true:NoSchedule\"]", "Taints of the node.")
        .default("`[]`")
        .only(K3S),
    Key::new("join.disable", Kind::Texts(PART), "[\"traefik\"]", "Parts of k3s that servers leave out.")
        .default("`[]`")
        .only(K3S),
    Key::new("join.pod_subnet", Kind::Text(CIDR), "\"10.244.0.0/16\"", "The pods' network.")
        .default("the cluster's own")
        .only(KUBERNETES),
    Key::new("join.service_subnet", Kind::Text(CIDR), "\"10.96.0.0/16\"", "The services' network.")
        .default("the cluster's own")
        .only(KUBERNETES),
    Key::new(
        "join.cri_socket",
        Kind::Text(SOCKET),
        "\"unix:///run/containerd/containerd.sock\"",
        "Where the container runtime listens.",
    )
    .default("containerd's")
    .only(KUBEADM),
    Key::new(
        "join.ignore_preflight",
        Kind::Texts(CHECK),
        "[\"NumCPU\", \"Mem\"]",
        "Checks of kubeadm's preflight whose errors are to be warnings, as it names them in `[ERROR NAME]`.",
    )
    .default("`[]`")
    .only(KUBEADM),
    Key::new("join.license", Kind::Text(TEXT), "\"h7Gk2LpQ9sVx4TzR\"", "The licence of the cluster.").secret().only(AIWARE),
    Key::new("join.db", Kind::Text(ENDPOINT), "\"10.77.0.20:5432\"", "The database, where another machine has it.")
        .default("this node's")
        .only(AIWARE),
    Key::new("join.db_user", Kind::Text(TEXT), "\"aiware\"", "The database's user.").default("aiWARE's").only(AIWARE),
    Key::new(
        "join.db_password",
        Kind::Text(TEXT),
        "\"Wn5cXr8KqY2mBz7T\"",
        "The database's password; a controller and the mode `db` need it.",
    )
    .secret()
    .needed_by(&["aiware/controller", "aiware/db"])
    .only(AIWARE),
    Key::new("join.db_migrate", Kind::Boolean, "true", "Bring the database's schema up to date.")
        .default("`true` on a controller")
        .only(AIWARE),
    Key::new(
        "join.nfs_permitted",
        Kind::Text(CIDR),
        "\"10.77.0.0/24\"",
        "Who may mount what the mode `nfs` exports; that mode needs it.",
    )
    .needed_by(&["aiware/nfs"])
    .only(AIWARE),
    Key::new("join.registry", Kind::Text(ENDPOINT), "\"10.77.0.21:5000\"", "A registry that is waited for.")
        .only(AIWARE),
    Key::new("join.region", Kind::Text(TEXT), "\"berlin\"", "A name for the region.").only(AIWARE),
    Key::new("join.group", Kind::Text(TEXT), "\"gpu\"", "The resource group of an agent.")
        .default("Backend.AI's")
        .only(BACKENDAI),
    Key::new("join.scratch", Kind::Text(PATH), "\"/data/scratches\"", "Where an agent keeps its sessions' files.")
        .default("`/var/cache/scratches`")
        .only(BACKENDAI),
    Key::new(
        "join.founds",
        Kind::Boolean,
        "true",
        "This manager makes the database's schema where there is none; one of the cluster's does.",
    )
    .default("`false`")
    .only(BACKENDAI),
    Key::new("join.program", Kind::Text(PROGRAM), "\"slurm\"", "A program of the image in `/usr/lib/ingot/join.d`.")
        .needed_by(EXEC)
        .only(EXEC),
    Key::new(
        "join.arguments",
        Kind::Texts(TEXT),
        "[\"--controller\", \"10.77.0.10\"]",
        "What it is told after its verb; everybody on the node can see it.",
    )
    .default("`[]`")
    .only(EXEC),
    Key::new("join.units", Kind::Texts(UNIT), "[\"munge.service\"]", "Units that are started before it.")
        .default("`[]`")
        .only(EXEC),
    Key::new("join.timeout", Kind::Integer(1, 3600), "300", "The seconds that one call may take.")
        .default("`300`")
        .only(EXEC),
    Key::new(
        "join.secrets",
        Kind::Map,
        "{ munge = \"Zk9vT2mQxW7sYb4H\" }",
        "Secrets that it reads from `/run/ingot/join-secrets/NAME`.",
    )
    .secret()
    .only(EXEC),
    Key::new("join.after", Kind::Tables, "", "What must be up before the join begins, in this order; one key each."),
    Key::new("join.after[].tcp", Kind::Text(ENDPOINT), "\"10.77.0.20:5432\"", "Something accepts connections there."),
    Key::new(
        "join.after[].http",
        Kind::Text(URL),
        "\"https://10.77.0.21:8443/ready\"",
        "Something answers there with a status from 200 to 299.",
    ),
    Key::new(
        "join.after[].ca",
        Kind::Text(PEM),
        CERTIFICATE,
        "The authorities that may vouch for it, in PEM; beside `http`.",
    )
    .default("the image's")
    .beside("join = { after = [{ http = \"https://10.77.0.21:8443/ready\" }] }"),
    Key::new("join.after[].mount", Kind::Text(PATH), "\"/data\"", "Something is mounted there."),
    Key::new("join.after[].unit", Kind::Text(UNIT), "\"containerd.service\"", "This unit is active."),
    Key::new("join.after[].time_synced", Kind::Boolean, "true", "A time server has set the clock."),
    Key::new("join.etcd", Kind::Table, "", "How the cluster's etcd is reached.").needed_by(BACKENDAI).only(BACKENDAI),
    Key::new("join.etcd.address", Kind::Text(ENDPOINT), "\"10.77.0.10:2379\"", "Where it is reached.")
        .needed_by(BACKENDAI)
        .only(BACKENDAI),
    Key::new("join.etcd.namespace", Kind::Text(TEXT), "\"site\"", "The cluster's name in it.")
        .default("`\"local\"`")
        .only(BACKENDAI),
    Key::new("join.etcd.user", Kind::Text(TEXT), "\"backend\"", "The user; with `password`.")
        .only(BACKENDAI)
        .beside("join = { allow_unpinned = true, etcd = { password = \"Ry6fDk3WpX9tGm2V\" } }"),
    Key::new("join.etcd.password", Kind::Text(TEXT), "\"Ry6fDk3WpX9tGm2V\"", "The user's password.")
        .secret()
        .only(BACKENDAI)
        .beside("join = { allow_unpinned = true, etcd = { user = \"backend\" } }"),
    Key::new("join.db", Kind::Table, "", "How the manager reaches its PostgreSQL.")
        .needed_by(BACKENDAI_MANAGER)
        .only(BACKENDAI),
    Key::new("join.db.address", Kind::Text(ENDPOINT), "\"10.77.0.20:5432\"", "Where it is reached.")
        .needed_by(BACKENDAI_MANAGER)
        .only(BACKENDAI),
    Key::new("join.db.name", Kind::Text(TEXT), "\"backend\"", "The database's name.")
        .needed_by(BACKENDAI_MANAGER)
        .only(BACKENDAI),
    Key::new("join.db.user", Kind::Text(TEXT), "\"backend\"", "The database's user.").needed_by(BACKENDAI_MANAGER).only(BACKENDAI),
    Key::new("join.db.password", Kind::Text(TEXT), "\"Hs4vJn8YcQ5zLb7K\"", "The user's password.")
        .secret()
        .needed_by(BACKENDAI_MANAGER)
        .only(BACKENDAI),
    Key::new("join.volume", Kind::Tables, "", "The volumes, made once.").only(GLUSTER),
    Key::new("join.volume[].name", Kind::Text(VOLUME), "\"models\"", "The name of the volume.").required().only(GLUSTER),
    Key::new("join.volume[].replica", Kind::Integer(1, 7), "3", "How many copies of a file there are.")
        .default("`3`")
        .only(GLUSTER),
    Key::new(
        "join.volume[].arbiter",
        Kind::Boolean,
        "true",
        "The last copy of each set holds only names and attributes; with three copies.",
    )
    .default("`false`")
    .only(GLUSTER),
    Key::new(
        "join.volume[].bricks",
        Kind::Texts(BRICK),
        "[\"10.77.0.10:/data/b\", \"10.77.0.11:/data/b\", \"10.77.0.12:/data/b\"]",
        "Where its parts lie; their number is a multiple of `replica`.",
    )
    .required()
    .only(GLUSTER),
    Key::new(
        "join.volume[].options",
        Kind::Map,
        "{ \"network.ping-timeout\" = \"10\" }",
        "Settings of the volume, each a text.",
    )
    .default("`{}`")
    .only(GLUSTER),
    Key::new("join.mount", Kind::Tables, "", "What the node mounts.").needed_by(&["nfs", "gluster/client"]).only(MOUNTING),
    Key::new("join.mount[].source", Kind::Text(EXPORT), "\"10.77.0.10:/export\"", "What is mounted.")
        .required()
        .only(NFS),
    Key::new("join.mount[].volume", Kind::Text(VOLUME), "\"models\"", "Which volume of the pool is mounted.")
        .required()
        .only(GLUSTER),
    Key::new("join.mount[].target", Kind::Text(PATH), "\"/data\"", "Where it is mounted.").required().only(MOUNTING),
    Key::new("join.mount[].options", Kind::Texts(OPTION), "[\"nconnect=8\"]", "Mount options.")
        .default("`[]`")
        .only(MOUNTING),
    Key::new("join.file", Kind::Tables, "", "Files that the program needs.").only(EXEC),
    Key::new(
        "join.file[].path",
        Kind::Text(PATH),
        "\"/etc/slurm/slurm.conf\"",
        "Where it lies: below `/etc` or `/var/lib`, not where Ingot or systemd have their own.",
    )
    .required()
    .only(EXEC),
    Key::new(
        "join.file[].content",
        Kind::Text(TEXT),
        "\"ClusterName=site\\n\"",
        "Its text; it may hold secrets, so it is never shown.",
    )
    .secret()
    .required()
    .only(EXEC),
    Key::new("join.file[].mode", Kind::Text(PERMISSIONS), "\"0640\"", "Its permission bits.")
        .default("`\"0600\"`")
        .only(EXEC),
];
