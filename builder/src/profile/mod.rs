//! The `profile` stage: from a role's name to one merged, checked [`Profile`].
//!
//! Takes a profile tree (`profiles/`) and a role's name. Follows `extends`, checks every key, merges the parts,
//! remembers where each value came from, and gives a [`Profile`] whose paths are absolute and whose
//! lists are in a fixed order. Nothing here reads the network or the archive.
//!
//! The base's files come first, then those that the role extends, in order, then the role's own; a file's
//! `[when.debian]` or `[when."ubuntu-24.04"]` is merged right after the file itself. How two values are merged:
//! [`tree`].

pub mod config;
mod error;
pub mod file;
mod finish;
mod load;
pub mod snapshot;
pub mod tree;
mod types;

pub use error::ProfileError;
pub use load::Tree;
pub use snapshot::Snapshot;
pub use types::*;

/// A profile with the tree it was made from, for `--explain-profile`.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The profile.
    pub profile: Profile,
    /// Every value with its place.
    pub merged: tree::Node,
}

/// Reads and merges the profile of `role`; `base` wins over the role's own choice.
pub fn load(tree: &Tree, role: &str, base: Option<&str>) -> Result<Explained, ProfileError> {
    let (merged, base) = tree.merged(role, base)?;
    let profile = finish::finish(role, &base, &merged)?;
    config::check_merged(&profile)?;
    Ok(Explained { profile, merged })
}

/// The merged profile as text: one value a line, with the file and line it comes from, paths relative to `root`.
pub fn explain(explained: &Explained, root: &std::path::Path) -> String {
    let leaves = explained.merged.leaves();
    let lines: Vec<(String, String)> = leaves
        .into_iter()
        .map(|(key, value, place)| {
            let file = place.file.strip_prefix(root).unwrap_or(&place.file).display().to_string();
            (format!("{key} = {value}"), format!("{file}:{}", place.line))
        })
        .collect();
    let width = lines.iter().map(|(value, _)| value.chars().count()).filter(|w| *w <= 72).max().unwrap_or(0);
    let mut text = String::new();
    for (value, place) in lines {
        text.push_str(&format!("{value:<width$}  # {place}\n"));
    }
    text
}

#[cfg(test)]
mod tests;
