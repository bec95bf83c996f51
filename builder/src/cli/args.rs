//! What can be typed. No logic: a command turns its arguments into plain values and calls the library.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ingot_firstboot::config::MachineMatch;

/// Builds immutable Ubuntu appliance images, one per cluster role, and boots, tests and ships them.
#[derive(Debug, Parser)]
#[command(name = "ingot", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory of the profiles
    #[arg(long, global = true, env = "INGOT_PROFILES", default_value = "profiles", value_name = "DIR")]
    pub profiles: PathBuf,
    /// The lock file
    #[arg(long, global = true, env = "INGOT_LOCK", default_value = "ingot.lock", value_name = "FILE")]
    pub lock_file: PathBuf,
    /// Where packages and results are kept [default: the user's cache directory]
    #[arg(long, global = true, env = "INGOT_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Build on this base in place of the roles' own: debian-13, ubuntu-24.04
    #[arg(long, global = true, env = "INGOT_BASE", value_name = "BASE")]
    pub base: Option<String>,
    /// Fetch a repository from here; `INGOT_MIRROR_<NAME>` does the same
    #[arg(long, global = true, value_name = "NAME=URL", value_parser = mirror)]
    pub mirror: Vec<(String, String)>,
    /// Fetch nothing: use what the cache has, or fail
    #[arg(long, global = true, env = "INGOT_OFFLINE")]
    pub offline: bool,
    /// Threads [default: one per processor]
    #[arg(long, short, global = true, value_name = "N")]
    pub jobs: Option<usize>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Resolve packages and pin them in the lock
    Lock(LockArgs),
    /// Build images from the lock
    Build(BuildArgs),
    /// Hand the sources of images over to a machine without a network
    Bundle {
        #[command(subcommand)]
        command: BundleCommand,
    },
    /// Boot a role or a scenario in QEMU and check it
    Test(TestArgs),
    /// Boot an image in QEMU with its console on this terminal
    Run(RunArgs),
    /// Work with node configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make and show the keys of a site
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
}

#[derive(Debug, Args)]
pub struct LockArgs {
    /// Roles [default: all]
    pub roles: Vec<String>,
    /// Change only these packages and what they force; the rest stays as it is locked, as long as the archives have it.
    /// Several are separated by commas; `*` and `?` stand for any text and any character
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',', conflicts_with = "check")]
    pub update: Vec<String>,
    /// Write nothing; fail if the lock would change
    #[arg(long)]
    pub check: bool,
    /// Show what would change and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Accept archives whose release files are older than the known ones
    #[arg(long)]
    pub allow_rollback: bool,
    /// Take the archives as they were at this moment, where they keep snapshots: 20261101T000000Z
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<crate::profile::Snapshot>,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Roles
    #[arg(required = true)]
    pub roles: Vec<String>,
    /// Directory for the images
    #[arg(long, short, default_value = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Forms to write beside the raw image: raw.zst, qcow2
    #[arg(long, value_delimiter = ',', default_value = "raw", value_name = "FORM")]
    pub output: Vec<crate::build::Format>,
    /// Logical sector size of the disk, 512 or 4096, in place of the profile's
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    pub sector_size: Option<String>,
    /// Directory of the static programs for the node
    #[arg(long, env = "INGOT_NODE_PROGRAMS", value_name = "DIR")]
    pub node_programs: Option<PathBuf>,
    /// Print the steps and whether each is cached; build nothing
    #[arg(long)]
    pub plan: bool,
    /// Print the merged profile with the place of each value; build nothing
    #[arg(long)]
    pub explain_profile: bool,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// A role, or a scenario: a file, or a name in tests/scenarios
    pub what: String,
    /// Directory for console logs and the report [default: a directory below --out]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Directory of the images; roles that are not there are built
    #[arg(long, short, default_value = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Directory of the static programs for the node
    #[arg(long, env = "INGOT_NODE_PROGRAMS", value_name = "DIR")]
    pub node_programs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// A raw image, or a role
    pub image: String,
    /// Node configuration to hand over on a virtual USB stick
    #[arg(long, value_name = "NODE.TOML")]
    pub config: Option<PathBuf>,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048)]
    pub memory: u64,
    /// Size of the virtual disk in GiB
    #[arg(long, default_value_t = 12)]
    pub disk: u64,
    /// Directory of the images
    #[arg(long, short, default_value = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Directory of the static programs for the node
    #[arg(long, env = "INGOT_NODE_PROGRAMS", value_name = "DIR")]
    pub node_programs: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Write all that the lock needs: packages, artifacts, release files
    Export {
        /// The directory to make, or the archive if it ends in .tar
        #[arg(long, value_name = "DIR_OR_TAR")]
        sources: PathBuf,
        /// Roles [default: all]
        roles: Vec<String>,
    },
    /// Put exported sources into the cache, for builds with --offline; writes the lock too where there is none
    Import {
        /// What `bundle export` wrote
        #[arg(value_name = "DIR_OR_TAR")]
        from: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check node configuration as a node would
    Check(ConfigFiles),
    /// Show each value, where it comes from, and what it overrides
    Explain {
        #[command(flatten)]
        files: ConfigFiles,
        /// The machine, by what its [[machine]] parts name: mac=..., serial=... or uuid=..., commas between
        #[arg(long, value_name = "NAME=VALUE")]
        machine: Option<MachineMatch>,
    },
    /// Print the files, units and join commands that a machine would get; nothing is asked or fetched
    Plan {
        #[command(flatten)]
        files: ConfigFiles,
        /// The machine, by what its [[machine]] parts name: mac=..., serial=... or uuid=..., commas between
        #[arg(long, value_name = "NAME=VALUE")]
        machine: Option<MachineMatch>,
    },
    /// Write a commented node.toml with the keys that a role needs
    Sample {
        /// The role
        role: String,
    },
    /// Encrypt the secrets in a node.toml to a site; only its nodes can read them then
    Seal {
        /// The file
        file: PathBuf,
        /// Public keys, of `ingot keys generate --kind config`; a node with any of them opens the secrets
        #[arg(long, required = true, num_args = 1.., value_name = "SITE.PUB")]
        to: Vec<PathBuf>,
        /// Check the file together with the defaults of this role before it is sealed
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// Where to write the sealed file [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the JSON Schema of node.toml
    Schema {
        /// Print the tables of keys for the documentation instead
        #[arg(long)]
        markdown: bool,
    },
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyKind {
    /// Secrets in node configuration are sealed to it: `ingot config seal`
    Config,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key: NAME.key, which only you can read, and NAME.pub
    Generate {
        /// The name of the site
        name: String,
        /// What the key is for
        #[arg(long, value_enum)]
        kind: KeyKind,
        /// Directory for both files
        #[arg(long, short, default_value = ".", value_name = "DIR")]
        out: PathBuf,
    },
    /// Show the public half of a key
    Show {
        /// A .key or .pub file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ConfigFiles {
    /// Files, the one that wins last: node.toml first, then parts for single machines; cloud-init's documents too; - is
    /// standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Put the defaults of this role below them
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let (name, url) = text.split_once('=').ok_or("write it as NAME=URL")?;
    if url.starts_with("http://") || url.starts_with("https://") {
        Ok((name.to_owned(), url.trim_end_matches('/').to_owned()))
    } else {
        Err(format!("`{url}` is no http or https URL"))
    }
}
