//! Archives as Ubuntu, Docker and NVIDIA lay them out, signed with keys of their own, with packages as Ubuntu packs
//! them: made ones, and real packages of Debian packed anew.
//!
//! - Ubuntu: pockets (`noble`, `noble-updates`, `noble-security`) with components, indexes by hash, phased updates,
//!   snapshots below their id.
//! - Docker: one component, `dists/noble/pool/stable/amd64`, nothing by hash.
//! - NVIDIA: flat, file names that begin with `./`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use super::archive::{Archive, Package, gz, hex, members, xz, zst};

/// A package of an index.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Fields of its control file and those of the index, each line with its end.
    fields: String,
    path: String,
    deb: Vec<u8>,
}

impl Entry {
    /// A made package.
    pub fn made(package: &Package) -> Self {
        Self { fields: package.control(), path: package.path(), deb: package.zstd_deb() }
    }

    /// A real package, packed anew as Ubuntu would have.
    pub fn repacked(deb: &Path) -> Self {
        let mut packed = Vec::new();
        let mut fields = None;
        for (name, content) in read_ar(&std::fs::read(deb).unwrap()) {
            let Some((stem, form)) = name.split_once(".tar") else { continue };
            let tar = decompress(form, &content);
            if stem == "control" {
                fields = Some(control(&tar));
            }
            packed.push((format!("{stem}.tar.zst"), zst(&tar)));
        }
        let packed: Vec<(&str, Vec<u8>)> = packed.iter().map(|(name, c)| (name.as_str(), c.clone())).collect();
        let fields = fields.unwrap();
        let of = |name: &str| fields.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let version = of("Version:").replace(':', "%3a");
        let path = format!("pool/{}_{version}_{}.deb", of("Package:"), of("Architecture:"));
        Self { fields, path, deb: members(&packed) }
    }

    /// The same, given to so many per cent of machines.
    pub fn phased(mut self, percent: u8) -> Self {
        writeln!(self.fields, "Phased-Update-Percentage: {percent}").unwrap();
        self
    }

    fn stanza(&self, prefix: &str) -> String {
        let (fields, path) = (&self.fields, &self.path);
        format!("{fields}Filename: {prefix}{path}\nSize: {}\nSHA256: {}\n\n", self.deb.len(), hex(&self.deb))
    }
}

/// A pocket of Ubuntu, or a suite of a vendor laid out in the same way.
pub struct Suite<'a> {
    /// Below which path of the server the archive lies: `ubuntu`, or with a snapshot's id after it.
    pub place: &'a str,
    /// `noble-updates`
    pub name: &'a str,
    /// Entries by component.
    pub components: &'a [(&'a str, &'a [Entry])],
    /// Serves indexes by hash, and under their names what a mirror in the middle of an update has there.
    pub by_hash: bool,
    /// Days that its date lies back.
    pub days_old: u32,
}

impl Suite<'_> {
    /// Signs and serves it.
    pub fn publish(&self, archive: &Archive) {
        let (place, name) = (self.place, self.name);
        let mut sums = String::new();
        for (component, entries) in self.components {
            let mut index = String::new();
            for entry in *entries {
                index.push_str(&entry.stanza(""));
                archive.put(format!("{place}/{}", entry.path), entry.deb.clone());
            }
            let folder = format!("{component}/binary-amd64");
            for (suffix, content) in [(".xz", xz(index.as_bytes())), (".gz", gz(index.as_bytes()))] {
                let hash = hex(&content);
                writeln!(sums, " {hash} {} {folder}/Packages{suffix}", content.len()).unwrap();
                let plain = if self.by_hash { b"of yesterday".to_vec() } else { content.clone() };
                archive.put(format!("{place}/dists/{name}/{folder}/Packages{suffix}"), plain);
                if self.by_hash {
                    archive.put(format!("{place}/dists/{name}/{folder}/by-hash/SHA256/{hash}"), content);
                }
            }
        }
        let components: Vec<&str> = self.components.iter().map(|(component, _)| *component).collect();
        let codename = name.split('-').next().unwrap();
        let text = format!(
            "Origin: Test\nLabel: Test\nSuite: {name}\nCodename: {codename}\nArchitectures: amd64 arm64\n\
             Components: {}\n{}SHA256:\n{sums}",
            components.join(" "),
            if self.by_hash { "Acquire-By-Hash: yes\n" } else { "" },
        );
        archive.put_release(format!("{place}/dists/{name}/InRelease"), self.days_old, &text);
    }
}

/// Signs and serves a flat repository below `place`.
pub fn publish_flat(archive: &Archive, place: &str, entries: &[Entry]) {
    let index: String = entries.iter().map(|entry| entry.stanza("./")).collect();
    for entry in entries {
        archive.put(format!("{place}/{}", entry.path), entry.deb.clone());
    }
    let packed = gz(index.as_bytes());
    let sums = format!(
        " {} {} Packages\n {} {} Packages.gz\n",
        hex(index.as_bytes()),
        index.len(),
        hex(&packed),
        packed.len()
    );
    archive.put(format!("{place}/Packages"), index.into_bytes());
    archive.put(format!("{place}/Packages.gz"), packed);
    archive.put_release(format!("{place}/InRelease"), 0, &format!("Origin: Test\nSHA256:\n{sums}"));
}

/// The packages of a lock's sets that are in a store, by name, packed anew.
pub fn repacked_sets(lock: &str, store: &Path, set: &str) -> BTreeMap<String, Entry> {
    let lock: toml::Table = lock.parse().unwrap();
    let list = |key: &str| lock[key].as_array().unwrap().clone();
    let sets = list("set");
    let set = sets.iter().find(|entry| entry["name"].as_str() == Some(set)).unwrap();
    let wanted: Vec<String> =
        set["packages"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()).collect();
    let mut found = BTreeMap::new();
    for package in list("package") {
        let of = |key: &str| package[key].as_str().unwrap().to_owned();
        let reference = format!("{}={}:{}@{}", of("name"), of("version"), of("architecture"), of("repository"));
        if wanted.contains(&reference) {
            let hash = of("sha256");
            let deb = store.join("objects/sha256").join(&hash[..2]).join(&hash);
            found.insert(of("name"), Entry::repacked(&deb));
        }
    }
    found
}

/// Names and contents of the members of an ar archive.
fn read_ar(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = bytes.strip_prefix(b"!<arch>\n").unwrap();
    let mut found = Vec::new();
    while rest.len() >= 60 {
        let text = |from: usize, to: usize| std::str::from_utf8(&rest[from..to]).unwrap().trim().to_owned();
        let (name, size) = (text(0, 16), text(48, 58).parse::<usize>().unwrap());
        found.push((name.trim_end_matches('/').to_owned(), rest[60..60 + size].to_vec()));
        rest = &rest[(60 + size + size % 2).min(rest.len())..];
    }
    found
}

fn decompress(form: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match form {
        ".xz" => liblzma::read::XzDecoder::new(content).read_to_end(&mut out).unwrap(),
        ".gz" => flate2::read::GzDecoder::new(content).read_to_end(&mut out).unwrap(),
        ".zst" => return zstd::decode_all(content).unwrap(),
        "" => return content.to_vec(),
        other => panic!("{other}"),
    };
    out
}

/// The control file of a package, with the end of its last line.
fn control(tar: &[u8]) -> String {
    let mut archive = tar::Archive::new(tar);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|entry| entry.path().unwrap().ends_with("control")).unwrap();
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    format!("{}\n", text.trim_end())
}
