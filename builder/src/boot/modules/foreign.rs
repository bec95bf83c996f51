//! The check of modules that are not the kernel's own.
//!
//! The kernel's package brings modules that fit. Others, prebuilt for GPUs or built by DKMS, may be of another kernel, which
//! shows on the node only: "invalid format", or "unknown symbol". So before a tree is used, each of them must name the
//! kernel's release in its vermagic, and must find every symbol that it uses, by the tree's own `depmod -e`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{ModulesError, file};
use crate::sandbox::Sandbox;

/// Where the file with the kernel's symbols is seen inside the sandbox.
const SYMBOLS: &str = "/run/symbols";
/// A `System.map` below this size holds a note and no symbols: Debian's kernels have the real one in another package.
const REAL_MAP: u64 = 4096;

/// Checks the foreign modules of the kernel `uname` in `root`. `symvers` is the kernel's `Module.symvers`, where a build of
/// modules left it; otherwise the kernel's `System.map` is asked.
pub fn check(root: &Path, uname: &str, symvers: Option<&Path>) -> Result<(), ModulesError> {
    let foreign = find(root, uname)?;
    for path in &foreign {
        let bytes = file::read(root, path)?;
        let vermagic = file::information(&bytes, "vermagic").pop().unwrap_or_default();
        let built_for = vermagic.split(' ').next().unwrap_or_default();
        if built_for != uname {
            let built_for = if built_for.is_empty() { "that it does not name" } else { built_for }.to_owned();
            return Err(ModulesError::OtherKernel { path: path.clone(), built_for, uname: uname.to_owned() });
        }
    }
    let Some(first) = foreign.first() else { return Ok(()) };
    let map = root.join(format!("boot/System.map-{uname}"));
    let (option, symbols) = match symvers {
        Some(symvers) => ("-E", symvers),
        None if map.metadata().is_ok_and(|m| m.len() > REAL_MAP) => ("-F", map.as_path()),
        None => return Err(ModulesError::NoSymbols { path: first.clone(), uname: uname.to_owned() }),
    };
    let output = Sandbox::new(root)
        .bind_read_only(symbols, Path::new(SYMBOLS))
        .tool("depmod")
        .args(["-n", "-e", option, SYMBOLS, uname])
        .run()
        .map_err(|source| ModulesError::Depmod { uname: uname.to_owned(), source: Box::new(source) })?;
    let mut missing = missing_symbols(&String::from_utf8_lossy(&output.stderr));
    for path in foreign {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(symbols) = missing.remove(&name) {
            let symbols = symbols.into_iter().collect();
            return Err(ModulesError::Unresolved { path, uname: uname.to_owned(), symbols });
        }
    }
    Ok(())
}

/// Modules outside `kernel/`, where packages and DKMS put theirs, and those of `kernel/nvidia*`, where Ubuntu puts the
/// prebuilt ones; sorted, by path in the root.
fn find(root: &Path, uname: &str) -> Result<Vec<PathBuf>, ModulesError> {
    let base = Path::new("usr/lib/modules").join(uname);
    let mut open = Vec::new();
    for name in directories(root, &base)? {
        if name != "kernel" {
            open.push(base.join(name));
        }
    }
    let own = base.join("kernel");
    for name in directories(root, &own)? {
        if name.starts_with("nvidia") {
            open.push(own.join(name));
        }
    }
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for (name, is_directory) in entries(root, &directory)? {
            let path = directory.join(&name);
            if is_directory {
                open.push(path);
            } else if is_module(&name) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn directories(root: &Path, path: &Path) -> Result<Vec<String>, ModulesError> {
    Ok(entries(root, path)?.into_iter().filter(|(_, is_directory)| *is_directory).map(|(name, _)| name).collect())
}

/// Names in a directory of the root, and whether each is a directory itself; links (`build`) are not followed.
fn entries(root: &Path, path: &Path) -> Result<Vec<(String, bool)>, ModulesError> {
    let reading = |source| ModulesError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    let listing = match std::fs::read_dir(root.join(path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        listing => listing.map_err(reading)?,
    };
    for entry in listing {
        let entry = entry.map_err(reading)?;
        let kind = entry.file_type().map_err(reading)?;
        found.push((entry.file_name().to_string_lossy().into_owned(), kind.is_dir()));
    }
    Ok(found)
}

fn is_module(name: &str) -> bool {
    [".ko", ".ko.gz", ".ko.xz", ".ko.zst"].iter().any(|suffix| name.ends_with(suffix))
}

/// What depmod says, by module file: `depmod: WARNING: /lib/modules/R/updates/x.ko needs unknown symbol y`.
fn missing_symbols(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        // Where versions of symbols are known, a symbol of another version is as good as missing.
        let told = [" needs unknown symbol ", " disagrees about version of symbol "];
        let Some((head, symbol)) = told.iter().find_map(|words| line.split_once(words)) else { continue };
        let module = head.rsplit('/').next().unwrap_or(head);
        found.entry(module.to_owned()).or_default().insert(symbol.trim().to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The smallest ELF file with this `.modinfo`: a header, the text, the names of sections, three section headers.
    fn module(information: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let tables = 64 + information.len() + names.len();
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..24].copy_from_slice(&[1, 0, 62, 0, 1, 0, 0, 0]);
        elf[40..48].copy_from_slice(&(tables as u64).to_le_bytes());
        elf[52..54].copy_from_slice(&64u16.to_le_bytes());
        elf[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        elf.extend(information.as_bytes());
        elf.extend(names);
        let section = |name: u32, kind: u32, offset: usize, size: usize| {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            header[48] = 1;
            header
        };
        elf.extend(section(0, 0, 0, 0));
        elf.extend(section(1, 1, 64, information.len()));
        elf.extend(section(10, 3, 64 + information.len(), names.len()));
        elf
    }

    fn put(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join("usr/lib/modules/6.12-amd64").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn only_foreign_modules_are_looked_at() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "kernel/fs/a.ko",
            "modules.dep",
            "vdso/vdso64.so",
            "updates/dkms/b.ko.xz",
            "kernel/nvidia-580srv-open/c.ko",
        ] {
            put(root.path(), path, b"");
        }
        let found = find(root.path(), "6.12-amd64").unwrap();
        let names: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_string_lossy()).collect();
        assert_eq!(names, ["c.ko", "b.ko.xz"]);
    }

    #[test]
    fn a_module_of_another_kernel_is_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "updates/dkms/nvidia.ko", &module("license=x\0vermagic=6.11-amd64 SMP preempt mod_unload \0"));
        let message = check(root.path(), "6.12-amd64", None).unwrap_err().to_string();
        assert!(message.contains("updates/dkms/nvidia.ko is built for kernel 6.11-amd64"), "{message}");
        put(root.path(), "updates/dkms/nvidia.ko", &module("license=x\0"));
        assert!(check(root.path(), "6.12-amd64", None).is_err());
    }

    #[test]
    fn without_a_list_of_the_kernels_symbols_there_is_no_check_and_that_is_said() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "kernel/fs/a.ko", b"");
        check(root.path(), "6.12-amd64", None).unwrap();
        put(root.path(), "extra/x.ko", &module("vermagic=6.12-amd64 SMP \0"));
        fs::create_dir(root.path().join("boot")).unwrap();
        fs::write(
            root.path().join("boot/System.map-6.12-amd64"),
            "ffffffffffffffff B The real System.map is elsewhere\n",
        )
        .unwrap();
        assert!(matches!(check(root.path(), "6.12-amd64", None), Err(ModulesError::NoSymbols { .. })));
    }

    #[test]
    fn depmods_words_are_read() {
        let text = "depmod: WARNING: /lib/modules/6.12-amd64/updates/dkms/nvidia-current.ko needs unknown symbol drm_x\n\
                    depmod: WARNING: /lib/modules/6.12-amd64/updates/dkms/nvidia-current.ko disagrees about version of symbol y\n\
                    depmod: WARNING: could not open modules.order\n";
        let found = missing_symbols(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found["nvidia-current.ko"].iter().map(String::as_str).collect::<Vec<_>>(), ["drm_x", "y"]);
    }
}
