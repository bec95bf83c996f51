//! `[ca]`: certificate authorities that a node trusts besides, or instead of, those of its image.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::fields::Fields;
use super::problem::Findings;
use super::tree::{Node, Value};
use crate::der;

/// The most certificates.
const MAXIMUM_CERTIFICATES: usize = 100;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Whom a node trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ca {
    /// Certificates in the order they are given.
    pub certificates: Vec<Certificate>,
    /// Whether those of the image are no longer trusted.
    pub only: bool,
}

/// A certificate in PEM (RFC 7468): its begin and end lines with base64 between them, newly written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate(String);

impl Certificate {
    /// The text, with a line end.
    pub fn pem(&self) -> &str {
        &self.0
    }

    /// Every certificate in a text, which may have explanations around them.
    ///
    /// # Errors
    /// There is none, one is not whole, or there is a private key.
    pub fn all_in(text: &str) -> Result<Vec<Self>, String> {
        if text.contains("PRIVATE KEY") {
            return Err("holds a private key; give the authority's certificate alone".into());
        }
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once(BEGIN) {
            let Some((body, after)) = after.split_once(END) else {
                return Err("a certificate has no end line; was it cut off?".into());
            };
            found.push(body.parse()?);
            rest = after;
        }
        if found.is_empty() {
            return Err(format!("holds no certificate; one begins with {BEGIN}"));
        }
        Ok(found)
    }
}

impl FromStr for Certificate {
    type Err = String;

    /// Reads what stands between the two lines.
    fn from_str(body: &str) -> Result<Self, String> {
        let digits: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(&digits).map_err(|_| "a certificate is not valid base64; was it cut off?")?;
        if !is_sequence_of_whole_length(&der) {
            return Err("what stands between a certificate's lines is none; was it cut off?".into());
        }
        let mut pem = format!("{BEGIN}\n");
        for line in digits.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str(END);
        pem.push('\n');
        Ok(Self(pem))
    }
}

/// True for a DER SEQUENCE that holds a SEQUENCE and ends where it says: the outer form of every certificate
/// (X.690 section 8.1.3, RFC 5280 section 4.1).
fn is_sequence_of_whole_length(bytes: &[u8]) -> bool {
    der::element(bytes).is_some_and(|outer| {
        outer.tag == der::SEQUENCE && outer.after.is_empty() && outer.content.first() == Some(&der::SEQUENCE)
    })
}

/// Reads `[ca]`.
pub fn read(node: &Node, findings: &mut Findings) -> Ca {
    let Some(fields) = Fields::new(node, "ca", findings) else { return Ca::default() };
    let mut certificates: Vec<Certificate> = Vec::new();
    for (index, item) in fields.list("certificates", findings).iter().enumerate() {
        let path = format!("ca.certificates[{index}]");
        let result = match &item.value {
            Value::Text(text) => Certificate::all_in(text),
            other => Err(format!("is {}, not a text in PEM", other.kind())),
        };
        match result {
            Ok(found) => found.into_iter().for_each(|certificate| {
                if !certificates.contains(&certificate) {
                    certificates.push(certificate);
                }
            }),
            Err(what) => findings.error(&item.origin, &path, what, ""),
        }
    }
    if certificates.len() > MAXIMUM_CERTIFICATES {
        fields.error("certificates", format!("has more than {MAXIMUM_CERTIFICATES} certificates"), "", findings);
    }
    let only = fields.boolean("only", findings).unwrap_or(false);
    if only && certificates.is_empty() && fields.entry("certificates").is_none() {
        fields.error("only", "is set without certificates: nothing would be trusted", "give certificates", findings);
    }
    Ca { certificates, only }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate's outer form; `number` tells several apart.
    pub(crate) fn pem(number: u8) -> String {
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode([0x30, 5, 0x30, 3, 2, 1, number]))
    }

    fn read_text(text: &str) -> Result<Ca, String> {
        let mut findings = Findings::default();
        let tree = crate::config::parse::toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings).unwrap();
        let ca = read(&tree.as_table().unwrap()["ca"].node, &mut findings);
        findings.into_result(Some(ca)).map(|(ca, _)| ca).map_err(|error| error.to_string())
    }

    #[test]
    fn certificates_are_taken_apart_and_counted_once() {
        let text =
            format!("[ca]\ncertificates = [\"\"\"\nsubject: x\n{}{}\"\"\", \"\"\"{}\"\"\"]\n", pem(1), pem(2), pem(1));
        let ca = read_text(&text).unwrap();
        assert_eq!(ca.certificates.iter().map(Certificate::pem).collect::<Vec<_>>(), [pem(1), pem(2)]);
        assert!(!ca.only);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
        for (text, expected) in [
            ("certificates = [\"hello\"]".to_owned(), "holds no certificate"),
            ("certificates = [7]".to_owned(), "not a text in PEM"),
            (format!("certificates = [\"\"\"{key}\"\"\"]"), "holds a private key"),
            (format!("certificates = [\"{BEGIN}\"]"), "no end line"),
            (format!("certificates = [\"{BEGIN} MAA {END}\"]"), "not valid base64"),
            (format!("certificates = [\"{BEGIN} MAUwAwIB {END}\"]"), "was it cut off?"),
            ("only = true".to_owned(), "nothing would be trusted"),
            ("certificate = []".to_owned(), "did you mean \"certificates\"?"),
        ] {
            let error = read_text(&format!("[ca]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_real_certificate_passes() {
        // Debian's and Ubuntu's bundle, where the tests run on one.
        let Ok(bundle) = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") else {
            println!("skipped: there is no /etc/ssl/certs/ca-certificates.crt");
            return;
        };
        let all = Certificate::all_in(&bundle).unwrap();
        assert_eq!(all.iter().map(Certificate::pem).collect::<String>(), bundle);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(-----BEGIN CERTIFICATE-----|-----END CERTIFICATE-----|[A-Za-z0-9=\n ]){0,12}") {
            let _ = Certificate::all_in(&text);
        }

        #[test]
        fn any_bytes_are_judged(der in proptest::collection::vec(0_u8.., 0..40)) {
            let _ = is_sequence_of_whole_length(&der);
        }
    }
}
