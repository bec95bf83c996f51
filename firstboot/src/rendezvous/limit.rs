//! How often a manager is asked: token buckets for each peer, for each of IPv6's networks, and for all of them together.
//!
//! Each handshake costs one token of its peer's bucket and one of the common one; a failed proof costs its peer
//! five. A peer has at most two connections at once, so that one machine cannot occupy every speaker.
//!
//! A peer is an address. One machine has a whole /64 of IPv6 addresses to ask from, and a whole fleet may live in one
//! /64 as well, so that network has limits of its own: a little less than there is for all together, so that it is
//! served nearly as fast as any fleet, and others still get through beside it.
//!
//! Who is sent away gets a turn: a moment of its own, in the row of whatever had no room for it. A peer that floods
//! moves its own row alone.
//!
//! The tables of peers and networks are bounded: when one is full, those whose buckets are full again are forgotten,
//! and while there are none, unknown ones are refused. Only who is let in gets into them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::turns::Turns;

/// What a bucket holds, how fast it fills, and how many connections at once it allows.
#[derive(Clone, Copy)]
struct Size {
    burst: f64,
    per_second: f64,
    at_once: u16,
}

const PEER: Size = Size { burst: 10.0, per_second: 0.5, at_once: 2 };
/// The server has room for forty connections.
const NETWORK: Size = Size { burst: 160.0, per_second: 40.0, at_once: 32 };
const ALL: Size = Size { burst: 200.0, per_second: 50.0, at_once: u16::MAX };
const FAILURE_COST: f64 = 5.0;
const MAXIMUM_PEERS: usize = 4096;
const MAXIMUM_NETWORKS: usize = 1024;

struct Bucket {
    size: Size,
    level: f64,
    seen: Instant,
    /// Connections under way.
    open: u16,
    turns: Turns,
}

impl Bucket {
    fn full(size: Size, now: Instant) -> Self {
        Self { size, level: size.burst, seen: now, open: 0, turns: Turns::new(now, size.per_second) }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.level = (self.level + elapsed * self.size.per_second).min(self.size.burst);
        self.seen = now;
    }

    /// Whether one more may begin now; else after how long the next one may come.
    fn room(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.level >= 1.0 && self.open < self.size.at_once {
            return Ok(());
        }
        let refilled = Duration::from_secs_f64(((1.0 - self.level) / self.size.per_second).max(0.0));
        Err(self.turns.after(now).max(refilled))
    }

    fn begin(&mut self) {
        self.level -= 1.0;
        self.open = self.open.saturating_add(1);
    }

    fn is_idle(&self, now: Instant) -> bool {
        let full_after = Duration::from_secs_f64((self.size.burst + FAILURE_COST) / self.size.per_second);
        self.open == 0 && now.saturating_duration_since(self.seen) >= full_after
    }
}

/// Buckets by address.
struct Table {
    size: Size,
    maximum: usize,
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl Table {
    fn new(size: Size, maximum: usize) -> Self {
        Self { size, maximum, buckets: BTreeMap::new() }
    }

    /// Whether one more from there may begin now: `None` where there is no place in the table.
    fn room(&mut self, of: IpAddr, now: Instant) -> Option<Result<(), Duration>> {
        if let Some(bucket) = self.buckets.get_mut(&of) {
            return Some(bucket.room(now));
        }
        if self.buckets.len() >= self.maximum {
            self.buckets.retain(|_, bucket| !bucket.is_idle(now));
        }
        (self.buckets.len() < self.maximum).then_some(Ok(()))
    }

    fn begin(&mut self, of: IpAddr, now: Instant) {
        let size = self.size;
        self.buckets.entry(of).or_insert_with(|| Bucket::full(size, now)).begin();
    }

    fn ended(&mut self, of: IpAddr) {
        if let Some(bucket) = self.buckets.get_mut(&of) {
            bucket.open = bucket.open.saturating_sub(1);
        }
    }
}

/// The limits of one server.
pub struct Limits {
    peers: Table,
    networks: Table,
    all: Bucket,
}

impl Limits {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        Self {
            peers: Table::new(PEER, MAXIMUM_PEERS),
            networks: Table::new(NETWORK, MAXIMUM_NETWORKS),
            all: Bucket::full(ALL, now),
        }
    }

    /// Lets this peer begin a handshake now; its end must be told with [`Limits::ended`].
    ///
    /// # Errors
    /// After how long it may come back.
    pub fn admit(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let (peer, network) = (peer.to_canonical(), network_of(peer));
        // First the peer's own: a flood from one peer must not empty what others have a share of.
        let mut places = vec![self.peers.room(peer, now)];
        if let (Some(Ok(())), Some(network)) = (&places[0], network) {
            places.push(self.networks.room(network, now));
        }
        for place in places {
            match place {
                Some(room) => room?,
                None => return Err(self.all.turns.after(now)),
            }
        }
        self.all.room(now)?;
        self.peers.begin(peer, now);
        if let Some(network) = network {
            self.networks.begin(network, now);
        }
        self.all.begin();
        Ok(())
    }

    /// There is no room for a peer that was admitted; gives after how long it may come back.
    pub fn turned_away(&mut self, peer: IpAddr, now: Instant) -> Duration {
        self.ended(peer);
        self.all.turns.after(now)
    }

    /// A connection that was admitted has ended.
    pub fn ended(&mut self, peer: IpAddr) {
        self.peers.ended(peer.to_canonical());
        if let Some(network) = network_of(peer) {
            self.networks.ended(network);
        }
        self.all.open = self.all.open.saturating_sub(1);
    }

    /// Counts a failed proof against its peer, and not against its neighbours.
    pub fn failed(&mut self, peer: IpAddr) {
        if let Some(bucket) = self.peers.buckets.get_mut(&peer.to_canonical()) {
            bucket.level = (bucket.level - FAILURE_COST).max(-FAILURE_COST);
        }
    }
}

/// The /64 that an IPv6 address is of.
fn network_of(peer: IpAddr) -> Option<IpAddr> {
    match peer.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()),
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
        assert!(limits.peers.buckets.len() <= MAXIMUM_PEERS);
        assert!(limits.admit(peer(99_999), start + Duration::from_mins(1)).is_ok(), "the forgotten make room");
    }

    fn neighbour(number: u32) -> IpAddr {
        format!("fd00::{:x}:{:x}", number >> 16, number & 0xffff).parse().unwrap()
    }

    #[test]
    fn a_fleet_in_one_ipv6_network_is_served_and_leaves_room_for_others() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let total: usize = (0..10_000).map(|number| admitted(&mut limits, neighbour(number), start, 1)).sum();
        assert_eq!(total, 160);
        assert!(limits.peers.buckets.len() <= 160, "only who is let in is remembered");
        assert_eq!(admitted(&mut limits, peer(1), start, 5), 5, "another network gets through");
        let second = start + Duration::from_secs(1);
        let total: usize = (0..10_000).map(|number| admitted(&mut limits, neighbour(number), second, 1)).sum();
        assert_eq!(total, 40);
        // One connection of many machines does not take every place.
        let mut limits = Limits::new(start);
        let open = (0..100).filter(|number| limits.admit(neighbour(*number), start).is_ok()).count();
        assert_eq!(open, 32);
        limits.ended(neighbour(0));
        assert!(limits.admit(neighbour(200), start).is_ok());
    }

    #[test]
    fn a_wrong_secret_costs_its_own_machine_alone() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        for _ in 0..3 {
            if limits.admit(neighbour(1), start).is_ok() {
                limits.ended(neighbour(1));
            }
            limits.failed(neighbour(1));
        }
        assert!(limits.admit(neighbour(1), start).is_err());
        assert_eq!(admitted(&mut limits, neighbour(2), start, 10), 10);
    }

    #[test]
    fn who_is_sent_away_gets_a_moment_of_its_own_and_a_flood_moves_only_its_own_row() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let sent_away = |limits: &mut Limits, of: &dyn Fn(u32) -> IpAddr| -> Vec<Duration> {
            (0..400)
                .filter_map(|number| limits.admit(of(number), start).map(|()| limits.ended(of(number))).err())
                .collect()
        };
        for of in [&neighbour as &dyn Fn(u32) -> IpAddr, &|_| peer(1)] {
            let waits = sent_away(&mut limits, of);
            assert!(waits.len() > 200, "{waits:?}");
            assert!(waits[..100].windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        }
        let mut limits = Limits::new(start);
        sent_away(&mut limits, &|_| peer(1));
        let others: usize = (2..300).map(|number| admitted(&mut limits, peer(number), start, 1)).sum();
        assert_eq!(others, 190);
        let wait = limits.admit(peer(999), start).unwrap_err();
        assert!(wait < Duration::from_secs(3), "{wait:?}");
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
