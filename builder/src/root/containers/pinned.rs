//! Container images from outside, pinned by digest: an OCI layout or a docker-archive.
//!
//! What comes out is a docker-archive of one image under the name that the profile gives it, whatever names and other
//! images the source has: `docker load` and the node's firstboot then agree on what the image is called.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::write_archive;
use crate::root::RootError;
use crate::store::deb;

/// The largest `manifest.json` that is read.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// An image that the profile pins.
#[derive(Debug, Clone, Copy)]
pub struct Pinned<'a> {
    /// What it is called on the node: `registry.example/app:1`.
    pub reference: &'a str,
    /// The layout's directory, or the archive (plain, or compressed with gzip, xz or zstd).
    pub path: &'a Path,
    /// `sha256:…` of the image's manifest in a layout, of the file for an archive.
    pub digest: &'a str,
}

impl Pinned<'_> {
    /// Writes the image to `out`.
    pub fn write(&self, out: &Path) -> Result<(), RootError> {
        if self.path.is_dir() { self.repack_layout(out) } else { self.repack_archive(out) }
    }

    fn wrong(&self, what: &str) -> RootError {
        RootError::Content(format!("container {} from {}: {what}", self.reference, self.path.display()))
    }

    fn repack_layout(&self, out: &Path) -> Result<(), RootError> {
        let blob = |digest: &str| -> Result<Vec<u8>, RootError> {
            let hex =
                digest.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
            let hex = hex.ok_or_else(|| self.wrong(&format!("{digest:?} is no SHA-256 digest")))?;
            let file = self.path.join("blobs/sha256").join(hex);
            let bytes = fs::read(&file).map_err(RootError::io(&file))?;
            let found = super::digest(&bytes);
            if found == hex {
                Ok(bytes)
            } else {
                Err(self.wrong(&format!("the content of blob {hex} has SHA-256 {found}")))
            }
        };
        let manifest: Value = serde_json::from_slice(&blob(self.digest)?)
            .map_err(|e| self.wrong(&format!("its manifest is no JSON: {e}")))?;
        let config = manifest["config"]["digest"].as_str().ok_or_else(|| self.wrong("its manifest names no config"))?;
        let layers = manifest["layers"].as_array().ok_or_else(|| self.wrong("its manifest names no layers"))?;
        let mut files = BTreeMap::from([(blob_name(config), blob(config)?)]);
        let mut names = Vec::new();
        for layer in layers {
            let digest = layer["digest"].as_str().ok_or_else(|| self.wrong("a layer has no digest"))?;
            names.push(blob_name(digest));
            files.insert(blob_name(digest), blob(digest)?);
        }
        let index = json!([{ "Config": blob_name(config), "RepoTags": [self.reference], "Layers": names }]);
        files.insert("manifest.json".to_owned(), index.to_string().into_bytes());
        write_archive(out, files.iter().map(|(n, b)| (n.as_str(), b.as_slice()))).map_err(RootError::io(out))
    }

    fn repack_archive(&self, out: &Path) -> Result<(), RootError> {
        let found = file_digest(self.path).map_err(RootError::io(self.path))?;
        if self.digest != format!("sha256:{found}") {
            return Err(self.wrong(&format!("its SHA-256 is {found}, the profile pins {}", self.digest)));
        }
        let unreadable = |error: io::Error| self.wrong(&format!("it cannot be read as a docker-archive: {error}"));
        let contents = self.contents(unreadable)?;
        let image = self.choose(&contents.images)?;
        let resolve = |name: &str| -> Result<String, RootError> {
            let name = contents.resolve(name);
            name.ok_or_else(|| self.wrong("its manifest.json names a file that is not in it"))
        };
        let config = resolve(&image.config)?;
        let layers = image.layers.iter().map(|name| resolve(name)).collect::<Result<Vec<_>, _>>()?;
        let wanted: BTreeSet<&str> = layers.iter().chain([&config]).map(String::as_str).collect();
        let manifest = json!([{ "Config": config, "RepoTags": [self.reference], "Layers": layers }]).to_string();

        let file = File::create(out).map_err(RootError::io(out))?;
        let mut writer = tar::Builder::new(io::BufWriter::new(file));
        let mut append = |name: &str, size: u64, content: &mut dyn Read| -> Result<(), RootError> {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(size);
            writer.append_data(&mut header, name, content).map_err(RootError::io(out))
        };
        let mut source = tar::Archive::new(reader(self.path).map_err(unreadable)?);
        for entry in source.entries().map_err(unreadable)? {
            let mut entry = entry.map_err(unreadable)?;
            let name = name_of(&entry);
            if entry.header().entry_type().is_file() && wanted.contains(name.as_str()) {
                append(&name, entry.size(), &mut entry)?;
            }
        }
        append("manifest.json", manifest.len() as u64, &mut manifest.as_bytes())?;
        writer.into_inner().and_then(|mut file| file.flush()).map_err(RootError::io(out))
    }

    /// What is in the archive, without the layers' content.
    fn contents(&self, unreadable: impl Fn(io::Error) -> RootError) -> Result<Contents, RootError> {
        let mut contents = Contents::default();
        let mut manifest = None;
        let mut archive = tar::Archive::new(reader(self.path).map_err(&unreadable)?);
        for entry in archive.entries().map_err(&unreadable)? {
            let mut entry = entry.map_err(&unreadable)?;
            let (name, kind) = (name_of(&entry), entry.header().entry_type());
            if name == "manifest.json" && kind.is_file() {
                let mut bytes = Vec::new();
                (&mut entry).take(MANIFEST_LIMIT).read_to_end(&mut bytes).map_err(&unreadable)?;
                manifest = Some(bytes);
            } else if kind.is_file() {
                contents.files.insert(name);
            } else if kind.is_symlink() || kind.is_hard_link() {
                // Layers that several images share are links in archives of old versions of Docker.
                let target = entry.link_name().map_err(&unreadable)?.unwrap_or_default().into_owned();
                let target = if kind.is_hard_link() { target } else { parent(&name).join(target) };
                contents.links.insert(name, plain(&target));
            }
        }
        let manifest = manifest.ok_or_else(|| self.wrong("it has no manifest.json, so it is no docker-archive"))?;
        contents.images = serde_json::from_slice(&manifest)
            .map_err(|error| self.wrong(&format!("its manifest.json cannot be read: {error}")))?;
        Ok(contents)
    }

    /// The one image of the archive, or that of several which has the profile's name.
    fn choose<'i>(&self, images: &'i [Image]) -> Result<&'i Image, RootError> {
        let named = |image: &&Image| image.tags.iter().flatten().any(|tag| tag == self.reference);
        match images {
            [] => Err(self.wrong("there is no image in it")),
            [only] => Ok(only),
            several => several.iter().find(named).ok_or_else(|| {
                let there: Vec<&str> =
                    several.iter().flat_map(|i| i.tags.iter().flatten()).map(String::as_str).collect();
                self.wrong(&format!(
                    "it holds {} images and none is called so; there are {}",
                    several.len(),
                    there.join(", ")
                ))
            }),
        }
    }
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
struct Image {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Debug, Default)]
struct Contents {
    images: Vec<Image>,
    files: BTreeSet<String>,
    links: BTreeMap<String, String>,
}

impl Contents {
    /// The file that a name of the manifest means.
    fn resolve(&self, name: &str) -> Option<String> {
        let mut name = plain(Path::new(name));
        for _ in 0..8 {
            if self.files.contains(&name) {
                return Some(name);
            }
            name.clone_from(self.links.get(&name)?);
        }
        None
    }
}

fn name_of<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    entry.path().map(|path| plain(&path)).unwrap_or_default()
}

fn parent(name: &str) -> &Path {
    Path::new(name).parent().unwrap_or(Path::new(""))
}

/// A path without `.` and `..`; what would lead out of the archive stays at its top.
fn plain(path: &Path) -> String {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => drop(result.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result.to_string_lossy().into_owned()
}

/// The archive, decompressed if it is compressed.
fn reader(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let start = file.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else if start.starts_with(b"\xfd7zXZ\0") {
        Ok(Box::new(deb::xz(file)?))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(deb::zstd(file)?))
    } else {
        Ok(Box::new(file))
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 16, File::open(path)?), &mut HashWriter(&mut hash))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest;
    use super::*;

    fn contents(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect()
    }

    fn write(reference: &str, path: &Path, digest: &str, out: &Path) -> Result<Vec<Value>, String> {
        Pinned { reference, path, digest }.write(out).map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&contents(out)["manifest.json"]).unwrap())
    }

    fn write_pinned(reference: &str, path: &Path, out: &Path) -> Result<Vec<Value>, String> {
        write(reference, path, &format!("sha256:{}", file_digest(path).unwrap()), out)
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
        assert_eq!(write("a:1", &layout, &manifest, &out).unwrap()[0]["RepoTags"], json!(["a:1"]));
        // A blob that was changed after its digest was taken is refused.
        fs::write(layout.join("blobs").join(layer.replace(':', "/")), b"other").unwrap();
        let error = write("a:1", &layout, &manifest, &out).unwrap_err();
        assert!(error.contains("the content of blob"), "{error}");
    }

    /// A docker-archive with two images that share a layer by a symbolic link.
    fn archive(path: &Path, images: usize) {
        let mut tar = tar::Builder::new(File::create(path).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        add("one.json", b"{1}");
        add("two.json", b"{2}");
        add("aa/layer.tar", b"layer");
        add("repositories", b"{}");
        let all = [
            json!({ "Config": "one.json", "RepoTags": ["old:1"], "Layers": ["aa/layer.tar"] }),
            json!({ "Config": "two.json", "RepoTags": ["two:1"], "Layers": ["bb/layer.tar"] }),
        ];
        add("manifest.json", json!(all[..images]).to_string().as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, "bb/layer.tar", "../aa/layer.tar").unwrap();
        tar.finish().unwrap();
    }

    #[test]
    fn a_docker_archive_must_have_the_pinned_digest() {
        let directory = tempfile::tempdir().unwrap();
        let (path, out) = (directory.path().join("a.tar"), directory.path().join("b.tar"));
        archive(&path, 1);
        let error = write("a:1", &path, &format!("sha256:{}", digest(b"y")), &out).unwrap_err();
        assert!(error.contains("the profile pins"), "{error}");
    }

    #[test]
    fn the_image_gets_the_name_that_the_profile_gives_it() {
        let directory = tempfile::tempdir().unwrap();
        let (path, out) = (directory.path().join("a.tar"), directory.path().join("b.tar"));
        archive(&path, 1);
        let manifest = write_pinned("new:2", &path, &out).unwrap();
        assert_eq!(manifest, [json!({"Config": "one.json", "RepoTags": ["new:2"], "Layers": ["aa/layer.tar"]})]);
        let names: Vec<String> = contents(&out).into_keys().collect();
        assert_eq!(names, ["aa/layer.tar", "manifest.json", "one.json"]);
    }

    #[test]
    fn of_several_images_the_one_with_the_name_is_taken_and_its_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, out) = (directory.path().join("a.tar"), directory.path().join("b.tar"));
        archive(&path, 2);
        let manifest = write_pinned("two:1", &path, &out).unwrap();
        assert_eq!(manifest, [json!({"Config": "two.json", "RepoTags": ["two:1"], "Layers": ["aa/layer.tar"]})]);
        let error = write_pinned("three:1", &path, &out).unwrap_err();
        assert!(error.contains("there are old:1, two:1"), "{error}");
    }

    #[test]
    fn compressed_archives_are_read_and_other_files_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, out) = (directory.path().join("a.tar"), directory.path().join("b.tar"));
        archive(&path, 1);
        let plain = fs::read(&path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in [gzip.finish().unwrap(), zstd::encode_all(&*plain, 1).unwrap()] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(write_pinned("a:1", &path, &out).unwrap()[0]["RepoTags"], json!(["a:1"]));
        }
        fs::write(&path, b"no archive").unwrap();
        let error = write_pinned("a:1", &path, &out).unwrap_err();
        assert!(error.contains("docker-archive"), "{error}");
    }

    #[test]
    fn names_stay_inside_the_archive() {
        assert_eq!(plain(Path::new("./a/../../b//c")), "b/c");
        assert_eq!(plain(Path::new("/etc/passwd")), "etc/passwd");
    }
}
