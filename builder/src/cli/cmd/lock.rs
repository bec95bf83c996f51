//! `ingot lock`

use std::collections::BTreeSet;

use crate::build;
use crate::cli::args::{Global, LockArgs};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::lock::Diff;

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    diff: &'a Diff,
    /// Packages, as `name version`, that an update was to leave as they are and that no archive has any more.
    gone: &'a BTreeSet<String>,
}

pub fn run(global: &Global, arguments: &LockArgs, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    let roles = if arguments.roles.is_empty() { site.tree.roles() } else { arguments.roles.clone() };
    // Signatures and dates are checked against the time of day.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (allow_rollback, snapshot) = (arguments.allow_rollback, arguments.snapshot.clone());
    let request = build::LockRequest { now, allow_rollback, snapshot };
    let build::Relocked { old, new, gone } = build::lock(&site, &roles, &arguments.update, &request, printer)?;
    let diff = crate::lock::diff(&old, &new);
    let refused = arguments.check && old != new;
    if global.json && refused {
        // The failure is the one document.
    } else if global.json {
        print_json(&Report { diff: &diff, gone: &gone });
    } else {
        print(&diff.to_string());
        if !gone.is_empty() {
            let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
            print(&format!("changed although not named, since no archive has them any more: {}", gone.join(", ")));
        }
    }
    if refused {
        return Err(Failure::failed(format!("{} is out of date; run `ingot lock`", site.lock_file.display())));
    }
    if !arguments.check && !arguments.dry_run && old != new {
        new.write(&site.lock_file).map_err(Failure::failed)?;
    }
    Ok(())
}
