//! The kinds of sources outside the image, in the order of their precedence.
//!
//! A document's name begins with its kind and a colon (`INGOT:node.toml`), a source's name with its kind and a colon
//! or a blank (`INGOT (/dev/sdb1)`, `credential ingot.node.toml (SMBIOS)`). Letter case does not matter: a label is
//! named as it is written on the medium.

/// A kind of source; the greater one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// The credential `ingot.node.toml`.
    Credential,
    /// `ingot.config=URL` on the kernel command line.
    Url,
    /// A NoCloud seed directory.
    SeedDirectory,
    /// `ds=nocloud` in the serial number.
    Serial,
    /// `ds=nocloud` on the kernel command line.
    CommandLine,
    /// A volume labelled `CIDATA`.
    Cidata,
    /// A volume labelled `config-2`.
    ConfigDrive,
    /// A volume labelled `INGOT`.
    Ingot,
}

impl SourceKind {
    /// All of them, the lowest precedence first.
    pub const ALL: [Self; 8] = [
        Self::Credential,
        Self::Url,
        Self::SeedDirectory,
        Self::Serial,
        Self::CommandLine,
        Self::Cidata,
        Self::ConfigDrive,
        Self::Ingot,
    ];

    /// What the names of its documents begin with, in small letters.
    fn prefix(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Url => "ingot.config",
            Self::SeedDirectory => "seed",
            Self::Serial => "smbios",
            Self::CommandLine => "command-line",
            Self::Cidata => "cidata",
            Self::ConfigDrive => "config-2",
            Self::Ingot => "ingot",
        }
    }

    fn called(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.prefix().eq_ignore_ascii_case(word))
    }

    /// The kind that a document is from; `None` for the role's defaults and for files that are only checked.
    pub fn of_document(name: &str) -> Option<Self> {
        name.split_once(':').and_then(|(kind, _)| Self::called(kind))
    }

    /// The kind of a source by its name, or by a line that begins with it.
    pub fn of_source(name: &str) -> Option<Self> {
        Self::called(name.split([':', ' ']).next().unwrap_or_default())
    }

    /// True for what can be plugged in.
    pub fn is_medium(self) -> bool {
        self >= Self::Cidata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_names() {
        assert_eq!(SourceKind::of_document("ingot:node.toml"), Some(SourceKind::Ingot));
        assert_eq!(SourceKind::of_document("ingot.config:http://h/x"), Some(SourceKind::Url));
        assert_eq!(SourceKind::of_document("/usr/lib/ingot/role.toml"), None);
        assert_eq!((SourceKind::of_document("INGOT"), SourceKind::of_document("seed x/a:b")), (None, None));
        assert_eq!(SourceKind::of_source("credential ingot.node.toml (SMBIOS)"), Some(SourceKind::Credential));
        assert_eq!(SourceKind::of_source("cidata (/dev/sr0) and CIDATA (/dev/sdb) differ"), Some(SourceKind::Cidata));
        assert_eq!(SourceKind::of_source("smbios:http://h: no connection"), Some(SourceKind::Serial));
        assert!(SourceKind::ALL.is_sorted() && SourceKind::Cidata.is_medium() && !SourceKind::CommandLine.is_medium());
    }
}
