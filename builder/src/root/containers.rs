//! Container images for the node, as docker-archives that `docker load` reads.
//!
//! They are made from locked packages, or taken from an OCI layout or a docker-archive whose digest the profile pins
//! ([`pinned`]).

pub mod pinned;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
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

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
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
