//! The host's apt sources: one-line `sources.list` and deb822 `*.sources`, as sources.list(5) describes them.
//!
//! Only what says where an archive is read from is kept. Nothing here is trusted: what is fetched from such an
//! address is verified against the profile's keyring all the same. So a line that cannot be read is
//! stepped over, as it cannot do more harm than a mirror that is not found.

use std::path::{Path, PathBuf};

/// One source of binary packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Without the slash at its end.
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
}

/// Reads the apt configuration below `root`, in apt's order: `sources.list`, then `sources.list.d` by name.
pub(super) fn read(root: &Path) -> Vec<Source> {
    let etc = root.join("etc/apt");
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        more.sort();
        files.extend(more);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(one_line_style(&text)),
            Some("sources") => sources.extend(deb822_style(&text)),
            _ => {}
        }
    }
    sources.iter().flat_map(|s| resolve_mirror_list(root, s)).collect()
}

/// `deb [option=value …] uri suite component…`
fn one_line_style(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t'])) else { continue };
        let mut rest = rest.trim_start();
        if rest.starts_with('[') {
            let Some((_, after)) = rest.split_once(']') else { continue };
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        sources.push(Source { uri: clean(&uri), suites: vec![suite], components: words.collect() });
    }
    sources
}

fn deb822_style(text: &str) -> Vec<Source> {
    let Ok(paragraphs) = deb822_fast::borrowed::BorrowedParser::new(text).parse_all() else { return Vec::new() };
    let mut sources = Vec::new();
    for paragraph in &paragraphs {
        let words = |name: &str| -> Vec<String> {
            let lines = paragraph.get(name).unwrap_or_default();
            lines.iter().flat_map(|l| l.split_whitespace()).map(str::to_owned).collect()
        };
        let disabled = words("Enabled").first().is_some_and(|v| matches!(v.as_str(), "no" | "false" | "0" | "off"));
        if disabled || !words("Types").iter().any(|t| t == "deb") {
            continue;
        }
        for uri in words("URIs") {
            sources.push(Source { uri: clean(&uri), suites: words("Suites"), components: words("Components") });
        }
    }
    sources
}

/// `mirror+file:/etc/apt/mirrors/debian.list`, as Debian's cloud images have it, stands for the URLs in that file.
fn resolve_mirror_list(root: &Path, source: &Source) -> Vec<Source> {
    let Some(path) = source.uri.strip_prefix("mirror+file:") else { return vec![source.clone()] };
    let Ok(text) = std::fs::read_to_string(root.join(path.trim_start_matches('/'))) else { return Vec::new() };
    let uris = text.lines().filter_map(|l| l.split_whitespace().next()).filter(|u| !u.starts_with('#'));
    uris.map(|uri| Source { uri: clean(uri), ..source.clone() }).collect()
}

fn clean(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// Reads any text as both kinds of sources, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    for source in one_line_style(text).into_iter().chain(deb822_style(text)) {
        assert!(!source.uri.contains(char::is_whitespace) && !source.uri.ends_with('/'), "{source:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_line_sources() {
        let text = "# deb http://off.invalid/debian sid main\n\
            deb-src http://src.invalid/debian trixie main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.invalid/debian/ trixie main contrib # why\n\
            deb http://flat.invalid/repo /\n";
        let sources = one_line_style(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].uri, "http://m.invalid/debian");
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert!(sources[1].components.is_empty());
    }

    #[test]
    fn deb822_sources() {
        let text = "Types: deb deb-src\nURIs: http://a.invalid/debian\n http://b.invalid/debian/\n\
            Suites: trixie trixie-updates\nComponents: main\n\nEnabled: no\nTypes: deb\n\
            URIs: http://off.invalid/debian\nSuites: trixie\nComponents: main\n";
        let sources = deb822_style(text);
        let uris: Vec<&str> = sources.iter().map(|s| s.uri.as_str()).collect();
        assert_eq!(uris, ["http://a.invalid/debian", "http://b.invalid/debian"]);
        assert_eq!(sources[1].suites, ["trixie", "trixie-updates"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(deb |Types: deb|URIs: |\\[|\\]|#|\\PC{0,6}|\n| ){0,20}") {
            one_line_style(&text);
            deb822_style(&text);
        }
    }
}
