//! Rings and channels of network interfaces, by `SIOCETHTOOL`.
//!
//! Asked of the kernel itself and not of the program ethtool: the structures are part of the kernel's interface and have
//! never changed, the program's output has, and it would be one more package of every image.

use super::facts::{Interface, cores};
use super::{Outcome, Taken, is_meant};
use crate::config::{Channels, InterfaceTuning};
use crate::host::{Host, HostError};

/// A pair of commands of `linux/ethtool.h`, and the words of its structure: (name, maximum, value).
struct Kind {
    get: u32,
    set: u32,
    words: [(&'static str, usize, usize); 3],
}

const RINGS: Kind = Kind { get: 0x10, set: 0x11, words: [("rx ring", 1, 5), ("tx ring", 4, 8), ("", 0, 0)] };
const CHANNELS: Kind =
    Kind { get: 0x3c, set: 0x3d, words: [("rx channels", 1, 5), ("tx channels", 2, 6), ("combined channels", 4, 8)] };

/// Applies the rules to the interfaces.
pub fn apply(host: &dyn Host, rules: &[InterfaceTuning], present: &[Interface]) -> Result<Vec<Outcome>, HostError> {
    let mut outcomes = Vec::new();
    for rule in rules {
        let combined = match rule.combined {
            Some(Channels::Cores) => Some(cores(host)?),
            Some(Channels::Count(count)) => Some(count),
            None => None,
        };
        for interface in present.iter().filter(|interface| is_meant(&rule.matches, interface)) {
            outcomes.extend(one(host, &interface.name, &RINGS, [rule.rx_ring, rule.tx_ring, None])?);
            outcomes.extend(one(host, &interface.name, &CHANNELS, [rule.rx_channels, rule.tx_channels, combined])?);
        }
    }
    Ok(outcomes)
}

/// Sets what differs in one request, and reads it back.
fn one(host: &dyn Host, name: &str, kind: &Kind, wanted: [Option<u32>; 3]) -> Result<Vec<Outcome>, HostError> {
    if wanted.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let ask = || {
        let mut request = [0; 9];
        request[0] = kind.get;
        host.ethtool(name, &mut request).map(|()| request)
    };
    let each = || kind.words.iter().zip(wanted).filter_map(|(word, wanted)| Some((word, wanted?)));
    let before = match ask() {
        Ok(before) => before,
        Err(HostError::System { source, .. }) => {
            let outcome = |((what, ..), wanted): (&(&'static str, usize, usize), u32)| Outcome {
                name: format!("{name} {what}"),
                requested: wanted.to_string(),
                effective: String::new(),
                taken: Taken::Absent,
                why: format!("its driver has none ({source})"),
            };
            return Ok(each().map(outcome).collect());
        }
        Err(error) => return Err(error),
    };
    let mut request = before;
    request[0] = kind.set;
    for ((_, most, value), wanted) in each() {
        // More than the hardware has would make the driver refuse all of it.
        request[*value] = wanted.min(before[*most]);
    }
    // Setting what is there already would take the link down for nothing.
    let refusal = if request[1..] == before[1..] {
        None
    } else {
        match host.ethtool(name, &mut request) {
            Ok(()) => None,
            Err(HostError::System { source, .. }) => Some(source.to_string()),
            Err(error) => return Err(error),
        }
    };
    let after = ask().unwrap_or(before);
    let outcome = |((what, most, value), wanted): (&(&'static str, usize, usize), u32)| {
        let (taken, why) = match (&refusal, after[*value] == wanted) {
            (_, true) => (Taken::Whole, String::new()),
            (Some(reason), _) => (Taken::Refused, format!("its driver refused it: {reason}")),
            (None, _) if wanted > before[*most] => {
                (Taken::Clamped, format!("the hardware has at most {}", before[*most]))
            }
            (None, _) => (Taken::Clamped, "its driver took it and made this of it".to_owned()),
        };
        let (requested, effective) = (wanted.to_string(), after[*value].to_string());
        Outcome { name: format!("{name} {what}"), requested, effective, taken, why }
    };
    Ok(each().map(outcome).collect())
}
