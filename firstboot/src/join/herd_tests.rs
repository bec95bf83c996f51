//! A herd: two thousand nodes that are switched on together, and one endpoint that serves fifty joins at once.
//!
//! Time is virtual and chance comes from a seed, so a run is the same every time. What decides is the real code:
//! the splay and the back-off of the nodes, and the limits and turns of the rendezvous.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::{Backoff, Retry};
use crate::rendezvous::Limits;
use crate::service::{SPLAY_PER_MACHINE, splay};

const NODES: usize = 2000;
const AT_ONCE: usize = 50;

/// Chance from a seed (`SplitMix64`).
struct Dice(Cell<u64>);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// What the endpoint says to a node that it has no room for.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// 503 and nothing else.
    Mute,
    /// 503 with the same `Retry-After` for everyone.
    Fixed(Duration),
    /// The rendezvous: its own limits decide who is let in, and give each of the others a turn. The nodes are all in
    /// one IPv4 network, or in one /64 of IPv6.
    RendezvousV4,
    RendezvousV6,
}

#[derive(Debug, PartialEq)]
struct Outcome {
    joined: usize,
    requests: usize,
    /// The most requests in any one second, and in any one second after the first ten.
    peak: usize,
    peak_later: usize,
    /// When half of all, and the last, had joined.
    half: Duration,
    last: Duration,
    /// The longest that a node took from its first request to its join.
    worst: Duration,
    most_tries: u32,
    most_at_once: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ended(usize),
    Asks(usize),
}

fn run(seed: u64, window: Duration, manner: Manner) -> Outcome {
    let dice = Dice(Cell::new(seed));
    let start = Instant::now();
    // A join takes one to five seconds, so fifty at once are about seventeen a second.
    let join_takes = || Duration::from_millis(1000 + dice.below(4000));
    let mut limits = Limits::new(start);
    let address = |node: usize| -> IpAddr {
        let number = u32::try_from(node).unwrap();
        match manner {
            Manner::RendezvousV6 => Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(number)).into(),
            _ => Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
        }
    };
    let by_rendezvous = matches!(manner, Manner::RendezvousV4 | Manner::RendezvousV6);
    let mut backoffs: Vec<Backoff> = (0..NODES).map(|_| Backoff::default()).collect();
    let mut first: Vec<Option<Duration>> = vec![None; NODES];
    let mut tries = vec![0_u32; NODES];
    let mut events = BinaryHeap::new();
    for node in 0..NODES {
        // Machines of one rack do not start in the same millisecond, but within two seconds.
        let power = Duration::from_millis(dice.below(2000));
        events.push(Reverse((power + splay(&format!("machine-{node}"), window), Event::Asks(node))));
    }
    let (mut busy, mut most_at_once) = (0, 0);
    let mut per_second: BTreeMap<u64, usize> = BTreeMap::new();
    let mut joins = Vec::new();
    let mut worst = Duration::ZERO;
    while let Some(Reverse((now, event))) = events.pop() {
        let node = match event {
            Event::Asks(node) => node,
            Event::Ended(node) => {
                busy -= 1;
                if by_rendezvous {
                    limits.ended(address(node));
                }
                continue;
            }
        };
        *per_second.entry(now.as_secs()).or_default() += 1;
        tries[node] += 1;
        let began = *first[node].get_or_insert(now);
        let admitted = if by_rendezvous { limits.admit(address(node), start + now) } else { Ok(()) };
        if admitted.is_ok() && busy < AT_ONCE {
            busy += 1;
            most_at_once = most_at_once.max(busy);
            let end = now + join_takes();
            events.push(Reverse((end, Event::Ended(node))));
            joins.push(end);
            worst = worst.max(end.saturating_sub(began));
            continue;
        }
        let retry = match manner {
            Manner::Mute => Retry::Unsaid,
            Manner::Fixed(after) => Retry::NotBefore(after),
            Manner::RendezvousV4 | Manner::RendezvousV6 => Retry::Turn(match admitted {
                Ok(()) => limits.turned_away(address(node), start + now),
                Err(turn) => turn,
            }),
        };
        let pause = backoffs[node].draw(&|bound| dice.below(bound), false, retry);
        events.push(Reverse((now + pause, Event::Asks(node))));
    }
    joins.sort();
    Outcome {
        joined: joins.len(),
        requests: per_second.values().sum(),
        peak: per_second.values().copied().max().unwrap(),
        peak_later: per_second.range(10..).map(|(_, count)| *count).max().unwrap(),
        half: joins[joins.len() / 2],
        last: *joins.last().unwrap(),
        worst,
        most_tries: *tries.iter().max().unwrap(),
        most_at_once,
    }
}

#[test]
fn two_thousand_nodes_join_one_endpoint_that_serves_fifty_at_once() {
    let site = SPLAY_PER_MACHINE.saturating_mul(u32::try_from(NODES).unwrap());
    let all_at_once = Duration::ZERO;
    let fixed = Manner::Fixed(Duration::from_secs(5));
    println!("window   endpoint     joined  requests  peak/s  later/s  half     last     worst wait  most tries");
    for (window, manner) in [
        (site, Manner::RendezvousV4),
        (site, Manner::RendezvousV6),
        (all_at_once, Manner::RendezvousV4),
        (all_at_once, Manner::RendezvousV6),
        (all_at_once, fixed),
        (all_at_once, Manner::Mute),
    ] {
        for seed in 1..=5 {
            let outcome = run(seed, window, manner);
            if seed == 1 {
                let name = format!("{manner:?}").replace("Fixed(", "fixed ").replace(')', "").to_lowercase();
                println!(
                    "{:>6} s {name:<12} {:>6}  {:>8}  {:>6}  {:>7}  {:>5} s  {:>5} s  {:>8} s  {:>10}",
                    window.as_secs(),
                    outcome.joined,
                    outcome.requests,
                    outcome.peak,
                    outcome.peak_later,
                    outcome.half.as_secs(),
                    outcome.last.as_secs(),
                    outcome.worst.as_secs(),
                    outcome.most_tries
                );
            }
            assert_eq!(outcome, run(seed, window, manner), "a run is the same every time");
            assert_eq!((outcome.joined, outcome.most_at_once <= AT_ONCE), (NODES, true));
            // Nobody starves: not even without a word from the endpoint does a node wait much longer than the two
            // minutes that serving all of them takes at best.
            assert!(outcome.worst < Duration::from_mins(7), "{manner:?}, seed {seed}: {outcome:?}");
            if window > Duration::ZERO {
                // With the machines known, the first attempts alone keep the load away.
                assert!(outcome.peak <= 20 && outcome.worst < Duration::from_secs(10), "{outcome:?}");
            } else {
                // All at once: the first two seconds bring every node once, and a few twice; then it is calm.
                assert!(outcome.peak <= 2 * NODES, "{outcome:?}");
                let rendezvous = matches!(manner, Manner::RendezvousV4 | Manner::RendezvousV6);
                // The row of the rendezvous moves at fifty a second, and the draw on top of a turn makes it uneven.
                let calm = if rendezvous { 75 } else { 400 };
                assert!(outcome.peak_later <= calm, "{manner:?}: {outcome:?}");
            }
        }
    }
}
