//! Node configuration: `node.toml`, and the part of cloud-init's documents that an appliance needs.
//!
//! Takes [`Document`]s in the order of their precedence and a [`Machine`]; gives one valid [`NodeConfig`], or every
//! mistake at once with file, line, column, key and the nearest known key. The node and `ingot config check` use
//! the same code, so what passes the check works on the node.
//!
//! The way of a value: bytes → a tree that keeps every place (`parse`, `cloud`) → one tree (`document`) →
//! types that can only hold valid values (`node`, `values`).
//!
//! ```
//! use ingot_firstboot::config::{Document, Format, Machine, load};
//!
//! let text = b"version = 1\nhostnme = \"w1\"\n".to_vec();
//! let document = Document { name: "node.toml".into(), format: Format::NodeToml, bytes: text };
//! let error = load(&[document], &Machine::default()).unwrap_err();
//! assert_eq!(error.to_string(), "node.toml:2:1: hostnme: unknown key (did you mean \"hostname\"?)");
//! ```

mod cloud;
mod document;
mod fields;
mod join;
mod node;
mod parse;
mod problem;
mod sample;
mod secret;
mod tree;
mod values;

pub use document::{Checked, Document, Explained, Format, Loaded, Machine, MachineMatch, check, load};
pub use join::{
    AbsolutePath, Aiware, BackendAi, BackendAiRole, DRIVERS, Database, DockerSwarm, EXEC_SECRETS, Endpoint, Etcd, Exec,
    ExecFile, Gate, Gluster, GlusterRole, HttpUrl, JOIN_PROGRAMS, Join, K3s, K3sRole, Kubeadm, KubeadmRole, Label,
    Mount, Nfs, Pinning, ProgramName, RENDEZVOUS_PORT, Subnet, SwarmRole, System, UnitName, Volume, is_secret_key,
    is_spki_pin, judge_bootstrap_token, judge_k3s_token,
};
pub use node::{DOCUMENT_KEYS, InterfaceMatch, Network, NodeConfig};
pub use parse::MAXIMUM_DOCUMENT_BYTES;
pub use problem::{ConfigError, Problem};
pub use sample::SAMPLE;
pub use secret::{MINIMUM_SECRET_CHARACTERS, SAMPLE_SECRET, Secret, judge_cluster_secret, judge_credential};
pub use tree::Origin;
pub use values::{Advertise, Cidr, HostAddress, Hostname, InterfaceName, Mac, SshKey, Timezone, is_swarm_token};
