use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openpgp::cert::{Cert, CertBuilder};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::Serialize;
use openpgp::serialize::stream::{Armorer, Message, Signer};
use openpgp::types::HashAlgorithm;
use proptest::prelude::*;
use sequoia_openpgp as openpgp;

use super::super::ArchiveError;
use super::*;

/// 2026-01-01
const NOW: u64 = 1_767_225_600;
const YEAR: u64 = 31_536_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A certificate made a year before now, valid for so many seconds if given.
fn cert(valid: Option<u64>) -> Cert {
    let builder = CertBuilder::new().add_userid("archive").add_signing_subkey().set_creation_time(at(NOW - YEAR));
    builder.set_validity_period(valid.map(Duration::from_secs)).generate().unwrap().0
}

fn keyring(certs: &[&Cert], armoured: bool) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyring");
    let mut bytes = Vec::new();
    for cert in certs {
        if armoured { cert.armored().serialize(&mut bytes) } else { cert.serialize(&mut bytes) }.unwrap();
    }
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn signer<'a>(message: Message<'a>, cert: &Cert, time: u64, hash: HashAlgorithm) -> Signer<'a> {
    let policy = StandardPolicy::new();
    let key = cert.keys().secret().with_policy(&policy, at(NOW - YEAR)).for_signing().next().unwrap();
    let pair = key.key().clone().into_keypair().unwrap();
    Signer::new(message, pair).unwrap().creation_time(at(time)).hash_algo(hash).unwrap()
}

fn signed(text: &str, cert: &Cert, time: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut message = signer(Message::new(&mut out), cert, time, HashAlgorithm::SHA512).cleartext().build().unwrap();
    message.write_all(text.as_bytes()).unwrap();
    message.finalize().unwrap();
    out
}

fn detached(text: &str, cert: &Cert) -> Vec<u8> {
    let mut out = Vec::new();
    let armour = Armorer::new(Message::new(&mut out)).build().unwrap();
    let mut message = signer(armour, cert, NOW - 100, HashAlgorithm::SHA512).detached().build().unwrap();
    message.write_all(text.as_bytes()).unwrap();
    message.finalize().unwrap();
    out
}

const TEXT: &str = "Origin: Test\nSuite: stable\nCodename: trixie\nDate: Wed, 31 Dec 2025 12:00:00 UTC\n\
    Valid-Until: Wed, 07 Jan 2026 12:00:00 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64\n\
    Components: main updates/contrib\nNo-Support-for-Architecture-all: Packages\nSHA256:\n \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";

fn dates() -> Dates {
    Dates { now: NOW, accept_stale: false }
}

fn verified(text: &str, dates: Dates) -> Result<VerifiedRelease, ArchiveError> {
    let cert = cert(None);
    let (_dir, keyring) = keyring(&[&cert], false);
    InRelease::new("test trixie", signed(text, &cert, NOW - 100)).verify(&keyring, dates)
}

#[test]
fn a_good_signature_opens_the_content() {
    let (other, good) = (cert(None), cert(None));
    let message = signed(TEXT, &good, NOW - 100);
    for armoured in [false, true] {
        let (_dir, keyring) = keyring(&[&other, &good], armoured);
        let release = InRelease::new("test trixie", message.clone()).verify(&keyring, dates()).unwrap();
        assert_eq!((release.origin.as_str(), release.codename.as_str()), ("Test", "trixie"));
        assert_eq!(release.date, NOW - 43_200);
        assert_eq!(release.valid_until, Some(NOW + 6 * 86_400 + 43_200));
        assert_eq!(release.signer, good.fingerprint().to_hex());
        assert_eq!(release.sha256, hex(&Sha256::digest(&message)));
        assert!(release.acquire_by_hash && release.all_is_included);
        assert_eq!(release.files["main/binary-amd64/Packages"].size, 0);
        release.require_component("main").unwrap();
        release.require_component("contrib").unwrap();
        release.require_architecture("amd64").unwrap();
        let text = release.require_component("universe").unwrap_err().to_string();
        assert_eq!(text, "test trixie has no component `universe`; it has main, updates/contrib");
        assert!(release.require_architecture("riscv64").unwrap_err().to_string().contains("all, amd64"));
    }
    let (_dir, keyring) = keyring(&[&good], false);
    let message = InRelease::detached("test trixie", TEXT.into(), detached(TEXT, &good));
    assert_eq!(message.verify(&keyring, dates()).unwrap().suite, "stable");
    let message = InRelease::detached("test trixie", TEXT.replace("Test", "Tost").into(), detached(TEXT, &good));
    assert!(matches!(message.verify(&keyring, dates()), Err(ArchiveError::BadSignature { .. })));
}

#[test]
fn a_key_that_is_not_in_the_keyring_is_named_and_refused() {
    let (ours, theirs) = (cert(None), cert(None));
    let (_dir, keyring) = keyring(&[&ours], false);
    let error = InRelease::new("test trixie", signed(TEXT, &theirs, NOW - 100)).verify(&keyring, dates()).unwrap_err();
    let ArchiveError::WrongKey { issuers, .. } = &error else { panic!("{error}") };
    assert!(theirs.keys().any(|k| issuers.contains(&k.key().fingerprint().to_hex())), "{issuers:?}");
}

#[test]
fn a_sub_key_counts_with_its_certificate_and_not_without() {
    let cert = cert(None);
    let policy = StandardPolicy::new();
    let key = cert.keys().with_policy(&policy, at(NOW)).for_signing().next().unwrap().key().clone();
    assert_ne!(key.fingerprint(), cert.fingerprint(), "a sub-key signs");
    let message = InRelease::new("test trixie", signed(TEXT, &cert, NOW - 100));
    // The certificate as it was before it had this sub-key.
    let old = cert.clone().retain_subkeys(|_| false);
    let (_dir, before) = keyring(&[&old], false);
    let text = message.verify(&before, dates()).unwrap_err().to_string();
    assert!(text.contains(&format!("is signed by {}", key.fingerprint().to_hex())), "{text}");
    assert!(text.contains("a new key, or a new sub-key, put that into the keyring"), "{text}");
    // Nothing but the sub-key.
    let mut bytes = Vec::new();
    openpgp::Packet::from(key.parts_into_public().role_into_subordinate()).serialize(&mut bytes).unwrap();
    let (_dir, alone) = keyring(&[], false);
    std::fs::write(&alone, bytes).unwrap();
    let error = message.verify(&alone, dates()).unwrap_err();
    assert!(matches!(error, ArchiveError::Keyring { .. }), "{error}");
    assert!(error.to_string().contains("whole certificates, as `gpg --export FINGERPRINT` writes them"), "{error}");
}

#[test]
fn an_expired_key_is_refused_whenever_it_signed() {
    let expired = cert(Some(YEAR / 2));
    let (_dir, keyring) = keyring(&[&expired], false);
    // Before it expired, and after.
    for time in [NOW - YEAR + 1000, NOW - 100] {
        let error = InRelease::new("test trixie", signed(TEXT, &expired, time)).verify(&keyring, dates()).unwrap_err();
        assert!(matches!(error, ArchiveError::ExpiredKey { .. }), "{error}");
    }
    // A snapshot may be signed by a key that has expired since, but not by one that had expired already.
    let snapshot = Dates { accept_stale: true, ..dates() };
    let message = |time| InRelease::new("test trixie", signed(TEXT, &expired, time));
    message(NOW - YEAR + 1000).verify(&keyring, snapshot).unwrap();
    assert!(message(NOW - 100).verify(&keyring, snapshot).is_err());
}

#[test]
fn changed_text_is_refused() {
    let cert = cert(None);
    let (_dir, keyring) = keyring(&[&cert], false);
    let message = String::from_utf8(signed(TEXT, &cert, NOW - 100)).unwrap();
    for changed in
        [message.replace("amd64/Packages", "amd64/Packagez"), message.replace("Origin: Test", "Origin: Tast")]
    {
        let error = InRelease::new("test trixie", changed.into_bytes()).verify(&keyring, dates()).unwrap_err();
        assert!(matches!(error, ArchiveError::BadSignature { .. }), "{error}");
    }
    for junk in [&b"<html>Please log in</html>"[..], b"", TEXT.as_bytes()] {
        let error = InRelease::new("test trixie", junk.to_vec()).verify(&keyring, dates()).unwrap_err();
        assert!(matches!(error, ArchiveError::NotSigned { .. }), "{error}");
    }
    // What stands before or after the signed part is not believed.
    let around = format!("Origin: Evil\n{message}\nOrigin: Evil\n");
    if let Ok(release) = InRelease::new("test trixie", around.into_bytes()).verify(&keyring, dates()) {
        assert_eq!(release.origin, "Test");
    }
}

#[test]
fn weak_hashes_and_weak_digests_are_refused() {
    let cert = cert(None);
    let (_dir, keyring) = keyring(&[&cert], false);
    let mut out = Vec::new();
    let mut message =
        signer(Message::new(&mut out), &cert, NOW - 100, HashAlgorithm::SHA1).cleartext().build().unwrap();
    message.write_all(TEXT.as_bytes()).unwrap();
    message.finalize().unwrap();
    assert!(InRelease::new("test trixie", out).verify(&keyring, dates()).is_err());
    let error = verified(&TEXT.replace("SHA256:", "MD5Sum:"), dates()).unwrap_err();
    assert!(matches!(error, ArchiveError::WeakDigests { .. }), "{error}");
}

#[test]
fn dates_are_minded() {
    let error = verified(TEXT, Dates { now: NOW + 30 * 86_400, ..dates() }).unwrap_err();
    assert!(error.to_string().contains("was valid until Wed, 07 Jan 2026 12:00:00 UTC only"), "{error}");
    verified(TEXT, Dates { now: NOW + 30 * 86_400, accept_stale: true }).unwrap();
    let error = verified(&TEXT.replace("Date: Wed, 31 Dec 2025", "Date: Wed, 07 Jan 2026"), dates()).unwrap_err();
    assert!(matches!(error, ArchiveError::FromTheFuture { .. }), "{error}");
    assert!(verified(&TEXT.replace("31 Dec 2025", "31 Foo 2025"), dates()).is_err());
    assert_eq!(parse_date("Thu,  1 Jan 1970 01:00:00 +0100"), Some(0));
    assert_eq!(parse_date("29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
    for wrong in ["", "1 Jan", "1 Jan 1970 25", "1 Jan 1960 00:00:00 UTC", "1 Jan 1970 00:00:00 CET"] {
        assert_eq!(parse_date(wrong), None, "{wrong}");
    }
}

#[test]
fn paths_that_leave_the_archive_and_keyrings_that_are_none_are_refused() {
    for wrong in ["../../etc/passwd", "/etc/passwd", "a/../../b"] {
        assert!(verified(&TEXT.replace("main/binary-amd64/Packages", wrong), dates()).is_err(), "{wrong}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let message = InRelease::new("x", vec![]);
    assert!(matches!(message.verify(&path, dates()), Err(ArchiveError::Keyring { .. })));
    std::fs::write(&path, "not a key").unwrap();
    assert!(matches!(message.verify(&path, dates()), Err(ArchiveError::Keyring { .. })));
}

proptest! {
    #[test]
    fn dates_never_panic(text in "\\PC{0,30}") { let _ = parse_date(&text); }

    #[test]
    fn lines_never_panic(text in "[0-9a-f]{60,66} ?[0-9]{0,22} ?\\PC{0,10}") { let _ = listed_file(&text); }
}
