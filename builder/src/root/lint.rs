//! Refuses a root that holds an identity or a secret.
//!
//! An image is copied to every node and to people who should not have the site's secrets. What is looked for:
//! private keys, password hashes, host keys, machine ids, join tokens. Test keys that packages ship as
//! documentation are below `/usr/share` and are not looked at.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::RootError;

/// Directories whose files are searched for secrets.
const SEARCHED: [&str; 6] = ["etc", "root", "home", "opt", "srv", "usr/lib/ingot"];
/// A secret is in the first bytes of a file or not worth hiding in one.
const READ: u64 = 256 << 10;

/// Checks `root`; the error lists everything that was found.
pub fn check(root: &Path) -> Result<(), RootError> {
    let mut found = Vec::new();
    if fs::read_to_string(root.join("etc/machine-id")).is_ok_and(|id| id.trim().len() == 32) {
        found.push("/etc/machine-id: the identity of a machine".to_owned());
    }
    for line in fs::read_to_string(root.join("etc/shadow")).unwrap_or_default().lines() {
        let mut fields = line.split(':');
        let (name, hash) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if hash.is_empty() {
            found.push(format!("/etc/shadow: {name} can log in without a password"));
        } else if hash.starts_with('$') || hash.starts_with('_') {
            found.push(format!("/etc/shadow: the password of {name}"));
        }
    }
    let mut open: Vec<PathBuf> = SEARCHED.iter().map(|d| root.join(d)).filter(|d| d.is_dir()).collect();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(RootError::io(&directory))?.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                let file = File::open(&path).map_err(RootError::io(&path))?;
                file.take(READ).read_to_end(&mut bytes).map_err(RootError::io(&path))?;
                if let Some(what) = secret(&bytes) {
                    let inside = path.strip_prefix(root).unwrap_or(&path);
                    found.push(format!("/{}: {what}", inside.display()));
                }
            }
        }
    }
    found.sort();
    if found.is_empty() { Ok(()) } else { Err(RootError::Lint(found)) }
}

fn secret(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\x7fELF") {
        return None; // programs that read keys know what keys look like
    }
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    if has(b"PRIVATE KEY-----") {
        Some("a private key")
    } else if has(b"SWMTKN-1-") {
        Some("a Docker Swarm token")
    } else if has(b"untrusted comment: minisign encrypted secret key") {
        Some("a minisign secret key")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["etc/ssl/private", "root/.ssh", "usr/lib/ingot", "usr/share/doc"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
        fs::write(root.join("root/.ssh/id"), key).unwrap();
        fs::write(root.join("usr/share/doc/example.pem"), key).unwrap();
        fs::write(root.join("usr/lib/ingot/role.toml"), "token = 'SWMTKN-1-abc'").unwrap();
        fs::write(root.join("etc/shadow"), "root:*:1:::::\nbob:$y$j9T$x:1:::::\neve::1:::::\n").unwrap();
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        let Err(RootError::Lint(found)) = check(root) else { panic!("nothing was found") };
        assert_eq!(
            found,
            [
                "/etc/machine-id: the identity of a machine",
                "/etc/shadow: eve can log in without a password",
                "/etc/shadow: the password of bob",
                "/root/.ssh/id: a private key",
                "/usr/lib/ingot/role.toml: a Docker Swarm token",
            ]
        );
    }
}
