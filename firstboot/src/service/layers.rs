//! What counts of what is found now and of what was read before.
//!
//! Takes what a look has found and the documents that were kept; gives one list of documents in the order of their
//! precedence. Each kind of source counts as it is now where it is there, and as it was where it is not: a stick that was
//! pulled out, a server that is switched off or a medium that breaks does not take its part out of the configuration.

use std::collections::BTreeSet;

use crate::config::{Document, SourceKind};
use crate::provider::{Found, ROLE_DEFAULTS};

/// Documents of all kinds of sources.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The documents outside the image, lowest precedence first.
    pub documents: Vec<Document>,
    /// Where they are from, for people.
    pub media: Vec<String>,
    /// The kinds that are as they were read before.
    pub kept: BTreeSet<Option<SourceKind>>,
    /// The kinds of which nobody knows what they say now, and that would win over all that is known or over a part of it.
    pub broken: BTreeSet<SourceKind>,
    /// The highest kind that there is.
    pub top: Option<SourceKind>,
}

/// Lays what was read before where nothing is found now.
pub fn lay(found: &Found, before: &[Document], media_before: &[String]) -> Layers {
    let of_kind = |documents: &[Document], kind: Option<SourceKind>| -> Vec<Document> {
        documents.iter().filter(|document| SourceKind::of_document(&document.name) == kind).cloned().collect()
    };
    let named = |media: &[String], kind: Option<SourceKind>| -> Vec<String> {
        media.iter().filter(|medium| SourceKind::of_source(medium) == kind).cloned().collect()
    };
    let mut layers = Layers::default();
    for kind in std::iter::once(None).chain(SourceKind::ALL.map(Some)) {
        let now = of_kind(&found.documents, kind);
        let (documents, media) = if now.is_empty() {
            let before = of_kind(before, kind);
            if !before.is_empty() {
                layers.kept.insert(kind);
            }
            (before, named(media_before, kind))
        } else {
            (now, named(&found.media, kind))
        };
        if !documents.is_empty() {
            layers.top = layers.top.max(kind);
            layers.documents.extend(documents);
            layers.media.extend(media);
        }
    }
    layers.broken = found.broken.iter().copied().filter(|kind| Some(*kind) >= layers.top).collect();
    layers
}

/// The documents that are not the image's own.
pub fn outside_the_image(documents: &[Document]) -> Vec<Document> {
    documents.iter().filter(|document| document.name != ROLE_DEFAULTS).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    fn document(name: &str, text: &str) -> Document {
        Document { name: name.into(), format: Format::PartToml, bytes: text.into() }
    }

    fn found(names: &[&str]) -> Found {
        Found {
            documents: names.iter().map(|name| document(name, "now")).collect(),
            media: names.iter().map(|name| name.replace(':', " (") + ")").collect(),
            ..Found::default()
        }
    }

    fn shown(layers: &Layers) -> Vec<String> {
        let text = |document: &Document| String::from_utf8_lossy(&document.bytes).into_owned();
        layers.documents.iter().map(|document| format!("{} {}", document.name, text(document))).collect()
    }

    #[test]
    fn what_is_gone_stays_at_its_place() {
        let before = [
            document("ingot.config:http://h/x", "before"),
            document("cidata:user-data", "before"),
            document("INGOT:node.toml", "before"),
            document("INGOT:ab.toml", "before"),
        ];
        let media = ["ingot.config:http://h/x", "cidata (/dev/sr0)", "INGOT (/dev/sdb1)"].map(str::to_owned);
        let now = found(&["credential:ingot.node.toml", "CIDATA:meta-data"]);
        let layers = lay(&now, &before, &media);
        assert_eq!(
            shown(&layers),
            [
                "credential:ingot.node.toml now",
                "ingot.config:http://h/x before",
                "CIDATA:meta-data now",
                "INGOT:node.toml before",
                "INGOT:ab.toml before"
            ],
            "a kind counts as a whole"
        );
        assert_eq!(layers.media[1..], ["ingot.config:http://h/x", "CIDATA (meta-data)", "INGOT (/dev/sdb1)"]);
        assert_eq!(layers.kept, [Some(SourceKind::Url), Some(SourceKind::Ingot)].into());
        assert_eq!(layers.top, Some(SourceKind::Ingot));
        assert_eq!(shown(&lay(&Found::default(), &before, &media)).len(), 4);
        assert_eq!(lay(&now, &[], &[]).documents, now.documents);
    }

    #[test]
    fn what_is_broken_matters_where_it_would_win() {
        let broken = |kind| Found { broken: [kind].into(), ..found(&["CIDATA:user-data"]) };
        assert!(lay(&broken(SourceKind::Url), &[], &[]).broken.is_empty());
        assert_eq!(lay(&broken(SourceKind::Ingot), &[], &[]).broken, [SourceKind::Ingot].into());
        assert_eq!(lay(&broken(SourceKind::Cidata), &[], &[]).broken.len(), 1, "of two, one cannot be read");
        let nothing = Found { broken: [SourceKind::Url].into(), ..Found::default() };
        assert_eq!(lay(&nothing, &[], &[]).broken.len(), 1, "the role alone is less than anything");
    }
}
