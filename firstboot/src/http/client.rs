//! The request itself: ureq with rustls, our resolver, our proxy and our authorities.

use std::io::Read;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::crypto::ring;
use ureq::ProxyProtocol;
use ureq::config::{Config, RedirectAuthHeaders};
use ureq::http::{Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::forward::Forward;
use super::proxy::{Environment, proxy_for};
use super::{HttpError, HttpReason, HttpRequest, HttpResponse, Method, SYSTEM_AUTHORITIES, Trust, shown};
use crate::config::HostAddress;
use crate::host::{Host, HostError, RealHost};

const REDIRECTS: u32 = 5;
/// A resolver gets at most this many addresses to try.
const ADDRESSES: usize = 16;
/// A bundle of authorities is not larger.
const MAXIMUM_BUNDLE_BYTES: u64 = 8 * 1024 * 1024;

/// Names through the host's resolver.
#[derive(Debug)]
struct Names(RealHost);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = uri.host().map(bare).ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let wanted: HostAddress = host.parse().map_err(ureq::Error::BadUri)?;
        let other = |error: HostError| ureq::Error::Other(Box::new(error));
        let mut found = self.empty();
        for address in self.0.resolve_within(&wanted, *timeout.after).map_err(other)?.into_iter().take(ADDRESSES) {
            found.push((address, port).into());
        }
        Ok(found)
    }
}

/// Sends a request, through the proxy that the environment names, where it names one.
pub(crate) fn exchange(
    host: &RealHost,
    request: &HttpRequest<'_>,
    environment: Environment<'_>,
) -> Result<HttpResponse, HttpError> {
    let failed = |reason| HttpError::new(request.url, reason);
    let address = |text: String| failed(HttpReason::Address(text));
    let uri: Uri = request.url.parse().map_err(|error: ureq::http::uri::InvalidUri| address(error.to_string()))?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(address("it must begin with http:// or https://".into())),
    };
    let roots = authorities(host, request.trust, https).map_err(failed)?;
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build();
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let proxy = proxy_for(if https { "https" } else { "http" }, uri.host().unwrap_or_default(), port, environment);
    // The error would repeat the address, and that may hold a password.
    let proxy = proxy.as_deref().map(ureq::Proxy::new).transpose().ok();
    let usable = |proxy: &ureq::Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    let Some(proxy) = proxy.filter(|proxy| proxy.as_ref().is_none_or(usable)) else {
        let text = "the proxy's address cannot be used; it must begin with http:// or https://";
        return Err(failed(HttpReason::Connection(text.into())));
    };
    let get = request.method == Method::Get;
    let config = |proxy| {
        Config::builder()
            .user_agent(concat!("ingot-firstboot/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .https_only(https)
            .max_redirects(if get { REDIRECTS } else { 0 })
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .timeout_global(Some(request.timeout))
            .max_idle_connections(0)
            .proxy(proxy)
            .tls_config(tls.clone())
            .build()
    };
    let connector = Forward { direct: config(None), others: DefaultConnector::default() };
    let agent = ureq::Agent::with_parts(config(proxy), connector, Names(host.clone()));
    let method = match request.method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
    };
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in request.headers {
        builder = builder.header(*name, *value);
    }
    let build = |error: ureq::http::Error| address(error.to_string());
    let answer = if get {
        agent.run(builder.body(()).map_err(build)?)
    } else {
        agent.run(builder.body(request.body).map_err(build)?)
    };
    let seconds = request.timeout.as_secs();
    let answer = answer.map_err(|error| failed(reason(error, seconds)))?;
    let (parts, body) = answer.into_parts();
    let text = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    let mut content = Vec::new();
    let read = body.into_with_config().limit(u64::MAX).reader().take(request.limit.saturating_add(1));
    { read }.read_to_end(&mut content).map_err(|error| failed(io_reason(error, seconds)))?;
    if content.len() as u64 > request.limit {
        return Err(failed(HttpReason::TooLarge(request.limit)));
    }
    Ok(HttpResponse {
        status: parts.status.as_u16(),
        headers: parts.headers.iter().filter_map(text).collect(),
        body: content,
    })
}

/// The authorities; none where none can be needed.
fn authorities(host: &RealHost, trust: Trust<'_>, needed: bool) -> Result<Vec<Certificate<'static>>, HttpReason> {
    let (found, what) = match trust {
        Trust::Pinned(pem) => (certificates(pem.as_bytes()), "the pinned authority holds no certificate in PEM"),
        // An `http` address may still be redirected to an `https` one.
        Trust::System => (
            match host.read(SYSTEM_AUTHORITIES, MAXIMUM_BUNDLE_BYTES) {
                Ok(bundle) => certificates(&bundle.unwrap_or_default()),
                Err(error) => return Err(HttpReason::Authorities(error.to_string())),
            },
            "the image has no certificate authorities (package ca-certificates), and none is pinned",
        ),
    };
    if found.is_empty() && needed { Err(HttpReason::Authorities(what.to_owned())) } else { Ok(found) }
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    // What cannot be read in a bundle is left out, as every other program does.
    let certificate = |item| if let Ok(PemItem::Certificate(found)) = item { Some(found) } else { None };
    parse_pem(pem).filter_map(certificate).collect()
}

fn reason(error: ureq::Error, seconds: u64) -> HttpReason {
    use ureq::Error;
    match error {
        Error::Timeout(during) => HttpReason::Timeout { seconds, during: during.to_string() },
        Error::Io(error) => io_reason(error, seconds),
        Error::Rustls(error) => tls_reason(&error),
        Error::RequireHttpsOnly(to) => HttpReason::Downgrade(shown(&to)),
        Error::TooManyRedirects => HttpReason::Redirects,
        Error::BadUri(text) => HttpReason::Address(text),
        Error::HostNotFound => HttpReason::Name("the address names no server".into()),
        Error::ConnectionFailed => HttpReason::Connection("none of the addresses answers".into()),
        Error::ConnectProxyFailed(text) => HttpReason::Connection(format!("the proxy refuses: {text}")),
        Error::Tls(text) => HttpReason::Tls(text.to_owned()),
        Error::Other(error) => match error.downcast::<HostError>() {
            Ok(error) => HttpReason::Name(error.to_string()),
            Err(error) => HttpReason::Protocol(error.to_string()),
        },
        other => HttpReason::Protocol(other.to_string()),
    }
}

fn io_reason(error: std::io::Error, seconds: u64) -> HttpReason {
    // ureq and rustls hand their own errors through as I/O errors, sometimes one in the other.
    if !error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>() || inner.is::<rustls::Error>()) {
        return HttpReason::Connection(error.to_string());
    }
    let Some(inner) = error.into_inner() else { return HttpReason::Connection("it broke".into()) };
    match inner.downcast::<ureq::Error>() {
        Ok(inner) => reason(*inner, seconds),
        Err(inner) => match inner.downcast::<rustls::Error>() {
            Ok(inner) => tls_reason(&inner),
            Err(other) => HttpReason::Connection(other.to_string()),
        },
    }
}

fn tls_reason(error: &rustls::Error) -> HttpReason {
    let rustls::Error::InvalidCertificate(wrong) = error else { return HttpReason::Tls(error.to_string()) };
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HttpReason::CertificateTime("it has expired".into())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HttpReason::CertificateTime("it is not valid yet".into())
        }
        // A bad signature: an authority of the same name with another key, as after it was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => HttpReason::Certificate(
            "no authority that this node trusts has signed it; give the one of the site, or correct the server".into(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            HttpReason::Certificate("it is for another name".into())
        }
        other => HttpReason::Certificate(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_apart() {
        let of = |wrong| tls_reason(&rustls::Error::InvalidCertificate(wrong));
        assert_eq!(of(CertificateError::Expired), HttpReason::CertificateTime("it has expired".into()));
        assert_eq!(of(CertificateError::NotValidYet), HttpReason::CertificateTime("it is not valid yet".into()));
        assert!(matches!(of(CertificateError::UnknownIssuer), HttpReason::Certificate(_)));
        assert!(matches!(of(CertificateError::NotValidForName), HttpReason::Certificate(_)));
        assert!(matches!(tls_reason(&rustls::Error::DecryptError), HttpReason::Tls(_)));
    }

    #[test]
    fn an_error_inside_an_error_is_found() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let once = std::io::Error::new(std::io::ErrorKind::InvalidData, inner);
        let twice = std::io::Error::other(ureq::Error::Io(once));
        assert!(matches!(io_reason(twice, 1), HttpReason::CertificateTime(_)));
        let plain = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(io_reason(plain, 1), HttpReason::Connection(_)));
    }
}
