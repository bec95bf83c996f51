//! The manifest: what an image was made of and what came out, as JSON beside the image.
//!
//! Written as `NAME.manifest.json`: keys in a fixed order, hashes in lower-case hex, sizes in bytes, times in seconds since
//! 1970. It is a function of the build's inputs, so two builds of one lock have the same manifest. A reader refuses
//! a manifest of a newer schema, and one with keys that it does not know.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::layout::Layout;
use crate::boot::uki::SectionInfo;
use crate::profile::RootFormat;

/// The schema that is written.
pub const SCHEMA: u32 = 1;

/// A manifest could not be read or written.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Reading or writing failed.
    #[error("cannot {doing} the manifest {}: {source}", path.display())]
    Io {
        /// `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a manifest.
    #[error("{} is not a manifest: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// Written by a newer Ingot.
    #[error("{} has schema {found}; this Ingot reads up to {SCHEMA}: use a newer one", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
}

/// What an image was made of and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the image is.
    pub image: ImageInfo,
    /// Hashed inputs by name: `lock`, `profile`, `stage1`, `firstboot`, `stub`, `boot-loader`, ...
    pub inputs: BTreeMap<String, String>,
    /// Programs of the tools tree that took part, with their package versions.
    pub tools: BTreeMap<String, String>,
    /// Installed packages, by name and architecture.
    pub packages: Vec<Package>,
    /// The root file system and its hash tree.
    pub root: RootInfo,
    /// The UKI.
    pub uki: UkiInfo,
    /// The partition table.
    pub layout: Layout,
    /// Files that were written, by kind: `raw`, `raw.zst`, `qcow2`, `bmap`.
    pub outputs: BTreeMap<String, Output>,
}

/// What the image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// `quickstart/worker`.
    pub role: String,
    /// The image's version.
    pub version: String,
    /// Derived from the inputs.
    pub id: Uuid,
    /// `debian-13`.
    pub base: String,
    /// `amd64`.
    pub architecture: String,
    /// The time of every file on the image, and the node's clock floor.
    pub build_time: u64,
    /// The Ingot that built it.
    pub ingot: String,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// The repository that it came from.
    pub origin: String,
    /// SHA-256 of the `.deb`.
    pub sha256: String,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootInfo {
    /// `erofs` or `squashfs`.
    pub format: RootFormat,
    /// As `mkfs.erofs -z` took it.
    pub compression: String,
    /// Its size.
    pub bytes: u64,
    /// dm-verity's root hash.
    pub root_hash: String,
    /// dm-verity's salt.
    pub salt: String,
    /// Size of the hash tree.
    pub hash_bytes: u64,
}

/// The UKI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UkiInfo {
    /// Its file name on the EFI system partition.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
    /// The kernel's version.
    pub uname: String,
    /// The kernel command line.
    pub cmdline: String,
    /// Its sections.
    pub sections: Vec<SectionInfo>,
    /// Paths of the kernel modules in its initrd.
    pub modules: Vec<String>,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name, beside the manifest.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
}

impl Manifest {
    /// The manifest as JSON, ending in a newline.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Writes the manifest.
    pub fn write(&self, path: &Path) -> Result<(), ManifestError> {
        let text = self.to_json().map_err(|source| ManifestError::Format { path: path.to_owned(), source })?;
        std::fs::write(path, text).map_err(|source| ManifestError::Io { doing: "write", path: path.to_owned(), source })
    }

    /// Reads a manifest.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let text = std::fs::read_to_string(path).map_err(|source| ManifestError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        let wrong = |source| ManifestError::Format { path: path.to_owned(), source };
        // The schema first: a newer manifest has keys that would look like mistakes.
        let Versioned { schema } = serde_json::from_str(&text).map_err(wrong)?;
        if schema > SCHEMA {
            return Err(ManifestError::Schema { path: path.to_owned(), found: schema });
        }
        serde_json::from_str(&text).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::layout::{Kind, MIB, Request, SectorSize};

    fn sample() -> Manifest {
        let request = |name: &str, kind| Request {
            name: name.to_owned(),
            kind,
            guid: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
            size: MIB,
            attributes: 0,
        };
        let requests = vec![request("esp", Kind::Esp), request("x", Kind::Other(Uuid::from_u128(77)))];
        Manifest {
            schema: SCHEMA,
            image: ImageInfo {
                role: "quickstart/worker".to_owned(),
                version: "1".to_owned(),
                id: Uuid::from_u128(1),
                base: "debian-13".to_owned(),
                architecture: "amd64".to_owned(),
                build_time: 1_790_000_000,
                ingot: "0.1.0".to_owned(),
            },
            inputs: [("lock".to_owned(), "ab".repeat(32))].into(),
            tools: [("mkfs.erofs".to_owned(), "1.8.6-1".to_owned())].into(),
            packages: vec![Package {
                name: "bash".to_owned(),
                architecture: "amd64".to_owned(),
                version: "5.2".to_owned(),
                origin: "debian".to_owned(),
                sha256: "cd".repeat(32),
            }],
            root: RootInfo {
                format: RootFormat::Erofs,
                compression: "lz4hc,1".to_owned(),
                bytes: 4096,
                root_hash: "ef".repeat(32),
                salt: "01".repeat(32),
                hash_bytes: 4096,
            },
            uki: UkiInfo {
                name: "quickstart-worker-1.efi".to_owned(),
                bytes: 3,
                sha256: "23".repeat(32),
                uname: "6.1".to_owned(),
                cmdline: "quiet".to_owned(),
                sections: Vec::new(),
                modules: vec!["kernel/fs/erofs/erofs.ko".to_owned()],
            },
            layout: Layout::plan(SectorSize::B512, Uuid::from_u128(2), requests).unwrap(),
            outputs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_json_is_stable_and_read_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        sample().write(file.path()).unwrap();
        assert_eq!(Manifest::read(file.path()).unwrap(), sample());
        insta::assert_snapshot!(sample().to_json().unwrap());
    }

    #[test]
    fn newer_and_unknown_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = sample().to_json().unwrap();
        std::fs::write(file.path(), text.replace("\"schema\": 1", "\"schema\": 2, \"new\": 1")).unwrap();
        assert!(matches!(Manifest::read(file.path()), Err(ManifestError::Schema { found: 2, .. })));
        std::fs::write(file.path(), text.replace("\"schema\": 1", "\"schema\": 1, \"new\": 1")).unwrap();
        let error = Manifest::read(file.path()).unwrap_err();
        assert!(matches!(error, ManifestError::Format { .. }), "{error}");
    }
}
