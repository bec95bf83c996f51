//! Files that the configuration brings: `[[file]]`.
//!
//! Before a file is written for the first time, what stood there is kept on the disk. So `append` always adds to the
//! file's own content, however often the step is repeated, and a file that the configuration no longer has becomes what
//! it was. The record is there before the file is changed and goes after it is restored: a power cut at any instant
//! leaves nothing that the next run does not mend.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::accounts::Accounts;
use super::{Content, Effect, StepError, layer};
use crate::config::{NodeFile, Owner};
use crate::host::{Host, Ids, ImageFile, Standing};

/// Where what stood at the places of files is kept.
const RECORDS: &str = "/var/lib/ingot/files";
/// The largest file that is kept.
const MAXIMUM_ORIGINAL_BYTES: u64 = 16 * 1024 * 1024;
const MAXIMUM_RECORD_BYTES: u64 = 2 * MAXIMUM_ORIGINAL_BYTES;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    path: String,
    original: Original,
}

/// What stood at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Original {
    Nothing,
    /// The image's own file: of the image that runs, not of the one that ran when it was first hidden.
    Image,
    File {
        content: String,
        mode: u32,
        ids: Ids,
    },
    Link {
        target: String,
    },
}

pub fn apply(host: &dyn Host, files: &[NodeFile]) -> Result<(), StepError> {
    let wanted: BTreeSet<String> = files.iter().map(|file| record_of(file.path.as_str())).collect();
    for (name, _) in host.list(RECORDS)? {
        let record = format!("{RECORDS}/{name}");
        if name.starts_with('.') {
            // What a power cut left of a record that was being written.
            host.remove(&record)?;
            continue;
        }
        if !wanted.contains(&record) {
            restore(host, &record)?;
        }
    }
    let accounts = Accounts::read(host)?;
    for file in files {
        let path = file.path.as_str();
        let ids = match &file.owner {
            Some(owner) => ids_of(owner, &accounts).map_err(|what| StepError::Unfit(format!("file {path}: {what}")))?,
            None => Ids::ROOT,
        };
        layer::take(host, path)?;
        let mut content = match keep(host, path)? {
            _ if !file.append => Vec::new(),
            Original::File { content, .. } => STANDARD.decode(content).map_err(|_| damaged(&record_of(path)))?,
            Original::Image => image_file(host, path)?.map_or_else(Vec::new, |file| file.bytes),
            Original::Nothing | Original::Link { .. } => Vec::new(),
        };
        content.extend_from_slice(&file.content.0);
        host.write_as(path, &content, file.mode, ids).map_err(|error| explain(path, error))?;
    }
    Ok(())
}

/// What it does, without a machine. Contents may be secret and are only counted.
pub fn effects(files: &[NodeFile]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for file in files {
        let (path, bytes) = (file.path.to_string(), file.content.0.clone());
        if file.append {
            effects.push(Effect::setting(format!("the end of {path}"), format!("({} bytes)", bytes.len())));
        } else {
            effects.push(Effect::File { path: path.clone(), mode: file.mode, content: Content::Bytes(bytes) });
        }
        effects
            .extend(file.owner.iter().map(|owner| Effect::setting(format!("the owner of {path}"), owner.to_string())));
    }
    effects
}

fn record_of(path: &str) -> String {
    let mut name = crate::rendezvous::to_hex(&Sha256::digest(path.as_bytes()));
    name.truncate(32);
    format!("{RECORDS}/{name}")
}

fn damaged(record: &str) -> StepError {
    StepError::Unfit(format!("{record} is damaged; remove it, and what it stands for stays as it is"))
}

fn read(host: &dyn Host, record: &str) -> Result<Option<Record>, StepError> {
    let Some(bytes) = host.read(record, MAXIMUM_RECORD_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged(record))
}

/// What stood there before the first configuration; kept now where it was not.
fn keep(host: &dyn Host, path: &str) -> Result<Original, StepError> {
    let record = record_of(path);
    if let Some(known) = read(host, &record)? {
        return Ok(known.original);
    }
    let original = match host.look(path)? {
        None => Original::Nothing,
        Some(Standing::Link(target)) => Original::Link { target },
        Some(Standing::File { mode, ids }) => {
            let bytes = host.read(path, MAXIMUM_ORIGINAL_BYTES)?.unwrap_or_default();
            if image_file(host, path)?.is_some_and(|image| image == ImageFile { bytes: bytes.clone(), mode, ids }) {
                Original::Image
            } else {
                Original::File { content: STANDARD.encode(bytes), mode, ids }
            }
        }
        Some(Standing::Directory { .. } | Standing::Other) => {
            return Err(StepError::Unfit(format!("file {path}: there is a directory, or something that is no file")));
        }
    };
    let kept = Record { path: path.to_owned(), original };
    // Texts and numbers become JSON in any case.
    host.write(&record, &serde_json::to_vec(&kept).unwrap_or_default(), 0o600)?;
    Ok(kept.original)
}

/// The image's own file below `/etc`; nothing else of the image can be hidden.
fn image_file(host: &dyn Host, path: &str) -> Result<Option<ImageFile>, StepError> {
    if !path.starts_with("/etc/") {
        return Ok(None);
    }
    Ok(host.image_file(path, MAXIMUM_ORIGINAL_BYTES)?)
}

fn restore(host: &dyn Host, record: &str) -> Result<(), StepError> {
    let Some(kept) = read(host, record)? else { return Ok(()) };
    match kept.original {
        Original::Nothing => host.remove(&kept.path)?,
        Original::Link { target } => host.link(&kept.path, &target)?,
        Original::Image => {
            match image_file(host, &kept.path)? {
                Some(file) => host.write_as(&kept.path, &file.bytes, file.mode, file.ids)?,
                None => host.remove(&kept.path)?,
            }
            layer::give_back(host, &kept.path)?;
        }
        Original::File { content, mode, ids } => {
            let content = STANDARD.decode(content).map_err(|_| damaged(record))?;
            host.write_as(&kept.path, &content, mode, ids)?;
        }
    }
    host.remove(record)?;
    Ok(())
}

fn ids_of(owner: &Owner, accounts: &Accounts) -> Result<Ids, String> {
    let user = accounts.user(owner.user.as_str());
    let mut ids = user.ok_or_else(|| format!("there is no user {}; give it as [[user]]", owner.user))?;
    if let Some(group) = &owner.group {
        ids.gid = accounts.gid(group.as_str()).ok_or_else(|| format!("there is no group {group}"))?;
    }
    Ok(ids)
}

/// A read-only place is the usual reason, and the kernel's words do not say what to do.
fn explain(path: &str, error: crate::host::HostError) -> StepError {
    let crate::host::HostError::File { source, .. } = &error else { return error.into() };
    let link = source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    match source.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => StepError::Unfit(format!(
            "file {path}: this image is read-only there; declare a directory above it under `persist` of the role's profile"
        )),
        kind if link || kind == std::io::ErrorKind::NotADirectory => {
            StepError::Unfit(format!("file {path}: something on the way is no directory, or a symbolic link"))
        }
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
