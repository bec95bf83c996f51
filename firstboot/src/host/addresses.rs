//! The addresses of the machine's interfaces, asked of the kernel over netlink (`RTM_GETADDR`, rtnetlink(7)).
//!
//! Takes the kernel's answer, which is parsed with every length checked; gives the addresses with their scope.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::InterfaceAddress;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Tentative and failed duplicate address detection: not usable (yet).
const UNUSABLE_FLAGS: u8 = 0x40 | 0x08;
const SCOPE_GLOBAL: u8 = 0;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole network.
    Global,
    /// The link (169.254.0.0/16, `fe80::/10`), the machine itself, or what somebody has set.
    Narrower,
}

/// An address with the index of its interface.
struct Address {
    index: u32,
    ip: IpAddr,
    scope: Scope,
}

/// All usable addresses.
pub fn addresses() -> io::Result<Vec<(InterfaceAddress, Scope)>> {
    let mut addresses = Vec::new();
    // An ifaddrmsg of any family.
    dump(RTM_GETADDR, 8, RTM_NEWADDR, &mut |body| addresses.extend(address(body)))?;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // An interface that went away since the dump has no name any more, and its address no use.
    let named = |found: Address| {
        let interface = rustix::net::netdevice::index_to_name(&socket, found.index).ok()?;
        Some((InterfaceAddress { interface, address: found.ip }, found.scope))
    };
    Ok(addresses.into_iter().filter_map(named).collect())
}

/// Asks the kernel for everything of one kind, and hands on the body of each message of the kind `answer`.
///
/// # Errors
/// What the kernel says; an answer that is no netlink.
pub(super) fn dump(kind: u16, header_bytes: u8, answer: u16, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // The default protocol of the family, 0, is NETLINK_ROUTE.
    // nlmsghdr: length, type, flags, sequence, port; then the kind's own header, all zeros.
    let length = 16 + usize::from(header_bytes);
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&(16 + u32::from(header_bytes)).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&1_u32.to_ne_bytes());
    request.resize(length, 0);
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if length == 0 || parse(&buffer[..length], answer, each)? {
            return Ok(());
        }
    }
}

/// Reads one datagram's messages; true after the last one of the dump.
fn parse(mut datagram: &[u8], answer: u16, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    while let Some(header) = datagram.first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = datagram.get(16..length) else { return Err(io::ErrorKind::InvalidData.into()) };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            kind if kind == answer => each(body),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Calls `each` with the kind and value of every attribute (rtattr); `None` where one is longer than what is there.
pub(super) fn attributes<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) -> Option<()> {
    while let Some(header) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        each(u16::from_ne_bytes([header[2], header[3]]), value);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(())
}

fn address(body: &[u8]) -> Option<Address> {
    let &[_family, _prefix, flags, scope, i0, i1, i2, i3] = body.first_chunk::<8>()?;
    if flags & UNUSABLE_FLAGS != 0 {
        return None;
    }
    let scope = if scope == SCOPE_GLOBAL { Scope::Global } else { Scope::Narrower };
    let (mut local, mut plain) = (None, None);
    attributes(&body[8..], |kind, value| match kind {
        IFA_LOCAL => local = ip(value),
        IFA_ADDRESS => plain = ip(value),
        _ => {}
    })?;
    // On a point-to-point link IFA_ADDRESS is the other end.
    Some(Address { index: u32::from_ne_bytes([i0, i1, i2, i3]), ip: local.or(plain)?, scope })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let all = addresses().unwrap();
        for (address, scope) in &all {
            assert!(!address.address.is_loopback() || *scope == Scope::Narrower, "{address:?}");
            assert!(!address.interface.is_empty(), "{address:?}");
        }
    }

    #[test]
    fn link_local_addresses_are_there_and_narrower() {
        let message = |address: &[u8], scope: u8| {
            let mut body = vec![if address.len() == 4 { 2 } else { 10 }, 64, 0, scope, 3, 0, 0, 0];
            body.extend_from_slice(&u16::try_from(address.len() + 4).unwrap().to_ne_bytes());
            body.extend_from_slice(&IFA_ADDRESS.to_ne_bytes());
            body.extend_from_slice(address);
            body
        };
        let read = |ip: &str, scope| {
            let bytes = match ip.parse().unwrap() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let found = address(&message(&bytes, scope)).unwrap();
            assert_eq!((found.index, found.ip.to_string().as_str()), (3, ip));
            found.scope
        };
        assert_eq!(read("10.0.0.1", 0), Scope::Global);
        assert_eq!(read("fd00::1", 0), Scope::Global);
        assert_eq!(read("169.254.7.1", 253), Scope::Narrower);
        assert_eq!(read("fe80::7", 253), Scope::Narrower);
    }

    proptest::proptest! {
        #[test]
        fn any_datagram_is_read_without_a_panic(
            kind in proptest::sample::select(vec![RTM_NEWADDR, NLMSG_DONE, NLMSG_ERROR, 7]),
            length in 0_u32..80,
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            let mut datagram = length.to_ne_bytes().to_vec();
            datagram.extend_from_slice(&kind.to_ne_bytes());
            datagram.extend_from_slice(&[0; 10]);
            datagram.extend_from_slice(&rest);
            let _ = parse(&datagram, RTM_NEWADDR, &mut |body| {
                let _ = address(body);
            });
        }
    }
}
