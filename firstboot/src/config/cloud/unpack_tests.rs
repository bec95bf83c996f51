use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn parts(bytes: &[u8]) -> Result<Vec<(String, Kind, String)>, String> {
    let mut findings = Findings::default();
    match unpack(&Arc::from("user-data"), bytes, &mut findings) {
        Some(parts) => Ok(parts.into_iter().map(|p| (p.document.to_string(), p.kind, p.text)).collect()),
        None => Err(findings.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

fn refuses(bytes: &[u8], expected: &str) {
    let error = parts(bytes).expect_err(expected);
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

const PLAIN: &str = "#cloud-config\nhostname: w1\n";

#[test]
fn a_configuration_is_found_in_every_packing() {
    let message = format!("Content-Type: text/cloud-config\nMIME-Version: 1.0\n\n{PLAIN}");
    let wrapped: String = STANDARD
        .encode(PLAIN)
        .as_bytes()
        .chunks(12)
        .map(|line| format!("{}\n", std::str::from_utf8(line).unwrap()))
        .collect();
    for bytes in [
        PLAIN.as_bytes().to_vec(),
        gzip(PLAIN.as_bytes()),
        gzip(&gzip(PLAIN.as_bytes())),
        STANDARD.encode(PLAIN).into_bytes(),
        wrapped.into_bytes(),
        STANDARD.encode(gzip(PLAIN.as_bytes())).into_bytes(),
        message.into_bytes(),
    ] {
        let found = parts(&bytes).unwrap();
        assert_eq!(found, [("user-data".to_owned(), Kind::CloudConfig, PLAIN.to_owned())]);
    }
    assert_eq!(parts(b"").unwrap(), []);
    assert_eq!(parts(b" \n\n").unwrap(), []);
}

#[test]
fn parts_have_names_and_keep_their_order() {
    let inner = format!(
        "Content-Type: multipart/mixed; boundary=in\n\n--in\nContent-Type: text/plain\n\n#ingot-config\nversion = 1\n\
         --in\nContent-Type: text/cloud-config; charset=iso-8859-1\nContent-Transfer-Encoding: base64\n\
         Content-Disposition: attachment; filename=b.cfg\n\n{}\n--in--\n",
        STANDARD.encode(gzip(b"hostname: w3\n"))
    );
    let text = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"==out==\"\n\n--==out==\n\
         Content-Type: text/cloud-config\nContent-Disposition: attachment; filename=\"a.cfg\"\n\n\
         #cloud-config\nhostname: w1\n--==out==\n{inner}--==out==--\n"
    );
    let found = parts(text.as_bytes()).unwrap();
    let names: Vec<_> = found.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect();
    assert_eq!(
        names,
        [
            ("user-data, part 1 (a.cfg)", Kind::CloudConfig),
            ("user-data, part 2", Kind::IngotConfig),
            ("user-data, part 3 (b.cfg)", Kind::CloudConfig),
        ]
    );
    assert_eq!(found[2].2, "hostname: w3\n");
}

#[test]
fn an_archive_has_parts_too() {
    let text = "#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    hostname: w1\n  filename: x\n- |\n  \
                #cloud-config\n  timezone: UTC\n";
    let found = parts(text.as_bytes()).unwrap();
    assert_eq!(found[0].0, "user-data, part 1 (x)");
    assert_eq!(found[1].2, "#cloud-config\ntimezone: UTC\n");
    refuses(b"#cloud-config-archive\na: b\n", "not a list of parts");
    refuses(b"#cloud-config-archive\n- 7\n", "user-data:2:3: is a whole number, not a part");
    refuses(b"#cloud-config-archive\n- {type: text/cloud-config}\n", "has no content");
    refuses(b"#cloud-config-archive\n- {content: 7}\n", "not a text");
    refuses(b"#cloud-config-archive\n- {content: '#!/bin/sh'}\n", "is a script");
}

#[test]
fn what_would_be_lost_is_refused_with_its_reason() {
    for (text, expected) in [
        ("#!/bin/sh\nreboot\n", "is a script"),
        ("#!/bin/sh\nreboot\n", "write commands as runcmd"),
        ("hostname: w1\n", "does not say what it is"),
        ("#cloud-boothook\nx\n", "is a boothook"),
        ("#include\nhttp://x/\n", "addresses to include"),
        ("#include-once\nhttp://x/\n", "addresses to include"),
        ("#part-handler\n", "part handler"),
        ("#cloud-config-jsonp\n[]\n", "JSON patch"),
        ("#cloud-something\n", "kind of cloud-init"),
        ("## template: jinja\n#cloud-config\n", "Jinja template"),
        ("##template:jinja\n", "does not say what it is"),
        ("Content-Type: text/x-shellscript-per-boot\n\nx\n", "is a script"),
        ("Content-Type: text/cloud-config\n\n## template: jinja\n#cloud-config\n", "Jinja template"),
        ("Content-Type: text/cloud-config\nMerge-Type: list(append)\n\na: 1\n", "Merge-Type"),
        ("Content-Type: text/cloud-config\nX-Merge-Type: list(append)\n\na: 1\n", "Merge-Type"),
        ("Content-Type: message/rfc822\n\na: 1\n", "message in a message"),
        ("Content-Type: text/cloud-config; charset=latin1\n\na: ä\n", "character set \"latin1\""),
        ("Content-Type: multipart/mixed; boundary=x\n\n--x\n\n#cloud-config\n", "cut off"),
        ("Content-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\n!\n", "not valid base64"),
        ("Content-Type: text/plain\n\nhello\n", "does not say what it is"),
    ] {
        refuses(text.as_bytes(), expected);
    }
}

#[test]
fn sizes_and_layers_are_bounded() {
    refuses(&vec![b'#'; MAXIMUM_DOCUMENT_BYTES + 1], "larger than 1 MiB");
    // 100 MB of blanks in 100 KB of gzip; and that once more.
    let bomb = gzip(&vec![b' '; 100 << 20]);
    refuses(&bomb, "more than 1 MiB when it is unpacked");
    refuses(&gzip(&bomb), "more than 1 MiB when it is unpacked");
    let mut layers = PLAIN.as_bytes().to_vec();
    for _ in 0..=MAXIMUM_DEPTH {
        layers = gzip(&layers);
    }
    refuses(&layers, "more than 8 layers");
    let cut = gzip(PLAIN.as_bytes());
    refuses(&cut[..cut.len() - 4], "not whole gzip");
    // Many parts that are each within bounds.
    let part = STANDARD.encode(gzip(format!("#cloud-config\n{}", "#".repeat(900 << 10)).as_bytes()));
    let part = format!("--x\nContent-Transfer-Encoding: base64\nContent-Type: text/cloud-config\n\n{part}\n");
    refuses(
        format!("Content-Type: multipart/mixed; boundary=x\n\n{}--x--\n", part.repeat(6)).as_bytes(),
        "more than 4 MiB",
    );
    refuses(
        format!("Content-Type: multipart/mixed; boundary=x\n\n{}--x--\n", "--x\n\n#cloud-config\n".repeat(101))
            .as_bytes(),
        "more than 100 parts",
    );
    let mut nested = String::from("Content-Type: text/cloud-config\n\na: 1\n");
    for level in 0..12 {
        nested = format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n{nested}--b{level}--\n");
    }
    refuses(nested.as_bytes(), "more than 8 layers");
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_parts_or_errors(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let mut findings = Findings::default();
        let parts = unpack(&Arc::from("u"), &bytes, &mut findings);
        proptest::prop_assert_eq!(parts.is_none(), !findings.errors.is_empty());
        let mut findings = Findings::default();
        let parts = unpack(&Arc::from("u"), &gzip(&bytes), &mut findings);
        proptest::prop_assert_eq!(parts.is_none(), !findings.errors.is_empty());
    }
}

#[test]
fn a_user_data_is_told_from_a_node_toml_in_all_its_forms() {
    use std::io::Write as _;
    let cloud = "#cloud-config\nhostname: a\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(cloud.as_bytes()).unwrap();
    let mime = "MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n#cloud-config\n";
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, cloud);
    for bytes in [
        cloud.as_bytes(),
        b"#ingot-config\nversion = 1\n",
        mime.as_bytes(),
        &gzip.finish().unwrap(),
        base64.as_bytes(),
        format!("\u{feff}{cloud}").as_bytes(),
        b"## template: jinja\n#cloud-config\n",
        b"#!/bin/sh\n",
        b"#cloud-config-archive\n- a\n",
    ] {
        assert!(is_user_data(bytes), "{}", String::from_utf8_lossy(bytes));
    }
    for toml in
        ["version = 1\n", "# a comment: of a person\nversion = 1\n", "", "\u{feff}version = 1\n", crate::config::SAMPLE]
    {
        assert!(!is_user_data(toml.as_bytes()), "{toml}");
    }
}
