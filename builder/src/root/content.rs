//! Puts what the profile asks for onto the root: overlays, files, artifacts, settings, the node's own programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::RootError;
use crate::profile::{FileContent, Profile};

/// Everything that is put onto the root, gathered by the build beforehand.
pub struct Content<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// The `firstboot` program (static).
    pub firstboot: &'a Path,
    /// `image.json`: what the image is.
    pub image_json: String,
    /// The store's file for each artifact, by path in the image.
    pub artifacts: BTreeMap<String, PathBuf>,
    /// Container images as docker-archives, by name.
    pub containers: BTreeMap<String, PathBuf>,
}

/// Writes all of it onto `root`.
pub fn apply(root: &Path, content: &Content<'_>) -> Result<(), RootError> {
    let profile = content.profile;
    for overlay in &profile.overlays {
        copy_tree(overlay, root)?;
    }
    for (path, entry) in &profile.files {
        let bytes = match &entry.content {
            FileContent::Inline(text) => text.clone().into_bytes(),
            FileContent::Path(path) => fs::read(path).map_err(RootError::io(path))?,
        };
        write(root, path, &bytes, entry.mode)?;
    }
    for (path, source) in &content.artifacts {
        let mode = profile.artifacts.get(path).map_or(0o644, |a| a.mode);
        copy(root, path, source, mode)?;
    }
    for (name, source) in &content.containers {
        copy(root, &format!("/usr/share/ingot/containers/{name}.tar"), source, 0o644)?;
    }
    copy(root, "/usr/lib/ingot/firstboot", content.firstboot, 0o755)?;
    write(root, "/usr/lib/ingot/image.json", content.image_json.as_bytes(), 0o644)?;
    let config = toml::to_string(&profile.config)
        .map_err(|error| RootError::Content(format!("the profile's [config] cannot be written: {error}")))?;
    write(root, "/usr/lib/ingot/role.toml", config.as_bytes(), 0o644)?;
    write_lines(
        root,
        "/usr/lib/sysctl.d/90-ingot.conf",
        profile.kernel.sysctl.iter().map(|(k, v)| format!("{k} = {v}")),
    )?;
    write_lines(root, "/usr/lib/modules-load.d/90-ingot.conf", profile.kernel.modules.iter().cloned())?;
    if !profile.firewall.is_empty() {
        write(root, "/usr/lib/ingot/firewall.nft", firewall(profile).as_bytes(), 0o644)?;
    }
    persist(root, &profile.persist)?;
    identify(root, content)
}

/// A rule set with a table of its own: Docker's rules stay what they are.
fn firewall(profile: &Profile) -> String {
    let ports = |protocol: &str| {
        let list: Vec<&str> = profile.firewall.iter().filter_map(|p| p.strip_suffix(protocol)).collect();
        list.join(", ")
    };
    let mut text = String::from(
        "table inet ingot\ndelete table inet ingot\ntable inet ingot {\n\tchain input {\n\
         \t\ttype filter hook input priority filter; policy drop;\n\
         \t\tct state established,related accept\n\t\tct state invalid drop\n\t\tiifname \"lo\" accept\n\
         \t\tiifname \"docker*\" accept\n\t\tmeta l4proto { icmp, ipv6-icmp, igmp } accept\n\
         \t\tudp dport { 68, 546 } accept\n",
    );
    for (suffix, keyword) in [("/tcp", "tcp"), ("/udp", "udp")] {
        let list = ports(suffix);
        if !list.is_empty() {
            text.push_str(&format!("\t\t{keyword} dport {{ {list} }} accept\n"));
        }
    }
    text.push_str("\t}\n}\n");
    text
}

/// Makes a path of the read-only root writable: stage1 binds a directory on `var` there, filled from the image once.
fn persist(root: &Path, paths: &BTreeSet<String>) -> Result<(), RootError> {
    for path in paths {
        let place = below(root, path);
        fs::create_dir_all(&place).map_err(RootError::io(&place))?;
        if place.canonicalize().map_err(RootError::io(&place))? != place.components().collect::<PathBuf>() {
            return Err(RootError::Content(format!(
                "persist: {path} is reached through a symbolic link in the image; name the directory itself"
            )));
        }
    }
    // Sorted, so that a parent comes before what is below it.
    write_lines(root, "/usr/lib/ingot/persist", paths.iter().cloned())
}

/// Says in `os-release` which image this is.
fn identify(root: &Path, content: &Content<'_>) -> Result<(), RootError> {
    let path = root.join("usr/lib/os-release");
    let mut text = fs::read_to_string(&path).map_err(RootError::io(&path))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let image: serde_json::Value = serde_json::from_str(&content.image_json).unwrap_or_default();
    let field = |name: &str| image.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    text.push_str(&format!("IMAGE_ID={}\n", content.profile.role.replace('/', "-")));
    text.push_str(&format!("IMAGE_VERSION={}\n", field("version")));
    fs::write(&path, text).map_err(RootError::io(&path))
}

fn write_lines(root: &Path, path: &str, lines: impl Iterator<Item = String>) -> Result<(), RootError> {
    let text: String = lines.map(|line| line + "\n").collect();
    if text.is_empty() { Ok(()) } else { write(root, path, text.as_bytes(), 0o644) }
}

/// `path` of the image below `root`. Callers pass paths that the profile stage has checked, or fixed ones.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn place(root: &Path, path: &str) -> Result<PathBuf, RootError> {
    let target = below(root, path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(RootError::io(parent))?;
        // A link in the image may lead anywhere; the parent must still be below the root.
        let real = parent.canonicalize().map_err(RootError::io(parent))?;
        let real_root = root.canonicalize().map_err(RootError::io(root))?;
        if !real.starts_with(&real_root) {
            return Err(RootError::Content(format!("{path} leads out of the root through a symbolic link")));
        }
    }
    if target.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
        fs::remove_file(&target).map_err(RootError::io(&target))?;
    }
    Ok(target)
}

/// Writes a file of the image, replacing what is there.
pub fn write(root: &Path, path: &str, bytes: &[u8], mode: u32) -> Result<(), RootError> {
    let target = place(root, path)?;
    fs::write(&target, bytes).map_err(RootError::io(&target))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(RootError::io(&target))
}

fn copy(root: &Path, path: &str, source: &Path, mode: u32) -> Result<(), RootError> {
    let target = place(root, path)?;
    fs::copy(source, &target).map_err(RootError::io(source))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(RootError::io(&target))
}

/// Copies an overlay: directories are merged, files and links replaced, everything owned by root.
///
/// Modes are reduced to 0644 and 0755 by the executable bit, so that the umask of a checkout does not show.
fn copy_tree(from: &Path, root: &Path) -> Result<(), RootError> {
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let directory = from.join(&relative);
        let mut entries: Vec<_> = fs::read_dir(&directory)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(RootError::io(&directory))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let relative = relative.join(entry.file_name());
            let path = entry.path();
            let metadata = path.symlink_metadata().map_err(RootError::io(&path))?;
            let inside = format!("/{}", relative.display());
            if metadata.is_dir() {
                let target = below(root, &inside);
                if !target.is_dir() {
                    fs::create_dir_all(&target).map_err(RootError::io(&target))?;
                    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(RootError::io(&target))?;
                }
                open.push(relative);
            } else if metadata.is_symlink() {
                let target = place(root, &inside)?;
                let link = fs::read_link(&path).map_err(RootError::io(&path))?;
                symlink(link, &target).map_err(RootError::io(&target))?;
            } else {
                let mode = if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
                copy(root, &inside, &path, mode)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persistent_directories_are_listed_and_links_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = &directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("usr")).unwrap();
        persist(root, &["/srv/a".to_owned(), "/srv".to_owned()].into()).unwrap();
        assert_eq!(fs::read_to_string(root.join("usr/lib/ingot/persist")).unwrap(), "/srv\n/srv/a\n");
        symlink("srv", root.join("link")).unwrap();
        let error = persist(root, &["/link/x".to_owned()].into()).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }

    #[test]
    fn overlays_replace_files_and_merge_directories() {
        let directory = tempfile::tempdir().unwrap();
        let (from, root) = (directory.path().join("o"), directory.path().join("r"));
        fs::create_dir_all(from.join("etc/x")).unwrap();
        fs::create_dir_all(root.join("etc/x")).unwrap();
        fs::write(root.join("etc/x/kept"), "kept").unwrap();
        fs::write(root.join("etc/x/changed"), "old").unwrap();
        fs::write(from.join("etc/x/changed"), "new").unwrap();
        symlink("changed", from.join("etc/x/link")).unwrap();
        fs::set_permissions(from.join("etc/x/changed"), fs::Permissions::from_mode(0o664)).unwrap();
        copy_tree(&from, &root).unwrap();
        assert_eq!(fs::read_to_string(root.join("etc/x/changed")).unwrap(), "new");
        assert_eq!(fs::read_to_string(root.join("etc/x/kept")).unwrap(), "kept");
        assert_eq!(fs::read_link(root.join("etc/x/link")).unwrap(), Path::new("changed"));
        assert_eq!(root.join("etc/x/changed").metadata().unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_link_out_of_the_root_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("r");
        fs::create_dir_all(&root).unwrap();
        symlink("/tmp", root.join("etc")).unwrap();
        assert!(matches!(write(&root, "/etc/passwd", b"", 0o644), Err(RootError::Content(_))));
    }
}
