//! The values that configuration keys take, each a type that can only hold a valid one.
//!
//! Every type is made by its `FromStr`, whose error says what is wrong and what would be right.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

macro_rules! shown_as_text {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}

shown_as_text!(Hostname, Timezone, Mac, Cidr, HostAddress, Advertise, SshKey, InterfaceName);

/// A host name by RFC 1123: labels of letters, digits and inner hyphens; at most 64 characters, what Linux takes.
/// Letters become small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `ingot-` with the digits of a MAC address, or just `ingot`: both are names by RFC 1123.
    pub fn of_mac(mac: Option<Mac>) -> Self {
        Self(mac.map_or_else(|| "ingot".to_owned(), |mac| format!("ingot-{}", mac.digits())))
    }

    /// The part before the first dot.
    pub fn short(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Hostname {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > 64 {
            return Err("a host name has at most 64 characters".into());
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err("is an address, not a host name".into());
        }
        check_labels(text)?;
        if text.eq_ignore_ascii_case("localhost") {
            return Err("every machine is its own localhost; choose another name".into());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

fn check_labels(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    for label in text.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each part between dots has 1 to 63 characters".into());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part may begin or end with a hyphen".into());
        }
        if let Some(bad) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(format!("{bad:?} is not allowed; use letters, digits and hyphens"));
        }
    }
    Ok(())
}

/// A time zone by its name in the IANA database: `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timezone(String);

impl Timezone {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Timezone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
        };
        if text.len() <= 64 && text.split('/').all(good_part) {
            Ok(Self(text.into()))
        } else {
            Err("is not the name of a time zone, such as UTC or Europe/Berlin".into())
        }
    }
}

/// The hardware address of an Ethernet interface; read with `:` or `-`, shown with `:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Twelve hex digits, no separators: for file and host names.
    pub fn digits(self) -> String {
        self.to_string().replace(':', "")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is not a MAC address, such as 52:54:00:12:34:56".to_owned();
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err("is not the address of one interface".into());
        }
        Ok(Self(bytes))
    }
}

/// An interface's address with the length of its network's prefix: `10.77.0.10/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The interface's address.
    pub address: IpAddr,
    /// The prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// True where the network holds this address.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("has no prefix length; write it as 10.77.0.10/24")?;
        let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = Some(prefix)
            .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|p| p.parse().ok())
            .filter(|p| (1..=longest).contains(p))
            .ok_or_else(|| format!("the prefix length is a number from 1 to {longest}"))?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err("cannot be the address of an interface".into());
        }
        if let IpAddr::V4(v4) = address
            && prefix < 31
        {
            let host = v4.to_bits() & (u32::MAX >> prefix);
            if host == 0 {
                return Err("is the network's own address; give the host's".into());
            }
            if host == u32::MAX >> prefix {
                return Err("is the network's broadcast address; give the host's".into());
            }
        }
        Ok(Self { address, prefix })
    }
}

/// How to reach a machine: an IP address or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// An address.
    Ip(IpAddr),
    /// A name, resolved when it is used.
    Name(String),
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAddress::Ip(address) => write!(f, "{address}"),
            HostAddress::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for HostAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            if address.is_unspecified() || address.is_multicast() {
                return Err("is not the address of one machine".into());
            }
            return Ok(Self::Ip(address));
        }
        if text.contains(':') || text.contains('/') {
            return Err("is neither an IP address nor a host name; give it without port, scheme or prefix".into());
        }
        if text.len() > 253 {
            return Err("a host name has at most 253 characters".into());
        }
        check_labels(text)?;
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err("is not a valid IPv4 address".into());
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// What a manager tells the others to reach it by: an address, or an interface whose address it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// An address of this machine.
    Ip(IpAddr),
    /// An interface of this machine.
    Interface(String),
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advertise::Ip(address) => write!(f, "{address}"),
            Advertise::Interface(name) => f.write_str(name),
        }
    }
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err("other machines cannot reach this one by it".into());
            }
            return Ok(Self::Ip(address));
        }
        let interface = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=15).contains(&text.len()) && text.chars().all(interface) && text.contains(char::is_alphabetic) {
            return Ok(Self::Interface(text.into()));
        }
        Err("is neither an IP address nor the name of an interface".into())
    }
}

/// An interface's name, or a pattern with `*`, `?` and `[...]` as systemd.network's `Name=` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '?' | '[' | ']');
        if (1..=32).contains(&text.len()) && text.chars().all(good) {
            Ok(Self(text.into()))
        } else {
            Err("is not the name of an interface or a pattern of one, such as enp1s0 or en*".into())
        }
    }
}

/// A public SSH key as it stands in a `.pub` file, without options: type, base64, comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

/// Key types that a current sshd takes.
const SSH_TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SshKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("PRIVATE KEY") {
            return Err("is a private key; give the .pub file's line".into());
        }
        if text.chars().any(char::is_control) {
            return Err("has line breaks or control characters; give one line per key".into());
        }
        if text.len() > 16 * 1024 {
            return Err("is too long for a key".into());
        }
        let mut words = text.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        if !SSH_TYPES.contains(&kind) {
            return Err(format!("must begin with a key type, one of {}", SSH_TYPES.join(", ")));
        }
        let blob = words.next().ok_or("has no key after its type")?;
        let blob = STANDARD.decode(blob).map_err(|_| "the key is not valid base64; was it cut off?")?;
        let inner = blob.get(4..4 + kind.len());
        let length = blob.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        if length.and_then(|l| usize::try_from(l).ok()) != Some(kind.len()) || inner != Some(kind.as_bytes()) {
            return Err("the key's content is not of the type that it names; was it cut off?".into());
        }
        if kind == "ssh-ed25519" && blob.len() != 51 {
            return Err("an ed25519 key has 32 bytes; was it cut off?".into());
        }
        Ok(Self(text.trim().to_owned()))
    }
}

/// True where `text` has the form of a Swarm join token: `SWMTKN-1-`, the digest of the cluster's certificate
/// authority (50 characters of base 36) and the role's secret (25 characters); version 2 marks FIPS clusters.
pub fn is_swarm_token(text: &str) -> bool {
    let base36 = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        ["SWMTKN", "1", digest, secret] | ["SWMTKN", "2", "0" | "1", digest, secret] => {
            base36(digest, 50) && base36(secret, 25)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok<T: FromStr<Err = String> + fmt::Display>(text: &str) -> String {
        T::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
    }

    fn refused<T: FromStr<Err = String>>(texts: &[&str]) {
        for text in texts {
            assert!(T::from_str(text).is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn host_names_follow_rfc_1123() {
        assert_eq!(ok::<Hostname>("W1.Example-Site.lan"), "w1.example-site.lan");
        assert_eq!(Hostname::from_str("a.b.c").unwrap().short(), "a");
        refused::<Hostname>(&["", "-a", "a-", "a..b", ".a", "a.", "a_b", "a b", "10.0.0.1", "localhost", "ü"]);
        refused::<Hostname>(&[&"a".repeat(64), &format!("{}.{}", "a".repeat(40), "b".repeat(40)), "a\n", "::1"]);
    }

    #[test]
    fn addresses_are_host_addresses() {
        assert_eq!(ok::<Cidr>("10.77.0.10/24"), "10.77.0.10/24");
        assert_eq!(ok::<Cidr>("10.0.0.0/31"), "10.0.0.0/31");
        assert_eq!(ok::<Cidr>("fd00::1/64"), "fd00::1/64");
        refused::<Cidr>(&["10.77.0.10", "10.77.0.0/24", "10.77.0.255/24", "10.77.0.1/33", "10.77.0.1/0", "1.2.3/8"]);
        refused::<Cidr>(&["127.0.0.1/8", "0.0.0.0/8", "224.0.0.1/4", "10.0.0.1/+8", "fe80::/129", "/24", "a/b/c"]);
        let network: Cidr = "10.77.0.10/24".parse().unwrap();
        assert!(network.contains("10.77.0.1".parse().unwrap()) && !network.contains("10.78.0.1".parse().unwrap()));
    }

    #[test]
    fn macs_names_and_zones() {
        assert_eq!(ok::<Mac>("52-54-00-AB-cd-01"), "52:54:00:ab:cd:01");
        refused::<Mac>(&[
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0g",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "1:2:3:4:5:6",
        ]);
        assert_eq!(ok::<Timezone>("Etc/GMT+1"), "Etc/GMT+1");
        refused::<Timezone>(&["", "/etc/passwd", "../../etc/shadow", "Europe/../x", "Europe//Berlin", "a b"]);
        assert_eq!(ok::<HostAddress>("Manager.lan"), "manager.lan");
        refused::<HostAddress>(&["", "http://x", "10.0.0.1:2377", "10.0.0", "10.0.0.999", "0.0.0.0", "a_b"]);
        assert_eq!(ok::<InterfaceName>("en*"), "en*");
        refused::<InterfaceName>(&["", "a b", "a\n[Network]", "a/b"]);
        assert_eq!(ok::<Advertise>("eth0"), "eth0");
        refused::<Advertise>(&["", "127.0.0.1", "10.0.0.1/24", "10.0.0", "averyveryverylongname"]);
    }

    #[test]
    fn ssh_keys_are_public_and_whole() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB someone@there";
        assert_eq!(ok::<SshKey>(key), key);
        refused::<SshKey>(&[
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWE",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB",
            "command=\"x\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB\nssh-rsa x",
        ]);
    }

    #[test]
    fn swarm_tokens_have_their_form() {
        let token = format!("SWMTKN-1-{}-{}", "3".repeat(50), "k".repeat(25));
        assert!(is_swarm_token(&token));
        assert!(!is_swarm_token(&token[..token.len() - 1]) && !is_swarm_token(&token.to_lowercase()));
        assert!(!is_swarm_token("SWMTKN-1--") && !is_swarm_token("K10abc::server:x"));
    }

    proptest::proptest! {
        #[test]
        fn values_never_panic_and_what_they_show_reads_back(text in ".{0,80}") {
            macro_rules! round_trip { ($($t:ty),+) => { $(if let Ok(value) = text.parse::<$t>() {
                proptest::prop_assert_eq!(value.to_string().parse::<$t>().ok(), Some(value));
            })+ } }
            round_trip!(Hostname, Timezone, Mac, Cidr, HostAddress, Advertise, InterfaceName, SshKey);
            let _ = is_swarm_token(&text);
        }

        #[test]
        fn a_network_contains_its_own_address(bits in 0x0100_0000_u32..0x7f00_0000, prefix in 1_u8..=32) {
            if let Ok(cidr) = format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(bits)).parse::<Cidr>() {
                proptest::prop_assert!(cidr.contains(cidr.address));
            }
        }
    }
}
