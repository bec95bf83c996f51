//! Disks, swap and tuning.

use super::{Form, INTERFACE, Key, Kind, MAC, TEXT};

const WORD: Form = Form { name: "a word", pattern: "^\\S+$" };
const PATH: Form = Form { name: "an absolute path", pattern: "^/" };
const ENCRYPTION: Form = Form { name: "`\"tpm2\"` or `\"key-file\"`", pattern: "^(tpm2|key-file)$" };
const CORES: Form = Form { name: "`\"cores\"`", pattern: "^cores$" };

/// The keys, tables before what is in them.
pub const KEYS: &[Key] = &[
    Key::new(
        "disk",
        Kind::Tables,
        "",
        "Disks that the node claims for data; blank ones only, unless a serial number is listed under `wipe`.",
    ),
    Key::new("disk[].name", Kind::Text(WORD), "\"data\"", "A short word for the rule.").required(),
    Key::new("disk[].match", Kind::Table, "", "Which disks; the rule holds only where it matches exactly `count`.")
        .required(),
    Key::new("disk[].match.serial", Kind::OneOrMore(TEXT), "\"S4EVNX0R123456\"", "Serial numbers."),
    Key::new("disk[].match.wwn", Kind::OneOrMore(TEXT), "\"0x5000c500a1b2c3d4\"", "World wide names."),
    Key::new(
        "disk[].match.path",
        Kind::OneOrMore(TEXT),
        "\"/dev/disk/by-path/pci-0000:00:1f.2-ata-1\"",
        "Links below `/dev/disk/by-path`, or patterns of them.",
    ),
    Key::new("disk[].match.size", Kind::Text(TEXT), "\"3.5T..4T\"", "A range of sizes."),
    Key::new("disk[].match.model", Kind::Text(TEXT), "\"SAMSUNG MZ*\"", "A pattern of the model."),
    Key::new(
        "disk[].mount",
        Kind::Text(PATH),
        "\"/data\"",
        "Where each is mounted; several disks need `{n}` in it, which counts from 0.",
    )
    .required(),
    Key::new("disk[].count", Kind::Integer(1, 512), "2", "How many disks there are.")
        .default("as many as are listed, or 1")
        .beside("disk = [{ match = { model = \"X*\" }, mount = \"/data/{n}\" }]"),
    Key::new("disk[].filesystem", Kind::Choice(&["xfs", "ext4"]), "\"xfs\"", "What is made on each.")
        .default("`\"xfs\"`"),
    Key::new("disk[].label", Kind::Text(TEXT), "\"data\"", "The filesystem's label; several disks need `{n}` in it."),
    Key::new(
        "disk[].mkfs",
        Kind::Texts(TEXT),
        "[\"-i\", \"size=512\"]",
        "Arguments for the program that makes the filesystem.",
    )
    .default("`[]`"),
    Key::new("disk[].options", Kind::Texts(TEXT), "[\"noatime\"]", "Mount options.").default("`[]`"),
    Key::new(
        "disk[].encrypt",
        Kind::BooleanOrText(ENCRYPTION),
        "\"tpm2\"",
        "LUKS with a key in the TPM, or in a file on the state partition.",
    )
    .default("`false`"),
    Key::new(
        "disk[].wipe",
        Kind::Texts(TEXT),
        "[\"S4EVNX0R123456\"]",
        "Serial numbers of disks whose content may be destroyed.",
    )
    .default("`[]`"),
    Key::new(
        "disk[].adopt",
        Kind::Texts(TEXT),
        "[\"S4EVNX0R123456\"]",
        "Serial numbers of disks that are taken over with the filesystem that they have.",
    )
    .default("`[]`"),
    Key::new(
        "disk[].required_by",
        Kind::Texts(TEXT),
        "[\"docker.service\"]",
        "Units that do not start without these disks.",
    )
    .default("`[]`"),
    Key::new("swap", Kind::Table, "", "Swap space: either a file of `size`, or the disk of `match`."),
    Key::new(
        "swap.size",
        Kind::Text(TEXT),
        "\"8GiB\"",
        "The size of a file on the state partition, or a share: `25% of RAM`.",
    ),
    Key::new("swap.match", Kind::Table, "", "The disk that is swap as a whole."),
    Key::new("swap.match.serial", Kind::OneOrMore(TEXT), "\"S4EVNX0R123456\"", "Serial numbers."),
    Key::new("swap.match.wwn", Kind::OneOrMore(TEXT), "\"0x5000c500a1b2c3d4\"", "World wide names."),
    Key::new(
        "swap.match.path",
        Kind::OneOrMore(TEXT),
        "\"/dev/disk/by-path/pci-0000:00:1f.2-ata-1\"",
        "Links below `/dev/disk/by-path`, or patterns of them.",
    ),
    Key::new("swap.match.size", Kind::Text(TEXT), "\"3.5T..4T\"", "A range of sizes."),
    Key::new("swap.match.model", Kind::Text(TEXT), "\"SAMSUNG MZ*\"", "A pattern of the model."),
    Key::new(
        "swap.wipe",
        Kind::Texts(TEXT),
        "[\"S4EVNX0R123456\"]",
        "Serial numbers of disks whose content may be destroyed.",
    )
    .default("`[]`")
    .beside("swap = { match = { serial = \"S4EVNX0R123456\" } }"),
    Key::new(
        "tuning",
        Kind::Table,
        "",
        "Settings of the kernel and of services' limits, applied at every boot and read back.",
    ),
    Key::new(
        "tuning.sysctl",
        Kind::Map,
        "{ \"vm.swappiness\" = 10 }",
        "Settings by name: a number, a text of numbers, or a share such as `1% of RAM, at most 8GiB`.",
    ),
    Key::new("tuning.governor", Kind::Text(WORD), "\"performance\"", "The CPU frequency governor."),
    Key::new(
        "tuning.transparent_hugepages",
        Kind::Choice(&["always", "madvise", "never"]),
        "\"madvise\"",
        "When the kernel takes huge pages by itself.",
    ),
    Key::new("tuning.hugepages", Kind::Table, "", "Huge pages that are set aside."),
    Key::new("tuning.hugepages.2M", Kind::IntegerOrText(TEXT), "1024", "How many of 2 MiB, or a share: `50% of RAM`."),
    Key::new("tuning.hugepages.1G", Kind::IntegerOrText(TEXT), "\"50% of RAM\"", "How many of 1 GiB, or a share."),
    Key::new("tuning.limits", Kind::Table, "", "Limits of services: a number, `\"infinity\"` or `\"SOFT:HARD\"`."),
    Key::new("tuning.limits.nofile", Kind::IntegerOrText(TEXT), "65536", "Open files."),
    Key::new("tuning.limits.nproc", Kind::IntegerOrText(TEXT), "65536", "Processes of one user."),
    Key::new("tuning.limits.memlock", Kind::IntegerOrText(TEXT), "\"infinity\"", "Locked memory in bytes."),
    Key::new("tuning.limits.core", Kind::IntegerOrText(TEXT), "\"infinity\"", "Size of a core file in bytes."),
    Key::new("tuning.limits.stack", Kind::IntegerOrText(TEXT), "\"8388608:infinity\"", "Size of the stack in bytes."),
    Key::new("tuning.limits.tasks", Kind::IntegerOrText(TEXT), "\"infinity\"", "Tasks of one service."),
    Key::new("tuning.disk", Kind::Tables, "", "The queues of disks."),
    Key::new("tuning.disk[].match", Kind::Table, "", "Which disks.").required(),
    Key::new("tuning.disk[].match.name", Kind::Text(TEXT), "\"nvme*\"", "The kernel's name, or a pattern.")
        .beside("tuning = { disk = [{ scheduler = \"none\" }] }"),
    Key::new("tuning.disk[].match.model", Kind::Text(TEXT), "\"SAMSUNG MZ*\"", "A pattern of the model.")
        .beside("tuning = { disk = [{ scheduler = \"none\" }] }"),
    Key::new("tuning.disk[].match.rotational", Kind::Boolean, "false", "Whether it turns.")
        .beside("tuning = { disk = [{ scheduler = \"none\" }] }"),
    Key::new("tuning.disk[].scheduler", Kind::Text(WORD), "\"none\"", "The IO scheduler; it is set first."),
    Key::new("tuning.disk[].nr_requests", Kind::Integer(0, 4_294_967_295), "1024", "Requests in the queue."),
    Key::new("tuning.disk[].read_ahead_kb", Kind::Integer(0, 4_294_967_295), "4096", "How far it reads ahead, in KiB."),
    Key::new("tuning.disk[].rq_affinity", Kind::Integer(0, 4_294_967_295), "2", "Which CPU completes requests."),
    Key::new("tuning.disk[].max_sectors_kb", Kind::Integer(0, 4_294_967_295), "1024", "The largest request in KiB."),
    Key::new(
        "tuning.disk[].wbt_lat_usec",
        Kind::Integer(0, 4_294_967_295),
        "0",
        "The aim of writeback throttling in microseconds.",
    ),
    Key::new("tuning.interface", Kind::Tables, "", "Rings and channels of interfaces."),
    Key::new("tuning.interface[].match", Kind::Table, "", "Which interfaces: exactly one of the keys in it.")
        .required(),
    Key::new("tuning.interface[].match.name", Kind::Text(INTERFACE), "\"en*\"", "The name, or a pattern.")
        .beside("tuning = { interface = [{ rx_ring = 4096 }] }"),
    Key::new("tuning.interface[].match.mac", Kind::Text(MAC), "\"52:54:00:12:34:56\"", "The hardware address.")
        .beside("tuning = { interface = [{ rx_ring = 4096 }] }"),
    Key::new("tuning.interface[].match.driver", Kind::Text(TEXT), "\"mlx5_core\"", "The driver, or a pattern.")
        .beside("tuning = { interface = [{ rx_ring = 4096 }] }"),
    Key::new("tuning.interface[].rx_ring", Kind::Integer(1, 65_536), "4096", "Packets in a receive ring."),
    Key::new("tuning.interface[].tx_ring", Kind::Integer(1, 65_536), "4096", "Packets in a send ring."),
    Key::new(
        "tuning.interface[].combined",
        Kind::IntegerOrText(CORES),
        "\"cores\"",
        "Channels that send and receive, or `\"cores\"`.",
    ),
    Key::new("tuning.interface[].rx_channels", Kind::Integer(1, 65_536), "8", "Channels that receive."),
    Key::new("tuning.interface[].tx_channels", Kind::Integer(1, 65_536), "8", "Channels that send."),
];
