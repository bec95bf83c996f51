//! What goes into the keys of steps: everything that a result depends on, and nothing that it does not.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::BuildError;
use crate::cache::Key;
use crate::lock::LockedSet;
use crate::profile::{Container, FileContent, Profile};

pub(super) fn hashes(set: &LockedSet) -> String {
    let mut list: Vec<&str> = set.packages.iter().map(|p| p.sha256.as_str()).collect();
    list.sort_unstable();
    list.join("\n")
}

/// Profiles and keys are strings, numbers and tables of them: they always have a JSON form.
pub(super) fn as_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The profile without the paths of the checkout, whose contents are hashed by themselves: the same profile in two
/// directories is the same input.
pub(super) fn without_paths(profile: &Profile) -> Profile {
    let mut profile = profile.clone();
    profile.overlays.clear();
    for repository in profile.repositories.values_mut() {
        repository.keyring = PathBuf::new();
        repository.url = None;
    }
    for file in profile.files.values_mut() {
        if let FileContent::Path(path) = &mut file.content {
            *path = PathBuf::new();
        }
    }
    for artifact in profile.artifacts.values_mut() {
        artifact.source = String::new();
    }
    for container in profile.containers.values_mut() {
        if let Container::Archive { path, .. } = container {
            *path = PathBuf::new();
        }
    }
    // The root is the same whatever the disk that it goes on.
    profile.image.sector_size = 512;
    // Facts for tests do not change the image.
    profile.qemu = crate::profile::QemuFacts { memory_mib: 0, cpus: 0, disk_gib: 0 };
    profile
}

pub(super) fn overlays_key(profile: &Profile) -> Result<String, BuildError> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut key = Key::new("overlays", 1);
    for overlay in &profile.overlays {
        let mut open = vec![overlay.clone()];
        let mut paths = Vec::new();
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).map_err(BuildError::io(&directory))? {
                let entry = entry.map_err(BuildError::io(&directory))?;
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push(entry.path());
                }
                paths.push(entry.path());
            }
        }
        paths.sort();
        key = key.part("overlay", "");
        for path in paths {
            let relative = path.strip_prefix(overlay).unwrap_or(&path);
            let metadata = path.symlink_metadata().map_err(BuildError::io(&path))?;
            key = key.part("path", relative.as_os_str().as_bytes());
            if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(BuildError::io(&path))?;
                key = key.part("link", target.as_os_str().as_bytes());
            } else if metadata.is_file() {
                let executable = metadata.mode() & 0o111 != 0;
                key = key.part("executable", [u8::from(executable)]);
                key = key.part("content", fs::read(&path).map_err(BuildError::io(&path))?);
            }
        }
    }
    Ok(key.finish())
}

pub(super) fn files_key(profile: &Profile) -> Result<String, BuildError> {
    let mut key = Key::new("files", 1);
    for (name, file) in &profile.files {
        if let FileContent::Path(path) = &file.content {
            key = key.part(name, fs::read(path).map_err(BuildError::io(path))?);
        }
    }
    Ok(key.finish())
}

/// `20261118` for seconds since 1970, by the civil-from-days algorithm of Howard Hinnant.
pub(super) fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "19700101");
        assert_eq!(date(1_709_164_800), "20240229");
        assert_eq!(date(1_795_000_000), "20261118");
    }
}
