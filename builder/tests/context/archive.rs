//! A signed apt archive on a port of this host, with packages that a test writes down.
//!
//! The archive is a real one: `dists/test/InRelease` with an OpenPGP signature, indexes by hash, debs that dpkg
//! installs. What goes wrong in a test goes wrong in what is served: [`Archive::change`] gives the files
//! themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openpgp::cert::{Cert, CertBuilder};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::Serialize as _;
use openpgp::serialize::stream::{Message, Signer};
use sequoia_openpgp as openpgp;
use sha2::{Digest as _, Sha256};

const DAY: Duration = Duration::from_hours(24);
const INDEX: &str = "main/binary-amd64/Packages";

/// A package to be.
#[derive(Debug, Clone)]
pub struct Package {
    name: String,
    version: String,
    fields: String,
    scripts: BTreeMap<&'static str, String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Package {
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            fields: String::new(),
            scripts: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// One more field of its control file: `Depends`, `Conflicts`.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        writeln!(self.fields, "{name}: {value}").unwrap();
        self
    }

    /// A shell script: `postinst`.
    pub fn script(mut self, name: &'static str, body: &str) -> Self {
        self.scripts.insert(name, format!("#!/bin/sh\n{body}\n"));
        self
    }

    /// A file, by its path without the leading slash.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), content.into());
        self
    }

    /// The smallest kernel that an image can be made with: an EFI program that does nothing, and modules that
    /// are all built in. It does not boot.
    pub fn kernel(name: &str, release: &str) -> Self {
        let modules = format!("usr/lib/modules/{release}");
        let builtin = "kernel/drivers/md/dm-verity.ko\nkernel/fs/overlayfs/overlay.ko\nkernel/fs/ext4/ext4.ko\n\
                       kernel/fs/erofs/erofs.ko\n";
        Self::new(name, "1")
            .file(&format!("boot/vmlinuz-{release}"), efi_program())
            .file(&format!("{modules}/modules.builtin"), builtin)
            .file(&format!("{modules}/modules.dep"), "")
            .file(&format!("{modules}/modules.alias"), "")
    }

    pub fn control(&self) -> String {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Test <test@localhost>\nSection: misc\n\
             Priority: optional\n{}Description: made by a test\n",
            self.name, self.version, self.fields
        )
    }

    pub fn path(&self) -> String {
        format!("pool/{}_{}_all.deb", self.name, self.version.replace(':', "%3a"))
    }

    /// The `.deb`, with members as Debian packs them.
    fn deb(&self) -> Vec<u8> {
        let (control, data) = self.tars();
        members(&[("control.tar.gz", gz(&control)), ("data.tar.xz", xz(&data))])
    }

    /// The `.deb`, with members as Ubuntu packs them.
    pub fn zstd_deb(&self) -> Vec<u8> {
        let (control, data) = self.tars();
        members(&[("control.tar.zst", zst(&control)), ("data.tar.zst", zst(&data))])
    }

    /// What is in the members.
    fn tars(&self) -> (Vec<u8>, Vec<u8>) {
        let mut control = tar::Builder::new(Vec::new());
        append(&mut control, "./control", self.control().as_bytes(), 0o644);
        for (name, body) in &self.scripts {
            append(&mut control, &format!("./{name}"), body.as_bytes(), 0o755);
        }
        let mut data = tar::Builder::new(Vec::new());
        let mut made = std::collections::BTreeSet::new();
        for (path, content) in &self.files {
            for (end, _) in path.match_indices('/') {
                if made.insert(&path[..end]) {
                    append(&mut data, &format!("./{}/", &path[..end]), b"", 0o755);
                }
            }
            append(&mut data, &format!("./{path}"), content, 0o644);
        }
        (control.into_inner().unwrap(), data.into_inner().unwrap())
    }
}

/// A `.deb` of these members after `debian-binary`.
pub fn members(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut deb = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".to_vec())].iter().chain(members) {
        writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, "100644", content.len()).unwrap();
        deb.extend(content);
        if content.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    deb
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
    archive.append_data(&mut header, path, content).unwrap();
}

/// A PE32+ program for x86-64 with one section.
fn efi_program() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664_u16.to_le_bytes());
    put(0x46, &1_u16.to_le_bytes());
    put(0x54, &240_u16.to_le_bytes());
    let optional = 0x58;
    put(optional, &0x020b_u16.to_le_bytes());
    for (at, value) in [(32, 4096_u32), (36, 512), (56, 0x2000), (60, 512), (68, 0x0100_000a), (108, 16)] {
        put(optional + at, &value.to_le_bytes());
    }
    let section = optional + 240;
    put(section, b".text\0\0\0");
    for (at, value) in [(8, 16_u32), (12, 4096), (16, 512), (20, 512), (36, 0x6000_0020)] {
        put(section + at, &value.to_le_bytes());
    }
    bytes
}

/// How the release file differs from a good one.
#[derive(Debug, Clone, Default)]
pub struct Release {
    /// Seconds from now to `Valid-Until`, negative for the past.
    pub valid_for: Option<i64>,
    /// Signed by a key that is in no keyring.
    pub by_a_stranger: bool,
    /// Days that its date lies back.
    pub days_old: u32,
    /// Lists MD5 sums alone.
    pub weak: bool,
    /// Below which path it is served: empty, or a snapshot's id with a slash.
    pub place: &'static str,
}

type Files = Arc<Mutex<BTreeMap<String, Served>>>;

/// What a path answers.
#[derive(Debug, Clone)]
pub struct Served {
    pub content: Vec<u8>,
    /// The connection is closed after so many bytes, at every request.
    pub cut: Option<usize>,
}

/// An archive that is served until it is dropped.
pub struct Archive {
    key: Cert,
    stranger: Cert,
    packages: Vec<Package>,
    files: Files,
    address: std::net::SocketAddr,
}

impl Archive {
    /// Makes and publishes an archive with these packages.
    pub fn new(packages: impl IntoIterator<Item = Package>) -> Self {
        let archive = Self { packages: packages.into_iter().collect(), ..Self::empty() };
        archive.publish(&Release::default());
        archive
    }

    /// An archive that serves nothing yet.
    pub fn empty() -> Self {
        let files = Files::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || answer(&stream, &served));
            }
        });
        Self { key: new_key(), stranger: new_key(), packages: Vec::new(), files, address }
    }

    /// Serves a file.
    pub fn put(&self, path: String, content: Vec<u8>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path, Served { content, cut: None });
    }

    /// Signs the text of a release file that is to be so many days old, and serves it.
    pub fn put_release(&self, path: String, days_old: u32, text: &str) {
        #[allow(clippy::disallowed_methods)] // signatures and dates are checked against the time of day
        let now = SystemTime::now();
        let text = format!("Date: {}\n{text}", rfc2822(now - Duration::from_mins(1) - days_old * DAY));
        self.put(path, sign(&self.key, &text, now));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keyring that a profile trusts.
    pub fn keyring(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.key.serialize(&mut bytes).unwrap();
        bytes
    }

    /// Writes everything anew.
    pub fn publish(&self, how: &Release) {
        let mut index = String::new();
        let mut files = BTreeMap::new();
        for package in &self.packages {
            let deb = package.deb();
            let (path, hash) = (package.path(), hex(&deb));
            let control = package.control();
            writeln!(index, "{control}Filename: {path}\nSize: {}\nSHA256: {hash}\n", deb.len()).unwrap();
            files.insert(path, Served { content: deb, cut: None });
        }
        let index = xz(index.as_bytes());
        let hash = hex(&index);
        #[allow(clippy::disallowed_methods)] // signatures and dates are checked against the time of day
        let now = SystemTime::now();
        let mut release =
            String::from("Origin: Test\nSuite: test\nCodename: test\nArchitectures: amd64\nComponents: main\n");
        writeln!(release, "Date: {}", rfc2822(now - Duration::from_mins(1) - how.days_old * DAY)).unwrap();
        if let Some(seconds) = how.valid_for {
            let span = Duration::from_secs(seconds.unsigned_abs());
            let until = if seconds < 0 { now - span } else { now + span };
            writeln!(release, "Valid-Until: {}", rfc2822(until)).unwrap();
        }
        let section = if how.weak { "MD5Sum" } else { "SHA256" };
        write!(release, "Acquire-By-Hash: yes\n{section}:\n {hash} {} {INDEX}.xz\n", index.len()).unwrap();
        let signed = sign(if how.by_a_stranger { &self.stranger } else { &self.key }, &release, now);
        for path in [format!("{INDEX}.xz"), format!("main/binary-amd64/by-hash/SHA256/{hash}")] {
            files.insert(format!("dists/test/{path}"), Served { content: index.clone(), cut: None });
        }
        files.insert("dists/test/InRelease".to_owned(), Served { content: signed, cut: None });
        let mut served = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // A snapshot stands beside the rest.
        if how.place.is_empty() {
            served.clear();
        }
        served.extend(files.into_iter().map(|(path, file)| (format!("{}{path}", how.place), file)));
    }

    /// Changes what is served for the one path that contains `part`, behind the signature's back.
    pub fn change(&self, part: &str, how: impl FnOnce(&mut Served)) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let paths: Vec<String> = files.keys().filter(|path| path.contains(part)).cloned().collect();
        let [path] = paths.as_slice() else { panic!("`{part}` is in {paths:?}, not in one path") };
        how(files.get_mut(path).unwrap());
    }

    /// Has other packages from now on.
    pub fn replace(&mut self, packages: impl IntoIterator<Item = Package>) {
        self.packages = packages.into_iter().collect();
        self.publish(&Release::default());
    }

    /// Writes all files into a directory, for another server.
    pub fn write_to(&self, directory: &std::path::Path) {
        for (path, served) in &*self.files.lock().unwrap_or_else(PoisonError::into_inner) {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &served.content).unwrap();
        }
    }

    /// Serves nothing any more.
    pub fn close(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn new_key() -> Cert {
    #[allow(clippy::disallowed_methods)] // a key that is valid now
    let made = SystemTime::now() - 30 * DAY;
    CertBuilder::new().add_userid("test").add_signing_subkey().set_creation_time(made).generate().unwrap().0
}

fn sign(key: &Cert, text: &str, now: SystemTime) -> Vec<u8> {
    let time = now - Duration::from_secs(30);
    let policy = StandardPolicy::new();
    let key = key.keys().secret().with_policy(&policy, time).for_signing().next().unwrap();
    let pair = key.key().clone().into_keypair().unwrap();
    let mut out = Vec::new();
    let signer = Signer::new(Message::new(&mut out), pair).unwrap().creation_time(time);
    let mut message = signer.cleartext().build().unwrap();
    message.write_all(text.as_bytes()).unwrap();
    message.finalize().unwrap();
    out
}

fn rfc2822(time: SystemTime) -> String {
    let whole = UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap().as_secs());
    httpdate::fmt_http_date(whole)
}

/// Serves one request; every connection is closed after it.
fn answer(stream: &TcpStream, files: &Files) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    let mut from = 0;
    let _ = reader.read_line(&mut first);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let served = files.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    let mut out = stream;
    // A client that went away has what it wanted.
    let _ = match served {
        None => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Some(file) => {
            let length = file.content.len();
            let (status, range) = match from {
                0 => ("200 OK", String::new()),
                _ => ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{length}\r\n", length - 1)),
            };
            let body = &file.content[from.min(length)..file.cut.unwrap_or(length).clamp(from.min(length), length)];
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n",
                length.saturating_sub(from)
            );
            out.write_all(head.as_bytes()).and_then(|()| out.write_all(body))
        }
    };
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
