//! `/etc/ingot/stage1.json`: what the image's builder tells stage1.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where the builder puts the settings in the initrd.
pub const PATH: &str = "/etc/ingot/stage1.json";

/// The settings, written by the builder into the initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Modules that are loaded first, in this order, by name.
    pub load: Vec<String>,
    /// The clock is at least here: seconds since 1970.
    pub build_time: u64,
    /// Which image this is.
    pub image: ImageFacts,
    /// The size of a root partition once the disk is laid out, in bytes.
    pub slot_bytes: u64,
}

/// Which image this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// `quickstart/worker`.
    pub role: String,
    /// The version.
    pub version: String,
    /// The id: another content, another id.
    pub id: String,
}

/// The settings cannot be read.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file is missing or unreadable.
    #[error("cannot read {PATH} of the initrd: {0}")]
    Read(#[from] std::io::Error),
    /// It is not what the builder writes.
    #[error("{PATH} of the initrd: {0}")]
    Format(#[from] serde_json::Error),
}

/// Reads the settings.
pub fn read(path: &Path) -> Result<Settings, SettingsError> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_builder_writes() {
        let text = r#"{"load": ["dm_verity", "erofs"], "build_time": 1790000000,
            "image": {"role": "quickstart/worker", "version": "1", "id": "x"}, "slot_bytes": 4294967296}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.load, ["dm_verity", "erofs"]);
        assert_eq!(settings.slot_bytes, 4 << 30);
        assert!(serde_json::from_str::<Settings>("{}").is_err());
    }
}
