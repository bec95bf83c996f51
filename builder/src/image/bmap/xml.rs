//! The XML of a block map: writer, and a reader for exactly this document type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{BLOCK, Bmap, BmapError, Range};

const UNSET: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) fn write(map: &Bmap) -> String {
    let mut text = String::from("<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n");
    let mut line = |depth: usize, content: std::fmt::Arguments| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:1$}{content}", "", depth * 4);
    };
    line(1, format_args!("<ImageSize> {} </ImageSize>", map.image_size));
    line(1, format_args!("<BlockSize> {BLOCK} </BlockSize>"));
    line(1, format_args!("<BlocksCount> {} </BlocksCount>", map.image_size.div_ceil(BLOCK)));
    line(1, format_args!("<MappedBlocksCount> {} </MappedBlocksCount>", map.mapped_blocks()));
    line(1, format_args!("<ChecksumType> sha256 </ChecksumType>"));
    line(1, format_args!("<BmapFileChecksum> {UNSET} </BmapFileChecksum>"));
    line(1, format_args!("<BlockMap>"));
    for Range { first, last, sha256 } in &map.ranges {
        let sha256 = crate::image::hex(sha256);
        if first == last {
            line(2, format_args!("<Range chksum=\"{sha256}\"> {first} </Range>"));
        } else {
            line(2, format_args!("<Range chksum=\"{sha256}\"> {first}-{last} </Range>"));
        }
    }
    line(1, format_args!("</BlockMap>"));
    text.push_str("</bmap>\n");
    // The checksum is that of the file with zeros in its place.
    let sha256 = crate::image::hex(&Sha256::digest(text.as_bytes()));
    text.replacen(UNSET, &sha256, 1)
}

pub(super) fn parse(text: &str) -> Result<Bmap, BmapError> {
    let mut reader = Reader { rest: text };
    let root = reader.element()?.filter(|e| e.name == "bmap").ok_or_else(|| format("it does not begin with <bmap>"))?;
    if !matches!(root.attributes.get("version").copied(), Some("1.3" | "1.4" | "2.0")) {
        return Err(format("its version is not 1.3, 1.4 or 2.0"));
    }
    let (mut values, mut ranges) = (BTreeMap::new(), Vec::new());
    while let Some(element) = reader.element()? {
        match element.name {
            "BlockMap" => {
                while let Some(range) = reader.element()? {
                    if range.name != "Range" {
                        return Err(format(&format!("unexpected <{}> in <BlockMap>", range.name)));
                    }
                    ranges.push((range.attributes.get("chksum").copied(), reader.text(range.name)?));
                }
                reader.close("BlockMap")?;
            }
            name => {
                let value = reader.text(name)?;
                if values.insert(name, value).is_some() {
                    return Err(format(&format!("<{name}> is there twice")));
                }
            }
        }
    }
    reader.close("bmap")?;

    let value = |name: &str| values.get(name).copied().ok_or_else(|| format(&format!("<{name}> is missing")));
    let number = |text: &str| text.parse::<u64>().map_err(|_| format(&format!("`{text}` is not a number")));
    if value("ChecksumType")? != "sha256" {
        return Err(format("its checksums are not SHA-256"));
    }
    let expected = value("BmapFileChecksum")?;
    let sum = crate::image::hex(&Sha256::digest(text.replacen(expected, UNSET, 1).as_bytes()));
    if expected.len() != UNSET.len() || sum != expected {
        return Err(BmapError::Checksum { found: sum, expected: expected.to_owned() });
    }
    if number(value("BlockSize")?)? != BLOCK {
        return Err(format("its blocks are not of 4096 bytes"));
    }
    let image_size = number(value("ImageSize")?)?;
    let blocks = image_size.div_ceil(BLOCK);
    if number(value("BlocksCount")?)? != blocks {
        return Err(format("<BlocksCount> does not fit <ImageSize>"));
    }
    let mut map = Bmap { image_size, ranges: Vec::with_capacity(ranges.len()) };
    let mut free = 0;
    for (checksum, text) in ranges {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first < free || last < first || last >= blocks {
            return Err(format(&format!("the range {text} is out of order or outside the image")));
        }
        free = last + 1;
        let sha256 = checksum.and_then(digest).ok_or_else(|| format(&format!("the range {text} has no checksum")))?;
        map.ranges.push(Range { first, last, sha256 });
    }
    if number(value("MappedBlocksCount")?)? != map.mapped_blocks() {
        return Err(format("<MappedBlocksCount> is not the number of blocks in its ranges"));
    }
    Ok(map)
}

fn format(problem: &str) -> BmapError {
    BmapError::Format(problem.to_owned())
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Reads elements, attributes and text; skips declarations and comments. Entities do not occur in a block map.
struct Reader<'a> {
    rest: &'a str,
}

struct Element<'a> {
    name: &'a str,
    attributes: BTreeMap<&'a str, &'a str>,
}

impl<'a> Reader<'a> {
    /// Skips white space, declarations and comments.
    fn skip(&mut self) -> Result<(), BmapError> {
        loop {
            self.rest = self.rest.trim_start();
            let (open, close) = match self.rest {
                rest if rest.starts_with("<!--") => ("<!--", "-->"),
                rest if rest.starts_with("<?") => ("<?", "?>"),
                _ => return Ok(()),
            };
            let inner = &self.rest[open.len()..];
            let end = inner.find(close).ok_or_else(|| format("a comment does not end"))?;
            self.rest = &inner[end + close.len()..];
        }
    }

    /// The next opening tag, or `None` before a closing one.
    fn element(&mut self) -> Result<Option<Element<'a>>, BmapError> {
        self.skip()?;
        if self.rest.starts_with("</") {
            return Ok(None);
        }
        let tag = self.rest.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let (tag, rest) = tag.ok_or_else(|| format("it ends too early, or has text where a tag should be"))?;
        self.rest = rest;
        let (name, mut inner) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while !inner.trim_start().is_empty() {
            let pair = inner.trim_start().split_once("=\"").and_then(|(key, rest)| Some((key, rest.split_once('"')?)));
            let (key, (value, rest)) = pair.ok_or_else(|| format(&format!("<{name}> has a broken attribute")))?;
            attributes.insert(key, value);
            inner = rest;
        }
        Ok(Some(Element { name, attributes }))
    }

    /// The text of an element, up to and with its closing tag.
    fn text(&mut self, name: &str) -> Result<&'a str, BmapError> {
        let (text, rest) = self.rest.split_once('<').ok_or_else(|| format(&format!("<{name}> does not end")))?;
        self.rest = &self.rest[self.rest.len() - rest.len() - 1..];
        self.close(name)?;
        Ok(text.trim())
    }

    fn close(&mut self, name: &str) -> Result<(), BmapError> {
        self.skip()?;
        let rest = self.rest.strip_prefix("</").and_then(|rest| rest.strip_prefix(name));
        self.rest =
            rest.and_then(|rest| rest.strip_prefix('>')).ok_or_else(|| format(&format!("<{name}> does not end")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Bmap {
        let range = |first, last| Range { first, last, sha256: [u8::try_from(first).unwrap(); 32] };
        Bmap { image_size: 100 * BLOCK - 5, ranges: vec![range(0, 9), range(20, 20), range(99, 99)] }
    }

    #[test]
    fn the_xml_is_stable() {
        insta::assert_snapshot!(write(&sample()));
    }

    #[test]
    fn damage_is_refused() {
        let good = write(&sample());
        assert_eq!(parse(&good).unwrap(), sample());
        for (from, to) in [("20 <", "21 <"), ("2.0", "9.0"), ("sha256", "md5"), ("</BlockMap>", ""), ("4096", "512")] {
            assert!(parse(&good.replacen(from, to, 1)).is_err(), "{from}");
        }
        let error = parse(&good.replacen("<ImageSize> 4", "<ImageSize> 5", 1)).unwrap_err();
        assert!(matches!(error, BmapError::Checksum { .. }), "{error}");
        for length in 0..good.len() - 1 {
            assert!(parse(&good[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(<bmap version=\"2.0\">)?[<>/a-zA-Z \"=0-9?!-]{0,200}") {
            let _ = parse(&text);
        }
    }
}
