//! Entry points of the fuzz targets: one function for each parser of what comes from disks, media and the network.
//!
//! Each takes any bytes and gives nothing. It panics where a parser breaks a promise, such as that what was written
//! reads back; that is how a fuzzer notices. Only fuzzers and tests see this module: `tests/fuzz` drives the
//! functions with ever new bytes, and the test below runs them over the committed corpus, in which every input that
//! was ever a finding stays.
#![allow(clippy::missing_panics_doc)] // every function may panic: see above

use std::io;

use uuid::Uuid;

use crate::clock::validity;
use crate::config::sealed::{ConfigKey, PublicKey, SealError, check_form, open};
use crate::config::{Certificate, Document, Format, Machine, Secret, check, load};
use crate::disk::content::{Content, inspect};
use crate::join::{scrub, spki_pin};
use crate::stage1::gpt::{self, Geometry, Table, crc32};
use crate::stage1::modules::index::{Index, name_of};
use crate::stage1::storage::{Section, Source, Storage};
use crate::stage1::verity::{BLOCK, Checker, Superblock};
use crate::stage1::{cmdline, ext4, layout};
use crate::step::network::{Facts, render};
use crate::{journal, provider, rendezvous};

/// A function to feed with any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its directory in the corpus.
pub const TARGETS: [(&str, Target); 17] = [
    ("certificate", certificate),
    ("command_line", command_line),
    ("disk_content", disk_content),
    ("ext4", ext4),
    ("firmware", firmware),
    ("gpt", gpt),
    ("journal", journal),
    ("meta_data", meta_data),
    ("mime", mime),
    ("modules_index", modules_index),
    ("network_config", network_config),
    ("node_toml", node_toml),
    ("printed", printed),
    ("rendezvous", rendezvous),
    ("sealed", sealed),
    ("user_data", user_data),
    ("verity", verity),
];

/// A disk in memory.
#[derive(Clone)]
struct Disk(Vec<u8>);

impl Disk {
    fn range(&self, offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(length).filter(|end| *end <= self.0.len());
        Ok(start..end.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

impl Source for Disk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0[self.range(offset, buffer.len())?]);
        Ok(())
    }
}

impl Storage for Disk {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = self.range(offset, bytes.len())?;
        self.0[range].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Certificates: in PEM as a configuration has them, and one in DER as a server shows it.
pub fn certificate(bytes: &[u8]) {
    let _ = validity(bytes);
    let text = String::from_utf8_lossy(bytes);
    let pin = spki_pin(&text);
    assert!(pin.is_none_or(|pin| pin.len() == "sha256:".len() + 64));
    for one in Certificate::all_in(&text).unwrap_or_default() {
        assert_eq!(Certificate::all_in(one.pem()), Ok(vec![one.clone()]));
    }
}

/// The kernel's command line.
pub fn command_line(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    for (key, value) in cmdline::split(&line) {
        assert!(key.len() + value.map_or(0, |value| value.len()) <= line.len());
    }
    let _ = (cmdline::wants_debug(&line), cmdline::after_failure(&line), cmdline::for_modules(&line));
    match cmdline::parse(&line) {
        Ok(parsed) => assert!(parsed.blacklist.iter().all(|module| !module.contains('-'))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A disk that is claimed: its beginning, and its end where it is longer than what is looked at. Nothing but zeros is
/// blank. The first byte says how far apart the two are.
pub fn disk_content(bytes: &[u8]) {
    let Some((gap, bytes)) = bytes.split_first() else { return };
    let size = bytes.len() as u64 + (u64::from(*gap) << 13);
    let read = |offset: u64, length: u64| {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (from, until) = if offset == 0 { (0, place(length)) } else { (bytes.len() - place(length), bytes.len()) };
        let mut read = bytes[from..until].to_vec();
        read.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        Ok::<_, io::Error>(read)
    };
    let found = inspect(size, read);
    let blank = bytes.iter().all(|byte| *byte == 0);
    assert!(found.is_ok_and(|found| (found == Content::Blank) == blank && !found.to_string().is_empty()));
}

/// The superblock of the state partition.
pub fn ext4(bytes: &[u8]) {
    let mut disk = Disk(bytes.to_vec());
    // What is looked for lies in the first 68 KiB; an input is shorter.
    disk.0.resize(disk.0.len().max(68 << 10), 0);
    for length in [bytes.len() as u64, disk.0.len() as u64] {
        if let Ok(ext4::Content::Ext4(found)) = ext4::probe(&Section::new(&disk, 0, length)) {
            assert!(found.block_bytes.is_power_of_two() && found.block_bytes <= 65536);
        }
    }
}

/// What a machine's firmware holds: the SMBIOS table, the serial number with a NoCloud address, a medium's boot sector.
pub fn firmware(bytes: &[u8]) {
    provider::fuzz(bytes);
}

/// A disk with a partition table. The first byte says which sectors it has, and whether checksums are put right,
/// which no fuzzer guesses.
pub fn gpt(bytes: &[u8]) {
    let Some((options, disk)) = bytes.split_first() else { return };
    let sector_bytes = if options & 1 == 0 { 512 } else { 4096 };
    let mut disk = Disk(disk.to_vec());
    let geometry = Geometry { sector_bytes, sectors: disk.0.len() as u64 / sector_bytes };
    if options & 2 != 0 {
        put_checksums_right(&mut disk.0, 1, sector_bytes);
        put_checksums_right(&mut disk.0, geometry.sectors.saturating_sub(1), sector_bytes);
    }
    let Ok(found) = gpt::read(&disk, geometry) else { return };
    check_table(&found.table, geometry);
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        Uuid::from_u128(number)
    };
    // The disk may be said to be far larger than what there is of it.
    for sectors in [geometry.sectors, geometry.sectors << 24] {
        let larger = Geometry { sectors, ..geometry };
        let tables = [
            layout::for_first_boot(&found.table, larger, 1 << 20, &mut fresh).ok(),
            layout::for_lost_var(&found.table, larger, Uuid::from_u128(7)).ok(),
            layout::for_grown_disk(&found.table, larger),
        ];
        for table in tables.iter().flatten() {
            check_table(table, larger);
        }
    }
    if gpt::write(&mut disk, geometry, &found.table).is_ok() {
        let again = gpt::read(&disk, geometry);
        assert!(again.as_ref().is_ok_and(|again| again.from_primary && again.backup_is_whole), "{again:?}");
        assert_eq!(again.map(|again| again.table.entries).ok(), Some(found.table.entries));
    }
}

fn check_table(table: &Table, geometry: Geometry) {
    let mut extents: Vec<(u64, u64)> = table.partitions().map(|(_, p)| (p.first, p.last)).collect();
    extents.sort_unstable();
    assert!(extents.iter().all(|(first, last)| first <= last && *last < geometry.sectors), "{table:?}");
    assert!(extents.windows(2).all(|pair| pair[0].1 < pair[1].0), "{table:?}");
}

fn put_checksums_right(disk: &mut [u8], sector: u64, sector_bytes: u64) {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, |b| u32::from_le_bytes(b) as usize)
    };
    let at = usize::try_from(sector.saturating_mul(sector_bytes)).unwrap_or(usize::MAX);
    let Some(header) = disk.get(at..).and_then(|rest| rest.get(..512)).map(<[u8]>::to_vec) else { return };
    let start = number(&header, 72).saturating_mul(usize::try_from(sector_bytes).unwrap_or(512));
    let length = number(&header, 80).saturating_mul(number(&header, 84));
    if let Some(entries) = disk.get(start..start.saturating_add(length)) {
        let crc = crc32(entries);
        disk[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
    }
    disk[at + 16..at + 20].fill(0);
    if let Some(header) = disk.get(at..at.saturating_add(number(&header, 12))) {
        let crc = crc32(header);
        disk[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The journal of a node that lost power.
pub fn journal(bytes: &[u8]) {
    journal::fuzz(bytes);
}

fn document(name: &str, format: Format, bytes: &[u8]) {
    let documents = [Document { name: name.to_owned(), format, bytes: bytes.to_vec() }];
    match load(&documents, &Machine::default()) {
        Ok(loaded) => assert!(loaded.origins.iter().all(|value| !value.key.is_empty())),
        Err(error) => assert!(!error.problems.is_empty() && !error.to_string().is_empty()),
    }
    if let Err(error) = check(&documents) {
        assert!(!error.problems.is_empty() && !error.to_string().is_empty());
    }
}

/// cloud-init's `meta-data`.
pub fn meta_data(bytes: &[u8]) {
    document("meta-data", Format::MetaData, bytes);
}

/// cloud-init's `network-config` and `OpenStack`'s `network_data.json`: what is accepted can be written as files, which
/// are the same every time.
pub fn network_config(bytes: &[u8]) {
    for format in [Format::NetworkConfig, Format::NetworkData] {
        document("network-config", format, bytes);
        let documents = [Document { name: "network-config".to_owned(), format, bytes: bytes.to_vec() }];
        if let Ok(loaded) = load(&documents, &Machine::default()) {
            let files = render(&loaded.config.networks, &Facts::default());
            assert!(files == render(&loaded.config.networks, &Facts::default()));
            assert!(files.keys().all(|name| !name.contains('/')));
        }
    }
}

/// A message of MIME, as user-data may be one: headers, parts, encodings, and what comes out of them.
pub fn mime(bytes: &[u8]) {
    crate::config::cloud::fuzz_mime(bytes);
}

/// cloud-init's `user-data`; the first time below a role that allows commands.
pub fn user_data(bytes: &[u8]) {
    let role = Document {
        name: "role".to_owned(),
        format: Format::RoleToml,
        bytes: b"[run]\nallow_commands = true\n".to_vec(),
    };
    let above = Document { name: "user-data".to_owned(), format: Format::UserData, bytes: bytes.to_vec() };
    if let Ok(loaded) = load(&[role, above], &Machine::default()) {
        let places = loaded.config.files.iter().map(|file| file.path.as_str());
        for path in places {
            assert!(path.starts_with('/') && path.split('/').all(|part| part != ".." && part != "."), "{path}");
            assert!(!path.starts_with("/var/lib/ingot/") && !path.starts_with("/usr/"), "{path}");
        }
    }
    document("user-data", Format::UserData, bytes);
    document("vendor-data", Format::VendorData, bytes);
}

/// A `node.toml`, as a whole and as a part.
pub fn node_toml(bytes: &[u8]) {
    document("node.toml", Format::NodeToml, bytes);
    document("part.toml", Format::PartToml, bytes);
}

/// What a program prints that knows the secret.
pub fn printed(bytes: &[u8]) {
    const SECRET: &str = "kV0lmS1TzqYb3Hn8";
    const TOKEN: &str = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-1awxwuwd3z9j1z3puu7rcgdbx";
    let text = String::from_utf8_lossy(bytes);
    let (before, after) = text.split_at(text.floor_char_boundary(text.len() / 2));
    for (inside, secrets) in [(SECRET, [Secret::new(SECRET)]), (TOKEN, [Secret::new("")])] {
        let clean = scrub(&format!("{before}{inside}{after}"), &[&secrets[0]]);
        assert!(!clean.contains(inside), "{clean}");
    }
}

/// `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin`, each ended by a NUL.
pub fn modules_index(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let (dependencies, aliases, soft, builtin) = (next(), next(), next(), next());
    let index = Index::parse(dependencies, aliases, soft, builtin);
    for path in dependencies.lines().filter_map(|line| line.split(':').next()) {
        if let Some(file) = index.file(&name_of(path)) {
            let inside = |path: &String| !path.starts_with('/') && path.split('/').all(|part| part != "..");
            assert!(file.needs.iter().chain([&file.path]).all(inside), "{file:?}");
        }
    }
    for word in aliases.split_whitespace().take(16) {
        let _ = (index.for_alias(word), index.soft(word), index.is_builtin(word));
    }
}

/// A manager or a node that does not have the cluster's secret.
pub fn rendezvous(bytes: &[u8]) {
    rendezvous::fuzzing::fuzz(bytes);
}

/// A sealed value, and a signature: without the keys nothing opens and nothing is good.
pub fn sealed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let key = format!("ingot-config-secret-v1:{}=", "AQEB".repeat(10) + "AQE");
    let keys: Vec<ConfigKey> = key.parse().into_iter().collect();
    assert_eq!(keys.len(), 1);
    let form = check_form(&text);
    let opened = open("join.secret", &text, &keys);
    assert!(opened.is_err(), "{opened:?}");
    assert!(form.is_err() || !matches!(opened, Err(SealError::Form)));
    let _ = (text.parse::<ConfigKey>(), text.parse::<PublicKey>());
    provider::fuzz_signature(bytes);
}

/// A hash partition: superblock and tree. Nothing of it may be believed for a root hash that is not its own.
pub fn verity(bytes: &[u8]) {
    let Some(first) = bytes.first_chunk::<512>() else { return };
    let Ok(superblock) = Superblock::parse(first) else { return };
    let levels = superblock.levels();
    assert!(superblock.hash_bytes() >= BLOCK && levels.windows(2).all(|pair| pair[0].blocks < pair[1].blocks));
    let disk = Disk(bytes.to_vec());
    let checker = Checker::new(&superblock, &disk, &disk, [7; 32]);
    assert!(!matches!(checker.root_matches(), Ok(true)));
    for block in [0, superblock.data_blocks - 1] {
        assert!(checker.read_data(block).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    #[test]
    fn the_corpus_is_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let mut seeds: Vec<PathBuf> =
                std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            seeds.sort();
            assert!(!seeds.is_empty(), "target {name} has no seed");
            for seed in seeds {
                println!("{}", seed.display());
                target(&std::fs::read(&seed).unwrap());
            }
        }
    }
}
