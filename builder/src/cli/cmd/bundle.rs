//! `ingot bundle`

use crate::bundle::{self, BundleError};
use crate::cli::args::{BundleCommand, Global};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::progress::Progress as _;

pub fn run(global: &Global, command: &BundleCommand, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    match command {
        BundleCommand::Export { sources, roles } => {
            let roles = if roles.is_empty() { site.tree.roles() } else { roles.clone() };
            let exported = bundle::export(&site, &roles, sources, printer)?;
            for release in &exported.missing_releases {
                printer.warn(&format!(
                    "the release file of {release} as locked is not in the store any more and is left out; a build does not need it"
                ));
            }
            if global.json {
                print_json(&exported);
            } else {
                let (objects, mib) = (exported.objects, exported.bytes.div_ceil(1 << 20));
                print(&format!("exported  {}  {objects} files, {mib} MiB", sources.display()));
            }
        }
        BundleCommand::Import { from } => {
            let imported = bundle::import(&site.store, from, printer)?;
            // A lock that is there is the user's, and may have other sets too.
            if !site.lock_file.exists() {
                std::fs::write(&site.lock_file, &imported.lock)
                    .map_err(|e| Failure::failed(format!("cannot write {}: {e}", site.lock_file.display())))?;
            }
            if global.json {
                print_json(&imported);
            } else {
                let (objects, mib) = (imported.objects, imported.bytes.div_ceil(1 << 20));
                print(&format!("imported  {}  {objects} files, {mib} MiB", from.display()));
            }
        }
    }
    Ok(())
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Build(error) => error.into(),
            BundleError::Taken { .. } => Self::input(error),
            _ => Self::failed(error),
        }
    }
}
