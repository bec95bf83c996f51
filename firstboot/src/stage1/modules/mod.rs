//! Kernel modules: takes names and device aliases, loads what they need in the right order.
//!
//! The modules lie uncompressed in `/usr/lib/modules/RELEASE` of the initrd with kmod's own index files. A module
//! that is built in, blacklisted for devices, already loaded or not shipped is not an error: the disk either
//! appears or the wait for it says what was seen.

pub(crate) mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::system::{finit_module, uname};

use super::{cmdline, console};
use index::Index;

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel unpacks the module itself.
const COMPRESSED: i32 = 4;

/// The modules of the running kernel. Clones share what is known of the files, and may load at the same time from
/// several threads: the kernel sorts out who was first.
#[derive(Clone)]
pub struct Modules {
    known: Arc<Known>,
    tried: BTreeSet<String>,
    aliases_seen: BTreeSet<String>,
}

struct Known {
    directory: PathBuf,
    index: Index,
    blacklist: BTreeSet<String>,
    parameters: BTreeMap<String, String>,
}

impl Modules {
    /// Reads the indices of the running kernel; missing files count as empty. `command_line` gives blacklist and
    /// parameters.
    pub fn of_running_kernel(command_line: &str) -> Modules {
        let directory = Path::new("/usr/lib/modules").join(uname().release().to_string_lossy().as_ref());
        let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let index = Index::parse(
            &text("modules.dep"),
            &text("modules.alias"),
            &text("modules.softdep"),
            &text("modules.builtin"),
        );
        let (blacklist, parameters) = cmdline::for_modules(command_line);
        let known = Arc::new(Known { directory, index, blacklist, parameters });
        Modules { known, tried: BTreeSet::new(), aliases_seen: BTreeSet::new() }
    }

    /// Loads a module by name or alias. False when nothing by that name is built in or could be loaded.
    pub fn load(&mut self, name: &str) -> bool {
        let module = name.replace('-', "_");
        if self.known.index.is_builtin(&module) {
            return true;
        }
        if self.known.index.file(&module).is_some() {
            return self.load_module(&module);
        }
        let modules: Vec<String> = self.known.index.for_alias(name).into_iter().map(str::to_owned).collect();
        // Of several implementations of one thing (crypto-crc32c), each that loads is welcome; one is enough.
        modules.iter().filter(|module| self.load_module(module)).count() > 0
    }

    /// Loads what drives a device, unless the device is of no use for finding a disk or its kind was met before.
    /// True when there was something to try.
    pub fn load_for_device(&mut self, alias: &str) -> bool {
        if !self.aliases_seen.insert(alias.to_owned()) || !may_lead_to_a_disk(alias) {
            return false;
        }
        let before = self.tried.len();
        let modules: Vec<String> = self.known.index.for_alias(alias).into_iter().map(str::to_owned).collect();
        for module in modules {
            if self.known.blacklist.contains(&module) {
                console::detail(&format!("module {module} is blacklisted"));
            } else {
                self.load_module(&module);
            }
        }
        self.tried.len() > before
    }

    /// Loads a module after all that it needs. Each is tried once; a cycle therefore ends.
    fn load_module(&mut self, module: &str) -> bool {
        if self.known.index.is_builtin(module) {
            return true;
        }
        if !self.tried.insert(module.to_owned()) {
            return is_loaded(module);
        }
        let Some(file) = self.known.index.file(module).cloned() else {
            return false;
        };
        let soft = self.known.index.soft(module);
        for name in &soft.before {
            self.load(name);
        }
        // kmod lists what is needed last first.
        for path in file.needs.iter().rev() {
            self.load_module(&index::name_of(path));
        }
        let loaded = match self.insert(module, &file.path) {
            Ok(()) => {
                console::detail(&format!("loaded module {module}"));
                true
            }
            Err(error) => {
                // Usual for drivers without their hardware (ENODEV), so no more than a detail.
                console::detail(&format!("module {module} ({}): {error}", file.path));
                false
            }
        };
        for name in &soft.after {
            self.load(name);
        }
        loaded
    }

    fn insert(&self, module: &str, path: &str) -> io::Result<()> {
        let file = File::open(self.known.directory.join(path))?;
        let parameters = self.known.parameters.get(module).map_or("", String::as_str);
        let parameters = CString::new(parameters).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let is_plain = Path::new(path).extension().is_some_and(|extension| extension == "ko");
        let flags = if is_plain { 0 } else { COMPRESSED };
        match finit_module(&file, &parameters, flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// Network, display and sound devices need no driver to find a disk: the system's udev loads them later, when
/// nothing waits for it.
fn may_lead_to_a_disk(alias: &str) -> bool {
    if let Some(rest) = alias.strip_prefix("pci:") {
        // A virtio device names its kind a second time, on its own bus; its PCI function needs virtio_pci anyway.
        return rest.starts_with("v00001AF4") || !["bc02", "bc03", "bc04"].iter().any(|class| rest.contains(class));
    }
    !alias.starts_with("virtio:d00000001v")
}

#[cfg(test)]
mod tests {
    use super::may_lead_to_a_disk;

    #[test]
    fn drivers_that_no_disk_needs_are_left_to_the_system() {
        assert!(may_lead_to_a_disk("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"));
        assert!(!may_lead_to_a_disk("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"));
        assert!(may_lead_to_a_disk("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"));
        assert!(!may_lead_to_a_disk("virtio:d00000001v00001AF4"));
        assert!(may_lead_to_a_disk("virtio:d00000002v00001AF4"));
    }
}
