//! Relations between packages: `Depends: a (>= 1) | b, c:any`, as Debian policy 7.1 writes them.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

use super::version;

/// A relation field that does not follow the syntax.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{relation}` is not a package relation: {problem}")]
pub struct RelationError {
    /// The part that could not be read.
    pub relation: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Comparison {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order == Ordering::Less,
            Self::EarlierOrEqual => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::LaterOrEqual => order != Ordering::Less,
            Self::Later => order == Ordering::Greater,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        }
    }
}

/// One alternative of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// The package's name, real or virtual.
    pub name: &'a str,
    /// What follows a colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// The condition on the version.
    pub condition: Option<(Comparison, &'a str)>,
}

impl Relation<'_> {
    /// Whether a real package of this version satisfies the relation.
    pub fn accepts(&self, candidate: &str) -> bool {
        self.condition.is_none_or(|(comparison, wanted)| comparison.accepts(version::compare(candidate, wanted)))
    }

    /// Whether a `Provides`, with the version it gives if any, satisfies the relation.
    /// An unversioned `Provides` satisfies only a relation without a condition (Debian policy 7.5).
    pub fn accepts_provided(&self, provided: Option<&str>) -> bool {
        match (self.condition, provided) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(provided)) => self.accepts(provided),
        }
    }

    /// Whether the relation can be about packages of this architecture at all.
    pub fn concerns(&self, architecture: &str) -> bool {
        self.qualifier.is_none_or(|q| q == "any" || q == "native" || q == architecture)
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((comparison, version)) = self.condition {
            write!(f, " ({} {version})", comparison.sign())?;
        }
        Ok(())
    }
}

/// Reads a relation field: groups that must all hold, each a list of alternatives in order of preference.
pub fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, RelationError> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| group.split('|').map(|one| parse_one(one.trim())).collect())
        .collect()
}

fn parse_one(text: &str) -> Result<Relation<'_>, RelationError> {
    let error = |problem| RelationError { relation: text.to_owned(), problem };
    let (head, condition) = match text.split_once('(') {
        None => (text, None),
        Some((head, rest)) => {
            let inner = rest.trim_end().strip_suffix(')').ok_or_else(|| error("the bracket is not closed"))?;
            (
                head.trim_end(),
                Some(parse_condition(inner.trim()).ok_or_else(|| error("the version condition is wrong"))?),
            )
        }
    };
    let (name, qualifier) = match head.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (head, None),
    };
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
    if !plain(name) {
        return Err(error("the package name has characters that a name cannot have"));
    }
    if qualifier.is_some_and(|q| !plain(q)) {
        return Err(error("the architecture after the colon is wrong"));
    }
    Ok(Relation { name, qualifier, condition })
}

fn parse_condition(text: &str) -> Option<(Comparison, &str)> {
    // The two-character signs come first; `<` and `>` alone are their old spellings of `<=` and `>=`.
    const SIGNS: [(&str, Comparison); 7] = [
        ("<<", Comparison::Earlier),
        ("<=", Comparison::EarlierOrEqual),
        (">=", Comparison::LaterOrEqual),
        (">>", Comparison::Later),
        ("=", Comparison::Equal),
        ("<", Comparison::EarlierOrEqual),
        (">", Comparison::LaterOrEqual),
    ];
    let (sign, comparison) = SIGNS.into_iter().find(|(sign, _)| text.starts_with(sign))?;
    let version = text[sign.len()..].trim();
    (!version.is_empty() && !version.contains(char::is_whitespace)).then_some((comparison, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_packages_write() {
        let groups = parse("libc6 (>= 2.34), default-mta | mail-transport-agent, python3:any (<< 4),\n perl").unwrap();
        assert_eq!(groups.len(), 4);
        assert_eq!(groups[1][1].name, "mail-transport-agent");
        assert_eq!(groups[2][0].qualifier, Some("any"));
        assert_eq!(groups[2][0].to_string(), "python3:any (<< 4)");
        assert!(groups[0][0].accepts("2.40-1") && !groups[0][0].accepts("2.31"));
        assert!(!groups[0][0].accepts_provided(None) && groups[1][1].accepts_provided(None));
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn refuses_what_is_no_relation() {
        for wrong in ["a (>= 1", "a (1)", "a b", "a (>= )", "|", "a:", "a ( = 1 2)", "é"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") { let _ = parse(&text); }

        #[test]
        fn display_reads_back(text in "[a-z][a-z0-9+.-]{1,8}(:any)?( \\((<<|<=|=|>=|>>) [0-9][0-9a-z.~-]{0,6}\\))?") {
            let groups = parse(&text).unwrap();
            prop_assert_eq!(groups[0][0].to_string(), text);
        }
    }
}
