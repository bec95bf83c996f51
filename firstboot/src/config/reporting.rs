//! Where a node says what became of it, and whom it asks for the time: `[report]`, `write_back`, `[time]`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::problem::Findings;
use super::secret::Secret;
use super::tree::{Node, Value};
use super::values::HostAddress;

/// The longest address.
const MAXIMUM_URL_BYTES: usize = 2048;
/// More endpoints for the time than this are a mistake.
const MAXIMUM_TIME_ENDPOINTS: usize = 8;

/// An `http` or `https` address without user name or password. What follows a `?` may be a token: it is sent, and
/// never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    https: bool,
    host: HostAddress,
    port: u16,
}

impl Url {
    /// The whole address, for asking it. It is neither to be printed nor to be logged.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// True for `https`.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        rest.find('/').map_or("/", |slash| &rest[slash..])
    }

    /// The server.
    pub fn host(&self) -> &HostAddress {
        &self.host
    }

    /// The server's TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::http::shown(&self.text))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("is no address; one looks like https://status.site/nodes".into());
        };
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err("only http and https can be asked".into()),
        };
        if text.len() > MAXIMUM_URL_BYTES {
            return Err(format!("is longer than {MAXIMUM_URL_BYTES} bytes"));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            return Err("has blanks or characters that an address cannot have; write them as %20".into());
        }
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        if authority.contains('@') {
            return Err("a user name or password does not belong into an address; give it in a header".into());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None if https => 443,
            None => 80,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("the port is a number from 1 to 65535")?,
        };
        Ok(Self { text: text.to_owned(), https, host: host.parse()?, port })
    }
}

/// Where the node's states are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportTo {
    /// The address that takes a POST of JSON.
    pub url: Url,
    /// Headers that go along; their values are secret.
    pub headers: Vec<(String, Secret)>,
    /// The authorities that may vouch for the server, in PEM; without them, the image's.
    pub ca: Option<String>,
}

/// Whom the node asks for the time while no time server has set its clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TimeFrom {
    /// `https` addresses whose `Date` is taken.
    pub https: Vec<Url>,
    /// The authorities that may vouch for them, in PEM; without them, the image's.
    pub ca: Option<String>,
}

/// `[report]`.
pub fn read_report(node: &Node, findings: &mut Findings) -> Option<ReportTo> {
    let fields = Fields::new(node, "report", findings)?;
    let errors_before = findings.errors.len();
    let url = read_url(&fields, "url", findings);
    if fields.entry("url").is_none() {
        fields.missing("url", "give the address that takes a POST: https://status.site/nodes", findings);
    }
    let mut headers = Vec::new();
    if let Some(entry) = fields.entry("headers") {
        if let Value::Table(table) = &entry.node.value {
            for (name, entry) in table {
                let path = format!("report.headers.{name}");
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                let own = ["content-type", "content-length", "host", "transfer-encoding", "connection"];
                if name.is_empty() || !name.bytes().all(token) || own.contains(&name.to_lowercase().as_str()) {
                    findings.error(&entry.key, &path, "is no header that can be set", "");
                }
                match &entry.node.value {
                    Value::Text(text) if text.bytes().all(|b| (b' '..=b'~').contains(&b)) => {
                        headers.push((name.clone(), Secret::new(text)));
                    }
                    Value::Text(_) => {
                        findings.error(&entry.node.origin, &path, "has characters that a header cannot have", "");
                    }
                    other => findings.error(&entry.node.origin, &path, format!("is {}, not a text", other.kind()), ""),
                }
            }
        } else {
            let help = "write headers = { Authorization = \"Bearer ...\" }";
            fields.error("headers", format!("is {}, not a table", entry.node.value.kind()), help, findings);
        }
    }
    let ca = read_ca(&fields, findings);
    if findings.errors.len() > errors_before {
        return None;
    }
    let url = url?;
    if !url.is_https() && !headers.is_empty() {
        let help = "use https, or a report without headers";
        fields.error("url", "would send the secret headers unencrypted", help, findings);
        return None;
    }
    Some(ReportTo { url, headers, ca })
}

/// `[time]`.
pub fn read_time(node: &Node, findings: &mut Findings) -> Option<TimeFrom> {
    let fields = Fields::new(node, "time", findings)?;
    let mut https = Vec::new();
    for item in fields.list("https", findings) {
        match &item.value {
            Value::Text(text) => match text.parse::<Url>() {
                Ok(url) if url.is_https() => https.push(url),
                Ok(_) => findings.error(
                    &item.origin,
                    "time.https",
                    "is no https address",
                    "a time that anyone on the way can change is worth nothing",
                ),
                Err(error) => findings.error(&item.origin, "time.https", error, ""),
            },
            other => findings.error(&item.origin, "time.https", format!("is {}, not a text", other.kind()), ""),
        }
    }
    if https.len() > MAXIMUM_TIME_ENDPOINTS {
        fields.error("https", format!("has more than {MAXIMUM_TIME_ENDPOINTS} addresses"), "", findings);
    }
    Some(TimeFrom { https, ca: read_ca(&fields, findings) })
}

/// An address; the error does not repeat it, because it may hold a token.
fn read_url(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Url> {
    match fields.text(key, findings)?.parse() {
        Ok(url) => Some(url),
        Err(error) => {
            fields.error(key, error, "", findings);
            None
        }
    }
}

fn read_ca(fields: &Fields<'_>, findings: &mut Findings) -> Option<String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let text = fields.text("ca", findings)?;
    let help = "it is the text of a PEM file: -----BEGIN CERTIFICATE-----...";
    if text.contains("PRIVATE KEY") {
        fields.error("ca", "holds a private key, which belongs to the authority alone", help, findings);
        return None;
    }
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if certificate.is_err() {
            fields.error("ca", "is damaged PEM", help, findings);
            return None;
        }
        certificates += 1;
    }
    if certificates == 0 {
        fields.error("ca", "holds no certificate", help, findings);
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, NodeConfig, load};

    fn loaded(text: &str) -> Result<NodeConfig, String> {
        let text = format!("version = 1\n{text}");
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() };
        load(&[document], &Machine::default()).map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn where_to_report_and_whom_to_ask() {
        let config = loaded(
            "write_back = false\n[report]\nurl = \"https://[fd00::1]:8443/n?token=t0ken\"\n\
             headers = { Authorization = \"Bearer abc\" }\n[time]\nhttps = [\"https://gw.site\"]\n",
        )
        .unwrap();
        assert!(!config.write_back);
        let report = config.report.as_ref().unwrap();
        assert_eq!((report.url.host().to_string().as_str(), report.url.port()), ("fd00::1", 8443));
        assert_eq!(config.time.https[0].port(), 443);
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("t0ken") && !shown.contains("abc"), "{shown}");
        let plain = loaded("").unwrap();
        assert!(plain.write_back && plain.report.is_none() && plain.time.https.is_empty());
    }

    #[test]
    fn what_cannot_work_or_would_tell_a_secret_is_refused() {
        for (text, expected) in [
            ("[report]\n", "f:2:1: report.url: is missing"),
            ("[report]\nurl = \"ftp://a/\"\n", "f:3:7: report.url: only http and https"),
            ("[report]\nurl = \"https://me:pw@a/\"\n", "give it in a header"),
            ("[report]\nurl = \"https://a:99999/\"\n", "the port is a number"),
            ("[report]\nurl = \"https:///x\"\n", "report.url: is empty"),
            ("[report]\nurl = \"https://a/ b\"\n", "has blanks"),
            ("[report]\nurl = \"http://a/\"\nheaders = { X = \"secret\" }\n", "unencrypted"),
            ("[report]\nurl = \"https://a/\"\nheaders = { \"X Y\" = \"s\" }\n", "is no header that can be set"),
            ("[report]\nurl = \"https://a/\"\nheaders = { X = \"s\\nHost: b\" }\n", "cannot have"),
            ("[report]\nurl = \"https://a/\"\nca = \"x\"\n", "report.ca: holds no certificate"),
            ("[time]\nhttps = [\"http://a/\"]\n", "time.https: is no https address"),
            ("[time]\nntp = []\n", "time.ntp: unknown key"),
            ("write_back = 1\n", "write_back"),
        ] {
            let error = loaded(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("pw") && !error.contains("\"s"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_address_is_read_without_a_panic(text in "(https?://)?[\\[\\]a-z0-9:/?#@. -]{0,40}") {
            if let Ok(url) = text.parse::<Url>() {
                proptest::prop_assert_eq!(url.expose(), &text);
                let shown = url.to_string();
                let server = shown.split(['/', '?', '#']).nth(2).unwrap_or_default();
                proptest::prop_assert!(!server.contains('@'), "{}", shown);
            }
        }
    }
}
