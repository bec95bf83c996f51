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

mod baked;
mod ca;
pub(crate) mod cloud;
mod contradiction;
mod disk;
mod disk_values;
mod document;
mod explain;
mod fields;
mod file;
mod hidden;
mod join;
pub mod network;
mod node;
mod opening;
mod parse;
mod power;
mod problem;
mod proxy;
mod quantity;
mod reporting;
mod role_only;
mod run;
mod sample;
pub mod schema;
mod seal;
pub mod sealed;
mod secret;
mod source;
mod ssh;
mod tree;
mod tuning;
mod user;
mod values;

pub use baked::check_within;
pub use ca::{Ca, Certificate};
pub use disk::{Disk, DiskMatch, Encryption, Filesystem, Swap, SwapSize};
pub use disk_values::{DiskName, DiskPath, MountOption, MountPoint, Pattern, Serial, Wwn};
pub use document::{
    Checked, Document, Format, Loaded, Machine, MachineMatch, check, load, load_with, machines_of, media_wait_of,
    only_permits, seal_of,
};
pub use explain::{Explained, Overridden};
pub use file::{MAXIMUM_FILE_BYTES, NodeFile, NodePath, Owner};
pub use join::{
    AbsolutePath, Aiware, BackendAi, BackendAiRole, DRIVERS, Database, DockerSwarm, EXEC_SECRETS, Endpoint, Etcd, Exec,
    ExecFile, Gate, Gluster, GlusterRole, HttpUrl, JOIN_PROGRAMS, Join, K3s, K3sRole, Kubeadm, KubeadmRole, Label,
    Mount, Nfs, Pinning, ProgramName, RENDEZVOUS_PORT, Subnet, SwarmRole, System, UnitName, Volume, is_spki_pin,
    judge_bootstrap_token, judge_k3s_token,
};
pub use network::Network;
pub use node::NodeConfig;
pub use opening::{Opener, seal_document};
pub use parse::MAXIMUM_DOCUMENT_BYTES;
pub use power::{Power, PowerMode};
pub use problem::{ConfigError, Problem};
pub use proxy::{NoProxy, Proxy, ProxyUrl};
pub use quantity::{Bytes, Share, SizeRange};
pub use reporting::{ReportTo, TimeFrom, Url};
pub use run::{Command, MAXIMUM_COMMANDS, Run};
pub use sample::SAMPLE;
pub use seal::{Seal, SiteKey};
pub use secret::{MINIMUM_SECRET_CHARACTERS, SAMPLE_SECRET, Secret, judge_cluster_secret, judge_credential};
pub use source::SourceKind;
pub use ssh::{HostKey, HostKeyType, Ssh};
pub use tree::Origin;
pub use tuning::{
    Amount, Channels, DiskTuning, InterfaceTuning, LinkMatch, PAGE_SIZES, PageCount, QueueMatch, Tuning, Unit,
};
pub use user::{AccountName, SudoRule, User};
pub use values::{Advertise, Cidr, HostAddress, Hostname, InterfaceName, Mac, SshKey, Timezone, is_swarm_token};

#[cfg(test)]
pub(crate) use ca::tests::pem as test_certificate;
