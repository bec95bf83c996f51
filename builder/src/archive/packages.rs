//! The `Packages` file: one stanza per package, read in one pass into borrowed [`Package`] records.
//!
//! An index of a distribution is some 50 MB of text with 70 thousand stanzas, nearly all of which nobody asks
//! for. So nothing is copied: a record borrows its fields from the text, relations stay text until the
//! solver looks at them, and fields that no stage uses are stepped over.

use thiserror::Error;

/// One package as an index describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Package<'a> {
    /// `docker.io`
    pub name: &'a str,
    /// Debian version number.
    pub version: &'a str,
    /// `amd64` or `all`.
    pub architecture: &'a str,
    /// Path of the .deb below the repository's URL.
    pub filename: &'a str,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// SHA-256 of the .deb, lower-case hex; empty where the index gives none.
    pub sha256: &'a str,
    /// Relation fields as written; read them with [`super::relation::parse`].
    pub depends: &'a str,
    /// As `depends`.
    pub pre_depends: &'a str,
    /// As `depends`.
    pub recommends: &'a str,
    /// As `depends`.
    pub conflicts: &'a str,
    /// As `depends`.
    pub breaks: &'a str,
    /// As `depends`.
    pub provides: &'a str,
    /// As `depends`.
    pub replaces: &'a str,
    /// `Essential: yes`
    pub essential: bool,
    /// `required`, `important`, …; empty where the index gives none.
    pub priority: &'a str,
    /// `same`, `foreign`, `allowed`, or empty.
    pub multi_arch: &'a str,
    /// KiB that the package takes once unpacked.
    pub installed_size: u64,
    /// Name of the source package; empty where it is the package's own name.
    pub source: &'a str,
    /// Per cent of machines that get this version as an update so far; 100 unless the archive phases it in.
    pub phased: u8,
}

/// A stanza that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct PackagesError {
    /// The line where the stanza starts, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Reads every stanza for `architecture` or `all`; others are left out.
pub fn parse<'a>(text: &'a str, architecture: &str) -> Result<Vec<Package<'a>>, PackagesError> {
    let mut packages = Vec::with_capacity(text.len() / 700);
    let mut stanza = Stanza::default();
    let mut field_end = Field::Other;
    let mut line_number = 0;
    let mut start = 0;
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text.as_bytes()[start..]).map_or(text.len(), |n| start + n);
        let line = &text[start..end];
        line_number += 1;
        match line.as_bytes().first() {
            None | Some(b'\r') => {
                stanza.finish(architecture, &mut packages)?;
                stanza = Stanza::default();
                field_end = Field::Other;
            }
            Some(b'#') => {}
            Some(b' ' | b'\t') => {
                if let Field::Text(field) = field_end {
                    // A folded field stays one borrowed slice: from the start of its value to the end of this line.
                    let slot = field(&mut stanza.package);
                    let begin = slot.as_ptr() as usize - text.as_ptr() as usize;
                    *slot = text[begin..end].trim_end();
                }
            }
            Some(_) => {
                if stanza.line == 0 {
                    stanza.line = line_number;
                }
                let Some((name, value)) = line.split_once(':') else {
                    return Err(PackagesError { line: line_number, problem: format!("`{}` is no field", cut(line)) });
                };
                field_end = stanza.set(name, value.trim())?;
            }
        }
        start = end + 1;
    }
    stanza.finish(architecture, &mut packages)?;
    Ok(packages)
}

/// What a continuation line belongs to.
enum Field {
    Text(for<'p, 'a> fn(&'p mut Package<'a>) -> &'p mut &'a str),
    Other,
}

#[derive(Default)]
struct Stanza<'a> {
    /// 0 while the stanza is empty.
    line: usize,
    package: Package<'a>,
    phased: Option<u8>,
}

impl<'a> Stanza<'a> {
    fn set(&mut self, name: &str, value: &'a str) -> Result<Field, PackagesError> {
        let slot: for<'p, 'b> fn(&'p mut Package<'b>) -> &'p mut &'b str = match name {
            "Package" => |p| &mut p.name,
            "Version" => |p| &mut p.version,
            "Architecture" => |p| &mut p.architecture,
            "Filename" => |p| &mut p.filename,
            "SHA256" => |p| &mut p.sha256,
            "Depends" => |p| &mut p.depends,
            "Pre-Depends" => |p| &mut p.pre_depends,
            "Recommends" => |p| &mut p.recommends,
            "Conflicts" => |p| &mut p.conflicts,
            "Breaks" => |p| &mut p.breaks,
            "Provides" => |p| &mut p.provides,
            "Replaces" => |p| &mut p.replaces,
            "Priority" => |p| &mut p.priority,
            "Multi-Arch" => |p| &mut p.multi_arch,
            "Source" => |p| &mut p.source,
            "Essential" => {
                self.package.essential = value == "yes";
                return Ok(Field::Other);
            }
            "Size" => {
                self.package.size = self.number(name, value)?;
                return Ok(Field::Other);
            }
            "Installed-Size" => {
                // Informative only: some repositories of vendors write nonsense here.
                self.package.installed_size = value.parse().unwrap_or(0);
                return Ok(Field::Other);
            }
            "Phased-Update-Percentage" => {
                self.phased = Some(value.parse().unwrap_or(0));
                return Ok(Field::Other);
            }
            _ => return Ok(Field::Other),
        };
        *slot(&mut self.package) = value;
        Ok(Field::Text(slot))
    }

    fn number(&self, name: &str, value: &str) -> Result<u64, PackagesError> {
        value.parse().map_err(|_| PackagesError {
            line: self.line,
            problem: format!("{name} `{}` of package `{}` is no number", cut(value), cut(self.package.name)),
        })
    }

    fn finish(self, architecture: &str, packages: &mut Vec<Package<'a>>) -> Result<(), PackagesError> {
        if self.line == 0 {
            return Ok(());
        }
        let mut package = self.package;
        for (field, value) in [("Package", package.name), ("Version", package.version), ("Filename", package.filename)]
        {
            if value.is_empty() {
                let problem = format!("the stanza of package `{}` has no {field}", cut(package.name));
                return Err(PackagesError { line: self.line, problem });
            }
        }
        package.phased = self.phased.unwrap_or(100).min(100);
        if package.architecture == architecture || package.architecture == "all" {
            packages.push(package);
        }
        Ok(())
    }
}

/// At most 60 characters of hostile text for a message.
fn cut(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 12\nSHA256: ab\n\
        Depends: b (>= 1),\n c | d,\n e\nDescription: x\n y\n\nPackage: b\nVersion: 2\nArchitecture: all\n\
        Filename: pool/b.deb\nEssential: yes\nPhased-Update-Percentage: 30\n\nPackage: c\nVersion: 1\n\
        Architecture: arm64\nFilename: f\n";

    #[test]
    fn reads_stanzas_folded_fields_and_architectures() {
        let packages = parse(TEXT, "amd64").unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(super::super::relation::parse(packages[0].depends).unwrap().len(), 3);
        assert_eq!((packages[0].size, packages[0].phased, packages[1].phased), (12, 100, 30));
        assert!(packages[1].essential && !packages[0].essential);
    }

    #[test]
    fn a_broken_stanza_is_named() {
        let error = parse("Package: a\nVersion: 1\n", "amd64").unwrap_err();
        assert_eq!(error.to_string(), "line 1: the stanza of package `a` has no Filename");
        assert!(parse("no field here\n", "amd64").is_err());
        assert!(parse("Package: a\nSize: many\n", "amd64").unwrap_err().to_string().contains("is no number"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "((Package|Version|Size|Depends|Filename|X): ?\\PC{0,8}\n|[ \t]\\PC{0,6}\n|\n|\\PC{0,5}\n){0,12}") {
            let _ = parse(&text, "amd64");
        }
    }
}
