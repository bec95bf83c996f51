//! HTTP from the node: configuration that is fetched, and reports that are sent.
//!
//! Takes one [`HttpRequest`]; gives one whole [`HttpResponse`] or an [`HttpError`] that says what to do. There is
//! one attempt: repeating is the caller's, with [`HttpResponse::retry_after`]. Guaranteed are
//!
//! - a limit of time for all of it, from the name to the last byte, and a limit of bytes for the body;
//! - that an `https` address is never left for an `http` one by a redirect;
//! - that certificates are judged by the authorities that the caller pins, or else by the image's bundle, and by the
//!   node's clock; where it is only the time that does not fit, that has a reason of its own
//!   ([`HttpReason::CertificateTime`]), because a node whose clock is wrong can do something about it;
//! - that no user name, password or query of an address stands in an error.
//!
//! Names are resolved through [`Host::resolve`](crate::host::Host::resolve) (a static program has no name service
//! switch). The proxies of the environment are used: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in
//! small letters or capitals. As with curl and Go, an `http` address is asked for with its whole address, and `CONNECT`
//! is for `https`.

mod client;
mod forward;
mod proxy;
#[cfg(test)]
pub mod test_server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use thiserror::Error;

pub(crate) use client::exchange;

/// The image's bundle of certificate authorities.
pub const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The longest `Retry-After` that is believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Give; has no body. Up to five redirects are followed.
    Get,
    /// Take and act; redirects are not followed, their status is the answer.
    Post,
    /// Store; redirects are not followed, their status is the answer.
    Put,
}

/// Which authorities may vouch for an `https` server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust<'a> {
    /// Those of the image's bundle ([`SYSTEM_AUTHORITIES`]).
    System,
    /// Only these: one or more certificates in PEM.
    Pinned(&'a str),
}

/// One request.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    /// What to do.
    pub method: Method,
    /// `http://` or `https://`, absolute.
    pub url: &'a str,
    /// Headers of the caller; with a [`Method::Get`] they go along to where a redirect leads, but for
    /// `Authorization`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; ignored for [`Method::Get`].
    pub body: &'a [u8],
    /// Who may vouch for the server.
    pub trust: Trust<'a>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// The largest body of an answer, in bytes.
    pub limit: u64,
}

impl<'a> HttpRequest<'a> {
    /// A request for a document of at most `limit` bytes, with the image's authorities and 30 seconds.
    pub fn get(url: &'a str, limit: u64) -> Self {
        Self {
            method: Method::Get,
            url,
            headers: &[],
            body: &[],
            trust: Trust::System,
            timeout: Duration::from_secs(30),
            limit,
        }
    }
}

impl std::fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers and bodies may hold tokens.
        write!(f, "HttpRequest({:?} {}, {} bytes)", self.method, shown(self.url), self.body.len())
    }
}

/// A server's answer, whatever its status.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status: 200, 404.
    pub status: u16,
    /// The headers in their order, names in small letters; values that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is fetched is configuration and may hold secrets.
        write!(f, "HttpResponse({}, {} bytes)", self.status, self.body.len())
    }
}

impl HttpResponse {
    /// The value of the first header with this name; letter case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The server's time (`Date`), in seconds since 1970.
    pub fn date(&self) -> Option<u64> {
        seconds_of(self.header("date")?)
    }

    /// How long the server wants to be left alone (`Retry-After`), at most an hour. A date counts from the server's
    /// own [`date`](Self::date), so a wrong clock of the node changes nothing; without one it says nothing.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        let seconds = match value.parse::<u64>() {
            Ok(seconds) => seconds,
            Err(_) => seconds_of(value)?.saturating_sub(self.date()?),
        };
        Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
    }

    /// True for the statuses from 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True where asking again later can help: 408, 425, 429 and 500 to 599.
    pub fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..600)
    }
}

/// The seconds since 1970 of an HTTP date (RFC 9110, section 5.6.7).
fn seconds_of(date: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(date.trim()).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// A request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{url}: {reason}")]
pub struct HttpError {
    /// The address, without what may be secret in it.
    pub url: String,
    /// Why.
    pub reason: HttpReason,
}

impl HttpError {
    /// An error about an address.
    pub fn new(url: &str, reason: HttpReason) -> Self {
        Self { url: shown(url), reason }
    }

    /// True where the certificate's validity does not fit the node's clock, so that a better clock may help.
    pub fn is_certificate_time(&self) -> bool {
        matches!(self.reason, HttpReason::CertificateTime(_))
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HttpReason {
    /// The address or a header cannot be used.
    #[error("it is no http or https address that can be asked: {0}")]
    Address(String),
    /// The name has no address, for now.
    #[error("{0}")]
    Name(String),
    /// There is no connection, or it broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// The time is over.
    #[error("no whole answer within {seconds} s ({during})")]
    Timeout {
        /// The limit.
        seconds: u64,
        /// What was being done.
        during: String,
    },
    /// The certificate is not yet, or no longer, valid by the node's clock.
    #[error("the server's certificate does not fit this node's clock: {0}; is the clock right?")]
    CertificateTime(String),
    /// The certificate is not one to trust.
    #[error("the server's certificate is refused: {0}")]
    Certificate(String),
    /// There are no authorities to judge by.
    #[error("{0}")]
    Authorities(String),
    /// TLS did not come about for another reason.
    #[error("TLS: {0}")]
    Tls(String),
    /// A redirect leads from `https` to something else.
    #[error("the server redirects from https to {0}, which would not be encrypted")]
    Downgrade(String),
    /// There is no end of redirects.
    #[error("it redirects more than 5 times")]
    Redirects,
    /// The body is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// What came is no HTTP.
    #[error("the answer cannot be understood: {0}")]
    Protocol(String),
}

/// An address as it may be shown: without user name, password, query and fragment.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (url, cut) = (&url[..end], end < url.len());
    let without_user = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    };
    if cut { without_user + "?..." } else { without_user }
}
