//! Signed documents: minisign signatures by a site key.
//!
//! Takes documents with their signatures (`node.toml.minisig` beside `node.toml`, made with `minisign -S`), the site
//! keys, and the time of the newest signature that was accepted before. Gives the documents that are good, or why they
//! are not. Beyond what minisign guarantees (<https://jedisct1.github.io/minisign/>):
//!
//! - An old document cannot be brought again: the `timestamp` of the trusted comment, which minisign writes and which
//!   is part of what is signed, must be after every one that was accepted before.
//! - A document cannot stand in for another: the `file` of the trusted comment, which minisign writes too, must be its
//!   name. So the file for one machine is no configuration for another one.

use std::collections::BTreeMap;

use minisign_verify::{PublicKey, Signature};
use thiserror::Error;

use super::{Found, SIGNATURE};
use crate::config::{Document, SiteKey};

/// A document is not good.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("{0} is not signed (there is no {0}{SIGNATURE})")]
    Missing(String),
    /// What is there is no signature.
    #[error("{0}{SIGNATURE} is not a minisign signature")]
    Malformed(String),
    /// No site key has made it.
    #[error("{0} is not signed by a site key, or was changed afterwards")]
    Wrong(String),
    /// The trusted comment lacks the time.
    #[error("{0}{SIGNATURE} does not say when it was made; sign it with minisign's own trusted comment")]
    NoTime(String),
    /// It is for a file of another name.
    #[error("{document} carries the signature of a file named {signed}")]
    OtherFile {
        /// The document.
        document: String,
        /// The name in the signature.
        signed: String,
    },
    /// It is not newer than what was accepted before.
    #[error("{document} was signed at {time}, not after the {newest} of what this node has; sign it anew")]
    Old {
        /// The document.
        document: String,
        /// When it was signed, in seconds since 1970.
        time: u64,
        /// The newest signature that was accepted.
        newest: u64,
    },
    /// There is nothing to check with.
    #[error("{0} cannot be accepted: there are no seal.site_keys")]
    NoKeys(String),
}

/// When a document was signed, in seconds since 1970.
fn signed_at(document: &Document, signature: Option<&Vec<u8>>, keys: &[SiteKey]) -> Result<u64, SignatureError> {
    let name = || document.name.clone();
    if keys.is_empty() {
        return Err(SignatureError::NoKeys(name()));
    }
    let text = signature.ok_or_else(|| SignatureError::Missing(name()))?;
    let signature = std::str::from_utf8(text).ok().and_then(|text| Signature::decode(text).ok());
    let signature = signature.ok_or_else(|| SignatureError::Malformed(name()))?;
    let good = |key: &SiteKey| {
        // Without the old form, which signs the document itself and not its hash; minisign has not made it since 2021.
        PublicKey::from_base64(key.as_str()).is_ok_and(|key| key.verify(&document.bytes, &signature, false).is_ok())
    };
    if !keys.iter().any(good) {
        return Err(SignatureError::Wrong(name()));
    }
    let comment = |key: &str| signature.trusted_comment().split_whitespace().find_map(|word| word.strip_prefix(key));
    if let Some(signed) = comment("file:")
        && !file_name(&document.name).eq_ignore_ascii_case(signed)
    {
        return Err(SignatureError::OtherFile { document: name(), signed: signed.to_owned() });
    }
    comment("timestamp:").and_then(|time| time.parse().ok()).ok_or_else(|| SignatureError::NoTime(name()))
}

/// The last part of a document's name. Queries are not shown in names; where the file is only known behind one, the name
/// has it there.
fn file_name(name: &str) -> &str {
    let path = match name.split_once(['?', '#']) {
        Some((_, query)) if query.contains('/') => query,
        Some((path, _)) => path,
        None => name,
    };
    path.rsplit(['/', ':']).next().unwrap_or(path)
}

/// What [`keep_signed`] has kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// The documents with good signatures, lowest precedence first.
    pub documents: Vec<Document>,
    /// The newest of their signatures, in seconds since 1970; 0 where there are none.
    pub newest: u64,
    /// For each source that is refused, its name and why.
    pub refused: Vec<(String, SignatureError)>,
}

/// Keeps the sources whose documents are all signed by one of the keys after `newest`, or are `known` to have been accepted word for word: one
/// bad document refuses all of its source, because half a configuration would be another one.
pub fn keep_signed(found: &Found, keys: &[SiteKey], newest: u64, known: &dyn Fn(&Document) -> bool) -> Signed {
    let mut signed = Signed::default();
    let source = |document: &Document| document.name.split_once(':').map_or("", |(source, _)| source).to_owned();
    let mut refused = BTreeMap::new();
    for document in found.documents.iter().filter(|document| !known(document)) {
        let result = match signed_at(document, found.signatures.get(&document.name), keys) {
            Ok(time) if time <= newest => Err(SignatureError::Old { document: document.name.clone(), time, newest }),
            result => result,
        };
        match result {
            Ok(time) => signed.newest = signed.newest.max(time),
            Err(error) => {
                refused.entry(source(document)).or_insert(error);
            }
        }
    }
    signed.documents =
        found.documents.iter().filter(|document| !refused.contains_key(&source(document))).cloned().collect();
    signed.refused = refused.into_iter().collect();
    signed
}

/// The newest of the good signatures, in seconds since 1970: what an unsealed node that asks for none notes all the
/// same, so that nothing older is accepted once it is sealed. 0 where there is none.
pub fn newest_signature(found: &Found, keys: &[SiteKey]) -> u64 {
    let times = found.documents.iter().map(|document| signed_at(document, found.signatures.get(&document.name), keys));
    times.filter_map(Result::ok).max().unwrap_or(0)
}

/// No bytes are a good signature by a key that nobody here has.
#[cfg(any(test, fuzzing))]
pub fn fuzz(signature: &[u8]) {
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let document = Document {
        name: "INGOT:node.toml".to_owned(),
        format: crate::config::Format::NodeToml,
        bytes: b"version = 1\n".to_vec(),
    };
    let keys: Vec<SiteKey> = KEY.parse().into_iter().collect();
    assert_eq!(keys.len(), 1);
    assert!(signed_at(&document, Some(&signature.to_vec()), &keys).is_err());
}

#[cfg(test)]
#[allow(missing_docs, clippy::missing_panics_doc, clippy::new_without_default)]
pub mod test_keys {
    //! A site's key and its signatures, by the library that minisign's author maintains.

    use std::io::Cursor;

    use minisign::KeyPair;

    use super::*;

    pub struct TestKey(KeyPair);

    impl TestKey {
        pub fn new() -> Self {
            Self(KeyPair::generate_unencrypted_keypair().unwrap())
        }

        pub fn public(&self) -> SiteKey {
            self.0.pk.to_base64().parse().unwrap()
        }

        pub fn sign(&self, bytes: &[u8], comment: &str) -> Vec<u8> {
            let signed = minisign::sign(Some(&self.0.pk), &self.0.sk, Cursor::new(bytes), Some(comment), None);
            signed.unwrap().into_string().into_bytes()
        }

        /// Signs all documents of a source as `minisign -S` does.
        pub fn sign_all(&self, mut found: Found, time: u64) -> Found {
            for document in &found.documents {
                let comment = format!("timestamp:{time}\tfile:{}\thashed", file_name(&document.name));
                found.signatures.insert(document.name.clone(), self.sign(&document.bytes, &comment));
            }
            found
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_keys::TestKey;
    use super::*;
    use crate::config::Format;

    fn document(name: &str) -> Document {
        Document { name: name.into(), format: Format::NodeToml, bytes: b"version = 1\n".to_vec() }
    }

    fn found(names: &[&str]) -> Found {
        Found { documents: names.iter().map(|name| document(name)).collect(), ..Found::default() }
    }

    fn refusal(found: &Found, keys: &[SiteKey], newest: u64) -> String {
        let signed = keep_signed(found, keys, newest, &|_| false);
        assert!(signed.documents.is_empty());
        signed.refused[0].1.to_string()
    }

    #[test]
    fn a_good_signature_is_by_any_of_the_keys() {
        let (key, other) = (TestKey::new(), TestKey::new());
        let found = key.sign_all(found(&["INGOT:node.toml", "INGOT:ab.toml"]), 100);
        let signed = keep_signed(&found, &[other.public(), key.public()], 99, &|_| false);
        assert_eq!((signed.documents.len(), signed.newest, signed.refused.len()), (2, 100, 0));
        assert_eq!(newest_signature(&found, &[key.public()]), 100);
        assert_eq!(newest_signature(&found, &[other.public()]), 0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (key, other) = (TestKey::new(), TestKey::new());
        let keys = [key.public()];
        let unsigned = found(&["INGOT:node.toml"]);
        let good = key.sign_all(unsigned.clone(), 100);
        assert!(refusal(&unsigned, &keys, 0).contains("is not signed (there is no INGOT:node.toml.minisig)"));
        assert!(refusal(&good, &[], 0).contains("no seal.site_keys"));
        assert!(refusal(&good, &[other.public()], 0).contains("not signed by a site key"));
        let mut changed = good.clone();
        changed.documents[0].bytes.push(b'\n');
        assert!(refusal(&changed, &keys, 0).contains("changed afterwards"));
        let with = |comment: &str| {
            let signature = key.sign(&unsigned.documents[0].bytes, comment);
            Found { signatures: [("INGOT:node.toml".to_owned(), signature)].into(), ..unsigned.clone() }
        };
        assert!(refusal(&with("file:node.toml"), &keys, 0).contains("does not say when"));
        assert!(refusal(&with("timestamp:soon"), &keys, 0).contains("does not say when"));
        assert!(refusal(&with("timestamp:9 file:ab.toml"), &keys, 0).contains("signature of a file named ab.toml"));
        let mut noise = good.clone();
        noise.signatures.insert("INGOT:node.toml".into(), b"\xff\xfe".to_vec());
        assert!(refusal(&noise, &keys, 0).contains("is not a minisign signature"));
        // The trusted comment is signed too.
        let mut forged = good;
        let text = String::from_utf8(forged.signatures["INGOT:node.toml"].clone()).unwrap();
        forged.signatures.insert("INGOT:node.toml".into(), text.replace("timestamp:100", "timestamp:101").into_bytes());
        assert!(refusal(&forged, &keys, 100).contains("not signed by a site key"));
    }

    #[test]
    fn an_old_document_is_not_brought_again_but_the_known_one_stays_good() {
        let key = TestKey::new();
        let found = key.sign_all(found(&["INGOT:node.toml"]), 100);
        for newest in [100, 101] {
            assert!(refusal(&found, &[key.public()], newest).contains("sign it anew"));
        }
        let signed = keep_signed(&found, &[key.public()], 100, &|document| found.documents.contains(document));
        assert_eq!((signed.documents.len(), signed.newest), (1, 0));
    }

    #[test]
    fn one_bad_document_refuses_its_source_and_no_other() {
        let key = TestKey::new();
        let mut found = key.sign_all(found(&["CIDATA:user-data", "INGOT:node.toml", "INGOT:ab.toml"]), 100);
        found.signatures.remove("INGOT:ab.toml");
        let signed = keep_signed(&found, &[key.public()], 0, &|_| false);
        assert_eq!(signed.documents.iter().map(|document| &*document.name).collect::<Vec<_>>(), ["CIDATA:user-data"]);
        assert_eq!(signed.refused[0].0, "INGOT");
    }

    #[test]
    fn what_minisign_itself_signs_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let found = found(&["INGOT:node.toml"]);
        std::fs::write(directory.path().join("node.toml"), &found.documents[0].bytes).unwrap();
        let minisign = |arguments: &[&str]| {
            #[allow(clippy::disallowed_methods)] // a peer of the test
            let output = std::process::Command::new("minisign").args(arguments).current_dir(directory.path()).output();
            output.ok()
        };
        let Some(made) = minisign(&["-G", "-W", "-p", "site.pub", "-s", "site.key"]) else {
            println!("skipped: minisign is not installed");
            return;
        };
        assert!(made.status.success(), "{made:?}");
        assert!(minisign(&["-S", "-s", "site.key", "-m", "node.toml"]).unwrap().status.success());
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        let public = String::from_utf8(read("site.pub")).unwrap();
        let key: SiteKey = public.lines().nth(1).unwrap().parse().unwrap();
        let signatures = [("INGOT:node.toml".to_owned(), read("node.toml.minisig"))].into();
        let signed = keep_signed(&Found { signatures, ..found }, &[key], 1_700_000_000, &|_| false);
        assert!(signed.refused.is_empty() && signed.newest > 1_700_000_000, "{signed:?}");
    }

    #[test]
    fn names_end_behind_slashes_and_before_queries() {
        assert_eq!(file_name("ingot.config:http://h:1/a/node.toml?..."), "node.toml");
        assert_eq!(file_name("smbios:http://h:1/a/?.../user-data"), "user-data");
        assert_eq!(file_name("INGOT:52-54-00-00-00-01.toml"), "52-54-00-00-00-01.toml");
    }

    proptest::proptest! {
        #[test]
        fn any_signature_is_read_without_a_panic(text in "(untrusted comment: .{0,20}\n)?[A-Za-z0-9+/=]{0,110}(\n.{0,40}){0,3}") {
            let mut found = found(&["INGOT:node.toml"]);
            found.signatures.insert("INGOT:node.toml".into(), text.into_bytes());
            proptest::prop_assert_eq!(newest_signature(&found, &[TestKey::new().public()]), 0);
        }
    }
}
