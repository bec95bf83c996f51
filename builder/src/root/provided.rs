//! The package that stands for what Ingot itself provides.
//!
//! A kernel depends on something that makes its initrd. On an Ingot image that is stage1, which is no package of the
//! archive; so a package without files is made that provides the virtual names of the profile. dpkg's database then
//! stays consistent and nothing has to be forced.

use std::collections::BTreeSet;
use std::path::Path;

use super::RootError;
use crate::store::ar;

/// The package's name.
pub const NAME: &str = "ingot-provided";

/// Writes the package to `path`. The same names give the same bytes.
pub fn write(path: &Path, names: &BTreeSet<String>) -> Result<(), RootError> {
    let provides: Vec<&str> = names.iter().map(String::as_str).collect();
    let version = env!("CARGO_PKG_VERSION");
    let control = format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: Ingot <ingot@localhost>\nProvides: {}\n\
         Section: misc\nPriority: optional\nDescription: stands for what Ingot itself provides on this image\n",
        provides.join(", ")
    );
    let archive = |entries: &[(&str, &str)]| -> std::io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, name, content.as_bytes())?;
        }
        tar.into_inner()
    };
    let write = || -> std::io::Result<()> {
        let control = archive(&[("./control", &control)])?;
        let data = archive(&[])?;
        let mut members = ar::Writer::new(std::io::BufWriter::new(std::fs::File::create(path)?))?;
        for (name, content) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", data)] {
            members.append(name, &mut &*content)?;
        }
        members.finish().map(drop)
    };
    write().map_err(RootError::io(path))
}
