//! Container images for the node, as docker-archives that `docker load` reads.
//!
//! They are made from locked packages, or taken from an OCI layout or a docker-archive whose digest the profile pins.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{RootError, content, unpack};
use crate::progress::Progress;

/// A container made from packages.
pub struct FromPackages<'a> {
    /// `ingot/hello:1`
    pub reference: &'a str,
    /// The packages, complete.
    pub debs: &'a [PathBuf],
    /// What it runs.
    pub command: &'a [String],
    /// Files written into it, by absolute path.
    pub files: &'a BTreeMap<String, String>,
    /// Time of everything in it, seconds since 1970.
    pub epoch: u64,
    /// Debian architecture, which is Docker's too for amd64 and arm64.
    pub architecture: &'a str,
}

/// Makes the archive at `out`, with `scratch` (empty) for the container's root.
pub fn from_packages(
    input: &FromPackages<'_>,
    scratch: &Path,
    out: &Path,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(), RootError> {
    let task = progress.start("making a container image", Some(input.debs.len() as u64));
    unpack::prepare(scratch)?;
    unpack::unpack_all(scratch, input.debs, jobs, &*task)?;
    for (path, text) in input.files {
        content::write(scratch, path, text.as_bytes(), 0o644)?;
    }
    for documentation in ["usr/share/doc", "usr/share/man", "usr/share/info"] {
        let path = scratch.join(documentation);
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(RootError::io(&path))?;
        }
    }
    let layer = layer(scratch, input.epoch).map_err(RootError::io(scratch))?;
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": input.architecture,
        "config": {
            "Cmd": input.command,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "created": "1970-01-01T00:00:00Z",
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "ingot" }],
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", digest(&config));
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{ "Config": config_name, "RepoTags": [input.reference], "Layers": [layer_name] }]);
    let files = [(config_name, config), (layer_name, layer), ("manifest.json".to_owned(), manifest.to_string().into())];
    write_archive(out, files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))).map_err(RootError::io(out))
}

/// Copies a pinned container to `out`: a docker-archive as it is, an OCI layout with the index that Docker reads.
pub fn from_archive(reference: &str, path: &Path, expected: &str, out: &Path) -> Result<(), RootError> {
    let wrong = |what: String| RootError::Content(format!("container {reference} from {}: {what}", path.display()));
    if path.is_dir() {
        return from_layout(reference, path, expected, out);
    }
    let found = file_digest(path).map_err(RootError::io(path))?;
    if expected != format!("sha256:{found}") {
        return Err(wrong(format!("its SHA-256 is {found}, the profile pins {expected}")));
    }
    fs::copy(path, out).map_err(RootError::io(path)).map(drop)
}

fn from_layout(reference: &str, path: &Path, expected: &str, out: &Path) -> Result<(), RootError> {
    let wrong = |what: String| RootError::Content(format!("container {reference} from {}: {what}", path.display()));
    let blob = |digest: &str| -> Result<Vec<u8>, RootError> {
        let hex = digest.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
        let hex = hex.ok_or_else(|| wrong(format!("{digest:?} is no SHA-256 digest")))?;
        let file = path.join("blobs/sha256").join(hex);
        let bytes = fs::read(&file).map_err(RootError::io(&file))?;
        let found = self::digest(&bytes);
        if found == hex { Ok(bytes) } else { Err(wrong(format!("the content of blob {hex} has SHA-256 {found}"))) }
    };
    let manifest: Value =
        serde_json::from_slice(&blob(expected)?).map_err(|e| wrong(format!("its manifest is no JSON: {e}")))?;
    let config = manifest["config"]["digest"].as_str().ok_or_else(|| wrong("its manifest names no config".into()))?;
    let layers = manifest["layers"].as_array().ok_or_else(|| wrong("its manifest names no layers".into()))?;
    let mut files = BTreeMap::from([(blob_name(config), blob(config)?)]);
    let mut names = Vec::new();
    for layer in layers {
        let digest = layer["digest"].as_str().ok_or_else(|| wrong("a layer has no digest".into()))?;
        names.push(blob_name(digest));
        files.insert(blob_name(digest), blob(digest)?);
    }
    let index = json!([{ "Config": blob_name(config), "RepoTags": [reference], "Layers": names }]);
    files.insert("manifest.json".to_owned(), index.to_string().into_bytes());
    write_archive(out, files.iter().map(|(n, b)| (n.as_str(), b.as_slice()))).map_err(RootError::io(out))
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A layer of everything below `root`: sorted, one time, owners as they are.
fn layer(root: &Path, epoch: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    let mut open = vec![PathBuf::new()];
    let mut paths = Vec::new();
    while let Some(relative) = open.pop() {
        for entry in fs::read_dir(root.join(&relative))? {
            let entry = entry?;
            let relative = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(relative.clone());
            }
            paths.push(relative);
        }
    }
    paths.sort();
    for relative in paths {
        let path = root.join(&relative);
        let metadata = path.symlink_metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(u64::from(metadata.uid()));
        header.set_gid(u64::from(metadata.gid()));
        header.set_mtime(epoch);
        header.set_size(0);
        if metadata.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, &relative, io::empty())?;
        } else if metadata.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &relative, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &relative, File::open(&path)?)?;
        }
    }
    tar.into_inner()
}

fn write_archive<'a>(out: &Path, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::new(File::create(out)?));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)?;
    }
    tar.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: &Path) -> Vec<String> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn an_oci_layout_becomes_an_archive_that_docker_reads() {
        let directory = tempfile::tempdir().unwrap();
        let layout = directory.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let put = |bytes: &[u8]| {
            let name = digest(bytes);
            fs::write(layout.join("blobs/sha256").join(&name), bytes).unwrap();
            format!("sha256:{name}")
        };
        let (config, layer) = (put(b"{}"), put(b"layer"));
        let manifest = json!({"config": {"digest": config}, "layers": [{"digest": layer}]}).to_string();
        let manifest = put(manifest.as_bytes());
        let out = directory.path().join("out.tar");
        from_archive("a:1", &layout, &manifest, &out).unwrap();
        assert!(names(&out).contains(&"manifest.json".to_owned()), "{:?}", names(&out));
        // A blob that was changed after its digest was taken is refused.
        fs::write(layout.join("blobs").join(layer.replace(':', "/")), b"other").unwrap();
        let error = from_archive("a:1", &layout, &manifest, &out).unwrap_err().to_string();
        assert!(error.contains("the content of blob"), "{error}");
    }

    #[test]
    fn a_docker_archive_must_have_the_pinned_digest() {
        let directory = tempfile::tempdir().unwrap();
        let (path, out) = (directory.path().join("a.tar"), directory.path().join("b.tar"));
        fs::write(&path, b"x").unwrap();
        from_archive("a:1", &path, &format!("sha256:{}", digest(b"x")), &out).unwrap();
        let error = from_archive("a:1", &path, &format!("sha256:{}", digest(b"y")), &out).unwrap_err().to_string();
        assert!(error.contains("the profile pins"), "{error}");
    }
}
