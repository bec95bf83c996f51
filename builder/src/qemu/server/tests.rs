use std::collections::BTreeMap;

use super::*;

fn bad(path: &str, count: u32) -> Bad {
    let headers = BTreeMap::from([("Retry-After".to_owned(), "2".to_owned())]);
    Bad { path: path.into(), count, status: 503, headers }
}

fn plain(bad: &[Bad]) -> (Server, String) {
    let bound = Bound::new(false).unwrap();
    let address = format!("127.0.0.1:{}", bound.address.port());
    assert_eq!(bound.url(), format!("http://198.18.0.2:{}", bound.address.port()));
    let files = BTreeMap::from([("/a/b".to_owned(), "content".to_owned())]);
    (bound.serve(files, bad).unwrap(), address)
}

fn say(address: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn it_is_bad_as_often_as_it_was_told_and_then_good() {
    let (server, address) = plain(&[bad("/a/b", 2)]);
    let get = "GET /a/b?x=1 HTTP/1.1\r\nHost: h\r\n\r\n";
    for _ in 0..2 {
        let answer = say(&address, get);
        assert!(status(&answer) == "503" && answer.contains("\r\nRetry-After: 2\r\n"), "{answer}");
    }
    assert!(say(&address, get).ends_with("\r\n\r\ncontent"));
    assert_eq!(status(&say(&address, "GET /c HTTP/1.1\r\n\r\n")), "404");
    assert_eq!(server.requests().len(), 4);
    assert_eq!(server.requests()[0].text, "GET /a/b?x=1\nHost: h\n\n");
}

#[test]
fn it_keeps_what_it_is_sent_and_stands_for_a_proxy() {
    let (server, address) = plain(&[]);
    let post = "POST http://far.example/report HTTP/1.1\r\ncontent-LENGTH: 6\r\n\r\n{\"a\":1";
    assert_eq!(status(&say(&address, post)), "204");
    let asked = server.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].text, "POST http://far.example/report\ncontent-LENGTH: 6\n\n{\"a\":1");
    assert!(say(&address, "GET http://far.example/a/b HTTP/1.1\r\n\r\n").ends_with("content"));
    assert_eq!(status(&say(&address, "CONNECT far.example:443 HTTP/1.1\r\n\r\n")), "405");
}

#[test]
fn what_is_no_request_is_not_answered() {
    let (server, address) = plain(&[]);
    for text in ["\r\n", "GET /\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n", "GET / HTTP/2\r\n\r\n"] {
        assert_eq!(say(&address, text), "", "{text:?}");
    }
    assert!(server.requests().is_empty());
}

/// The peer is ureq with rustls, as on a node.
#[test]
fn who_pins_its_certificate_reaches_it_and_nobody_else() {
    let bound = Bound::new(true).unwrap();
    let url = format!("https://127.0.0.1:{}/a/b", bound.address.port());
    let pem = Identity::new(Ipv4Addr::LOCALHOST).unwrap();
    // The server's own name is the address that guests have for it; here it is reached at another.
    let other = bound.certificate().unwrap();
    let bound = Bound { identity: Some(pem), ..bound };
    let authority = bound.certificate().unwrap();
    assert!(bound.url().starts_with("https://198.18.0.2:"));
    let _server = bound.serve(BTreeMap::from([("/a/b".to_owned(), "sealed".to_owned())]), &[]).unwrap();
    let ask = |authority: &str| {
        let certificate = ureq::tls::Certificate::from_pem(authority.as_bytes()).unwrap();
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::new_with_certs(&[certificate]))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).tls_config(tls).build().into();
        agent.get(&url).call().map(|mut answer| answer.body_mut().read_to_string().unwrap())
    };
    assert_eq!(ask(&authority).unwrap(), "sealed");
    assert!(ask(&other).is_err());
}

proptest::proptest! {
    #[test]
    fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200), length in 0_usize..300) {
        drop(read(&mut &bytes[..]));
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let request = read(&mut &[head.as_bytes(), &bytes].concat()[..]);
        proptest::prop_assert_eq!(request.is_ok_and(|request| request.is_some()), length <= bytes.len());
    }
}
