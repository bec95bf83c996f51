//! `ingot lock`

use crate::build;
use crate::cli::args::{Global, LockArgs};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};

pub fn run(global: &Global, arguments: &LockArgs, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    let roles = if arguments.roles.is_empty() { site.tree.roles() } else { arguments.roles.clone() };
    // Signatures and dates are checked against the time of day.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (allow_rollback, snapshot) = (arguments.allow_rollback, arguments.snapshot.clone());
    let request = build::LockRequest { now, allow_rollback, snapshot };
    let (old, new) = build::lock(&site, &roles, &request, printer)?;
    let diff = crate::lock::diff(&old, &new);
    let refused = arguments.check && old != new;
    if global.json && refused {
        // The failure is the one document.
    } else if global.json {
        print_json(&diff);
    } else {
        print(&diff.to_string());
    }
    if refused {
        return Err(Failure::failed(format!("{} is out of date; run `ingot lock`", site.lock_file.display())));
    }
    if !arguments.check && !arguments.dry_run && old != new {
        new.write(&site.lock_file).map_err(Failure::failed)?;
    }
    Ok(())
}
