//! Files below `/etc` that both the image and the node write, brought together before anything reads them.
//!
//! A file in the upper layer of `/etc` hides the image's. For a file that is the node's alone that is right. But an
//! account that the node has put into `/etc/passwd` would hide every account that a later image brings, and its
//! services would not start. So at each start, before the layer is laid over, the node's part of each such file
//! ([`merge`]) is put onto the image that starts now. A file in which the node has changed nothing leaves the upper
//! layer, and the image's own shows.
//!
//! What the node's part is follows from the image's file that it began with, which is kept on `var`. While files are
//! being changed the node's own texts are kept there too, so after a power cut at any instant the next start takes the
//! same way, also where it starts the other image.
//!
//! Files that the first boot has given back to the image (`reveal`, one path below `/etc` a line) leave the upper layer
//! too: through the mounted layers nobody can take a file away without hiding the image's.

mod merge;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::node_state::{NodeStateError, failed, write_atomically};
use merge::{ACCOUNTS, LINES, Texts};

/// What is kept, below the directory of the upper layer.
const RECORD: &str = "shared.json";
/// The files that are the image's again.
const REVEAL: &str = "reveal";

/// A file of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Own {
    text: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The image's files that the node's were made from.
    image: BTreeMap<String, String>,
    /// The node's files, while they are being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<BTreeMap<String, Own>>,
}

/// Brings the upper layer `state/upper` to the image whose files are below `etc`. Gives in words what had to give way
/// to the image.
pub fn settle(etc: &Path, state: &Path) -> Result<Vec<String>, NodeStateError> {
    let upper = state.join("upper");
    reveal(&upper, &state.join(REVEAL))?;
    let record_file = state.join(RECORD);
    let record: Option<Record> = fs::read(&record_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut image = BTreeMap::new();
    for name in names() {
        if let Some(own) = read(&etc.join(name))? {
            image.insert(name.to_owned(), own.text);
        }
    }
    // Without a record every difference from the present image is the node's.
    let (base, unfinished) = record.map_or_else(|| (image.clone(), None), |record| (record.image, record.node));
    let resumed = unfinished.is_some();
    let node = match unfinished {
        Some(node) => node,
        None => present(&upper)?,
    };
    let own_texts = node.iter().map(|(name, own)| (name.clone(), own.text.clone())).collect();
    let merged = merge::merge(&texts(&base, &image), &texts(&own_texts, &base), &texts(&image, &BTreeMap::new()));
    // What is as in the image, or empty where the image has none, needs no file of the node.
    let of_image = |name: &str| image.get(name).map_or("", String::as_str);
    let own = merged.texts.iter().filter(|(name, text)| of_image(name) != *text);
    let wanted: BTreeMap<&str, &String> = own.map(|(name, text)| (*name, text)).collect();
    let same = names().all(|name| {
        let there = fs::symlink_metadata(upper.join(name)).is_ok();
        let text = node.get(name).map(|own| &own.text);
        there == wanted.contains_key(name) && text == wanted.get(name).copied()
    });
    let settled = Record { image, node: None };
    if !same || resumed {
        save(&record_file, &Record { image: base, node: Some(node.clone()) })?;
        for name in names() {
            let path = upper.join(name);
            match wanted.get(name) {
                Some(text) => put(&path, text, node.get(name), &etc.join(name))?,
                None => remove(&path)?,
            }
        }
        save(&record_file, &settled)?;
    } else if settled.image != base || !record_file.exists() {
        save(&record_file, &settled)?;
    }
    Ok(merged.left_out)
}

fn names() -> impl Iterator<Item = &'static str> {
    ACCOUNTS.into_iter().chain(LINES)
}

/// The texts of all files; one that is missing is the one of `otherwise`.
fn texts(files: &BTreeMap<String, String>, otherwise: &BTreeMap<String, String>) -> Texts {
    names().filter_map(|name| Some((name, files.get(name).or_else(|| otherwise.get(name))?.clone()))).collect()
}

/// The node's files that are in the upper layer. What is no file there, such as the mark that one was removed, hides the
/// image's and counts for nothing.
fn present(upper: &Path) -> Result<BTreeMap<String, Own>, NodeStateError> {
    let mut found = BTreeMap::new();
    for name in names() {
        if let Some(own) = read(&upper.join(name))? {
            found.insert(name.to_owned(), own);
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<Own>, NodeStateError> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("reading", path)(error)),
    };
    let bytes = fs::read(path).map_err(failed("reading", path))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(Own { text, mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }))
}

fn save(path: &Path, record: &Record) -> Result<(), NodeStateError> {
    let bytes = serde_json::to_vec(record).map_err(|error| failed("writing", path)(error.into()))?;
    // The node's `shadow` is in it while it is being changed.
    write_atomically(path, &bytes, 0o600)
}

/// Writes a file with the mode and owner that the node's had, or else the image's.
fn put(path: &Path, text: &str, own: Option<&Own>, image: &Path) -> Result<(), NodeStateError> {
    if read(path)?.is_some_and(|there| there.text == text) {
        return Ok(());
    }
    let like = match own {
        Some(own) => Some(own.clone()),
        None => read(image)?,
    };
    let like = like.unwrap_or(Own { text: String::new(), mode: 0o600, uid: 0, gid: 0 });
    let new = path.with_extension("ingot-new");
    let step = || failed("writing", path);
    let _ = fs::remove_file(&new);
    fs::write(&new, "").map_err(step())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(step())?;
    let finish = || -> io::Result<()> {
        let metadata = new.metadata()?;
        if (metadata.uid(), metadata.gid()) != (like.uid, like.gid) {
            lchown(&new, Some(like.uid), Some(like.gid))?;
        }
        fs::write(&new, text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(like.mode))?;
        fs::File::open(&new)?.sync_all()?;
        remove_odd(path)?;
        fs::rename(&new, path)?;
        fs::File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    finish().map_err(step())
}

/// Something that no file can be renamed over.
fn remove_odd(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), NodeStateError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    let synced = removed.and_then(|()| fs::File::open(path.parent().unwrap_or(path))?.sync_all());
    synced.map_err(failed("removing", path))
}

/// Takes what the first boot has given back out of the upper layer.
fn reveal(upper: &Path, list: &Path) -> Result<(), NodeStateError> {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("reading", list)(error)),
    };
    for line in text.lines() {
        let relative = Path::new(line);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        // A link on the way would lead out of the layer.
        let within = relative.parent().is_some_and(|parent| {
            let mut place = upper.to_owned();
            parent.components().all(|part| {
                place.push(part);
                place.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
            })
        });
        if plain && within && !line.is_empty() {
            remove(&upper.join(relative))?;
        }
    }
    remove(list)
}

#[cfg(test)]
mod tests;
