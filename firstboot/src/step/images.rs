//! The container images that came with the image: archives of `docker save` below `/usr/share/ingot/containers`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Effect, StepError};
use crate::host::Host;
use crate::join::engine::{Body, EngineError, Request};

/// Where the archives lie.
pub const DIRECTORY: &str = "/usr/share/ingot/containers";

const LOAD: &str = "/images/load?quiet=1";
const MAXIMUM_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// An archive on the image. Its name and size, with the image's identity, stand for its content: the root is
/// verified and never changes under one identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// The file's name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The identity of the image that it came with.
    pub image: String,
}

/// A container image in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ArchiveImage {
    /// The path of its configuration in the archive; it contains the configuration's SHA-256.
    #[serde(rename = "Config")]
    pub config: String,
    /// Its names: `alpine:3.20`.
    #[serde(rename = "RepoTags", default)]
    pub tags: Option<Vec<String>>,
}

impl ArchiveImage {
    /// The SHA-256 of the configuration, where the path contains one.
    fn config_digest(&self) -> Option<&str> {
        let name = self.config.rsplit('/').next()?.trim_end_matches(".json");
        (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).then_some(name)
    }
}

/// Reads which images an archive holds, from its `manifest.json`.
///
/// # Errors
/// The file is no such archive.
pub fn images_of(archive: &Path) -> io::Result<Vec<ArchiveImage>> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.path_bytes().strip_prefix(b"./").unwrap_or(&entry.path_bytes()) == b"manifest.json" {
            let mut json = Vec::new();
            entry.take(MAXIMUM_MANIFEST_BYTES).read_to_end(&mut json)?;
            return Ok(serde_json::from_slice(&json)?);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it has no manifest.json; make it with `docker save`"))
}

/// One request for each archive.
pub fn effects(archives: &[Archive]) -> Vec<Effect> {
    let request = |archive: &Archive| format!("POST {LOAD} with {DIRECTORY}/{}", archive.name);
    archives.iter().map(|archive| Effect::Call { service: "docker".into(), request: request(archive) }).collect()
}

/// Loads all archives, but for those whose images the engine has already.
pub fn load(host: &dyn Host, archives: &[Archive]) -> Result<(), StepError> {
    for archive in archives {
        let path = format!("{DIRECTORY}/{}", archive.name);
        let images = host.archive_images(&path)?;
        if !images.is_empty() && images.iter().all(|image| is_present(host, image)) {
            continue;
        }
        let request = Request::post(LOAD, Body::Archive(Path::new(&path)));
        let answer = host.engine(&request)?.accepted(&format!("to load {}", archive.name))?;
        // The status is sent before the work: what went wrong later stands in the stream of its messages.
        if let Some(message) = error_in(&answer.body) {
            let what = format!("to load {}", archive.name);
            return Err(EngineError::Refused { what, status: answer.status, message }.into());
        }
    }
    Ok(())
}

/// True where each of the image's names is in the engine and means this very image.
///
/// An engine that stores images in containerd numbers them otherwise; there nothing is found present, and loading
/// once more does no harm.
fn is_present(host: &dyn Host, image: &ArchiveImage) -> bool {
    #[derive(Deserialize)]
    struct Inspected {
        #[serde(rename = "Id")]
        id: String,
    }
    let tags = image.tags.as_deref().unwrap_or_default();
    let Some(digest) = image.config_digest().filter(|_| !tags.is_empty()) else { return false };
    tags.iter().all(|tag| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
        tag.chars().all(plain)
            && host
                .engine(&Request::get(&format!("/images/{tag}/json")))
                .ok()
                .filter(|answer| answer.status == 200)
                .and_then(|answer| serde_json::from_slice::<Inspected>(&answer.body).ok())
                .is_some_and(|inspected| inspected.id.strip_prefix("sha256:") == Some(digest))
    })
}

/// The first error in the engine's stream of messages.
fn error_in(stream: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        error: Option<String>,
    }
    serde_json::Deserializer::from_slice(stream)
        .into_iter::<Message>()
        .map_while(Result::ok)
        .find_map(|message| message.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_found_wherever_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        let digest = "a".repeat(64);
        let manifest = format!("[{{\"Config\":\"blobs/sha256/{digest}\",\"RepoTags\":[\"x:1\"],\"Layers\":[]}}]");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in [("layer.tar", "x".repeat(100_000)), ("manifest.json", manifest)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        let images = images_of(&path).unwrap();
        assert_eq!(images[0].tags.as_deref(), Some(&["x:1".to_owned()][..]));
        assert_eq!(images[0].config_digest(), Some(digest.as_str()));
        std::fs::write(&path, "not a tar").unwrap();
        assert!(images_of(&path).is_err());
    }

    #[test]
    fn an_error_late_in_the_stream_is_found() {
        assert_eq!(
            error_in(b"{\"stream\":\"Loaded\"}\r\n{\"errorDetail\":{},\"error\":\"no space\"}\r\n").unwrap(),
            "no space"
        );
        assert_eq!(error_in(b"{\"stream\":\"Loaded image: x:1\\n\"}\r\n"), None);
        assert_eq!(error_in(b""), None);
    }
}
