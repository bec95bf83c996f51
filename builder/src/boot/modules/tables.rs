//! depmod's tables: reading them, asking them, cutting them down.
//!
//! Formats are those of kmod: `modules.dep` (`path: path path`), `modules.alias` (`alias PATTERN NAME`),
//! `modules.softdep` (`softdep NAME pre: NAME... post: NAME...`), `modules.weakdep` (`weakdep NAME NAME...`) and
//! `modules.builtin` (a path per line). Paths are relative to `usr/lib/modules/UNAME`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::ModulesError;
use crate::boot::inside;

/// The tables of one kernel.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Dependencies by module, both as paths on disk.
    dependencies: BTreeMap<String, Vec<String>>,
    /// Path by name.
    paths: BTreeMap<String, String>,
    /// Paths by name of what is built into the kernel.
    builtin: BTreeMap<String, String>,
    /// Pattern and module name, in the table's order.
    aliases: Vec<(String, String)>,
    /// Which lines of `aliases` have exactly this pattern.
    by_alias: BTreeMap<String, Vec<usize>>,
    /// By module: what goes before and what goes after it, as names or aliases.
    soft: BTreeMap<String, Soft>,
}

#[derive(Debug, Clone, Default)]
struct Soft {
    before: Vec<String>,
    after: Vec<String>,
    /// Weak dependencies: loaded on demand, but an initrd must have them.
    weak: Vec<String>,
}

/// A module's name as the kernel writes it: with `_` for `-`.
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The path without the suffix of its compression.
pub fn plain(path: &str) -> &str {
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| path.strip_suffix(suffix)).unwrap_or(path)
}

/// The name of the module at this path.
pub fn name_of(path: &str) -> String {
    normal(stem(path.rsplit('/').next().unwrap_or(path)))
}

fn stem(path: &str) -> &str {
    let path = plain(path);
    path.strip_suffix(".ko").unwrap_or(path)
}

impl Tables {
    /// Reads the tables in `directory` (`usr/lib/modules/UNAME`) of the root.
    pub fn read(root: &Path, directory: &Path) -> Result<Self, ModulesError> {
        let read = |name: &str| {
            let path = directory.join(name);
            match inside::read(root, &path) {
                Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(ModulesError::Read { path, source }),
            }
        };
        let required = |name: &str| read(name)?.ok_or_else(|| ModulesError::NoTables { path: directory.join(name) });
        let mut tables = Self::default();
        let wrong = |name: &str, (line, problem): (usize, String)| ModulesError::Table {
            path: directory.join(name),
            line,
            problem,
        };
        tables.add_dependencies(&required("modules.dep")?).map_err(|e| wrong("modules.dep", e))?;
        tables.add_aliases(&required("modules.alias")?);
        tables.add_builtin(&read("modules.builtin")?.unwrap_or_default());
        tables.add_soft(&read("modules.softdep")?.unwrap_or_default());
        tables.add_weak(&read("modules.weakdep")?.unwrap_or_default());
        Ok(tables)
    }

    pub(super) fn add_dependencies(&mut self, text: &str) -> Result<(), (usize, String)> {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let (path, dependencies) =
                line.split_once(':').ok_or_else(|| (number, "there is no `:` after the module's path".to_owned()))?;
            let dependencies: Vec<String> = dependencies.split_whitespace().map(str::to_owned).collect();
            for path in dependencies.iter().map(String::as_str).chain([path]) {
                let below = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
                if !below || plain(path).strip_suffix(".ko").is_none() {
                    return Err((number, format!("`{path}` is not the path of a module below this directory")));
                }
            }
            self.paths.insert(name_of(path), path.to_owned());
            self.dependencies.insert(path.to_owned(), dependencies);
        }
        Ok(())
    }

    pub(super) fn add_aliases(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) = (words.next(), words.next(), words.next()) {
                self.by_alias.entry(normal(pattern)).or_default().push(self.aliases.len());
                self.aliases.push((pattern.to_owned(), normal(name)));
            }
        }
    }

    pub(super) fn add_builtin(&mut self, text: &str) {
        self.builtin.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| (name_of(l), l.to_owned())));
    }

    pub(super) fn add_soft(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let soft = self.soft.entry(normal(name)).or_default();
            // Words before the first `pre:` or `post:` mean nothing to kmod.
            let mut list = None;
            for word in words {
                match (word, &mut list) {
                    ("pre:", _) => list = Some(false),
                    ("post:", _) => list = Some(true),
                    (word, Some(false)) => soft.before.push(word.to_owned()),
                    (word, Some(true)) => soft.after.push(word.to_owned()),
                    (_, None) => {}
                }
            }
        }
    }

    pub(super) fn add_weak(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("weakdep"), Some(name)) = (words.next(), words.next()) {
                self.soft.entry(normal(name)).or_default().weak.extend(words.map(str::to_owned));
            }
        }
    }

    /// The path of the module of this name.
    pub fn path_of(&self, name: &str) -> Option<&str> {
        self.paths.get(&normal(name)).map(String::as_str)
    }

    /// The modules that a name stands for: the one of that name, else those that have it as an alias.
    pub fn providers(&self, name: &str) -> Vec<&str> {
        if let Some(path) = self.path_of(name) {
            return vec![path];
        }
        let lines = self.by_alias.get(&normal(name)).into_iter().flatten();
        lines.filter_map(|line| self.path_of(&self.aliases[*line].1)).collect()
    }

    /// Whether the kernel has a module of this name built in.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains_key(&normal(name))
    }

    /// The modules whose path below `kernel/`, or whose name if the glob has no `/`, matches.
    pub fn matching(&self, glob: &str) -> Vec<&str> {
        self.paths.values().map(String::as_str).filter(|path| matches_path(glob, path)).collect()
    }

    /// Whether something built in matches.
    pub fn builtin_matching(&self, glob: &str) -> bool {
        self.builtin.values().any(|path| matches_path(glob, path))
    }

    /// What must be loaded before the module at this path.
    pub fn dependencies(&self, path: &str) -> impl Iterator<Item = &str> {
        self.dependencies.get(path).into_iter().flatten().map(String::as_str)
    }

    /// The modules that should be there with this one.
    pub fn soft_dependencies(&self, name: &str) -> Vec<&str> {
        let soft = self.soft.get(name);
        let names = soft.into_iter().flat_map(|soft| soft.before.iter().chain(&soft.after).chain(&soft.weak));
        names.flat_map(|name| self.providers(name)).collect()
    }

    /// The three names that are most like this one, if they are alike at all.
    pub fn nearest(&self, name: &str) -> Vec<String> {
        let wanted = normal(name);
        let known = self.paths.keys().chain(self.builtin.keys());
        let mut scored: Vec<(u64, &String)> = known
            .map(|known| {
                let likeness = strsim::jaro_winkler(&wanted, known);
                // Whole thousandths, so that the order is total.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and 1
                ((likeness * 1000.0) as u64, known)
            })
            .filter(|(score, _)| *score >= 850)
            .collect();
        scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        scored.dedup();
        scored.into_iter().take(3).map(|(_, known)| known.clone()).collect()
    }

    /// The tables cut down to these modules, with uncompressed paths.
    pub fn reduced(&self, chosen: &BTreeSet<&str>) -> BTreeMap<&'static str, String> {
        let names: BTreeSet<String> = chosen.iter().map(|path| name_of(path)).collect();
        let (mut dep, mut alias, mut softdep, mut builtin) = Default::default();
        for path in chosen {
            line(&mut dep, &format!("{}:", plain(path)), self.dependencies(path).map(plain));
        }
        for (pattern, name) in self.aliases.iter().filter(|(_, name)| names.contains(name)) {
            line(&mut alias, "alias", [pattern.as_str(), name]);
        }
        for name in &names {
            let Some(soft) = self.soft.get(name) else { continue };
            let resolve = |list: &[String]| -> BTreeSet<String> {
                list.iter().flat_map(|name| self.providers(name)).map(name_of).filter(|n| names.contains(n)).collect()
            };
            let (before, after) = (resolve(&soft.before), resolve(&soft.after));
            if before.is_empty() && after.is_empty() {
                continue;
            }
            let mut words = vec![name.as_str()];
            for (mark, list) in [("pre:", &before), ("post:", &after)].iter().filter(|(_, list)| !list.is_empty()) {
                words.push(mark);
                words.extend(list.iter().map(String::as_str));
            }
            line(&mut softdep, "softdep", words);
        }
        for path in self.builtin.values().collect::<BTreeSet<_>>() {
            line(&mut builtin, path, []);
        }
        BTreeMap::from([
            ("modules.dep", dep),
            ("modules.alias", alias),
            ("modules.softdep", softdep),
            ("modules.builtin", builtin),
        ])
    }
}

fn line<'a>(text: &mut String, first: &str, rest: impl IntoIterator<Item = &'a str>) {
    text.push_str(first);
    for word in rest {
        // Writing to a String cannot fail.
        let _ = write!(text, " {word}");
    }
    text.push('\n');
}

fn matches_path(glob: &str, path: &str) -> bool {
    let stem = stem(path);
    let below = stem.strip_prefix("kernel/").unwrap_or(stem);
    let glob = stem_of_glob(glob);
    if glob.contains('/') {
        matches(glob.as_bytes(), below.as_bytes())
    } else {
        let name = normal(below.rsplit('/').next().unwrap_or(below));
        matches(normal(glob).as_bytes(), name.as_bytes())
    }
}

fn stem_of_glob(glob: &str) -> &str {
    let glob = stem(glob);
    glob.strip_prefix("kernel/").unwrap_or(glob)
}

/// `?` is any byte and `*` any number of bytes, neither a `/`; `**` is any number of bytes.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    // Positions in the text where the glob read so far may end: linear in both lengths, whatever the glob.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    let mut rest = glob;
    while let Some((&byte, after)) = rest.split_first() {
        let double = byte == b'*' && after.first() == Some(&b'*');
        rest = if double { &after[1..] } else { after };
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match byte {
                b'*' => ends[at] || at > 0 && next[at - 1] && (double || text[at - 1] != b'/'),
                b'?' => at > 0 && ends[at - 1] && text[at - 1] != b'/',
                byte => at > 0 && ends[at - 1] && text[at - 1] == byte,
            };
        }
        ends = next;
    }
    ends[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, text, fits) in [
            ("a*c", "abc", true),
            ("a*c", "ab/c", false),
            ("a**c", "ab/c", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("*", "", true),
            ("a", "", false),
            ("drivers/nvme/*", "drivers/nvme/host/nvme", false),
            ("drivers/nvme/**", "drivers/nvme/host/nvme", true),
            ("*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(glob.as_bytes(), text.as_bytes()), fits, "{glob} {text}");
        }
        assert!(matches_path("virtio-*", "kernel/drivers/virtio/virtio_pci.ko.zst"));
        assert!(matches_path("kernel/drivers/ata/ahci.ko", "kernel/drivers/ata/ahci.ko.xz"));
        assert!(!matches_path("drivers/ata/ahc", "kernel/drivers/ata/ahci.ko.xz"));
    }
}
