//! Leaving the initrd: the kernel's filesystems move into the new root, the initrd's memory is freed, and the
//! system's init takes over as process 1.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};
use thiserror::Error;

/// The inits that are tried, in this order.
const INITS: [&str; 3] = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// The new root could not be entered.
#[derive(Debug, Error)]
#[error("{step} {}: {source}", .path.display())]
pub struct SwitchError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SwitchError + 'a {
    move |source| SwitchError { step, path: path.to_owned(), source }
}

/// Enters `root` and becomes its init. Returns only with an error.
pub fn into_root(root: &Path) -> Result<Infallible, SwitchError> {
    for name in ["dev", "proc", "sys", "run"] {
        let target = root.join(name);
        mount_move(Path::new("/").join(name), &target)
            .map_err(|error| failed("moving a filesystem to", &target)(error.into()))?;
    }
    let initrd = fs::symlink_metadata("/").map_err(failed("reading", Path::new("/")))?.dev();
    chdir(root).map_err(|error| failed("entering", root)(error.into()))?;
    // What cannot be removed stays in memory; that is no reason not to boot.
    remove_on_device(Path::new("/"), initrd);
    mount_move(".", "/").map_err(|error| failed("making the root of", root)(error.into()))?;
    chroot(".").map_err(|error| failed("making the root of", root)(error.into()))?;
    chdir("/").map_err(|error| failed("entering", root)(error.into()))?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for init in INITS {
        // This process becomes the init; there is no child.
        #[allow(clippy::disallowed_methods)]
        let mut command = std::process::Command::new(init);
        // The kernel gave us its unknown parameters as environment; the init reads the command line itself.
        let error = command.env_clear().env("TERM", terminal()).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return Err(failed("starting", Path::new(init))(error));
        }
        last = error;
    }
    Err(failed("starting", Path::new(INITS[0]))(last))
}

fn terminal() -> String {
    std::env::var("TERM").ok().filter(|term| !term.is_empty()).unwrap_or_else(|| "linux".to_owned())
}

/// Removes all below a directory that is on this filesystem; what is mounted there is not touched.
fn remove_on_device(directory: &Path, device: u64) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(metadata) if metadata.dev() != device => {}
            Ok(metadata) if metadata.is_dir() => {
                remove_on_device(&path, device);
                let _ = fs::remove_dir(&path);
            }
            Ok(_) => {
                let _ = fs::remove_file(&path);
            }
            Err(_) => {}
        }
    }
}
