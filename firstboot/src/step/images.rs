//! The container images that came with the image: archives of `docker save` below `/usr/share/ingot/containers`.
//!
//! They go where the node's containers run: into Docker, into the part of containerd's store that the kubelet uses, or to
//! where k3s looks for them when it starts.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Effect, StepError};
use crate::host::{Host, HostError};
use crate::join::engine::{Body, EngineError, Request};

/// Where the archives lie.
pub const DIRECTORY: &str = "/usr/share/ingot/containers";

const LOAD: &str = "/images/load?quiet=1";
/// containerd's own program, and the namespace of the Container Runtime Interface.
const CTR: &str = "ctr";
const IMPORT: [&str; 4] = ["--namespace", "k8s.io", "images", "import"];
/// What k3s takes into its own containerd at every start (docs.k3s.io/installation/airgap); it follows links.
const K3S: &str = "/var/lib/rancher/k3s/agent/images";
/// How long importing one archive may take.
const IMPORT_PATIENCE: Duration = Duration::from_mins(10);
const MAXIMUM_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// What the archives are loaded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker.
    Docker,
    /// containerd, for a kubelet.
    Containerd,
    /// The containerd that k3s brings and starts itself.
    K3s,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Docker => "Docker",
            Engine::Containerd => "containerd",
            Engine::K3s => "k3s",
        })
    }
}

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

impl Archive {
    fn path(&self) -> String {
        format!("{DIRECTORY}/{}", self.name)
    }
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

/// The names of the archives that the image brings, with their sizes, sorted.
///
/// # Errors
/// The directory cannot be read.
pub fn brought(host: &dyn Host) -> Result<Vec<(String, u64)>, HostError> {
    let is_archive = |(name, _): &(String, u64)| name.rsplit_once('.').is_some_and(|(_, extension)| extension == "tar");
    Ok(host.list(DIRECTORY)?.into_iter().filter(is_archive).collect())
}

/// The link for k3s, and what it leads to.
fn for_k3s(name: &str) -> [String; 2] {
    [format!("{K3S}/ingot-{name}"), format!("{DIRECTORY}/{name}")]
}

/// Puts the image's archives where k3s looks for them.
///
/// # Errors
/// A link cannot be made.
pub fn give_to_k3s(host: &dyn Host) -> Result<(), HostError> {
    brought(host)?.iter().try_for_each(|(name, _)| {
        let [path, target] = for_k3s(name);
        host.link(&path, &target)
    })
}

/// One request, command or link for each archive.
pub fn effects(engine: Engine, archives: &[Archive]) -> Vec<Effect> {
    let one = |archive: &Archive| {
        let path = archive.path();
        match engine {
            Engine::Docker => Effect::Call { service: "docker".into(), request: format!("POST {LOAD} with {path}") },
            Engine::Containerd => {
                let [namespace, name, images, import] = IMPORT;
                Effect::run([CTR, namespace, name, images, import, &path])
            }
            Engine::K3s => {
                let [path, target] = for_k3s(&archive.name);
                Effect::Link { path, target }
            }
        }
    };
    archives.iter().map(one).collect()
}

/// Loads all archives, but for those whose images Docker has already.
pub fn load(host: &dyn Host, engine: Engine, archives: &[Archive]) -> Result<(), StepError> {
    archives.iter().try_for_each(|archive| match engine {
        Engine::Docker => load_into_docker(host, archive),
        Engine::Containerd => import(host, archive),
        Engine::K3s => {
            let [path, target] = for_k3s(&archive.name);
            Ok(host.link(&path, &target)?)
        }
    })
}

/// Content that is there already costs containerd nothing, and a name that meant another image means this one then.
fn import(host: &dyn Host, archive: &Archive) -> Result<(), StepError> {
    let path = archive.path();
    let [namespace, name, images, import] = IMPORT;
    host.run(CTR, &[namespace, name, images, import, &path], IMPORT_PATIENCE)?;
    Ok(())
}

fn load_into_docker(host: &dyn Host, archive: &Archive) -> Result<(), StepError> {
    let path = archive.path();
    let images = host.archive_images(&path)?;
    if !images.is_empty() && images.iter().all(|image| is_present(host, image)) {
        return Ok(());
    }
    let request = Request::post(LOAD, Body::Archive(Path::new(&path)));
    let answer = host.engine(&request)?.accepted(&format!("to load {}", archive.name))?;
    // The status is sent before the work: what went wrong later stands in the stream of its messages.
    if let Some(message) = error_in(&answer.body) {
        let what = format!("to load {}", archive.name);
        return Err(EngineError::Refused { what, status: answer.status, message }.into());
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
    fn a_kubelets_images_go_into_its_part_of_containerd() {
        let archive = Archive { name: "pause.tar".into(), bytes: 7, image: "i".into() };
        let host = crate::host::simulated::SimulatedHost::default();
        load(&host, Engine::Containerd, std::slice::from_ref(&archive)).unwrap();
        let command = format!("ctr --namespace k8s.io images import {DIRECTORY}/pause.tar");
        assert_eq!(host.state().commands, [command.as_str()]);
        let planned: Vec<String> = effects(Engine::Containerd, &[archive]).iter().flat_map(Effect::lines).collect();
        assert_eq!(planned, [format!("run {command}")], "what is planned is what is done");
    }

    #[test]
    fn k3s_finds_the_images_where_it_looks_for_them() {
        let host = crate::host::simulated::SimulatedHost::default();
        host.put(&format!("{DIRECTORY}/pause.tar"), "x");
        host.put(&format!("{DIRECTORY}/README"), "x");
        let archive = Archive { name: "pause.tar".into(), bytes: 1, image: "i".into() };
        load(&host, Engine::K3s, std::slice::from_ref(&archive)).unwrap();
        let given = host.disk();
        let planned: Vec<String> = effects(Engine::K3s, &[archive]).iter().flat_map(Effect::lines).collect();
        assert_eq!(planned, [format!("link {K3S}/ingot-pause.tar -> {DIRECTORY}/pause.tar")]);
        assert!(host.state().commands.is_empty());
        give_to_k3s(&host).unwrap();
        assert_eq!(host.disk(), given, "it is the same by both ways");
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
