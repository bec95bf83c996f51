//! What can be wrong with a profile, said so that it can be put right.

use std::path::PathBuf;

use thiserror::Error;

/// A profile cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file is not there.
    #[error("there is no profile {name} in {}{}", .tree.display(), suggestion(.near.as_deref()))]
    Missing {
        /// The name asked for.
        name: String,
        /// The profile tree.
        tree: PathBuf,
        /// Names that look like it.
        near: Option<String>,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not what a profile looks like.
    #[error("{}:{line}:{column}: {message}{}", .file.display(), suggestion(.near.as_deref()))]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// The nearest key that is known, for an unknown one.
        near: Option<String>,
    },
    /// Files extend each other in a circle.
    #[error("profiles extend each other in a circle: {0}")]
    Circle(String),
    /// Two files that exclude each other.
    #[error("{role} has both {one} and {other}, which exclude each other; extend only one of them")]
    Conflict {
        /// The role.
        role: String,
        /// The file that says so.
        one: String,
        /// The other one.
        other: String,
    },
    /// The defaults for node configuration are not what a node accepts.
    #[error(transparent)]
    Config(ingot_firstboot::config::ConfigError),
    /// A value that is well-formed but makes no sense.
    #[error("{place}: {message}")]
    Value {
        /// `FILE:LINE: KEY`.
        place: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

fn suggestion(near: Option<&str>) -> String {
    near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// The candidate that a person most likely meant, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate.to_owned())
}

/// Line and column, both from 1, of a byte offset.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = String::from_utf8_lossy(&text.as_bytes()[..offset.min(text.len())]);
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit('\n').next().unwrap_or_default();
    (line, last.chars().count() + 1)
}
