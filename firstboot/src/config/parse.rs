//! From the bytes of a TOML document to its tree.
//!
//! Takes bytes as they lie on a medium: empty, too large, in UTF-16 from a Windows editor, binary. Gives a [`Node`]
//! with the place of every key and value, or all syntax errors with theirs.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::Findings;
use super::tree::{Entry, Node, Origin, Table, Value};

/// The most bytes that a document may have.
pub const MAXIMUM_DOCUMENT_BYTES: usize = 1024 * 1024;

/// The text of a document, without a byte order mark. `None` after an error was added to `findings`.
pub fn text_of<'a>(document: &Arc<str>, bytes: &'a [u8], findings: &mut Findings) -> Option<&'a str> {
    let whole = Origin::document(document);
    let mut fail = |message: &str, help: &str| {
        findings.error(&whole, "", message, help);
        None
    };
    if bytes.len() > MAXIMUM_DOCUMENT_BYTES {
        return fail("is larger than 1 MiB", "this is not a node configuration");
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return fail("is in UTF-16", "save it as UTF-8");
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    if bytes.contains(&0) {
        return fail("holds zero bytes", "it is not a text file, or it is in UTF-16; save it as UTF-8");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let place = Origin::at(document, &valid, valid.len());
            findings.error(&place, "", "is not UTF-8 from here on", "save it as UTF-8");
            None
        }
    }
}

/// Reads a TOML document. `None` after errors were added to `findings`.
pub fn toml_tree(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let text = text_of(document, bytes, findings)?;
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if blank {
        findings.error(&Origin::document(document), "", "is empty", "it needs at least `version = 1`");
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let places = Places::new(document, text);
        return Some(convert_table(&places, table.get_ref(), places.at(0)));
    }
    for error in errors.iter().take(20) {
        let place = error.span().map_or_else(|| Origin::document(document), |s| Origin::at(document, text, s.start));
        // Only the message: the error's own rendering repeats the line, and the line may hold a secret.
        findings.error(&place, "", format!("not valid TOML: {}", error.message().trim()), "");
    }
    None
}

/// Finds places in one text quickly, however many keys it has.
struct Places<'a> {
    document: &'a Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(document: &'a Arc<str>, text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        Self { document, text, line_starts: std::iter::once(0).chain(newlines).collect() }
    }

    /// The same as [`Origin::at`]; beyond the first 4,096 bytes of a line the column counts bytes, which keeps a
    /// file of one enormous line from taking quadratic time.
    fn at(&self, offset: usize) -> Origin {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts.get(line.wrapping_sub(1)).copied().unwrap_or(0);
        let length = offset.saturating_sub(start);
        let characters = match self.text.get(start..offset) {
            Some(before) if length <= 4096 => before.chars().count(),
            _ => length,
        };
        Origin {
            document: self.document.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(characters + 1).unwrap_or(u32::MAX),
        }
    }
}

fn convert_table(places: &Places<'_>, table: &DeTable<'_>, origin: Origin) -> Node {
    let mut converted = Table::new();
    for (key, value) in table {
        let node = convert(places, value.get_ref(), places.at(value.span().start));
        converted.insert(key.get_ref().to_string(), Entry { key: places.at(key.span().start), node });
    }
    Node { origin, value: Value::Table(converted) }
}

fn convert(places: &Places<'_>, value: &DeValue<'_>, origin: Origin) -> Node {
    let value = match value {
        DeValue::String(string) => Value::Text(string.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Value::Other("a number that is too large"), Value::Integer),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Array(
            items.iter().map(|item| convert(places, item.get_ref(), places.at(item.span().start))).collect(),
        ),
        DeValue::Table(table) => return convert_table(places, table, origin),
    };
    Node { origin, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Node, String> {
        let mut findings = Findings::default();
        let tree = toml_tree(&Arc::from("node.toml"), bytes, &mut findings);
        findings.into_result(tree).map(|(tree, _)| tree).map_err(|e| e.to_string())
    }

    #[test]
    fn places_are_kept() {
        let tree = parse(b"version = 1\n[join]\n  role = \"worker\"\n").unwrap_or_else(|e| panic!("{e}"));
        let join = &tree.as_table().unwrap()["join"];
        let role = &join.node.as_table().unwrap()["role"];
        assert_eq!(role.key.to_string(), "node.toml:3:3");
        assert_eq!(role.node.origin.to_string(), "node.toml:3:10");
    }

    #[test]
    fn bad_files_are_explained() {
        for (bytes, expected) in [
            (&b""[..], "node.toml: is empty"),
            (b"# only a comment\n\n", "node.toml: is empty"),
            (b"\xff\xfea\0", "is in UTF-16"),
            (b"a = 1\0", "zero bytes"),
            (b"a = 1\nb = \"\xe4\"\n", "node.toml:2:6: is not UTF-8"),
            (b"version = 1\nhostname = w1\n", "node.toml:2:12: not valid TOML"),
            (b"a = 1\na = 2\n", "node.toml:2:1: not valid TOML: duplicate key"),
            (b"[join\n", "node.toml:1:"),
        ] {
            let error = parse(bytes).err().unwrap_or_else(|| panic!("{bytes:?} was accepted"));
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
        assert!(parse(&vec![b'#'; MAXIMUM_DOCUMENT_BYTES + 1]).err().unwrap().contains("1 MiB"));
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
        assert!(parse(b"\xef\xbb\xbfversion = 1\r\nhostname = \"w1\"\r\n").is_ok());
    }

    #[test]
    fn an_error_never_repeats_the_line_it_stands_in() {
        let error = parse(b"[join]\nsecret = \"kV0lmS1TzqYb3Hn8\n").err().unwrap();
        assert!(!error.contains("kV0lmS1"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_a_tree_or_errors(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let mut findings = Findings::default();
            let tree = toml_tree(&Arc::from("f"), &bytes, &mut findings);
            proptest::prop_assert_eq!(tree.is_none(), !findings.errors.is_empty());
        }

        #[test]
        fn any_text_gives_a_tree_or_errors(text in "[\\[\\]{}a-c=\"'.,# \n0-9-]{0,60}") {
            let mut findings = Findings::default();
            let tree = toml_tree(&Arc::from("f"), text.as_bytes(), &mut findings);
            proptest::prop_assert_eq!(tree.is_none(), !findings.errors.is_empty());
        }
    }
}
