//! From the bytes of a user-data or vendor-data document to the configurations in it.
//!
//! Takes what cloud-init takes there: one `#cloud-config`, any of it compressed by gzip or written in base64,
//! multi-part MIME, `#cloud-config-archive`, each of them inside another. Gives the configurations in their order.
//!
//! What would run on the node (scripts, boothooks, handlers), what would be fetched (includes) and what must be
//! rewritten first (templates, JSON patches) is refused with its reason: nothing of it could be checked, planned or
//! undone, and leaving it out would lose it silently. Commands have keys of their own, `runcmd` and `bootcmd`.
//!
//! All sizes are bounded: 1 MiB for a document as it lies on the medium and for each thing in it, 4 MiB for all
//! that comes out of one document, 8 layers of packing, 100 parts.

use std::io::Read as _;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::mime::{self, Entity};
use super::yaml::yaml_tree;
use crate::config::parse::{MAXIMUM_DOCUMENT_BYTES, text_of};
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin, Value};

/// The most bytes that may come out of one document, all its layers and parts together.
const MAXIMUM_UNPACKED_BYTES: usize = 4 * MAXIMUM_DOCUMENT_BYTES;
/// The most layers of packing.
const MAXIMUM_DEPTH: usize = 8;
/// The most parts, all levels together.
const MAXIMUM_PARTS: usize = 100;

/// What a configuration is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `#cloud-config`.
    CloudConfig,
    /// `#ingot-config`: a `node.toml`.
    IngotConfig,
}

/// One configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name for people: `CIDATA:user-data, part 2 (net.cfg)`.
    pub document: Arc<str>,
    /// What it is written in.
    pub kind: Kind,
    /// Its text.
    pub text: String,
}

/// Unpacks a document. `None` after errors were added to `findings`; an empty document has no parts.
pub fn unpack(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Vec<Part>> {
    let errors = findings.errors.len();
    let mut unpacking = Unpacking { findings, left: MAXIMUM_UNPACKED_BYTES, numbered: 0, parts: Vec::new() };
    unpacking.item(document, bytes, None, 0);
    let parts = unpacking.parts;
    (findings.errors.len() == errors).then_some(parts)
}

struct Unpacking<'a> {
    findings: &'a mut Findings,
    /// How many bytes may still come out.
    left: usize,
    numbered: usize,
    parts: Vec<Part>,
}

const HELP: &str = "the first line must be #cloud-config, or #ingot-config followed by node.toml";
const COMMANDS: &str = "write commands as runcmd or bootcmd in a #cloud-config; the role's profile must allow them";

impl Unpacking<'_> {
    fn fail(&mut self, document: &Arc<str>, what: impl Into<String>, help: &str) {
        self.findings.error(&Origin::document(document), "", what, help);
    }

    /// One thing, whatever it is packed in; `declared` is its content type, where a message says one.
    fn item(&mut self, document: &Arc<str>, bytes: &[u8], declared: Option<&str>, depth: usize) {
        if depth > MAXIMUM_DEPTH {
            return self.fail(document, format!("is packed in more than {MAXIMUM_DEPTH} layers"), "");
        }
        if depth > 0 {
            let Some(left) = self.left.checked_sub(bytes.len()) else {
                let help = "put large files onto the image or into a registry";
                return self.fail(document, "holds more than 4 MiB when it is unpacked", help);
            };
            self.left = left;
        }
        if bytes.starts_with(&[0x1f, 0x8b]) {
            if let Some(bytes) = self.inflated(document, bytes) {
                self.item(document, &bytes, declared, depth + 1);
            }
            return;
        }
        let Some(text) = text_of(document, bytes, self.findings) else { return };
        if text.trim().is_empty() {
            return;
        }
        let first = text.lines().next().unwrap_or_default().trim_end();
        let mark = first.split_ascii_whitespace().next().unwrap_or_default();
        let take = |kind| Part { document: document.clone(), kind, text: text.to_owned() };
        match (declared, mark) {
            (_, "#ingot-config") => self.parts.push(take(Kind::IngotConfig)),
            // A template says so in its first line, whatever its message says.
            (_, "##") if first.trim_start_matches('#').trim_start().starts_with("template:") => self.template(document),
            (Some("text/cloud-config"), mark) if mark != "#cloud-config-archive" => {
                self.parts.push(take(Kind::CloudConfig));
            }
            (Some("text/cloud-config-archive"), _) => self.archive(document, text, depth),
            (Some(declared), _) if refused(declared).is_some() => {
                let (what, help) = refused(declared).unwrap_or_default();
                self.fail(document, what, help);
            }
            (_, "#cloud-config") => self.parts.push(take(Kind::CloudConfig)),
            (_, "#cloud-config-archive") => self.archive(document, text, depth),
            (_, mark) => {
                if let Some((what, help)) = declared_by(mark).and_then(refused) {
                    self.fail(document, what, help);
                } else if is_message(text) {
                    self.message(document, text, depth);
                } else if let Some(bytes) = base64_document(text) {
                    self.item(document, &bytes, declared, depth + 1);
                } else {
                    self.findings.error(&Origin::at(document, text, 0), "", "does not say what it is", HELP);
                }
            }
        }
    }

    fn template(&mut self, document: &Arc<str>) {
        let help = "write the values themselves; what differs between machines belongs into [[machine]] of node.toml";
        self.fail(document, "is a Jinja template", help);
    }

    fn inflated(&mut self, document: &Arc<str>, bytes: &[u8]) -> Option<Vec<u8>> {
        match inflate(bytes, MAXIMUM_DOCUMENT_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(what) => {
                self.fail(document, what, "");
                None
            }
        }
    }

    fn message(&mut self, document: &Arc<str>, text: &str, depth: usize) {
        if let Err(what) = self.entity(document, text, depth) {
            self.fail(document, what, "");
        }
    }

    fn entity(&mut self, document: &Arc<str>, text: &str, depth: usize) -> Result<(), String> {
        let entity = Entity::parse(text)?;
        if entity.header("merge-type").or_else(|| entity.header("x-merge-type")).is_some() {
            return Err("has a Merge-Type; parts are merged in one way only: a key of a later part replaces it".into());
        }
        let content_type = entity.content_type();
        if content_type.value.starts_with("multipart/") {
            for part in entity.parts()? {
                let name = Entity::parse(part).ok().and_then(|part| part.file_name());
                let multi = Entity::parse(part).is_ok_and(|part| part.content_type().value.starts_with("multipart/"));
                let document = if multi { document.clone() } else { self.numbered(document, name.as_deref())? };
                if depth >= MAXIMUM_DEPTH {
                    return Err(format!("is packed in more than {MAXIMUM_DEPTH} layers"));
                }
                self.message(&document, part, depth + 1);
            }
            return Ok(());
        }
        if content_type.value.starts_with("message/") {
            return Err("holds a message in a message".into());
        }
        let bytes = entity.decoded()?;
        let charset = content_type.parameter("charset").unwrap_or("utf-8").to_ascii_lowercase();
        let compressed = bytes.starts_with(&[0x1f, 0x8b]);
        if !compressed && !matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii" | "ascii") && !bytes.is_ascii() {
            return Err(format!("is in the character set {:?}; save it as UTF-8", mime::shorten(&charset)));
        }
        // What a message calls plain is what its first line says.
        let declared = Some(content_type.value.as_str()).filter(|kind| {
            *kind == "text/cloud-config" || *kind == "text/cloud-config-archive" || refused(kind).is_some()
        });
        self.item(document, &bytes, declared, depth + 1);
        Ok(())
    }

    /// The name of the next part.
    fn numbered(&mut self, document: &Arc<str>, name: Option<&str>) -> Result<Arc<str>, String> {
        self.numbered += 1;
        if self.numbered > MAXIMUM_PARTS {
            return Err(format!("has more than {MAXIMUM_PARTS} parts"));
        }
        let whole = document.split(", part ").next().unwrap_or(document);
        let number = self.numbered;
        Ok(match name.filter(|name| !name.is_empty()) {
            Some(name) => format!("{whole}, part {number} ({})", mime::shorten(name)),
            None => format!("{whole}, part {number}"),
        }
        .into())
    }

    /// `#cloud-config-archive`: a YAML list of texts, or of mappings with `content` and perhaps `type`, `filename`.
    fn archive(&mut self, document: &Arc<str>, text: &str, depth: usize) {
        let Some(tree) = yaml_tree(document, text, self.findings) else { return };
        let Value::Array(items) = tree.value else {
            let help = "write `- type: text/cloud-config` with its `content` for each part";
            return self.fail(document, format!("is {}, not a list of parts", tree.value.kind()), help);
        };
        for item in items {
            if let Err((place, what)) = self.archived(document, &item, depth) {
                self.findings.error(&place, "", what, "");
            }
        }
    }

    fn archived(&mut self, document: &Arc<str>, item: &Node, depth: usize) -> Result<(), (Origin, String)> {
        let at = |what: &str| (item.origin.clone(), what.to_owned());
        let text_at = |key: &str| match item.as_table().and_then(|table| table.get(key)).map(|entry| &entry.node.value)
        {
            Some(Value::Text(text)) => Ok(Some(text.as_str())),
            None => Ok(None),
            Some(other) => Err(at(&format!("has {} as its {key}, not a text", other.kind()))),
        };
        let (content, declared, name) = match &item.value {
            Value::Text(text) => (text.as_str(), None, None),
            Value::Table(table) => {
                if table.contains_key("merge_type") || table.contains_key("merge_how") {
                    return Err(at("has a merge type; a key of a later part always replaces it"));
                }
                let content = text_at("content")?.ok_or_else(|| at("has no content"))?;
                (content, text_at("type")?, text_at("filename")?)
            }
            other => return Err(at(&format!("is {}, not a part", other.kind()))),
        };
        let declared = declared.map(str::to_ascii_lowercase);
        let declared = declared.as_deref().filter(|kind| !matches!(*kind, "text/plain" | "application/octet-stream"));
        let document = self.numbered(document, name).map_err(|what| at(&what))?;
        self.item(&document, content.as_bytes(), declared, depth + 1);
        Ok(())
    }
}

/// Inflates gzip up to `limit` bytes.
///
/// # Errors
/// It is no whole gzip, or it holds more.
pub fn inflate(bytes: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut inflated = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(limit as u64 + 1);
    decoder.read_to_end(&mut inflated).map_err(|_| "is not whole gzip; was it cut off?".to_owned())?;
    if inflated.len() > limit {
        return Err(format!("holds more than {} MiB when it is unpacked", limit / (1024 * 1024)));
    }
    Ok(inflated)
}

/// True for what [`unpack`] takes for a user-data, be it to refuse it with its reason; a `node.toml` is none.
pub fn is_user_data(bytes: &[u8]) -> bool {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return true;
    }
    let text = String::from_utf8_lossy(bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes));
    let first = text.lines().next().unwrap_or_default().trim_end();
    let mark = first.split_ascii_whitespace().next().unwrap_or_default();
    let template = mark == "##" && first.trim_start_matches('#').trim_start().starts_with("template:");
    let marked = matches!(mark, "#ingot-config" | "#cloud-config" | "#cloud-config-archive");
    marked || template || declared_by(mark).is_some() || is_message(&text) || base64_document(&text).is_some()
}

/// The content type that cloud-init takes a first word for.
fn declared_by(mark: &str) -> Option<&'static str> {
    Some(match mark {
        mark if mark.starts_with("#!") => "text/x-shellscript",
        "#include" => "text/x-include-url",
        "#include-once" => "text/x-include-once-url",
        "#cloud-boothook" => "text/cloud-boothook",
        "#part-handler" => "text/part-handler",
        "#cloud-config-jsonp" => "text/cloud-config-jsonp",
        "#upstart-job" => "text/upstart-job",
        mark if mark.starts_with("#cloud-") => "text/cloud-other",
        _ => return None,
    })
}

/// What is wrong with a content type, and what to do.
fn refused(declared: &str) -> Option<(&'static str, &'static str)> {
    Some(match declared {
        "text/cloud-boothook" => ("is a boothook, which would run unchecked", COMMANDS),
        "text/part-handler" => ("is a part handler, a program for cloud-init itself", HELP),
        "text/x-include-url" | "text/x-include-once-url" => {
            ("is a list of addresses to include", "put what they hold into this document")
        }
        "text/jinja2" => ("is a Jinja template", "write the values themselves"),
        "text/cloud-config-jsonp" => ("is a JSON patch", "write the values themselves as #cloud-config"),
        "text/upstart-job" => ("is a job for upstart, which no image has", HELP),
        "text/cloud-other" => ("is of a kind of cloud-init that an appliance does not run", HELP),
        script if script.starts_with("text/x-shellscript") => ("is a script, which would run unchecked", COMMANDS),
        _ => return None,
    })
}

/// True where the text begins with the headers of a message.
fn is_message(text: &str) -> bool {
    let header = |line: &str| {
        line.get(..13).is_some_and(|name| {
            name.eq_ignore_ascii_case("content-type:") || name.eq_ignore_ascii_case("mime-version:")
        })
    };
    text.lines().take_while(|line| !line.trim().is_empty()).take(20).any(header)
        && text.lines().next().is_some_and(|first| first.contains(':'))
}

/// A document that is base64 as a whole, and nothing that a person would write.
fn base64_document(text: &str) -> Option<Vec<u8>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n');
    if text.len() < 16 || !text.trim().bytes().all(plain) {
        return None;
    }
    mime::base64_of(text)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
