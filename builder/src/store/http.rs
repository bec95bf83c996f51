//! HTTP for the store: one blocking client with timeouts, bounded redirects and a policy of retries.
//!
//! What may pass by waiting (no connection, a broken one, 5xx, 408, 429) is tried again with full jitter, or after what
//! `Retry-After` says; what will not (404, 403, …) is an error at once, so that the next URL is tried.
//!
//! Servers are trusted by the host's own bundle of authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` name another), because a
//! site's mirror often has a certificate of the site; a host without a bundle gets Mozilla's list. `https_proxy`,
//! `http_proxy`, `all_proxy` and `no_proxy` are honoured.

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::http::StatusCode;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use super::names::Names;

/// The most files that are fetched at the same time.
pub(super) const MAXIMUM_JOBS: usize = 64;

/// How often and how patiently a request is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Attempts in a row without a new byte, the first one included.
    pub attempts: u32,
    /// The first pause is a random part of this; it doubles each time.
    pub base: Duration,
    /// No pause is longer, unless the server asks for it.
    pub cap: Duration,
    /// The longest `Retry-After` that is waited for.
    pub patience: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(20),
            patience: Duration::from_mins(2),
        }
    }
}

/// A client that follows the policy.
#[derive(Debug, Clone)]
pub struct Client {
    /// Made for the first request: reading the host's authorities takes time that most commands need not spend.
    agent: Arc<OnceLock<ureq::Agent>>,
    silence: Duration,
    /// When to try again.
    pub retries: Retries,
}

/// Why a request gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Trying again may help, at the earliest after this pause if the server gave one.
    Passing(String, Option<Duration>),
    /// Trying again will not help.
    Lasting(String),
}

/// A response that is good to read.
pub(crate) struct Response {
    /// Whether the server starts at the offset that was asked for (206) or at the beginning (200).
    pub partial: bool,
    /// Bytes that the body has, where the server says so.
    pub length: Option<u64>,
    pub body: Box<dyn Read>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client with the usual timeouts and retries.
    pub fn new() -> Self {
        Self::with(Retries::default(), Duration::from_mins(1))
    }

    /// A client with its own retries, which gives up on a connection that is silent for `silence`.
    pub fn with(retries: Retries, silence: Duration) -> Self {
        Self { agent: Arc::default(), silence, retries }
    }

    fn agent(&self) -> &ureq::Agent {
        self.agent.get_or_init(|| {
            let config = ureq::Agent::config_builder()
                .user_agent(concat!("ingot/", env!("CARGO_PKG_VERSION")))
                // Files are wanted as they are: no decoding on the way, hashes are of the stored bytes.
                .accept_encoding("identity")
                .http_status_as_error(false)
                .max_redirects(5)
                .max_redirects_will_error(true)
                // Every thread finds its connection again.
                .max_idle_connections(MAXIMUM_JOBS)
                .max_idle_connections_per_host(MAXIMUM_JOBS)
                .timeout_connect(Some(self.silence.min(Duration::from_secs(20))))
                .timeout_recv_response(Some(self.silence))
                .timeout_per_read(Some(self.silence))
                .tls_config(TlsConfig::builder().root_certs(authorities()).build());
            ureq::Agent::with_parts(config.build(), DefaultConnector::default(), Names::<DefaultResolver>::default())
        })
    }

    /// One request, from `offset` on.
    pub(crate) fn open(&self, url: &str, offset: u64) -> Result<Response, Failure> {
        let mut request = self.agent().get(url);
        if url.starts_with("https://") {
            // A redirect must not take away the encryption that the address asks for.
            request = request.config().https_only(true).build();
        }
        if offset > 0 {
            request = request.header("Range", format!("bytes={offset}-"));
        }
        let response = request.call().map_err(|error| classify(&error))?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let length = header("content-length").and_then(|l| l.parse().ok());
        match status {
            StatusCode::OK => {
                Ok(Response { partial: false, length, body: Box::new(response.into_body().into_reader()) })
            }
            StatusCode::PARTIAL_CONTENT => {
                let starts = header("content-range").and_then(|r| range_start(&r));
                if starts != Some(offset) {
                    return Err(Failure::Lasting("the server answers with another range than asked for".into()));
                }
                Ok(Response { partial: true, length, body: Box::new(response.into_body().into_reader()) })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Passing(said(status), header("retry-after").and_then(|v| retry_after(&v))))
            }
            s if s.is_server_error() => {
                Err(Failure::Passing(said(status), header("retry-after").and_then(|v| retry_after(&v))))
            }
            _ => Err(Failure::Lasting(said(status))),
        }
    }

    /// Fetches a small file whole, trying again as the policy says. Gives `Ok(None)` where the server says that
    /// there is none.
    pub(crate) fn get(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match self.open(url, 0) {
                Ok(mut response) => {
                    let mut content = Vec::new();
                    match (&mut response.body).take(limit + 1).read_to_end(&mut content) {
                        Ok(_) if content.len() as u64 > limit => {
                            return Err(format!("it is larger than {limit} bytes"));
                        }
                        Ok(_) => return Ok(Some(content)),
                        Err(e) => Failure::Passing(e.to_string(), None),
                    }
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Lasting(problem) if problem.starts_with("404") || problem.starts_with("410") => {
                    return Ok(None);
                }
                Failure::Lasting(problem) => return Err(problem),
                Failure::Passing(problem, _) if attempt >= self.retries.attempts => {
                    return Err(format!("{problem} ({attempt} attempts)"));
                }
                Failure::Passing(_, asked) => self.pause(attempt, asked),
            }
        }
    }

    /// Waits before attempt `attempt + 1`: what the server asked for, or a random part of a doubling bound.
    pub(crate) fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let bound = self.retries.base.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.retries.cap);
        let jitter = bound.mul_f64(random_fraction());
        std::thread::sleep(asked.map_or(jitter, |a| a.min(self.retries.patience) + jitter));
    }
}

/// The host's authorities, or Mozilla's where the host has none.
fn authorities() -> RootCerts {
    // Certificates that cannot be read are left out, as every other program of the host does.
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates = found.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    RootCerts::Specific(Arc::new(certificates.collect()))
}

fn said(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("(unknown status)"))
}

fn classify(error: &ureq::Error) -> Failure {
    use ureq::Error;
    let text = error.to_string();
    if text.contains("certificate") {
        let remedy = "is the server's authority in the host's bundle, or in SSL_CERT_FILE, and is the clock right?";
        return Failure::Lasting(format!("{text} ({remedy})"));
    }
    match error {
        Error::Io(_) | Error::Timeout(_) | Error::ConnectionFailed | Error::Protocol(_) => Failure::Passing(text, None),
        Error::HostNotFound => Failure::Passing(format!("{text} (is the name right, and is there a network?)"), None),
        Error::TooManyRedirects => Failure::Lasting("it redirects more than 5 times".into()),
        _ => Failure::Lasting(text),
    }
}

/// Where `bytes 5-9/10` starts.
fn range_start(header: &str) -> Option<u64> {
    header.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

/// Seconds, or a date.
fn retry_after(header: &str) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(header).ok()?;
    // How long to wait depends on what time it is.
    #[allow(clippy::disallowed_methods)]
    until.duration_since(std::time::SystemTime::now()).ok()
}

/// A number from 0 to 1, for jitter only.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes the pause is 0 of its bound: still bounded, only less well spread.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes */10"), None);
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("soon"), None);
        assert!((0.0..=1.0).contains(&random_fraction()));
    }
}
