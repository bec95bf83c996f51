//! The time by a server's `Date`, over TLS with a certificate whose validity is not judged by the clock.
//!
//! A node whose clock is wrong finds every certificate expired or not yet valid, and could never ask anyone for the
//! right time. So for this one question the validity is judged by itself: the chain must lead to a trusted
//! authority, be for this name, and all of it must have been valid at one and the same time; and the `Date` that is
//! then given must lie within that time. A thief of an expired certificate can thus set a node's clock only to a time
//! at which the certificate was valid, and [`super::judge`] bounds it further. Nothing else is believed of the
//! connection: no byte of the answer but its `Date` is used, and the question has no secret.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

use super::Vouch;
use super::civil::Civil;
use crate::config::Url;
use crate::der;
use crate::http::SYSTEM_AUTHORITIES;

/// How long asking one server may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// The longest head of an answer.
const MAXIMUM_HEAD_BYTES: u64 = 16 * 1024;

/// A server's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerDate {
    /// Its `Date`, in seconds since 1970.
    pub date: u64,
    /// From when to when its certificates are valid, all of them.
    pub valid: (u64, u64),
}

/// Asks for the time. `addresses` are those of the server. Where nobody vouches for it, its certificate only has to be
/// one whose key it has.
///
/// # Errors
/// Why not, in words.
pub fn ask(url: &Url, addresses: &[std::net::IpAddr], vouch: &Vouch) -> Result<ServerDate, String> {
    let until = Instant::now() + PATIENCE;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authorities = match vouch {
        Vouch::Image => Some(authorities(None)?),
        Vouch::These(pem) => Some(authorities(Some(pem))?),
        Vouch::Nobody => None,
    };
    let judge = authorities.map(|authorities| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider.clone()).build()
    });
    let judge = judge.transpose().map_err(|error| error.to_string())?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(AtItsOwnTime { judge, algorithms, valid: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(url.host().to_string()).map_err(|error| error.to_string())?;
    let mut first = None;
    for address in addresses {
        let asked = connect((*address, url.port()).into(), until).and_then(|stream| {
            let connection = ClientConnection::new(Arc::new(config.clone()), name.clone()).map_err(io::Error::other)?;
            exchange(StreamOwned::new(connection, stream), url, until)
        });
        match asked {
            Ok(head) => {
                let date = date_in(&head).ok_or("the answer has no Date")?;
                let valid = verifier.valid.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Ok(ServerDate { date, valid: valid.ok_or("the certificate was not looked at")? });
            }
            Err(error) => first = first.or(Some(error.to_string())),
        }
    }
    Err(first.unwrap_or_else(|| "the name has no address".to_owned()))
}

fn authorities(ca: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match ca {
        Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect(),
        None => CertificateDer::pem_file_iter(SYSTEM_AUTHORITIES)
            .map_err(|error| {
                format!("{SYSTEM_AUTHORITIES}: {error}; put ca-certificates into the profile, or give ca")
            })?
            .filter_map(Result::ok)
            .collect(),
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() { Err("there is no authority to judge the server by".into()) } else { Ok(roots) }
}

fn remaining(until: Instant) -> io::Result<Duration> {
    until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())))
}

/// A connection that ends at a fixed moment.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.until)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(remaining(self.until)?))?;
        self.stream.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn connect(address: SocketAddr, until: Instant) -> io::Result<Timed> {
    let stream = TcpStream::connect_timeout(&address, remaining(until)?.min(Duration::from_secs(3)))?;
    Ok(Timed { stream, until })
}

/// Asks for the address without its query, which may be a token, and gives the answer's head.
fn exchange(mut stream: impl Read + Write, url: &Url, until: Instant) -> io::Result<String> {
    let host = match url.host() {
        crate::config::HostAddress::Ip(std::net::IpAddr::V6(v6)) => format!("[{v6}]:{}", url.port()),
        host => format!("{host}:{}", url.port()),
    };
    let path = url.path();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ingot\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut limited = stream.take(MAXIMUM_HEAD_BYTES);
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        remaining(until)?;
        match limited.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            // Servers that close without saying so have still said what they said.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The `Date` in an answer's head.
fn date_in(head: &str) -> Option<u64> {
    let mut lines = head.split("\r\n");
    lines.next().filter(|status| status.starts_with("HTTP/1."))?;
    let value = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then_some(value.trim())
    })?;
    let time = httpdate::parse_http_date(value).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Judges a chain by a time at which all of it is valid, whatever the clock says. Without a judge any chain will do.
#[derive(Debug)]
struct AtItsOwnTime {
    judge: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    valid: Mutex<Option<(u64, u64)>>,
}

impl ServerCertVerifier for AtItsOwnTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut common: Option<(u64, u64)> = None;
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            let (from, until) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
            common = Some(common.map_or((from, until), |(a, b)| (from.max(a), until.min(b))));
        }
        let (from, until) = common.filter(|(from, until)| from <= until).ok_or(CertificateError::Expired)?;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(until));
        let verified = match &self.judge {
            Some(judge) => judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, then)?,
            None => ServerCertVerified::assertion(),
        };
        *self.valid.lock().unwrap_or_else(PoisonError::into_inner) = Some((from, until));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// From when to when a certificate is valid (RFC 5280, section 4.1), in seconds since 1970; `None` where it is none.
pub fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let from = der::element(der::certificate(certificate)?.validity)?;
    let until = der::element(from.after)?;
    Some((moment(from.tag, from.content)?, moment(until.tag, until.content)?))
}

/// A `UTCTime` or a `GeneralizedTime`, in the one form that certificates have; the time before 1970 is 0.
fn moment(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (0x17, 12) => {
            let short: i64 = text[..2].parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, &text[2..])
        }
        (0x18, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    if year < 1970 {
        return Some(0);
    }
    let number = |at: usize| rest[at..at + 2].parse().ok();
    let (month, day, hour, minute, second) = (number(0)?, number(2)?, number(4)?, number(6)?, number(8)?);
    Civil { year, month, day, hour, minute, second }.seconds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_server::TlsServer;

    const LOCALHOST: [std::net::IpAddr; 2] =
        [std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

    /// A server with a certificate of this validity; its answer has the given head.
    fn ask_server(valid: (&str, &str), head: &str) -> Option<Result<ServerDate, String>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("date"), format!("HTTP/1.0 200 OK\r\n{head}\r\n")).unwrap();
        let server = TlsServer::start(directory.path(), valid)?;
        let url: Url = format!("{}/date?token=x", server.url).parse().unwrap();
        Some(ask(&url, &LOCALHOST, &Vouch::These(server.authority.clone())))
    }

    #[test]
    fn an_expired_certificate_gives_the_time_of_its_validity() {
        let head = "Date: Tue, 15 Jun 2021 12:00:00 GMT\r\n";
        let Some(answer) = ask_server(("20210101000000Z", "20220101000000Z"), head) else {
            eprintln!("skipped: there is no openssl");
            return;
        };
        let date = answer.unwrap();
        assert_eq!(Civil::of(date.date).to_string(), "2021-06-15 12:00:00 UTC");
        assert_eq!(Civil::of(date.valid.1).to_string(), "2022-01-01 00:00:00 UTC");
    }

    #[test]
    fn another_authority_is_refused_whatever_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let valid = ("20210101000000Z", "20220101000000Z");
        let Some(server) = TlsServer::start(directory.path(), valid) else { return };
        let other = tempfile::tempdir().unwrap();
        let Some(stranger) = TlsServer::start(other.path(), valid) else { return };
        let url: Url = server.url.parse().unwrap();
        let error = ask(&url, &LOCALHOST, &Vouch::These(stranger.authority.clone())).unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        // Where nobody vouches for it, the bounds of its own certificate are all that is left.
        std::fs::write(directory.path().join("date"), "HTTP/1.0 200 OK\r\nDate: Tue, 15 Jun 2021 12:00:00 GMT\r\n\r\n")
            .unwrap();
        let url: Url = format!("{}/date", server.url).parse().unwrap();
        let answer = ask(&url, &LOCALHOST, &Vouch::Nobody).unwrap();
        assert_eq!(Civil::of(answer.valid.0).to_string(), "2021-01-01 00:00:00 UTC");
    }

    #[test]
    fn heads_and_certificates_are_read_strictly() {
        let head = "HTTP/1.1 404 Not Found\r\ndate: Tue, 15 Jun 2021 12:00:00 GMT\r\n\r\nDate: later";
        assert_eq!(date_in(head), Some(1_623_758_400));
        assert_eq!(date_in("HTTP/1.1 200 OK\r\n\r\nDate: Tue, 15 Jun 2021 12:00:00 GMT"), None);
        assert_eq!(date_in("SSH-2.0\r\nDate: Tue, 15 Jun 2021 12:00:00 GMT\r\n\r\n"), None);
        assert_eq!(moment(0x17, b"500101000000Z"), Some(0));
        assert_eq!(moment(0x17, b"490101000000Z"), Some(2_493_072_000));
        assert_eq!(moment(0x18, b"20500101000000Z"), Some(2_524_608_000));
        for wrong in [&b"500101000000"[..], b"5001010000Z", b"261301000000Z", b"26010100000\xc3\xa4Z"] {
            assert_eq!(moment(0x17, wrong), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_certificate_and_head_are_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = validity(&bytes);
            let _ = date_in(&String::from_utf8_lossy(&bytes));
        }
    }
}
