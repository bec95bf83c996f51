//! What some programs do to a simulated machine.

use super::{Disk, State};

/// What Debian's program does with `--localcertsdir` and `--certsconf`; a test compares it with the real one.
pub fn update_ca_certificates(disk: &mut Disk, arguments: &[&str]) {
    let mut bundle = if arguments.contains(&"--certsconf") { Vec::new() } else { b"image\n".to_vec() };
    let local = |name: &str| name.starts_with("/etc/ssl/ingot/ingot-");
    for (_, (bytes, _)) in disk.files.iter().filter(|(name, _)| local(name)) {
        bundle.extend_from_slice(bytes);
    }
    disk.files.insert("/etc/ssl/certs/ca-certificates.crt".into(), (bundle, 0o644));
}

/// A command of the configuration has its effect also where the power fails while it runs.
pub fn command_was_begun(state: &mut State, program: &str, arguments: &[&str]) {
    let script = arguments.last().and_then(|path| state.run_files.get(*path));
    if program == "systemd-run" {
        let script = script.unwrap_or_else(|| panic!("{arguments:?} has no script"));
        state.disk.scripts.push(String::from_utf8_lossy(&script.0).into_owned());
    }
}
