//! How often a manager is asked: token buckets for each peer and for all of them together.
//!
//! Each handshake costs one token of its peer's bucket and one of the common one; a failed proof costs its peer
//! five. A peer has at most two connections at once, so that one machine cannot occupy every speaker. The table of
//! peers is bounded: when it is full, the peers whose buckets are full again are forgotten, and while there are
//! none, unknown peers are refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::turns::Turns;

const PEER_BURST: f64 = 10.0;
const PEER_PER_SECOND: f64 = 0.5;
const ALL_BURST: f64 = 200.0;
const ALL_PER_SECOND: f64 = 50.0;
const FAILURE_COST: f64 = 5.0;
const MAXIMUM_PEERS: usize = 4096;
const MAXIMUM_AT_ONCE: u8 = 2;

#[derive(Clone, Copy)]
struct Bucket {
    level: f64,
    seen: Instant,
    /// Connections under way.
    open: u8,
}

impl Bucket {
    fn refilled(self, now: Instant, burst: f64, per_second: f64) -> Self {
        let elapsed = now.saturating_duration_since(self.seen).as_secs_f64();
        Self { level: (self.level + elapsed * per_second).min(burst), seen: now, ..self }
    }
}

/// The limits of one server.
pub struct Limits {
    peers: BTreeMap<IpAddr, Bucket>,
    all: Bucket,
    turns: Turns,
}

impl Limits {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        Self {
            peers: BTreeMap::new(),
            all: Bucket { level: ALL_BURST, seen: now, open: 0 },
            turns: Turns::new(now, ALL_PER_SECOND),
        }
    }

    /// Lets this peer begin a handshake now; its end must be told with [`Limits::ended`].
    ///
    /// # Errors
    /// After how long it may come back.
    pub fn admit(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let peer = network_of(peer);
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAXIMUM_PEERS {
            let full_after = Duration::from_secs_f64((PEER_BURST + FAILURE_COST) / PEER_PER_SECOND);
            self.peers.retain(|_, bucket| bucket.open > 0 || now.saturating_duration_since(bucket.seen) < full_after);
            if self.peers.len() >= MAXIMUM_PEERS {
                return Err(self.turns.after(now));
            }
        }
        let bucket = self.peers.entry(peer).or_insert(Bucket { level: PEER_BURST, seen: now, open: 0 });
        *bucket = bucket.refilled(now, PEER_BURST, PEER_PER_SECOND);
        // First the peer's own: a flood from one peer must not empty the common bucket.
        if bucket.level < 1.0 || bucket.open >= MAXIMUM_AT_ONCE {
            return Err(Duration::from_secs_f64(((1.0 - bucket.level) / PEER_PER_SECOND).max(1.0)));
        }
        self.all = self.all.refilled(now, ALL_BURST, ALL_PER_SECOND);
        if self.all.level < 1.0 {
            return Err(self.turns.after(now));
        }
        bucket.level -= 1.0;
        bucket.open += 1;
        self.all.level -= 1.0;
        Ok(())
    }

    /// There is no room for a peer that was admitted; gives after how long it may come back.
    pub fn turned_away(&mut self, peer: IpAddr, now: Instant) -> Duration {
        self.ended(peer);
        self.turns.after(now)
    }

    /// A connection that was admitted has ended.
    pub fn ended(&mut self, peer: IpAddr) {
        if let Some(bucket) = self.peers.get_mut(&network_of(peer)) {
            bucket.open = bucket.open.saturating_sub(1);
        }
    }

    /// Counts a failed proof against its peer.
    pub fn failed(&mut self, peer: IpAddr) {
        if let Some(bucket) = self.peers.get_mut(&network_of(peer)) {
            bucket.level = (bucket.level - FAILURE_COST).max(-FAILURE_COST);
        }
    }
}

/// One machine has a whole /64 of IPv6 addresses to ask from.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn admitted(limits: &mut Limits, peer: IpAddr, now: Instant, tries: u32) -> usize {
        let mut attempt = || limits.admit(peer, now).map(|()| limits.ended(peer)).is_ok();
        (0..tries).filter(|_| attempt()).count()
    }

    #[test]
    fn one_peer_is_limited_and_recovers() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        assert_eq!(admitted(&mut limits, peer(1), start, 1000), 10);
        assert_eq!(admitted(&mut limits, peer(2), start, 3), 3, "others are not concerned");
        assert_eq!(admitted(&mut limits, peer(1), start + Duration::from_secs(4), 100), 2);
    }

    #[test]
    fn failures_cost_more() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        for _ in 0..3 {
            if limits.admit(peer(1), start).is_ok() {
                limits.ended(peer(1));
            }
            limits.failed(peer(1));
        }
        assert!(limits.admit(peer(1), start).is_err());
        assert!(limits.admit(peer(1), start + Duration::from_secs(10)).is_err());
        assert!(limits.admit(peer(1), start + Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn all_together_are_limited_and_the_table_is_bounded() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let total: usize = (0..10_000).map(|number| admitted(&mut limits, peer(number), start, 1)).sum();
        assert_eq!(total, 200);
        assert!(limits.peers.len() <= MAXIMUM_PEERS);
        assert!(limits.admit(peer(99_999), start + Duration::from_mins(1)).is_ok(), "the forgotten make room");
    }

    #[test]
    fn one_ipv6_network_is_one_peer() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let total: usize =
            (0..100_u32).map(|n| admitted(&mut limits, format!("fd00::{n:x}").parse().unwrap(), start, 1)).sum();
        assert_eq!(total, 10);
    }

    #[test]
    fn one_peer_has_two_connections_at_once() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        assert!(limits.admit(peer(1), start).is_ok() && limits.admit(peer(1), start).is_ok());
        assert!(limits.admit(peer(1), start).is_err());
        limits.ended(peer(1));
        assert!(limits.admit(peer(1), start).is_ok());
    }
}
