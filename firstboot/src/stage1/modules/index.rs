//! The index files of kmod: which module files there are, what each needs, and which device each drives.
//!
//! Formats (`modules.dep(5)`, `depmod(8)`), one entry a line:
//!
//! ```text
//! modules.dep       kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko
//! modules.alias     alias pci:v*d*sv*sd*bc01sc08i02* nvme
//! modules.softdep   softdep ext4 pre: crc32c post: foo
//! modules.builtin   kernel/drivers/block/loop.ko
//! ```
//!
//! Lines that are none of these are skipped: comments, and what later versions of kmod may add.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob;

/// Soft dependencies of a module: names or aliases to load before and after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoftDependencies {
    /// Before the module.
    pub before: Vec<String>,
    /// After it.
    pub after: Vec<String>,
}

/// A module file and the files that it needs, as paths below the modules' directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleFile {
    /// The file.
    pub path: String,
    /// The files of the modules that it needs; kmod lists the closest first.
    pub needs: Vec<String>,
}

/// The indices of one kernel.
#[derive(Debug, Clone, Default)]
pub struct Index {
    files: BTreeMap<String, ModuleFile>,
    /// Patterns by what stands before their first `:` (the bus), in the order of the file.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    soft: BTreeMap<String, SoftDependencies>,
    builtin: BTreeSet<String>,
}

/// The name of a module by its file: `kernel/drivers/nvme/host/nvme-core.ko.xz` is `nvme_core`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.find(".ko").map_or(file, |end| &file[..end]);
    stem.replace('-', "_")
}

impl Index {
    /// Reads the four files' texts; each may be empty.
    pub fn parse(dependencies: &str, aliases: &str, soft: &str, builtin: &str) -> Index {
        let mut index = Index::default();
        for (path, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            let path = path.trim();
            if is_plain(path) {
                let needs = needs.split_whitespace().filter(|path| is_plain(path)).map(str::to_owned).collect();
                index.files.insert(name_of(path), ModuleFile { path: path.to_owned(), needs });
            }
        }
        for line in aliases.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let entry = (pattern.to_owned(), module.replace('-', "_"));
                index.aliases.entry(bus(pattern)).or_default().push(entry);
            }
        }
        for line in soft.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(module)) = (words.next(), words.next()) {
                let entry = index.soft.entry(module.replace('-', "_")).or_default();
                let mut list = None;
                for word in words {
                    match word {
                        "pre:" => list = Some(&mut entry.before),
                        "post:" => list = Some(&mut entry.after),
                        name => {
                            if let Some(list) = list.as_mut() {
                                list.push(name.to_owned());
                            }
                        }
                    }
                }
            }
        }
        index.builtin = builtin.lines().map(str::trim).filter(|line| !line.is_empty()).map(name_of).collect();
        index
    }

    /// The file of a module, by its name.
    pub fn file(&self, module: &str) -> Option<&ModuleFile> {
        self.files.get(module)
    }

    /// Whether the kernel has the module built in.
    pub fn is_builtin(&self, module: &str) -> bool {
        self.builtin.contains(module)
    }

    /// The soft dependencies of a module.
    pub fn soft(&self, module: &str) -> SoftDependencies {
        self.soft.get(module).cloned().unwrap_or_default()
    }

    /// The modules that a device, or a name such as `crypto-crc32c`, asks for, in the order of the file.
    pub fn for_alias(&self, alias: &str) -> Vec<&str> {
        let own = self.aliases.get(&bus(alias)).into_iter().flatten();
        // Patterns whose first part is itself a pattern can match any bus.
        let wild = self.aliases.iter().filter(|(bus, _)| bus.contains(['*', '?', '['])).flat_map(|(_, list)| list);
        let mut modules: Vec<&str> = Vec::new();
        for (pattern, module) in own.chain(wild) {
            if glob::matches(pattern, alias) && !modules.contains(&module.as_str()) {
                modules.push(module);
            }
        }
        modules
    }
}

fn bus(alias: &str) -> String {
    alias.split(':').next().unwrap_or(alias).to_owned()
}

/// A relative path without `..`; the files come with the signed initrd, but a wrong one should fail plainly.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index::parse(
            "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko\nkernel/fs/jbd2/jbd2.ko:\n\
             kernel/drivers/nvme/host/nvme-core.ko.xz:\n/etc/x.ko:\n../y.ko: z\nnonsense\n",
            "# comment\nalias pci:v*bc01sc08i02* nvme\nalias crypto-crc32c crc32c-intel\nalias crypto-crc32c \
             crc32c_generic\nalias acpi*:LNXVIDEO:* video\nalias broken\n",
            "softdep ext4 pre: crc32c mbcache post: foo\nsoftdep lonely\n",
            "kernel/drivers/block/loop.ko\n",
        )
    }

    #[test]
    fn reads_kmods_files() {
        let index = index();
        assert_eq!(index.files.len(), 3);
        assert_eq!(index.file("ext4").unwrap().needs, ["kernel/fs/jbd2/jbd2.ko", "kernel/fs/mbcache.ko"]);
        assert!(index.file("nvme_core").is_some() && index.file("x").is_none() && index.file("y").is_none());
        assert_eq!(index.for_alias("pci:v00001B36bc01sc08i02"), ["nvme"]);
        assert_eq!(index.for_alias("crypto-crc32c"), ["crc32c_intel", "crc32c_generic"]);
        assert_eq!(index.for_alias("acpi:LNXVIDEO:"), ["video"]);
        assert!(index.for_alias("usb:x").is_empty());
        assert_eq!(index.soft("ext4").before, ["crc32c", "mbcache"]);
        assert_eq!(index.soft("ext4").after, ["foo"]);
        assert!(index.is_builtin("loop"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z/.:* \n-]{0,200}", alias in "[a-z:*\\[-]{0,30}") {
            let index = Index::parse(&text, &text, &text, &text);
            let _ = index.for_alias(&alias);
        }
    }
}
