use std::io::Write;

use proptest::prelude::*;

use super::super::{Store, ar, normalize, normalize_all};
use super::*;
use crate::progress::Silent;

const CONTROL: &[u8] = b"Package: thing\nVersion: 1\nDepends: a,\n b\nDescription: x\n";

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn packed(suffix: &str, bytes: &[u8]) -> Vec<u8> {
    match suffix {
        ".gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => ::zstd::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    }
}

pub(crate) fn deb_with(suffix: &str, data: &[u8]) -> Vec<u8> {
    let control = tar_of(&[("control", CONTROL), ("postinst", b"#!/bin/sh\n")]);
    let mut writer = ar::Writer::new(std::io::Cursor::new(Vec::new())).unwrap();
    writer.append("debian-binary", &mut &b"2.0\n"[..]).unwrap();
    writer.append(&format!("control.tar{suffix}"), &mut &packed(suffix, &control)[..]).unwrap();
    writer.append(&format!("data.tar{suffix}"), &mut &packed(suffix, data)[..]).unwrap();
    writer.finish().unwrap().into_inner()
}

fn deb(suffix: &str) -> Vec<u8> {
    deb_with(suffix, &tar_of(&[("usr/bin/thing", &[7; 5000])]))
}

fn opened(bytes: &[u8]) -> Result<Deb, StoreError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Deb::open(file.path())
}

#[test]
fn every_compression_reads_the_same_and_normalizes_to_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let hashes: Vec<String> = ["", ".gz", ".xz", ".zst"].map(|s| store.put(&mut &deb(s)[..]).unwrap()).to_vec();
    let names: Vec<&str> = hashes.iter().map(String::as_str).collect();
    let paths = normalize_all(&store, &names, 3, &Silent).unwrap();
    for (hash, path) in hashes.iter().zip(&paths) {
        let deb = Deb::open(&store.path(hash)).unwrap();
        let control = deb.control().unwrap();
        assert_eq!((control.get("package"), control.get("Depends")), (Some("thing"), Some("a,\nb")));
        assert_eq!(deb.control_files().unwrap()["postinst"].0, 0o755);
        let mut names = Vec::new();
        deb.for_each(|entry| {
            names.push(entry.path().map_err(|e| deb.error(&e))?.display().to_string());
            Ok::<_, StoreError>(())
        })
        .unwrap();
        assert_eq!(names, ["usr/bin/thing"]);
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(&paths[0]).unwrap());
        assert_eq!(&normalize(&store, hash).unwrap(), path);
    }
    match crate::process::Tool::new("dpkg-deb").arg("--field").arg(&paths[2]).arg("Package").run() {
        Ok(output) => assert_eq!(output.stdout, b"thing\n"),
        Err(error) => println!("skipped: dpkg-deb: {error}"),
    }
}

#[test]
fn what_is_no_package_is_refused() {
    let message = |bytes: &[u8]| opened(bytes).unwrap_err().to_string();
    assert!(message(b"<html>").contains("no ar archive"));
    let whole = deb(".xz");
    assert!(message(&whole[..whole.len() / 2]).contains("ends within"));
    let mut other = deb("");
    other[8..21].copy_from_slice(b"debian-botany");
    assert!(message(&other).contains("first member is not debian-binary"));
    let text = String::from_utf8_lossy(&whole).into_owned();
    assert!(text.contains("data.tar.xz"));
    let at = whole.windows(11).position(|w| w == b"data.tar.xz").unwrap();
    let mut unknown = whole.clone();
    unknown[at..at + 11].copy_from_slice(b"data.tar.bz");
    assert!(message(&unknown).contains("compression that is not known"));
}

#[test]
fn a_bomb_is_refused_before_it_fills_anything() {
    let bomb = deb_with(".zst", &vec![0; 300 << 20]);
    assert!(bomb.len() < 1 << 20);
    let deb = opened(&bomb).unwrap();
    let error = std::io::copy(&mut deb.data_tar().unwrap(), &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("more than is plausible"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn hostile_packages_never_panic(
        suffix in prop::sample::select(vec!["", ".gz", ".xz", ".zst"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = deb(suffix);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(deb) = opened(&bytes) {
            let _ = deb.control();
            let _ = deb.for_each(|entry| {
                let _ = (entry.path().is_ok(), entry.link_name().is_ok());
                std::io::copy(entry, &mut std::io::sink()).map_err(|e| deb.error(&e))?;
                Ok::<_, StoreError>(())
            });
        }
    }
}
