//! The documents that a `config` command is given, and the places of the role's own values.

use std::path::Path;

use ingot_firstboot::config::schema::RoleValue;
use ingot_firstboot::config::{ConfigError, Document, Format, Origin};

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
            let bytes = std::fs::read(file).map_err(|error| Failure::input(format!("{}: {error}", file.display())))?;
            let format = match (file.file_name().and_then(|name| name.to_str()).unwrap_or_default(), whole) {
                (name, _) if name.starts_with("user-data") => Format::UserData,
                (name, _) if name.starts_with("meta-data") => Format::MetaData,
                (_, false) => Format::NodeToml,
                (_, true) => Format::PartToml,
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

/// What the paths of profiles are shown relative to.
pub fn root(site: &Site) -> &Path {
    site.tree.root().parent().unwrap_or(site.tree.root())
}
