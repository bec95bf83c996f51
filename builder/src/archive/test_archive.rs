//! A signed archive for tests, made in memory and served by the test server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use openpgp::cert::{Cert, CertBuilder};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::Serialize;
use openpgp::serialize::stream::{Message, Signer};
use sequoia_openpgp as openpgp;
use sha2::{Digest, Sha256};

use super::release::hex;
use crate::profile::Repository;
use crate::store::test_server::{Reply, Server};

/// 2026-01-01: the present of these tests.
pub(crate) const NOW: u64 = 1_767_225_600;

/// An archive whose files can be changed behind the signature's back.
pub(crate) struct TestArchive {
    cert: Cert,
    directory: tempfile::TempDir,
    /// By path below the archive's URL.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl TestArchive {
    pub fn new() -> Self {
        let made = UNIX_EPOCH + Duration::from_secs(NOW - 1_000_000);
        let builder = CertBuilder::new().add_userid("archive").add_signing_subkey().set_creation_time(made);
        let cert = builder.generate().unwrap().0;
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        cert.serialize(&mut bytes).unwrap();
        std::fs::write(directory.path().join("keyring"), bytes).unwrap();
        Self { cert, directory, files: BTreeMap::new() }
    }

    /// A repository of the profile that stands for this archive.
    pub fn repository(&self, name: &str, suites: &[&str], components: &[&str]) -> Repository {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Repository {
            name: name.into(),
            url: None,
            host_mirror: None,
            suites: owned(suites),
            components: owned(components),
            keyring: self.keyring(),
            priority: 500,
            snapshot: None,
            snapshot_url: None,
        }
    }

    pub fn keyring(&self) -> PathBuf {
        self.directory.path().join("keyring")
    }

    /// Adds a suite below `place` (`dists/noble/`, or empty for a flat repository) with index files by
    /// their path there. `head` goes into its release file.
    pub fn add_suite(&mut self, place: &str, head: &str, indexes: &[(&str, Vec<u8>)], by_hash: bool) {
        self.add_dated_suite(place, "Wed, 31 Dec 2025 12:00:00 UTC", head, indexes, by_hash);
    }

    /// The same with another date.
    pub fn add_dated_suite(&mut self, place: &str, date: &str, head: &str, indexes: &[(&str, Vec<u8>)], by_hash: bool) {
        let mut release = format!("Origin: Test\nDate: {date}\n{head}");
        if by_hash {
            release.push_str("Acquire-By-Hash: yes\n");
        }
        release.push_str("SHA256:\n");
        for (path, content) in indexes {
            let hash = hex(&Sha256::digest(content));
            writeln!(release, " {hash} {} {path}", content.len()).unwrap();
            let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            // With by-hash only: the plain name is what a mirror in the middle of an update has wrong.
            let name = if by_hash { format!("{folder}by-hash/SHA256/{hash}") } else { (*path).to_owned() };
            self.files.insert(format!("{place}{name}"), content.clone());
        }
        let signed = self.sign(&release);
        self.files.insert(format!("{place}InRelease"), signed);
    }

    pub fn sign(&self, text: &str) -> Vec<u8> {
        let time = UNIX_EPOCH + Duration::from_secs(NOW - 1000);
        let policy = StandardPolicy::new();
        let key = self.cert.keys().secret().with_policy(&policy, time).for_signing().next().unwrap();
        let pair = key.key().clone().into_keypair().unwrap();
        let mut out = Vec::new();
        let signer = Signer::new(Message::new(&mut out), pair).unwrap().creation_time(time);
        let mut message = signer.cleartext().build().unwrap();
        message.write_all(text.as_bytes()).unwrap();
        message.finalize().unwrap();
        out
    }

    /// Serves the files as they are now.
    pub fn serve(&self) -> Server {
        let files = self.files.clone();
        Server::start(move |asked| match files.get(asked.path.trim_start_matches('/')) {
            Some(content) => Reply::content(asked, content),
            None => Reply::status(404),
        })
    }
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}
