//! Turns `/var` of the tree into instructions to make it: `/var` of a node is a file system of its own.
//!
//! Directories and links become lines for systemd-tmpfiles, files move to `/usr/share/factory/var` and are copied
//! from there where they are missing. So a node's `/var` gets what a newer image brings without losing what it has.
//! dpkg's database describes the image, not the node: it moves to `/usr/lib/sysimage/dpkg`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::RootError;

const CONFIGURATION: &str = "usr/lib/tmpfiles.d/zz-ingot-var.conf";
const FACTORY: &str = "usr/share/factory";
const DPKG: &str = "usr/lib/sysimage/dpkg";

/// Empties `root/var` and writes how to make it again.
pub fn convert(root: &Path) -> Result<(), RootError> {
    move_dpkg(root)?;
    let known = known_paths(root)?;
    let mut lines = vec!["L /var/lib/dpkg - - - - ../../usr/lib/sysimage/dpkg".to_owned()];
    walk(root, Path::new("var"), &known, &mut lines)?;
    lines.sort_by(|a, b| a.split(' ').nth(1).cmp(&b.split(' ').nth(1)));
    let path = root.join(CONFIGURATION);
    let mut text = String::from("# Made by ingot from the packages' own /var.\n");
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    fs::write(&path, text).map_err(RootError::io(&path))?;
    let var = root.join("var");
    for entry in fs::read_dir(&var).map_err(RootError::io(&var))?.flatten() {
        let path = entry.path();
        let is_directory = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(RootError::io(&path))?;
    }
    Ok(())
}

fn move_dpkg(root: &Path) -> Result<(), RootError> {
    let (from, to) = (root.join("var/lib/dpkg"), root.join(DPKG));
    if !from.is_dir() {
        return Ok(());
    }
    copy_directory(&from, &to)?;
    fs::remove_dir_all(&from).map_err(RootError::io(&from))
}

/// Copies instead of renaming: below an overlay a directory of a lower layer cannot be renamed.
fn copy_directory(from: &Path, to: &Path) -> Result<(), RootError> {
    fs::create_dir_all(to).map_err(RootError::io(to))?;
    for entry in fs::read_dir(from).map_err(RootError::io(from))?.flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            copy_directory(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(RootError::io(&path))?;
        }
    }
    Ok(())
}

/// Paths that the packages' own tmpfiles.d already make.
fn known_paths(root: &Path) -> Result<BTreeSet<String>, RootError> {
    let directory = root.join("usr/lib/tmpfiles.d");
    fs::create_dir_all(&directory).map_err(RootError::io(&directory))?;
    let mut known = BTreeSet::new();
    for entry in fs::read_dir(&directory).map_err(RootError::io(&directory))?.flatten() {
        if entry.file_name().as_bytes() == b"zz-ingot-var.conf" {
            continue;
        }
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap_or_default();
            // `z`, `x` and the like set attributes or say what not to clean; they make nothing.
            if kind.starts_with(['d', 'D', 'q', 'Q', 'v', 'L', 'f', 'C']) {
                known.extend(words.next().map(|path| path.trim_end_matches('/').to_owned()));
            }
        }
    }
    Ok(known)
}

fn walk(root: &Path, relative: &Path, known: &BTreeSet<String>, lines: &mut Vec<String>) -> Result<(), RootError> {
    let directory = root.join(relative);
    for entry in fs::read_dir(&directory).map_err(RootError::io(&directory))?.flatten() {
        let relative = relative.join(entry.file_name());
        let path = entry.path();
        let metadata = path.symlink_metadata().map_err(RootError::io(&path))?;
        let name = format!("/{}", relative.display());
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        let escaped = escape(&name);
        if metadata.is_dir() {
            if !known.contains(&name) {
                lines.push(format!("d {escaped} {mode:04o} {uid} {gid} -"));
            }
            walk(root, &relative, known, lines)?;
        } else if metadata.is_symlink() {
            if !known.contains(&name) {
                let target = fs::read_link(&path).map_err(RootError::io(&path))?;
                lines.push(format!("L {escaped} - - - - {}", escape(&target.to_string_lossy())));
            }
        } else if metadata.is_file() {
            let factory = root.join(FACTORY).join(&relative);
            if let Some(parent) = factory.parent() {
                fs::create_dir_all(parent).map_err(RootError::io(parent))?;
            }
            fs::copy(&path, &factory).map_err(RootError::io(&path))?;
            std::os::unix::fs::chown(&factory, Some(uid), Some(gid)).map_err(RootError::io(&factory))?;
            lines.push(format!("C {escaped} {mode:04o} {uid} {gid} -"));
        }
    }
    Ok(())
}

/// A word of tmpfiles.d(5): specifiers and blanks are escaped.
fn escape(word: &str) -> String {
    word.replace('\\', "\\\\").replace('%', "%%").replace(' ', "\\x20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn var_becomes_instructions_and_factory_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["var/lib/dpkg/info", "var/lib/x y", "var/log", "usr/lib/tmpfiles.d"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "s").unwrap();
        fs::write(root.join("var/lib/dpkg/info/a.list"), "l").unwrap();
        fs::write(root.join("var/lib/x y/100%"), "data").unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        fs::write(root.join("usr/lib/tmpfiles.d/var.conf"), "d /var/log 0755 - - -\n").unwrap();
        convert(root).unwrap();
        let text = fs::read_to_string(root.join(CONFIGURATION)).unwrap();
        assert!(text.contains("L /var/run - - - - /run\n"), "{text}");
        assert!(text.contains("d /var/lib/x\\x20y 0755"), "{text}");
        assert!(text.contains("C /var/lib/x\\x20y/100%% 0644"), "{text}");
        assert!(!text.contains("/var/log"), "{text}");
        assert_eq!(fs::read_to_string(root.join("usr/share/factory/var/lib/x y/100%")).unwrap(), "data");
        assert_eq!(fs::read_to_string(root.join("usr/lib/sysimage/dpkg/info/a.list")).unwrap(), "l");
        assert_eq!(fs::read_dir(root.join("var")).unwrap().count(), 0);
    }
}
