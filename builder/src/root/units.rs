//! Enables, disables and masks units with the image's own `systemctl`.

use std::collections::BTreeSet;
use std::path::Path;

use super::RootError;
use crate::profile::Units;
use crate::sandbox::Sandbox;

/// Sets every unit's state on the tree at `root`. Masking wins over disabling, disabling over enabling.
pub fn apply(root: &Path, units: &Units) -> Result<(), RootError> {
    let enable: BTreeSet<&String> =
        units.enable.iter().filter(|u| !units.disable.contains(*u) && !units.mask.contains(*u)).collect();
    let disable: BTreeSet<&String> = units.disable.iter().filter(|u| !units.mask.contains(*u)).collect();
    let sandbox = Sandbox::new(root).writable().environment("SYSTEMD_OFFLINE", "1");
    for (verb, names) in [("enable", enable), ("disable", disable), ("mask", units.mask.iter().collect())] {
        if names.is_empty() {
            continue;
        }
        sandbox
            .tool("systemctl")
            .args(["--no-reload", "--quiet", verb])
            .args(names.iter().map(|n| n.as_str()))
            .run()
            .map_err(|source| RootError::Program { what: format!("systemctl {verb} (units of the profile)"), source })?;
    }
    Ok(())
}
