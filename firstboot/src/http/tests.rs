//! The client against real servers on this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::test_server::{TlsServer, answering, read_request, response};
use super::*;
use crate::host::{Host as _, RealHost};

const VALID: (&str, &str) = ("20000101000000Z", "21000101000000Z");

fn none(_: &str) -> Option<String> {
    None
}

fn ask(request: &HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
    exchange(&RealHost::default(), request, &none)
}

fn skip(why: &str) {
    println!("skipped: {why}");
}

#[test]
fn a_document_is_fetched_with_its_headers() {
    let headers = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Site: a\r\n";
    let url = answering(vec![response("200 OK", headers, "version = 1\n")]);
    let answer = ask(&HttpRequest::get(&format!("{url}/node.toml"), 1024)).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"version = 1\n".as_slice()));
    assert_eq!((answer.header("x-SITE"), answer.date()), (Some("a"), Some(784_111_777)));
    assert!(answer.is_success());
}

#[test]
fn a_status_is_an_answer_and_says_whether_waiting_helps() {
    let url = answering(vec![response("404 Not Found", "", ""), response("503 Busy", "Retry-After: 7\r\n", "")]);
    let missing = ask(&HttpRequest::get(&url, 10)).unwrap();
    assert!((missing.status, missing.is_passing()) == (404, false));
    let busy = ask(&HttpRequest::get(&url, 10)).unwrap();
    assert!(busy.is_passing());
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
}

#[test]
fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
    let after = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HttpResponse { status: 503, headers, body: Vec::new() }.retry_after()
    };
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(after(&[("retry-after", " 120 ")]), Some(Duration::from_mins(2)));
    assert_eq!(after(&[date, ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]), Some(Duration::from_secs(30)));
    assert_eq!(after(&[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(Duration::ZERO));
    assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]), None, "relative to what?");
    assert_eq!(after(&[("retry-after", "99999999999")]), Some(LONGEST_RETRY_AFTER));
    assert_eq!(after(&[("retry-after", "soon")]), None);
    assert_eq!(after(&[("retry-after", "-1")]), None);
}

#[test]
fn a_body_above_the_limit_is_refused_however_it_is_sent() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n6\r\n123456\r\n0\r\n\r\n";
    let url = answering(vec![response("200 OK", "", "123456"), chunked.into(), chunked.into()]);
    for _ in 0..2 {
        let error = ask(&HttpRequest::get(&url, 5)).unwrap_err();
        assert_eq!(error.reason, HttpReason::TooLarge(5));
    }
    assert_eq!(ask(&HttpRequest::get(&url, 6)).unwrap().body, b"123456");
}

#[test]
fn a_broken_answer_is_no_document() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let url = answering(vec![half, b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()]);
    ask(&HttpRequest::get(&url, 1000)).expect_err("the end is missing");
    ask(&HttpRequest::get(&url, 1000)).expect_err("this is no HTTP");
}

#[test]
fn a_slow_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        // It says something all the time, and never comes to an end.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b".").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let started = Instant::now();
    let request = HttpRequest { timeout: Duration::from_secs(1), ..HttpRequest::get(&url, 2000) };
    let error = ask(&request).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Timeout { seconds: 1, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn where_nothing_listens_there_is_no_connection_and_no_secret_in_the_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = ask(&HttpRequest::get(&format!("http://user:pass@{address}/a?token=hidden"), 10)).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Connection(_)), "{error}");
    assert!(error.to_string().starts_with(&format!("http://{address}/a?...: no connection: ")), "{error}");
    let request = HttpRequest { headers: &[("Authorization", "hidden")], ..HttpRequest::get("http://u:p@h/?q", 1) };
    assert_eq!(format!("{request:?}"), "HttpRequest(Get http://h/?..., 0 bytes)");
}

#[test]
fn addresses_and_names_that_lead_nowhere_are_told_apart() {
    for url in ["ftp://x/", "node.toml", "http://", "https:///x"] {
        let error = ask(&HttpRequest::get(url, 10)).unwrap_err();
        assert!(matches!(error.reason, HttpReason::Address(_)), "{url}: {error}");
    }
    let error = ask(&HttpRequest::get("http://no-such-name.invalid/", 10)).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Name(_)), "{error}");
}

#[test]
fn a_report_is_sent_with_its_body_and_its_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/report", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        stream.write_all(&response("307 Elsewhere", "Location: http://127.0.0.1:1/\r\n", "")).unwrap();
        request
    });
    let request = HttpRequest {
        method: Method::Post,
        headers: &[("X-Token", "t"), ("Content-Type", "application/json")],
        body: b"{\"code\":500}",
        ..HttpRequest::get(&url, 10)
    };
    assert_eq!(ask(&request).unwrap().status, 307, "a report is not sent anywhere else");
    let request = server.join().unwrap().to_lowercase();
    assert!(request.starts_with("post /report http/1.1\r\n") && request.ends_with("{\"code\":500}"), "{request}");
    assert!(request.contains("x-token: t\r\n") && request.contains("content-type: application/json\r\n"), "{request}");
}

#[test]
fn redirects_are_followed_and_come_to_an_end() {
    let target = answering(vec![response("200 OK", "", "there")]);
    let to_target = format!("Location: {target}/x\r\n");
    let url = answering(vec![response("302 Found", &to_target, "")]);
    assert_eq!(ask(&HttpRequest::get(&url, 10)).unwrap().body, b"there");
    let round = answering(vec![response("302 Found", "Location: /again\r\n", "")]);
    assert_eq!(ask(&HttpRequest::get(&round, 10)).unwrap_err().reason, HttpReason::Redirects);
}

/// A proxy that answers one connection with these, one after the other; gives what it was asked.
fn proxy_with(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(read_request(&mut stream));
            stream.write_all(&answer).unwrap();
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        asked
    });
    (proxy, server)
}

#[test]
fn a_plain_address_is_asked_of_the_proxy_as_it_is() {
    let (proxy, server) = proxy_with(vec![response("200 OK", "", "through")]);
    let environment = |name: &str| (name == "HTTP_PROXY").then(|| format!("http://u:p%3Aq@{proxy}"));
    // The name is the proxy's to resolve, and its password is not the server's.
    let request = HttpRequest {
        method: Method::Post,
        body: b"what is sent",
        ..HttpRequest::get("http://config.invalid:8080/node.toml?a=b", 100)
    };
    let answer = exchange(&RealHost::default(), &request, &environment).unwrap();
    assert_eq!(answer.body, b"through");
    let asked = server.join().unwrap().remove(0);
    assert!(asked.starts_with("POST http://config.invalid:8080/node.toml?a=b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nProxy-Authorization: Basic dTpwOnE=\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("\r\nhost: config.invalid:8080\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\nwhat is sent"), "{asked}");
}

#[test]
fn what_is_longer_than_a_buffer_passes_the_proxy_whole() {
    let (proxy, server) = proxy_with(vec![response("204 Taken", "", "")]);
    let environment = |name: &str| (name == "http_proxy").then(|| proxy.clone());
    let body: Vec<u8> = (0..600_000_u32).map(|count| b'a' + u8::try_from(count % 26).unwrap()).collect();
    let request = HttpRequest { method: Method::Put, body: &body, ..HttpRequest::get("http://config.invalid/x", 100) };
    assert_eq!(exchange(&RealHost::default(), &request, &environment).unwrap().status, 204);
    let asked = server.join().unwrap().remove(0);
    assert_eq!(asked.split_once("\r\n\r\n").unwrap().1.as_bytes(), body);
}

#[test]
fn a_tunnel_is_asked_for_where_it_is_encrypted() {
    let (proxy, server) = proxy_with(vec![b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec()]);
    let environment = |name: &str| (name == "https_proxy").then(|| proxy.clone());
    // No authority is asked for before the tunnel stands.
    let directory = tempfile::tempdir().unwrap();
    let Some(other) = tls(directory.path(), VALID) else { return };
    let request = HttpRequest { trust: Trust::Pinned(&other.authority), ..HttpRequest::get("https://far.invalid/", 1) };
    let error = exchange(&RealHost::default(), &request, &environment).unwrap_err();
    assert!(error.to_string().contains("the proxy refuses"), "{error}");
    assert!(server.join().unwrap()[0].starts_with("CONNECT far.invalid:443 "));
}

#[test]
fn a_proxy_that_nobody_can_speak_to_is_named_without_its_password() {
    let environment = |name: &str| (name == "all_proxy").then(|| "socks5://u:hidden@127.0.0.1:1".to_owned());
    let error = exchange(&RealHost::default(), &HttpRequest::get("http://h/", 1), &environment).unwrap_err();
    assert!(error.to_string().contains("must begin with http://"), "{error}");
    assert!(!error.to_string().contains("hidden"), "{error}");
}

/// The peer is curl, which everybody's proxies work with.
#[test]
fn the_proxy_is_asked_as_curl_asks_it() {
    let first_line = |asked: &str| asked.lines().next().unwrap_or_default().to_owned();
    let with_curl = |url: &str| {
        let (proxy, server) = proxy_with(vec![response("200 OK", "", "")]);
        #[allow(clippy::disallowed_methods)] // a peer of the test
        let ran = std::process::Command::new("curl")
            .args(["--silent", "--noproxy", "", "--proxy", &format!("http://{proxy}"), url])
            .output();
        ran.ok().map(|_| first_line(&server.join().unwrap()[0]))
    };
    for url in ["http://config.invalid/node.toml?x=y", "http://config.invalid:8080/"] {
        let Some(expected) = with_curl(url) else { return skip("curl is not installed") };
        let (proxy, server) = proxy_with(vec![response("200 OK", "", "")]);
        let environment = |name: &str| (name == "http_proxy").then(|| proxy.clone());
        exchange(&RealHost::default(), &HttpRequest::get(url, 100), &environment).unwrap();
        assert_eq!(first_line(&server.join().unwrap()[0]), expected);
    }
}

fn tls(directory: &Path, valid: (&str, &str)) -> Option<TlsServer> {
    std::fs::write(directory.join("node.toml"), response("200 OK", "", "version = 1\n")).unwrap();
    let server = TlsServer::start(directory, valid);
    if server.is_none() {
        skip("openssl is not installed");
    }
    server
}

#[test]
fn only_the_pinned_authority_or_the_images_bundle_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = tls(directory.path(), VALID) else { return };
    let other_directory = tempfile::tempdir().unwrap();
    let Some(other) = tls(other_directory.path(), VALID) else { return };
    let url = format!("{}/node.toml", server.url);
    let with = |trust| HttpRequest { trust, ..HttpRequest::get(&url, 100) };
    assert_eq!(ask(&with(Trust::Pinned(&server.authority))).unwrap().body, b"version = 1\n");
    // Several certificates may be given, for the time in which an authority is exchanged.
    let both = format!("{}{}", other.authority, server.authority);
    assert_eq!(ask(&with(Trust::Pinned(&both))).unwrap().status, 200);
    let error = ask(&with(Trust::Pinned(&other.authority))).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Certificate(_)), "{error}");
    assert!(error.to_string().contains("no authority that this node trusts"), "{error}");
    let error = ask(&with(Trust::Pinned("no PEM"))).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Authorities(_)), "{error}");
    // The image's bundle, in a tree that stands for the image.
    let root = tempfile::tempdir().unwrap();
    let host = RealHost::new(root.path());
    let error = exchange(&host, &with(Trust::System), &none).unwrap_err();
    assert!(error.to_string().contains("package ca-certificates"), "{error}");
    host.write(SYSTEM_AUTHORITIES, other.authority.as_bytes(), 0o644).unwrap();
    let error = exchange(&host, &with(Trust::System), &none).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Certificate(_)), "{error}");
    host.write(SYSTEM_AUTHORITIES, both.as_bytes(), 0o644).unwrap();
    assert_eq!(exchange(&host, &with(Trust::System), &none).unwrap().status, 200);
    // Another name than the certificate's.
    let by_address = url.replace("localhost", "127.0.0.1");
    let request = HttpRequest { trust: Trust::Pinned(&server.authority), ..HttpRequest::get(&by_address, 100) };
    let error = ask(&request).unwrap_err();
    assert!(matches!(error.reason, HttpReason::Certificate(_)), "{error}");
}

#[test]
fn a_certificate_out_of_its_time_is_told_apart() {
    for (valid, word) in [(("19990101000000Z", "20000101000000Z"), "expired"), (("20990101000000Z", VALID.1), "yet")] {
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = tls(directory.path(), valid) else { return };
        let url = format!("{}/node.toml", server.url);
        let request = HttpRequest { trust: Trust::Pinned(&server.authority), ..HttpRequest::get(&url, 100) };
        let error = ask(&request).unwrap_err();
        assert!(error.is_certificate_time() && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn encryption_is_not_given_up_by_a_redirect() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = tls(directory.path(), VALID) else { return };
    let plain = answering(vec![response("200 OK", "", "from somebody else")]);
    let elsewhere = response("302 Found", &format!("Location: {plain}/?q=1\r\n"), "");
    std::fs::write(directory.path().join("down"), elsewhere).unwrap();
    let up = response("302 Found", &format!("Location: {}/node.toml\r\n", server.url), "");
    let trust = Trust::Pinned(&server.authority);
    let error = ask(&HttpRequest { trust, ..HttpRequest::get(&format!("{}/down", server.url), 100) }).unwrap_err();
    assert!(matches!(&error.reason, HttpReason::Downgrade(to) if to.starts_with(&plain)), "{error}");
    let from_plain = answering(vec![up]);
    assert_eq!(ask(&HttpRequest { trust, ..HttpRequest::get(&from_plain, 100) }).unwrap().body, b"version = 1\n");
}

#[test]
fn what_is_shown_of_an_address_holds_nothing_secret() {
    assert_eq!(shown("https://u:p@h:1/a/b?c=d#e"), "https://h:1/a/b?...");
    assert_eq!(shown("https://h/a@b"), "https://h/a@b");
    assert_eq!(shown("h"), "h");
}
