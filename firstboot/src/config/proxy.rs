//! `[proxy]`: over which proxies services and the node itself reach the world.
//!
//! Takes URLs, which may hold a password, and the hosts that are reached directly; gives the environment that programs
//! expect. A password is shown nowhere.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::network::Prefix;
use super::problem::Findings;
use super::secret::REDACTED;
use super::tree::Node;
use super::values::HostAddress;

/// The proxies of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// For `http://` addresses.
    pub http: Option<ProxyUrl>,
    /// For `https://` addresses.
    pub https: Option<ProxyUrl>,
    /// What is reached directly, beside the node itself.
    pub no_proxy: Vec<NoProxy>,
}

/// Where a proxy is: `http://[user:password@]host[:port]`, or `https` for one that is spoken to with TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    scheme: &'static str,
    credentials: Option<String>,
    authority: String,
}

impl ProxyUrl {
    /// The whole URL, with the password. It must be neither printed nor logged.
    pub fn expose(&self) -> String {
        let credentials = self.credentials.as_ref().map_or_else(String::new, |text| format!("{text}@"));
        format!("{}://{credentials}{}", self.scheme, self.authority)
    }

    /// True where it holds a user and a password.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.credentials.is_some() { format!("{REDACTED}@") } else { String::new() };
        write!(f, "{}://{credentials}{}", self.scheme, self.authority)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for ProxyUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => ("http", rest),
            Some(("https", rest)) => ("https", rest),
            Some(_) => return Err("has another scheme than http or https".into()),
            None => return Err("has no scheme; write it as http://proxy.example:3128".into()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, rest),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&()*+,;=:".contains(c);
        if credentials.is_some_and(|text| text.is_empty() || !text.chars().all(plain) || text.contains('$')) {
            return Err(
                "its user or password has characters that an URL cannot have; write them as %40 and so on".into()
            );
        }
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) if host.contains(':') => {
                (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            Some(_) => (authority, None),
            None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
        };
        host.parse::<HostAddress>().map_err(|error| format!("its host {error}"))?;
        let port_is_right = match port {
            Some("") => !authority.ends_with(':'),
            Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0),
            None => false,
        };
        if !port_is_right {
            return Err("has no valid port, or something behind it; write it as http://proxy.example:3128".into());
        }
        Ok(Self { scheme, credentials: credentials.map(str::to_owned), authority: authority.to_ascii_lowercase() })
    }
}

/// What is reached directly: an address, a network, a name with all below it (`.site.example`, `site.example`), or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProxy(String);

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NoProxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for NoProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('.').unwrap_or(text);
        let network = text.contains('/') && text.parse::<Prefix>().is_ok();
        if text == "*" || network || name.parse::<HostAddress>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err("is neither an address, a network, a name nor a domain such as .site.example".into())
    }
}

impl Proxy {
    /// True where an address holds a user and a password.
    pub fn has_credentials(&self) -> bool {
        [&self.http, &self.https].into_iter().flatten().any(ProxyUrl::has_credentials)
    }

    /// The environment that programs take it from; `networks` are reached directly too. It holds the password.
    pub fn environment(&self, networks: &[Prefix]) -> Vec<(&'static str, String)> {
        self.variables(networks, ProxyUrl::expose)
    }

    /// The same without passwords, for people.
    pub fn shown_environment(&self, networks: &[Prefix]) -> Vec<(&'static str, String)> {
        self.variables(networks, ToString::to_string)
    }

    fn variables(&self, networks: &[Prefix], show: fn(&ProxyUrl) -> String) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if let Some(http) = &self.http {
            variables.extend([("HTTP_PROXY", show(http)), ("http_proxy", show(http))]);
        }
        if let Some(https) = &self.https {
            variables.extend([("HTTPS_PROXY", show(https)), ("https_proxy", show(https))]);
        }
        let own = ["localhost", "127.0.0.0/8", "::1"].map(str::to_owned);
        let mut direct: Vec<String> = own.to_vec();
        let given = networks.iter().map(ToString::to_string).chain(self.no_proxy.iter().map(ToString::to_string));
        for item in given {
            if !direct.contains(&item) {
                direct.push(item);
            }
        }
        let direct = direct.join(",");
        variables.extend([("NO_PROXY", direct.clone()), ("no_proxy", direct)]);
        variables
    }
}

/// Reads `[proxy]`; `None` where it names none. What is wrong is added to `findings`.
pub fn read_proxy(node: &Node, findings: &mut Findings) -> Option<Proxy> {
    let fields = Fields::new(node, "proxy", findings)?;
    let mut url = |key| {
        let text = fields.text(key, findings)?;
        // The text may hold a password, so the error does not repeat it.
        text.parse::<ProxyUrl>().map_err(|error| fields.error(key, error, "", findings)).ok()
    };
    let (http, https) = (url("http"), url("https"));
    let no_proxy = fields.parsed_list("no_proxy", findings);
    if fields.entry("http").is_none() && fields.entry("https").is_none() {
        fields.missing("http", "[proxy] needs http, https or both", findings);
    }
    (http.is_some() || https.is_some()).then_some(Proxy { http, https, no_proxy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};

    fn read(text: &str) -> Result<Option<Proxy>, String> {
        let bytes = format!("version = 1\n{text}").into_bytes();
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
        load(&[document], &Machine::default()).map(|loaded| loaded.config.proxy).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_taken_apart_and_never_show_their_password() {
        for good in ["http://proxy.lan:3128", "https://10.0.0.1", "http://[fd00::1]:8080", "http://u:p%40ss@proxy"] {
            let url: ProxyUrl = good.parse().unwrap_or_else(|error| panic!("{good}: {error}"));
            assert_eq!(url.expose(), good);
        }
        let url: ProxyUrl = "http://user:hunter2@Proxy.lan:3128/".parse().unwrap();
        assert_eq!(url.to_string(), "http://(secret)@proxy.lan:3128");
        assert!(!format!("{url:?}{}", serde_json::to_string(&url).unwrap()).contains("hunter2"));
        for bad in [
            "",
            "proxy:3128",
            "socks5://p:1",
            "http://",
            "http://p:",
            "http://p:0",
            "http://p:99999",
            "http://p:1/x",
            "http://a b",
            "http://u:p w@h",
            "http://u:\"@h",
            "http://[::1",
            "http://[fd00::1]x",
            "http://h\nX=y",
            "http://$(x)@h",
        ] {
            assert!(bad.parse::<ProxyUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_url_is_explained_without_its_password() {
        let error = read("[proxy]\nhttp = \"ftp://user:hunter2@proxy\"\n").unwrap_err();
        assert!(error.starts_with("f:3:8: proxy.http: has another scheme") && !error.contains("hunter2"), "{error}");
        assert!(read("[proxy]\n").unwrap_err().contains("proxy.http: is missing"));
        let error = read("[proxy]\nhttp = \"http://p\"\nno_proxi = []\nno_proxy = [\"a b\"]\n").unwrap_err();
        assert!(error.contains("did you mean \"no_proxy\"?") && error.contains("f:5:13: proxy.no_proxy"), "{error}");
        assert_eq!(read("").unwrap(), None);
    }

    #[test]
    fn the_password_is_in_no_explanation() {
        let bytes = b"version = 1\n[proxy]\nhttps = \"http://user:hunter2@proxy:3128\"\n".to_vec();
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes };
        let loaded = load(&[document], &Machine::default()).unwrap();
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_near_is_reached_directly() {
        let text = "[proxy]\nhttp = \"http://p:1\"\nhttps = \"http://s:2\"\n\
                    no_proxy = [\".lan\", \"site.example\", \"10.0.0.0/8\", \"192.0.2.7\", \"fd00::/8\"]\n";
        let proxy = read(text).unwrap().unwrap();
        let environment = proxy.environment(&["10.77.0.0/24".parse().unwrap()]);
        let no_proxy = &environment.iter().find(|(key, _)| *key == "NO_PROXY").unwrap().1;
        assert_eq!(no_proxy, "localhost,127.0.0.0/8,::1,10.77.0.0/24,.lan,site.example,10.0.0.0/8,192.0.2.7,fd00::/8");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,60}") {
            if let Ok(url) = text.parse::<ProxyUrl>() {
                proptest::prop_assert_eq!(url.expose().parse::<ProxyUrl>().unwrap(), url);
            }
            if let Ok(direct) = text.parse::<NoProxy>() {
                proptest::prop_assert!(!direct.to_string().contains(','));
            }
        }
    }
}
