//! What is wrong with a configuration: all of it at once, each with its place, its key and what to do.

use std::fmt;

use serde::Serialize;

use super::tree::Origin;

/// One thing that is wrong, or that should be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The key with its tables: `join.secret`; empty for the document as a whole.
    pub key: String,
    /// What is wrong. It never repeats a secret.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

/// A configuration was refused. There is at least one problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// What is wrong, in the order of the documents and their lines.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Errors and warnings gathered while reading.
#[derive(Debug, Default)]
pub struct Findings {
    /// What forbids using the configuration.
    pub errors: Vec<Problem>,
    /// What a person should know.
    pub warnings: Vec<Problem>,
    /// What was asked for and needs nothing: not even `strict` makes it an error.
    pub notes: Vec<Problem>,
}

impl Findings {
    /// Adds a note.
    pub fn note(&mut self, origin: &Origin, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.notes.push(Problem {
            origin: origin.clone(),
            key: key.into(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Adds an error.
    pub fn error(&mut self, origin: &Origin, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(Problem {
            origin: origin.clone(),
            key: key.into(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Adds a warning.
    pub fn warning(&mut self, origin: &Origin, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.push(Problem {
            origin: origin.clone(),
            key: key.into(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Gives `value` and the warnings where there is no error.
    ///
    /// # Errors
    /// All errors, sorted by document and place.
    pub fn into_result<T>(self, value: Option<T>) -> Result<(T, Vec<Problem>), ConfigError> {
        let mut problems = self.errors;
        match value {
            Some(value) if problems.is_empty() => Ok((value, self.warnings)),
            _ => {
                problems.sort_by(|a, b| a.origin.cmp(&b.origin).then_with(|| a.key.cmp(&b.key)));
                problems.dedup();
                Err(ConfigError { problems })
            }
        }
    }
}

/// The known name nearest to what was written, if one is near enough to be what was meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, name), name))
        .filter(|(distance, name)| *distance <= (name.len().max(written.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["hostname", "timezone", "ntp", "join"];
        assert_eq!(nearest("hostnme", known), Some("hostname"));
        assert_eq!(nearest("Time-Zone", known), Some("timezone"));
        assert_eq!(nearest("jion", known), Some("join"));
        assert_eq!(nearest("quux", known), None);
    }
}
