//! OpenPGP: bytes, pinned certificates and a time give the signed text and its signer, or an error.
//!
//! The policy is Sequoia's `StandardPolicy` at the given time: key expiry, revocation, binding signatures and weak
//! hashes are its business. By itself it takes a signature that was made before its key expired; here, as for apt, the
//! key must still be good at the given time, unless the caller reads a snapshot of long ago. One good signature by a certificate of the keyring is enough, as for apt.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openpgp::cert::CertParser;
use openpgp::parse::Parse;
use openpgp::parse::stream::{
    DetachedVerifierBuilder, MessageLayer, MessageStructure, VerificationError, VerificationHelper, VerifierBuilder,
};
use openpgp::policy::StandardPolicy;
use openpgp::types::RevocationStatus;
use openpgp::{Cert, Fingerprint, KeyHandle};
use sequoia_openpgp as openpgp;

use super::ArchiveError;
use super::release::Dates;

/// The certificates that may sign a repository.
#[derive(Debug, Clone)]
pub(super) struct Keyring {
    path: std::path::PathBuf,
    certs: Vec<Cert>,
}

/// What was signed, and by whom.
pub(super) struct Signed {
    pub text: Vec<u8>,
    /// Fingerprint of the certificate, upper-case hex.
    pub signer: String,
}

impl Keyring {
    /// Reads a keyring, armoured or binary, with one certificate or several.
    pub fn read(path: &Path) -> Result<Self, ArchiveError> {
        let error = |problem: String| ArchiveError::Keyring { path: path.to_owned(), problem };
        let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
        // A sub-key without the certificate that it belongs to says nothing about whose it is.
        let broken = |e: openpgp::anyhow::Error| {
            error(format!("{e}; it must hold whole certificates, as `gpg --export FINGERPRINT` writes them"))
        };
        let certs: Vec<Cert> =
            CertParser::from_bytes(&bytes).map_err(broken)?.collect::<Result<_, _>>().map_err(broken)?;
        if certs.is_empty() {
            return Err(error("it holds no OpenPGP certificate".into()));
        }
        Ok(Self { path: path.to_owned(), certs })
    }

    /// Verifies a clear-signed message. `what` names it in errors.
    pub fn verify(&self, what: &str, message: &[u8], dates: Dates) -> Result<Signed, ArchiveError> {
        let policy = StandardPolicy::new();
        let mut findings = Findings::default();
        let time = UNIX_EPOCH + Duration::from_secs(dates.now);
        let alive_at = (!dates.accept_stale).then_some(time);
        let helper = Helper { keyring: self, findings: &mut findings, policy: &policy, alive_at };
        let mut text = Vec::new();
        let outcome = VerifierBuilder::from_bytes(message)
            .and_then(|builder| builder.with_policy(&policy, time, helper))
            .and_then(|mut verifier| Ok(verifier.read_to_end(&mut text)?));
        self.conclude(what, findings, outcome.err(), text)
    }

    /// Verifies `text` against the detached signature that lies beside it.
    pub fn verify_detached(
        &self,
        what: &str,
        text: &[u8],
        signature: &[u8],
        dates: Dates,
    ) -> Result<Signed, ArchiveError> {
        let policy = StandardPolicy::new();
        let mut findings = Findings::default();
        let time = UNIX_EPOCH + Duration::from_secs(dates.now);
        let alive_at = (!dates.accept_stale).then_some(time);
        let helper = Helper { keyring: self, findings: &mut findings, policy: &policy, alive_at };
        let outcome = DetachedVerifierBuilder::from_bytes(signature)
            .and_then(|builder| builder.with_policy(&policy, time, helper))
            .and_then(|mut verifier| verifier.verify_bytes(text));
        self.conclude(what, findings, outcome.err(), text.to_vec())
    }

    /// Nothing counts but a good signature that was seen: an absent error alone is no proof.
    fn conclude(
        &self,
        what: &str,
        findings: Findings,
        error: Option<openpgp::anyhow::Error>,
        text: Vec<u8>,
    ) -> Result<Signed, ArchiveError> {
        let what = what.to_owned();
        if let (Some(signer), None) = (findings.good, &error) {
            return Ok(Signed { text, signer });
        }
        if let Some(problem) = findings.bad {
            return Err(ArchiveError::BadSignature { what, problem });
        }
        if let Some(problem) = findings.unusable {
            return Err(ArchiveError::ExpiredKey { what, problem, keyring: self.path.clone() });
        }
        if !findings.missing.is_empty() {
            return Err(ArchiveError::WrongKey { what, issuers: findings.missing, keyring: self.path.clone() });
        }
        let problem = error.map_or_else(|| "it has no signature".to_owned(), |e| e.to_string());
        Err(ArchiveError::NotSigned { what, problem })
    }
}

#[derive(Default)]
struct Findings {
    good: Option<String>,
    bad: Option<String>,
    unusable: Option<String>,
    missing: Vec<String>,
}

struct Helper<'a> {
    keyring: &'a Keyring,
    findings: &'a mut Findings,
    policy: &'a StandardPolicy<'a>,
    /// When the signing key must still be good, beyond the moment at which it signed.
    alive_at: Option<SystemTime>,
}

impl VerificationHelper for Helper<'_> {
    fn get_certs(&mut self, ids: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        let named = |cert: &&Cert| cert.keys().any(|k| ids.iter().any(|id| id.aliases(k.key().key_handle())));
        Ok(self.keyring.certs.iter().filter(named).cloned().collect())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        for layer in structure {
            let MessageLayer::SignatureGroup { results } = layer else { continue };
            for result in results {
                self.note(result);
            }
        }
        if self.findings.good.is_some() { Ok(()) } else { Err(openpgp::anyhow::anyhow!("no good signature")) }
    }
}

impl Helper<'_> {
    fn note(&mut self, result: openpgp::parse::stream::VerificationResult<'_>) {
        let findings = &mut *self.findings;
        match result {
            Ok(good) => {
                let (cert, key) = (good.ka.cert(), good.ka.key().fingerprint());
                match self.alive_at.map_or(Ok(()), |time| still_good(cert, &key, self.policy, time)) {
                    Ok(()) => drop(findings.good.get_or_insert_with(|| cert.fingerprint().to_hex())),
                    Err(error) => {
                        findings.unusable.get_or_insert_with(|| format!("{}: {}", cert.fingerprint(), chain(&error)));
                    }
                }
            }
            Err(VerificationError::MissingKey { sig }) => {
                findings.missing.extend(sig.get_issuers().first().map(ToString::to_string));
            }
            Err(VerificationError::UnboundKey { cert, error, .. }) => {
                let key = cert.fingerprint();
                findings.unusable.get_or_insert_with(|| format!("{key}: {}", chain(&error)));
            }
            Err(VerificationError::BadKey { ka, error, .. }) => {
                let key = ka.cert().fingerprint();
                findings.unusable.get_or_insert_with(|| format!("{key}: {}", chain(&error)));
            }
            Err(VerificationError::BadSignature { ka, error, .. }) => {
                let key = ka.cert().fingerprint();
                findings.bad.get_or_insert_with(|| format!("by {key}: {}", chain(&error)));
            }
            Err(other) => {
                findings.bad.get_or_insert_with(|| other.to_string());
            }
        }
    }
}

/// Fails if a certificate or its signing key is expired or revoked at a time.
fn still_good(cert: &Cert, key: &Fingerprint, policy: &StandardPolicy<'_>, time: SystemTime) -> openpgp::Result<()> {
    let valid = cert.with_policy(policy, time)?;
    valid.alive()?;
    let mut keys = valid.keys().for_signing().alive().revoked(false);
    if matches!(valid.revocation_status(), RevocationStatus::Revoked(_)) {
        return Err(openpgp::anyhow::anyhow!("the certificate is revoked"));
    }
    if !keys.any(|k| k.key().fingerprint() == *key) {
        return Err(openpgp::anyhow::anyhow!("its signing key {key} is expired or revoked"));
    }
    Ok(())
}

/// An error with its causes, on one line.
fn chain(error: &openpgp::anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
