//! The documents that a `config` command is given, and the places of the role's own values.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ingot_firstboot::config::schema::RoleValue;
use ingot_firstboot::config::{ConfigError, Document, Format, MAXIMUM_DOCUMENT_BYTES, Origin};

use crate::build::{Site, sets};
use crate::cli::args::{ConfigFiles, Global};
use crate::cli::{Failure, site};
use crate::profile::{self, Explained};

/// What was given, the one that wins last.
pub struct Given {
    /// The role's defaults, if one is named, and the files.
    pub documents: Vec<Document>,
    /// The role.
    pub role: Option<Explained>,
    defaults: Vec<RoleValue>,
}

impl Given {
    /// Reads them.
    pub fn read(global: &Global, files: &ConfigFiles) -> Result<Self, Failure> {
        let mut given = Self { documents: Vec::new(), role: None, defaults: Vec::new() };
        if let Some(role) = &files.role {
            let site = site(global)?;
            let explained = sets::load(&site, role)?;
            if !explained.profile.config.is_empty() {
                given.documents.push(profile::config::document(&explained.profile).map_err(Failure::input)?);
            }
            given.defaults = profile::config::values(&explained, root(&site));
            given.role = Some(explained);
        }
        let mut whole = false;
        for file in &files.files {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
            let bytes = read(file)?;
            let format = match recognise(&name, &bytes) {
                Some(format) => format,
                None if whole => Format::PartToml,
                None => Format::NodeToml,
            };
            whole = whole || format == Format::NodeToml;
            given.documents.push(Document { name: file.display().to_string(), format, bytes });
        }
        Ok(given)
    }

    /// Puts the profile's file and line in place of a place in the role's defaults, which are a document that was made.
    pub fn place(&self, key: &str, origin: &mut Origin) {
        let made = self.role.as_ref().and_then(|_| self.documents.first());
        if !made.is_some_and(|made| made.format == Format::RoleToml && made.name == *origin.document) {
            return;
        }
        let known = self.defaults.iter().find(|value| value.key == key || key.starts_with(&format!("{}[", value.key)));
        if let Some((file, line)) = known.and_then(|value| value.origin.rsplit_once(':')) {
            *origin = Origin { document: file.into(), line: line.parse().unwrap_or(0), column: 0 };
        }
    }

    /// The same for all places of an error.
    pub fn placed(&self, mut error: ConfigError) -> ConfigError {
        for problem in &mut error.problems {
            self.place(&problem.key, &mut problem.origin);
        }
        error
    }
}

/// Reads a file, or standard input for `-`: never more than is enough to say that it is too large.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::input(format!("{}: {error}", file.display()));
    if file == Path::new("-") {
        return bounded(std::io::stdin().lock()).map_err(failed);
    }
    // A shell gives a pipe as /dev/fd/63; it is open, so opening it again does not wait.
    let open_already =
        file.starts_with("/dev/fd") || file == Path::new("/dev/stdin") || file.starts_with("/proc/self/fd");
    if !open_already && !std::fs::metadata(file).map_err(failed)?.is_file() {
        let what = "is no regular file; give a file, or - for standard input";
        return Err(Failure::input(format!("{}: {what}", file.display())));
    }
    File::open(file).and_then(bounded).map_err(failed)
}

fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAXIMUM_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

/// What a file is written in, by its name or by how it begins; `None` is a `node.toml`. The names are those of NoCloud and
/// of OpenStack's ConfigDrive, with whatever stands before and behind them: `m1-user-data.yaml`.
fn recognise(name: &str, bytes: &[u8]) -> Option<Format> {
    const NAMES: [(&str, Format); 9] = [
        ("user-data", Format::UserData),
        ("user_data", Format::UserData),
        ("vendor-data", Format::VendorData),
        ("vendor_data", Format::VendorData),
        ("meta-data", Format::MetaData),
        ("meta_data", Format::MetaData),
        ("network-config", Format::NetworkConfig),
        ("network_config", Format::NetworkConfig),
        ("network_data", Format::NetworkData),
    ];
    if has_extension(name, "toml") {
        return None;
    }
    // A ConfigDrive has it in JSON.
    if has_extension(name, "json") && name.contains("vendor_data") {
        return Some(Format::VendorDataJson);
    }
    if let Some((_, format)) = NAMES.iter().find(|(known, _)| name.contains(known)) {
        return Some(*format);
    }
    // gzip
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Some(Format::UserData);
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(64 * 1024)]);
    let first = text.lines().next().unwrap_or_default();
    let heads =
        ["#cloud-config", "#ingot-config", "## template:", "#!", "#include", "#cloud-boothook", "#part-handler"];
    let mime = ["content-type:", "mime-version:", "from "];
    let lower = first.to_ascii_lowercase();
    if heads.iter().any(|head| first.starts_with(head)) || mime.iter().any(|head| lower.starts_with(head)) {
        return Some(Format::UserData);
    }
    let said =
        text.lines().map(str::trim_end).find(|line| !line.is_empty() && !line.starts_with('#') && *line != "---");
    let network =
        said.is_some_and(|line| line == "network:" || line.starts_with("version:") || line.starts_with("ethernets:"));
    network.then_some(Format::NetworkConfig)
}

/// What the paths of profiles are shown relative to.
pub fn root(site: &Site) -> &Path {
    site.tree.root().parent().unwrap_or(site.tree.root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_known_by_their_names_and_by_how_they_begin() {
        for (name, text, expected) in [
            ("user-data", "", Some(Format::UserData)),
            ("my-user-data.yaml", "", Some(Format::UserData)),
            ("user_data", "", Some(Format::UserData)),
            ("vendor-data", "", Some(Format::VendorData)),
            ("vendor_data.json", "", Some(Format::VendorDataJson)),
            ("meta-data", "", Some(Format::MetaData)),
            ("meta_data.json", "", Some(Format::MetaData)),
            ("network-config", "", Some(Format::NetworkConfig)),
            ("network-config.yaml", "", Some(Format::NetworkConfig)),
            ("network_data.json", "", Some(Format::NetworkData)),
            ("seed.yaml", "#cloud-config\nhostname: x\n", Some(Format::UserData)),
            ("seed", "#cloud-config-archive\n", Some(Format::UserData)),
            ("seed", "Content-Type: multipart/mixed; boundary=x\n", Some(Format::UserData)),
            ("seed", "MIME-Version: 1.0\n", Some(Format::UserData)),
            ("seed", "\u{1f}\u{8b}", None),
            ("50-cloud-init.yaml", "# netplan\n\nnetwork:\n  version: 2\n", Some(Format::NetworkConfig)),
            ("net.yaml", "---\nversion: 2\n", Some(Format::NetworkConfig)),
            ("node.toml", "version = 1\n", None),
            ("user-data.toml", "version = 1\n", None),
            ("abc", "# a node\nversion = 1\n", None),
        ] {
            assert_eq!(recognise(name, text.as_bytes()), expected, "{name}: {text:?}");
        }
        assert_eq!(recognise("seed", &[0x1f, 0x8b, 8]), Some(Format::UserData));
    }
}
