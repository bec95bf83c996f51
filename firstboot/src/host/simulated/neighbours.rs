//! The other machines of a simulated one's network: which names it knows them by, and which of them answer.

use super::*;

impl SimulatedHost {
    /// What `getent ahosts` says where there is only the hosts file and no name server.
    pub(super) fn addresses_of(&self, host: &HostAddress) -> Result<Vec<IpAddr>, HostError> {
        let name = match host {
            HostAddress::Ip(address) => return Ok(vec![*address]),
            HostAddress::Name(name) => name,
        };
        let text = self.text("/etc/hosts");
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
        let found: Vec<IpAddr> = lines
            .filter_map(|mut words| {
                let address = words.next()?.parse().ok()?;
                words.any(|known| known == name.as_str()).then_some(address)
            })
            .collect();
        let unknown = || HostError::Resolve { name: name.clone(), reason: "no name server knows it".into() };
        if found.is_empty() { Err(unknown()) } else { Ok(found) }
    }

    /// What is at the rendezvous of another machine. A machine does not serve its own before it is a member.
    pub(super) fn ask(&self, peer: IpAddr) -> Result<Grant, RendezvousError> {
        let mut state = self.state();
        if peer.is_loopback() || state.silent.contains(&peer) || state.rendezvous.is_empty() {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        }
        if !state.busy.is_empty() {
            return Err(RendezvousError::Busy(state.busy.remove(0)));
        }
        let answer = if state.rendezvous.len() > 1 { state.rendezvous.remove(0) } else { state.rendezvous[0] };
        answer.map(|(token, time)| Grant { token: Secret::new(token), time }).map_err(RendezvousError::Refused)
    }
}
