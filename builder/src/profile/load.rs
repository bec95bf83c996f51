//! Reading: from a role's name to the merged tree of all files it extends.

use std::fs;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::config;
use super::error::{ProfileError, line_and_column, nearest};
use super::file::ProfileFile;
use super::tree::Node;

/// A file of a tree: its name, its content by the format, and as a tree that keeps every place.
type Collected = (String, ProfileFile, Node);

/// A profile tree on disk: `profiles/` with `overlays/` beside it.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The directory of the profiles, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tree at `root`, which is made absolute.
    pub fn open(root: &Path) -> Result<Self, ProfileError> {
        let root = root.canonicalize().map_err(|source| ProfileError::Read { file: root.to_owned(), source })?;
        Ok(Self { root })
    }

    /// Names of all roles: every file that is neither a base nor a part.
    pub fn roles(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names();
        names.retain(|name| !name.starts_with("base/") && !name.starts_with("parts/"));
        names
    }

    /// Names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_names(&self.root, &self.root, &mut found);
        found.sort();
        found
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, ProfileError> {
        let plain = !name.is_empty()
            && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !name.contains('\0');
        let path = self.root.join(format!("{name}.toml"));
        if plain && path.is_file() {
            return Ok(path);
        }
        let names = self.names();
        Err(ProfileError::Missing {
            name: name.to_owned(),
            tree: self.root.clone(),
            near: nearest(name, names.iter().map(String::as_str)),
        })
    }

    /// The directory of overlays.
    pub fn overlays(&self) -> PathBuf {
        self.root.parent().unwrap_or(&self.root).join("overlays")
    }

    /// Reads a file and checks it against the format.
    pub fn read(&self, name: &str) -> Result<(ProfileFile, Node), ProfileError> {
        let path = self.path_of(name)?;
        let text = fs::read_to_string(&path).map_err(|source| ProfileError::Read { file: path.clone(), source })?;
        let table = DeTable::parse(&text).map_err(|error| syntax(&path, &text, &error))?;
        let file: ProfileFile = toml::from_str(&text).map_err(|error| syntax(&path, &text, &error))?;
        config::check_file(&path, &text, table.get_ref())?;
        let mut node = Node::from_table(table.get_ref(), &text, &path);
        self.resolve_paths(&mut node, &path)?;
        Ok((file, node))
    }

    /// Merges a role's file with all it extends and with the base's, the base first and the role last.
    ///
    /// `base` wins over the role's own `default_base`. Gives the merged tree and the base's name.
    pub fn merged(&self, role: &str, base: Option<&str>) -> Result<(Node, String), ProfileError> {
        let mut order = Vec::new();
        self.collect_extends(role, &mut Vec::new(), &mut order)?;
        let default_base = order.iter().rev().find_map(|(_, file, _)| file.default_base.clone());
        let base = base.map(str::to_owned).or(default_base).unwrap_or_else(|| "ubuntu-24.04".to_owned());
        let mut base_order = Vec::new();
        self.collect_extends(&format!("base/{base}"), &mut Vec::new(), &mut base_order)?;
        let distribution = base_order
            .iter()
            .rev()
            .find_map(|(_, file, _)| file.base.as_ref().and_then(|b| b.distribution.clone()))
            .unwrap_or_default();
        base_order.retain(|(name, _, _)| !order.iter().any(|(other, _, _)| other == name));
        Self::refuse_conflicts(role, &base_order, &order)?;
        let mut merged = Node::default();
        for (_, _, mut node) in base_order.into_iter().chain(order) {
            let when = node.take("when");
            node.take("extends");
            node.take("conflicts");
            node.take("description");
            node.take("default_base");
            merged.merge(node);
            if let Some(mut when) = when {
                for key in [distribution.as_str(), base.as_str()] {
                    if let Some(conditional) = when.take(key) {
                        merged.merge(conditional);
                    }
                }
            }
        }
        Ok((merged, base))
    }

    /// Refuses files that exclude each other. What a tree does not have at all excludes nothing.
    fn refuse_conflicts(role: &str, base: &[Collected], order: &[Collected]) -> Result<(), ProfileError> {
        let all = || base.iter().chain(order);
        for (one, file, _) in all() {
            for other in &file.conflicts {
                if all().any(|(name, _, _)| name == other) {
                    return Err(ProfileError::Conflict {
                        role: role.to_owned(),
                        one: one.clone(),
                        other: other.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Puts the files a profile extends before itself, each once.
    fn collect_extends(
        &self,
        name: &str,
        path: &mut Vec<String>,
        order: &mut Vec<Collected>,
    ) -> Result<(), ProfileError> {
        if path.iter().any(|seen| seen == name) {
            path.push(name.to_owned());
            return Err(ProfileError::Circle(path.join(" -> ")));
        }
        if order.iter().any(|(seen, _, _)| seen == name) {
            return Ok(());
        }
        path.push(name.to_owned());
        let (file, node) = self.read(name)?;
        for parent in &file.extends {
            self.collect_extends(parent, path, order)?;
        }
        path.pop();
        order.push((name.to_owned(), file, node));
        Ok(())
    }

    /// Makes the paths of a file absolute while it is still known which file they stand in.
    fn resolve_paths(&self, node: &mut Node, file: &Path) -> Result<(), ProfileError> {
        let directory = file.parent().unwrap_or(&self.root);
        if let Some(Node::List(overlays)) = node.get_mut(&["overlays"]) {
            for (value, place) in overlays {
                let name = value.as_str().unwrap_or_default();
                let path = if name.starts_with("./") || name.starts_with('/') {
                    directory.join(name)
                } else {
                    self.overlays().join(name)
                };
                let path = path.canonicalize().ok().filter(|p| p.is_dir()).ok_or_else(|| ProfileError::Value {
                    place: format!("{place}: overlays"),
                    message: format!("there is no directory {} for the overlay {name}", path.display()),
                })?;
                *value = toml::Value::String(path.to_string_lossy().into_owned());
            }
        }
        for (table, key) in
            [("repositories", "keyring"), ("files", "source"), ("artifacts", "path"), ("containers", "path")]
        {
            let Some(entries) = node.get_mut(&[table]) else { continue };
            for (name, entry) in entries.entries_mut() {
                let Some(Node::Leaf(value, place)) = entry.get_mut(&[key]) else { continue };
                let given = value.as_str().unwrap_or_default();
                let path = directory.join(given);
                let path = path.canonicalize().map_err(|error| ProfileError::Value {
                    place: format!("{place}: {table}.{name}.{key}"),
                    message: match key {
                        "keyring" => format!(
                            "the keyring {} cannot be used ({error}): put the certificate there that the repository's owner \
                             publishes, after checking its fingerprint; the README.md beside it says which it is",
                            path.display()
                        ),
                        _ => format!("cannot use {}: {error}", path.display()),
                    },
                })?;
                *value = toml::Value::String(path.to_string_lossy().into_owned());
            }
        }
        if let Some(when) = node.get_mut(&["when"]) {
            for (_, conditional) in when.entries_mut() {
                self.resolve_paths(conditional, file)?;
            }
        }
        Ok(())
    }
}

fn collect_names(root: &Path, directory: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_names(root, &path, found);
        } else if let (Some("toml"), Ok(relative)) =
            (path.extension().and_then(|e| e.to_str()), path.strip_prefix(root))
        {
            found.push(relative.with_extension("").to_string_lossy().into_owned());
        }
    }
}

/// Turns an error of the TOML reader into one with a line, a column and the nearest known key.
fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> ProfileError {
    let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
    let message = error.message();
    // serde words an unknown key as: unknown field `x`, expected one of `a`, `b`
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let near = match names.split_first() {
        Some((unknown, known)) if message.starts_with("unknown") => nearest(unknown, known.iter().copied()),
        _ => None,
    };
    let message = match message.split_once(", expected") {
        Some((short, _)) if message.starts_with("unknown field") => short.replace("unknown field", "unknown key"),
        _ => message.to_owned(),
    };
    ProfileError::Syntax { file: file.to_owned(), line, column, message, near }
}
