//! The values that only `[join]` has: endpoints, URLs, units, paths, networks, labels and the forms of join tokens.
//!
//! Every type is made by its `FromStr`, whose error says what is wrong and what would be right, and never repeats a
//! secret.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::config::values::HostAddress;
use crate::http::shown;

macro_rules! shown_as_text {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}

macro_rules! text_type {
    ($($name:ident),+) => {
        $(impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        })+
    };
}

shown_as_text!(Endpoint, HttpUrl, UnitName, AbsolutePath, Subnet, Label, ProgramName);
text_type!(UnitName, AbsolutePath, Label, ProgramName);

/// A machine and a TCP port: `10.77.0.10:6443`, `[fd00::1]:6443`, `api.site.lan:6443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The machine.
    pub host: HostAddress,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostAddress::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("has no port; write it as 10.77.0.10:6443")?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => HostAddress::Ip(IpAddr::V6(
                inner.parse::<Ipv6Addr>().map_err(|_| format!("{inner:?} is not an IPv6 address"))?,
            )),
            None if host.contains(':') => return Err("an IPv6 address stands in brackets: [fd00::1]:6443".into()),
            None => host.parse()?,
        };
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port: &u16| digits && *port > 0);
        Ok(Self { host, port: port.ok_or("the port is a number from 1 to 65535")? })
    }
}

/// The address of something that speaks HTTP: scheme, machine, perhaps a port, a path. Its query may hold a secret, so
/// it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

impl HttpUrl {
    /// The whole address, for whoever asks there.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for `https`.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The machine and port that it leads to; the scheme's own port where the URL has none.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let rest = self.0.split_once("://")?.1;
        let authority = rest.split('/').next()?;
        let standard = if self.is_https() { 443 } else { 80 };
        authority.parse().ok().or_else(|| format!("{authority}:{standard}").parse().ok())
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("must not hold a user or a password".into());
        }
        if text.len() > 2000 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has characters that no URL has, or too many".into());
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err("must begin with https:// or http://".into());
        }
        let url = Self(text.into());
        url.endpoint().ok_or("names no machine; write it as https://10.77.0.10:8443/ready")?;
        Ok(url)
    }
}

/// A systemd unit: `docker.service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName(String);

impl FromStr for UnitName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KINDS: &[&str] = &[".service", ".socket", ".target", ".mount", ".path", ".timer", ".device", ".swap"];
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
        let stem = KINDS.iter().find_map(|kind| text.strip_suffix(kind)).unwrap_or_default();
        if text.len() <= 255 && text.chars().all(good) && !stem.is_empty() && !text.starts_with('-') {
            Ok(Self(text.into()))
        } else {
            Err("is not the name of a unit, such as docker.service".into())
        }
    }
}

/// An absolute path without `.`, `..`, doubled slashes or characters that need quoting anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbsolutePath(String);

impl FromStr for AbsolutePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
        let parts_good = text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        if !parts_good || text.len() > 1000 {
            return Err("is not an absolute path, such as /data/models".into());
        }
        if let Some(bad) = text.chars().find(|c| !good(*c)) {
            return Err(format!("{bad:?} is not allowed here; use letters, digits and . _ - + : @"));
        }
        Ok(Self(text.into()))
    }
}

/// A network: `10.244.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Its first address.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub prefix: u8,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a network, such as 10.244.0.0/16".to_owned();
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.parse().ok().filter(|p| digits && (1..=longest).contains(p)).ok_or_else(wrong)?;
        let host_bits = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0)),
            IpAddr::V6(v6) => v6.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0),
        };
        if host_bits != 0 {
            return Err("has bits beyond its prefix; give the network's own address".into());
        }
        Ok(Self { address, prefix })
    }
}

/// A label of a Kubernetes node: `example.com/disk=nvme`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = |text: &str, empty: bool| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            (empty && text.is_empty())
                || (text.len() <= 63
                    && edge(text.chars().next())
                    && edge(text.chars().last())
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        };
        let (key, value) = text.split_once('=').ok_or("is not a label; write it as key=value")?;
        let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
        let prefix_good = prefix.is_none_or(|prefix| {
            prefix.len() <= 253 && !prefix.is_empty() && prefix.split('.').all(|part| word(part, false))
        });
        if !prefix_good || !word(name, false) || !word(value, true) {
            return Err("is not a label that Kubernetes takes, such as example.com/disk=nvme".into());
        }
        Ok(Self(text.into()))
    }
}

/// The name of a program that the profile put into [`JOIN_PROGRAMS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramName(String);

/// Where the programs of the `exec` driver lie. The directory is part of the verified root, so a stick can choose a
/// program that the image brings, and not bring one of its own.
pub const JOIN_PROGRAMS: &str = "/usr/lib/ingot/join.d";

impl ProgramName {
    /// Its path on the node.
    pub fn path(&self) -> String {
        format!("{JOIN_PROGRAMS}/{}", self.0)
    }
}

impl FromStr for ProgramName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=64).contains(&text.len()) && text.chars().all(good) && text.starts_with(char::is_alphanumeric) {
            Ok(Self(text.into()))
        } else {
            Err(format!("is not the name of a program that the image brings in {JOIN_PROGRAMS}"))
        }
    }
}

/// Whether a token also says whom to believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// It holds the hash of the cluster's certificate authority.
    Pinned,
    /// It does not: whoever answers first is believed.
    Unpinned,
}

/// Judges a token of k3s: `K10<SHA-256 of the authority>::<user>:<password>`, `K10...::<id>.<secret>` for one that
/// expires, or one of the two without the authority (k3s, `pkg/clientaccess/token.go`).
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn judge_k3s_token(text: &str) -> Result<Pinning, &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is empty or has blanks or control characters in it");
    }
    let Some(rest) = text.strip_prefix("K10") else {
        return if text.contains("::") { Err("has :: but does not begin with K10") } else { Ok(Pinning::Unpinned) };
    };
    let (hash, credential) = rest.split_once("::").ok_or("begins with K10 but has no ::, or is cut off")?;
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err("the hash after K10 is not 64 small hex digits");
    }
    match credential.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(Pinning::Pinned),
        None if judge_bootstrap_token(credential).is_ok() => Ok(Pinning::Pinned),
        _ => Err("after :: comes user:password or id.secret"),
    }
}

/// Judges a bootstrap token of Kubernetes: six characters, a dot, sixteen characters, all of `a-z0-9`.
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn judge_bootstrap_token(text: &str) -> Result<(), &'static str> {
    let word =
        |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    match text.split_once('.') {
        // The one that Kubernetes' own documentation uses everywhere.
        Some(("abcdef", "0123456789abcdef")) => Err("is the sample of Kubernetes' documentation"),
        Some((id, secret)) if word(id, 6) && word(secret, 16) => Ok(()),
        _ => Err("is not a bootstrap token: six characters, a dot, sixteen characters"),
    }
}

/// True for the pin of a certificate authority as kubeadm takes it: `sha256:` and the 64 hex digits of the SHA-256
/// of its DER-encoded public key (`SubjectPublicKeyInfo`).
pub fn is_spki_pin(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok<T: FromStr<Err = String> + fmt::Display>(text: &str) -> String {
        T::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    fn refused<T: FromStr<Err = String>>(texts: &[&str]) {
        for text in texts {
            assert!(T::from_str(text).is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn endpoints_and_urls() {
        for good in ["10.77.0.10:6443", "[fd00::1]:443", "api.site.lan:1"] {
            assert_eq!(ok::<Endpoint>(good), good);
        }
        refused::<Endpoint>(&[
            "10.0.0.1",
            "fd00::1:443",
            "a:0",
            "a:65536",
            "a:+1",
            ":80",
            "[10.0.0.1]:80",
            "a:",
            "0.0.0.0:1",
        ]);
        assert_eq!(ok::<HttpUrl>("https://a.lan/x?y=1"), "https://a.lan/x?...");
        let url: HttpUrl = "https://a.lan/x?y=1".parse().unwrap();
        assert_eq!((url.expose(), format!("{url:?}").contains("y=1")), ("https://a.lan/x?y=1", false));
        let url: HttpUrl = "http://[fd00::2]:9000/edge".parse().unwrap();
        assert_eq!(url.endpoint().unwrap().to_string(), "[fd00::2]:9000");
        assert_eq!("https://a".parse::<HttpUrl>().unwrap().endpoint().unwrap().port, 443);
        refused::<HttpUrl>(&["ftp://a", "https://", "https://user:pass@a/", "http://a b", "a", "https:///x"]);
    }

    #[test]
    fn paths_units_labels_networks() {
        assert_eq!(ok::<AbsolutePath>("/data/a-b_c.d"), "/data/a-b_c.d");
        refused::<AbsolutePath>(&["/", "data", "/a/", "/a//b", "/a/../b", "/a b", "/a\n", "/%n", ""]);
        assert_eq!(ok::<UnitName>("a@b.service"), "a@b.service");
        refused::<UnitName>(&["docker", ".service", "-x.service", "a b.service", "a/b.mount", "$(x).service"]);
        assert_eq!(ok::<Subnet>("10.244.0.0/16"), "10.244.0.0/16");
        assert_eq!(ok::<Subnet>("fd00:1::/48"), "fd00:1::/48");
        refused::<Subnet>(&["10.244.0.1/16", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/0", "x/8", "10.0.0.0/+8"]);
        for good in ["a=", "a=b", "example.com/disk=nvme-1"] {
            assert_eq!(ok::<Label>(good), good);
        }
        refused::<Label>(&["a", "=b", "/a=b", "a=b c", "-a=b", "x/y/z=1", "a=b,c=d"]);
        refused::<ProgramName>(&["", "../sh", "/bin/sh", ".x", "a b"]);
        assert_eq!("slurm".parse::<ProgramName>().unwrap().path(), "/usr/lib/ingot/join.d/slurm");
    }

    #[test]
    fn tokens() {
        let hash = "a".repeat(64);
        assert_eq!(judge_k3s_token(&format!("K10{hash}::server:pw")), Ok(Pinning::Pinned));
        assert_eq!(judge_k3s_token(&format!("K10{hash}::abcde1.0123456789abcdef")), Ok(Pinning::Pinned));
        assert_eq!(judge_k3s_token("just-a-password"), Ok(Pinning::Unpinned));
        for bad in [
            format!("K10{}::server:pw", "a".repeat(63)),
            format!("K10{}::server:pw", "A".repeat(64)),
            format!("K10{hash}:server:pw"),
            format!("K10{hash}::server:"),
            format!("K10{hash}::serverpw"),
            "x::y:z".into(),
            "a b".into(),
            String::new(),
        ] {
            assert!(judge_k3s_token(&bad).is_err(), "{bad}");
        }
        assert!(judge_bootstrap_token("07401b.f395accd246ae52d").is_ok());
        for bad in ["abcdef.0123456789abcdef", "07401b", "07401B.f395accd246ae52d", "07401b.f395accd246ae52"] {
            assert!(judge_bootstrap_token(bad).is_err(), "{bad}");
        }
        assert!(is_spki_pin(&format!("sha256:{hash}")) && !is_spki_pin(&hash) && !is_spki_pin("sha256:aa"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in ".{0,100}") {
            let _ = judge_k3s_token(&text);
            let _ = judge_bootstrap_token(&text);
            let _ = (text.parse::<HttpUrl>(), text.parse::<Subnet>(), text.parse::<Label>(), text.parse::<UnitName>());
            let _ = text.parse::<AbsolutePath>();
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                proptest::prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
    }
}
