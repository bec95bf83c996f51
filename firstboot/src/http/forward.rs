//! Plain `http` through a proxy, as RFC 9112, section 3.2.2 has it: the proxy gets the request itself, with the whole
//! address in its first line. `CONNECT` is for `https` alone; many proxies refuse it for any other port than 443.
//!
//! Stands before ureq's own connector and leaves everything else to it: `https` (through `CONNECT`), and what is
//! reached directly. ureq writes the request with the path alone, so its first line is completed on the way out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};
use ureq::{Error, Proxy};

/// Connects to the proxy for an `http` address.
#[derive(Debug)]
pub struct Forward {
    /// How the proxy itself is reached: without a proxy.
    pub direct: Config,
    /// Connects to everything else.
    pub others: DefaultConnector,
}

impl Connector for Forward {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<()>) -> Result<Option<Self::Out>, Error> {
        let proxy = details.config.proxy().filter(|_| details.uri.scheme_str() == Some("http"));
        let Some(proxy) = proxy else { return self.others.connect(details, chained) };
        let addresses = details.resolver.resolve(proxy.uri(), &self.direct, details.timeout)?;
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: addresses,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let inner = (details.run_connector)(&to_proxy)?;
        Ok(Some(Box::new(Forwarded { inner, head: Some(Head::of(details.uri, proxy)) })))
    }
}

/// What a request through a proxy has beside what any other has.
struct Head {
    /// Before the path: `http://server:8080`.
    server: String,
    /// A line for the proxy alone, or nothing.
    credentials: String,
}

impl Head {
    fn of(uri: &Uri, proxy: &Proxy) -> Self {
        // A user name in the address is for the server, and never in a first line.
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        let server = format!("http://{}{port}", uri.host().unwrap_or_default());
        let (user, password) = (proxy.username(), proxy.password());
        let credentials = if user.is_some() || password.is_some() {
            let both = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(both))
        } else {
            String::new()
        };
        Self { server, credentials }
    }

    /// The request's beginning with what it lacks; `None` where its first line is not whole.
    fn complete(&self, beginning: &[u8]) -> Option<Vec<u8>> {
        let line_end = beginning.windows(2).position(|two| two == b"\r\n")? + 2;
        let method_end = beginning[..line_end].iter().position(|&byte| byte == b' ')? + 1;
        let (method, path, rest) = (&beginning[..method_end], &beginning[method_end..line_end], &beginning[line_end..]);
        Some([method, self.server.as_bytes(), path, self.credentials.as_bytes(), rest].concat())
    }
}

/// The connection to the proxy.
struct Forwarded {
    inner: Box<dyn Transport>,
    /// Until the request has begun.
    head: Option<Head>,
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The head may hold the proxy's password.
        write!(f, "Forwarded({:?})", self.inner)
    }
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let Some(head) = self.head.take() else { return self.inner.transmit_output(amount, timeout) };
        // The first line is always written as a whole.
        let whole = head
            .complete(&self.inner.buffers().output()[..amount])
            .ok_or_else(|| Error::Io(std::io::Error::other("the request has no first line")))?;
        let mut rest = &whole[..];
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let (now, later) = rest.split_at(rest.len().min(output.len()));
            output[..now.len()].copy_from_slice(now);
            self.inner.transmit_output(now.len(), timeout)?;
            rest = later;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        // The next request would need its own head.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(address: &str, proxy: &str) -> Head {
        Head::of(&address.parse().unwrap(), &Proxy::new(proxy).unwrap())
    }

    #[test]
    fn the_first_line_has_the_whole_address_and_nobodys_password() {
        let begun = b"GET /a?b=c HTTP/1.1\r\nhost: h:8080\r\n\r\nbody";
        let whole = head("http://u:p@h:8080/a?b=c", "http://proxy:3128").complete(begun).unwrap();
        let expected = "GET http://h:8080/a?b=c HTTP/1.1\r\nhost: h:8080\r\n\r\nbody";
        assert_eq!(String::from_utf8(whole).unwrap(), expected);
        let whole = head("http://[fd00::1]/", "http://u:p%40ss@proxy").complete(b"POST / HTTP/1.1\r\n").unwrap();
        let expected =
            format!("POST http://[fd00::1]/ HTTP/1.1\r\nProxy-Authorization: Basic {}\r\n", STANDARD.encode("u:p@ss"));
        assert_eq!(String::from_utf8(whole).unwrap(), expected);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_of_what_is_sent(begun in proptest::collection::vec(0_u8.., 0..60)) {
            let head = head("http://h/", "http://proxy");
            if let Some(whole) = head.complete(&begun) {
                proptest::prop_assert_eq!(whole.len(), begun.len() + "http://h".len());
            } else {
                let line = begun.windows(2).position(|two| two == b"\r\n").map(|end| &begun[..end]);
                proptest::prop_assert!(line.is_none_or(|line| !line.contains(&b' ')));
            }
        }
    }
}
