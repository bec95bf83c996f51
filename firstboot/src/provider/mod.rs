//! Where a node's configuration comes from.
//!
//! Takes the machine, its firmware, its kernel command line, its media and its network; gives documents in the order
//! of their precedence, the highest last. [`PROVIDERS`] is that order:
//!
//! | order | source | names of documents |
//! |---|---|---|
//! | 1 | the image | `/usr/lib/ingot/role.toml` |
//! | 2 | the credential `ingot.node.toml` | `credential:` |
//! | 3 | `ingot.config=URL` on the kernel command line | `ingot.config:` |
//! | 4 | a NoCloud seed directory | `seed:` |
//! | 5 | `ds=nocloud` in the serial number | `smbios:` |
//! | 6 | `ds=nocloud` on the kernel command line | `command-line:` |
//! | 7 | a volume labelled `CIDATA` | `CIDATA:` |
//! | 8 | a volume labelled `config-2` | `config-2:` |
//! | 9 | a volume labelled `INGOT`: `node.toml`, then this machine's files | `INGOT:` |
//!
//! What a person can take into the hand wins over what the network says. A look never waits for a medium; the caller
//! looks again. Media are looked at last, after whatever the network took.

mod config_drive;
mod config_url;
mod credential;
mod devices;
mod fetch;
mod firmware;
mod medium;
mod nocloud;
mod results;
mod settling;
mod signed;
#[cfg(test)]
pub(crate) mod tests;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::config::{Document, Format, Machine, Secret, SourceKind, seal_of};
use crate::host::Host;
use crate::stage1::cmdline::split;

pub use devices::{BlockDevices, Labelled, Media};
pub use fetch::Fetcher;
pub use results::{DIRECTORY as RESULTS_DIRECTORY, ResultsDirectory, StickError, WriteResults, write_results};
#[cfg(test)]
pub use signed::test_keys;
pub use signed::{SignatureError, Signed, keep_signed, newest_signature};
pub use volume::{Volume, VolumeError};

/// Reads any bytes as what the firmware and a medium's boot sector hold.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    firmware::fuzz(bytes);
    nocloud::fuzz(bytes);
    devices::fuzz(bytes);
}

#[cfg(any(test, fuzzing))]
pub(crate) use signed::fuzz as fuzz_signature;

/// Where the role's defaults lie on the image.
pub const ROLE_DEFAULTS: &str = "/usr/lib/ingot/role.toml";

/// What is added to a file's name for its signature.
pub const SIGNATURE: &str = ".minisig";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The documents, lowest precedence first.
    pub documents: Vec<Document>,
    /// The signatures of documents, by the document's name.
    pub signatures: BTreeMap<String, Vec<u8>>,
    /// Keys for sealed secrets: the texts of their files.
    pub config_keys: Vec<Secret>,
    /// Where they are from, for people: `INGOT (/dev/sdb1)`.
    pub media: Vec<String>,
    /// Sources that are there but cannot be read or are not for this machine, and why.
    pub unreadable: Vec<String>,
    /// The kinds of sources of which nobody knows what they say: there, but broken, or two that differ.
    pub broken: BTreeSet<SourceKind>,
    /// Sources that must be there and have not answered yet, and why.
    pub pending: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Found {
    /// Adds what was found elsewhere, with a higher precedence.
    pub fn absorb(&mut self, other: Found) {
        self.documents.extend(other.documents);
        self.signatures.extend(other.signatures);
        self.config_keys.extend(other.config_keys);
        self.media.extend(other.media);
        self.unreadable.extend(other.unreadable);
        self.broken.extend(other.broken);
        self.pending.extend(other.pending);
        self.notes.extend(other.notes);
    }

    /// Adds a source that is there and cannot be read.
    pub fn is_broken(&mut self, kind: SourceKind, why: String) {
        self.broken.insert(kind);
        self.unreadable.push(why);
    }
}

/// What can be asked for configuration.
pub trait Sources {
    /// Looks once at every source outside the image.
    fn look(&self, machine: &Machine) -> Found;

    /// Looks once at the media alone: what somebody may have put into a sealed node.
    fn look_at_media(&self, machine: &Machine) -> Found {
        self.look(machine)
    }

    /// Whether every medium that is plugged in can be expected to have been seen.
    fn are_settled(&self) -> bool {
        true
    }
}

/// What the providers see.
pub(crate) struct Surroundings<'a> {
    pub host: &'a dyn Host,
    pub machine: &'a Machine,
    pub media: &'a dyn Media,
    pub fetcher: &'a Fetcher,
    /// Whether signatures are asked for, so that they are fetched too.
    pub signed: bool,
    pub command_line: Vec<(String, Option<String>)>,
}

impl Surroundings<'_> {
    /// The last value of a parameter of the kernel command line.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.command_line.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }
}

type Provider = fn(&Surroundings<'_>, &mut Found);

/// The providers outside the image, lowest precedence first.
const PROVIDERS: [Provider; 6] = [
    credential::look,
    config_url::look,
    nocloud::look_at_directories,
    nocloud::look_at_serial,
    nocloud::look_at_command_line,
    medium::look,
];

/// The sources of a node.
pub struct NodeSources<'a> {
    host: &'a dyn Host,
    media: &'a dyn Media,
    fetcher: Fetcher,
    /// Set once the firmware's ways are open.
    prepared: OnceLock<()>,
}

impl<'a> NodeSources<'a> {
    /// All sources of a machine.
    pub fn new(host: &'a dyn Host, media: &'a dyn Media) -> Self {
        Self { host, media, fetcher: Fetcher::default(), prepared: OnceLock::new() }
    }

    fn surroundings<'b>(&'b self, machine: &'b Machine) -> Surroundings<'b> {
        let line = self.host.read("/proc/cmdline", 64 * 1024).ok().flatten().unwrap_or_default();
        let role = role_defaults(self.host).unwrap_or_default();
        // A role whose seal cannot be read asks for signatures: anything else would be less than it says.
        Surroundings {
            host: self.host,
            machine,
            media: self.media,
            fetcher: &self.fetcher,
            signed: seal_of(&role).is_none_or(|seal| seal.require_signed),
            command_line: split(&String::from_utf8_lossy(&line)),
        }
    }
}

impl Sources for NodeSources<'_> {
    fn look(&self, machine: &Machine) -> Found {
        self.prepared.get_or_init(|| firmware::load_module(self.host));
        self.fetcher.begin_look(self.host);
        let surroundings = self.surroundings(machine);
        let mut found = Found::default();
        for look in PROVIDERS {
            look(&surroundings, &mut found);
        }
        found
    }

    fn look_at_media(&self, machine: &Machine) -> Found {
        let mut found = Found::default();
        medium::look(&self.surroundings(machine), &mut found);
        found
    }

    fn are_settled(&self) -> bool {
        self.media.are_settled()
    }
}

/// Where the signature of a document lies that has this address: before the query, if there is one.
fn signature_of_url(url: &str) -> String {
    let (path, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    format!("{path}{SIGNATURE}{query}")
}

/// The role's defaults, as the image has them; empty where it has none.
pub fn role_defaults(host: &dyn crate::host::Host) -> Result<Vec<Document>, crate::host::HostError> {
    let bytes = host.read(ROLE_DEFAULTS, crate::config::MAXIMUM_DOCUMENT_BYTES as u64)?;
    let document = |bytes| Document { name: ROLE_DEFAULTS.to_owned(), format: Format::RoleToml, bytes };
    // A role without defaults has an empty file, or only comments; that is no mistake.
    let says_something = |bytes: &Vec<u8>| {
        String::from_utf8_lossy(bytes).lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
    };
    Ok(bytes.filter(says_something).map(document).into_iter().collect())
}
