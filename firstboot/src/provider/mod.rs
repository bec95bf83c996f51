//! Where a node's configuration comes from.
//!
//! Takes the role's defaults in the image and the media that are plugged in; gives documents in the order of their
//! precedence, the highest last:
//!
//! | order | source | documents |
//! |---|---|---|
//! | 1 | the image | `/usr/lib/ingot/role.toml` |
//! | 2 | a volume labelled `CIDATA` (or `cidata`) | `meta-data`, `vendor-data`, `user-data`, `node.toml` |
//! | 3 | a volume labelled `INGOT` | `node.toml`, then `<mac>.toml`, `<serial>.toml`, `<uuid>.toml` of this machine |
//!
//! A new source (a credential, a URL) is one more entry in [`Sources`].

mod medium;
mod volume;

use crate::config::{Document, Format, Machine};

pub use medium::{documents_of_cidata, documents_of_ingot};
pub use volume::{Volume, VolumeError};

/// Where the role's defaults lie on the image.
pub const ROLE_DEFAULTS: &str = "/usr/lib/ingot/role.toml";

/// What was found on the media.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The documents, lowest precedence first.
    pub documents: Vec<Document>,
    /// The media they are from, for people: `INGOT (/dev/sdb1)`.
    pub media: Vec<String>,
    /// Media that are there but cannot be read, and why.
    pub unreadable: Vec<String>,
    /// What a person should know: files that this version does not read.
    pub notes: Vec<String>,
}

/// What can be asked for configuration.
pub trait Sources {
    /// Looks once at every source outside the image.
    fn look(&self, machine: &Machine) -> Found;
}

/// The kinds of volumes, lowest precedence first, with the labels they may have.
const KINDS: [(&[&str], Reader); 2] =
    [(&["CIDATA", "cidata"], documents_of_cidata), (&["INGOT", "ingot"], documents_of_ingot)];

type Reader = fn(&Volume, &str, &Machine, &mut Found) -> Result<(), VolumeError>;

/// The media that udev has found, by their labels.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabelledMedia;

impl Sources for LabelledMedia {
    fn look(&self, machine: &Machine) -> Found {
        let mut found = Found::default();
        for (labels, read) in KINDS {
            // A FAT label may be in either case, and both links may mean the same volume.
            let mut seen = Vec::new();
            for label in labels {
                let Ok(device) = std::fs::canonicalize(format!("/dev/disk/by-label/{label}")) else { continue };
                if seen.contains(&device) {
                    continue;
                }
                let shown = format!("{label} ({})", device.display());
                let before = found.documents.len();
                let result = Volume::open_device(&device).and_then(|volume| read(&volume, label, machine, &mut found));
                match result {
                    Ok(()) if found.documents.len() > before => found.media.push(shown),
                    Ok(()) => found.unreadable.push(format!("{shown}: it holds no configuration")),
                    Err(error) => {
                        found.documents.truncate(before);
                        found.unreadable.push(format!("{shown}: {error}"));
                    }
                }
                seen.push(device);
            }
        }
        found
    }
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
