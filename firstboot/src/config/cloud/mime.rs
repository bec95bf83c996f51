//! MIME messages as cloud-init's user-data has them: headers, multi-part bodies and their encodings.
//!
//! Takes a message's text; gives its headers and its parts, each decoded. After RFC 2045 (headers, encodings),
//! RFC 2046 section 5.1 (multi-part) and RFC 2183 (file names). What is not whole is an error: a multi-part body
//! without its closing line was cut off, and half a configuration is none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// More headers than this, and it is no message.
const MAXIMUM_HEADERS: usize = 100;
/// The most parts of one body.
const MAXIMUM_PARTS: usize = 100;

/// A message, or a part of one: its headers and its body, as it stands there.
#[derive(Debug, PartialEq, Eq)]
pub struct Entity<'a> {
    /// Names in small letters, and values with line folds undone.
    headers: Vec<(String, String)>,
    /// What follows the blank line.
    pub body: &'a str,
}

/// A header's value with its parameters: `multipart/mixed; boundary="x"`.
#[derive(Debug, PartialEq, Eq)]
pub struct Parametrised {
    /// The value, in small letters.
    pub value: String,
    parameters: Vec<(String, String)>,
}

impl Parametrised {
    /// A parameter's value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> Entity<'a> {
    /// Reads headers up to the first blank line; the rest is the body.
    ///
    /// # Errors
    /// What is wrong with the headers.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            let line = line.strip_suffix('\r').unwrap_or(line);
            rest = after;
            if line.is_empty() {
                break;
            }
            if line.starts_with([' ', '\t']) {
                let Some((_, value)) = headers.last_mut() else { return Err("begins with a continued header".into()) };
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err("has a header line without a colon; a blank line separates headers and content".into());
            };
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("has a header with a name that is none".into());
            }
            if headers.len() == MAXIMUM_HEADERS {
                return Err(format!("has more than {MAXIMUM_HEADERS} headers"));
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { headers, body: rest })
    }

    /// A header by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The content type; `text/plain` where there is none.
    pub fn content_type(&self) -> Parametrised {
        parametrised(self.header("content-type").unwrap_or("text/plain"))
    }

    /// The name of the file that it was made of.
    pub fn file_name(&self) -> Option<String> {
        let disposition = self.header("content-disposition").map(parametrised);
        let name = disposition.and_then(|disposition| disposition.parameter("filename").map(str::to_owned));
        name.or_else(|| self.content_type().parameter("name").map(str::to_owned))
    }

    /// The parts of a multi-part body.
    ///
    /// # Errors
    /// The body is not whole.
    pub fn parts(&self) -> Result<Vec<&'a str>, String> {
        let content_type = self.content_type();
        let boundary = content_type.parameter("boundary").unwrap_or_default();
        if boundary.is_empty() || boundary.len() > 70 {
            return Err("is multi-part without a boundary of 1 to 70 characters".into());
        }
        let mut parts = Vec::new();
        let mut start = None;
        let mut offset = 0;
        for line in self.body.split_inclusive('\n') {
            let begin = offset;
            offset += line.len();
            let Some(after) = line.strip_prefix("--").and_then(|line| line.strip_prefix(boundary)) else { continue };
            let closes = after.trim_end() == "--";
            if !closes && !after.trim_end().is_empty() {
                continue;
            }
            if let Some(start) = start {
                // The line end before the boundary belongs to it.
                let part = self.body.get(start..begin).unwrap_or_default();
                let part = part.strip_suffix('\n').unwrap_or(part);
                parts.push(part.strip_suffix('\r').unwrap_or(part));
            }
            if closes {
                return Ok(parts);
            }
            if parts.len() == MAXIMUM_PARTS {
                return Err(format!("has more than {MAXIMUM_PARTS} parts"));
            }
            start = Some(offset);
        }
        Err("has no closing boundary: it was cut off".into())
    }

    /// The body without its transfer encoding.
    ///
    /// # Errors
    /// The encoding is not known, or the body is not in it.
    pub fn decoded(&self) -> Result<Vec<u8>, String> {
        let encoding = self.header("content-transfer-encoding").unwrap_or("7bit").trim().to_ascii_lowercase();
        match encoding.as_str() {
            "7bit" | "8bit" | "binary" => Ok(self.body.as_bytes().to_vec()),
            "base64" => base64_of(self.body).ok_or_else(|| "is not valid base64; was it cut off?".to_owned()),
            "quoted-printable" => quoted_printable(self.body),
            other => Err(format!("has the transfer encoding {:?}, which is none", shorten(other))),
        }
    }
}

/// At most 40 characters of a text from outside, none of them a control character.
pub fn shorten(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Decodes base64 with line ends and blanks in it.
pub fn base64_of(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

/// RFC 2045 section 6.7.
fn quoted_printable(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\r', '\n', ' ', '\t']);
        let end = if line.ends_with("\r\n") {
            "\r\n"
        } else if line.ends_with('\n') {
            "\n"
        } else {
            ""
        };
        let (content, soft) = content.strip_suffix('=').map_or((content, false), |content| (content, true));
        let mut rest = content.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte != b'=' {
                bytes.push(byte);
                continue;
            }
            let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let value = digits
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(value.ok_or("is not valid quoted-printable: `=` without two hex digits")?);
            rest = &rest[2..];
        }
        if !soft {
            bytes.extend_from_slice(end.as_bytes());
        }
    }
    Ok(bytes)
}

/// Reads `value; name=value; name="value"`. What is malformed is left out; RFC 2231's `name*=` is not known here.
fn parametrised(text: &str) -> Parametrised {
    let mut characters = text.chars().peekable();
    let mut value = String::new();
    while let Some(c) = characters.next_if(|&c| c != ';') {
        value.push(c);
    }
    let mut parameters = Vec::new();
    while characters.next_if_eq(&';').is_some() {
        let mut name = String::new();
        while let Some(c) = characters.next_if(|&c| c != '=' && c != ';') {
            name.push(c);
        }
        if characters.next_if_eq(&'=').is_none() {
            continue;
        }
        let mut content = String::new();
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if characters.next_if_eq(&'"').is_some() {
            while let Some(c) = characters.next() {
                match c {
                    '"' => break,
                    '\\' => content.extend(characters.next()),
                    c => content.push(c),
                }
            }
            while characters.next_if(|&c| c != ';').is_some() {}
        } else {
            while let Some(c) = characters.next_if(|&c| c != ';') {
                content.push(c);
            }
            content.truncate(content.trim_end().len());
        }
        parameters.push((name.trim().to_ascii_lowercase(), content));
    }
    Parametrised { value: value.trim().to_ascii_lowercase(), parameters }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_two_parts() {
        let text = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"a b\"\r\n\r\npreamble\r\n--a b\r\n\
                    Content-Type: text/cloud-config; charset=\"us-ascii\"\r\nContent-Transfer-Encoding: base64\r\n\
                    Content-Disposition: attachment; filename=\"x.cfg\"\r\n\r\naGk=\r\n--a b  \r\n\r\nplain\r\n\
                    --a b-not\r\n--a b--\r\nepilogue";
        let entity = Entity::parse(text).unwrap();
        assert_eq!(entity.content_type().value, "multipart/mixed");
        let parts = entity.parts().unwrap();
        assert_eq!(parts.len(), 2);
        let first = Entity::parse(parts[0]).unwrap();
        assert_eq!(first.decoded().unwrap(), b"hi");
        assert_eq!(first.file_name().unwrap(), "x.cfg");
        assert_eq!(first.content_type().parameter("charset"), Some("us-ascii"));
        let second = Entity::parse(parts[1]).unwrap();
        assert_eq!(second.body, "plain\r\n--a b-not");
        assert_eq!(second.content_type().value, "text/plain");
    }

    #[test]
    fn quoted_printable_is_read_as_the_standard_says() {
        for (text, expected) in [
            ("a=3Db", "a=b"),
            ("soft=\n break", "soft break"),
            ("soft=  \r\nbreak\r\n", "softbreak\r\n"),
            ("blank at the end   \nx", "blank at the end\nx"),
            ("=C3=A4", "ä"),
            ("=c3=a4", "ä"),
        ] {
            assert_eq!(quoted_printable(text).unwrap(), expected.as_bytes(), "{text:?}");
        }
        for bad in ["=3", "=ZZ", "= x"] {
            assert!(quoted_printable(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let message = |body: &str| format!("Content-Type: multipart/mixed; boundary=x\n\n{body}");
        for (text, expected) in [
            (message("--x\n\na\n"), "cut off"),
            (message(""), "cut off"),
            ("Content-Type: multipart/mixed\n\n--x--\n".into(), "boundary"),
            (message(&"--x\n\n".repeat(200)), "more than 100 parts"),
        ] {
            let entity = Entity::parse(&text).unwrap();
            assert!(entity.parts().unwrap_err().contains(expected), "{text:?}");
        }
        assert!(Entity::parse(&"a: b\n".repeat(200)).unwrap_err().contains("headers"));
        assert!(Entity::parse(" x\n").is_err() && Entity::parse("no colon\n\n").is_err());
        for encoding in ["base64", "uuencode"] {
            let text = format!("Content-Transfer-Encoding: {encoding}\n\na!\n");
            assert!(Entity::parse(&text).unwrap().decoded().is_err());
        }
    }

    /// Lines of at most 76 characters, everything but plain characters encoded.
    fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut column = 0;
        for &byte in bytes {
            let piece = if byte.is_ascii_graphic() && byte != b'=' {
                char::from(byte).to_string()
            } else {
                format!("={byte:02X}")
            };
            if column + piece.len() > 75 {
                text.push_str("=\n");
                column = 0;
            }
            column += piece.len();
            text.push_str(&piece);
        }
        text
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-c:;=\"\\\\ \r\n-]{0,80}", body in "(--x(--)?|[a-z: \r\n]){0,20}") {
            let _ = Entity::parse(&text).map(|entity| (entity.parts(), entity.decoded(), entity.file_name()));
            let message = format!("Content-Type: multipart/mixed; boundary=x\n\n{body}");
            let _ = Entity::parse(&message).unwrap().parts();
            let _ = quoted_printable(&text);
        }

        #[test]
        fn what_was_written_in_quoted_printable_reads_back(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            proptest::prop_assert_eq!(quoted_printable(&encode(&bytes)).unwrap(), bytes);
        }
    }
}
