//! What a member does for those who come after it: a manager serves the rendezvous for as long as it runs.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::Secret;
use crate::host::Host;
use crate::join::{Driver, JoinError, scrub};
use crate::rendezvous::{Asker, Refusal, Secrets, Server, TokenSource, TokenUnavailable};
use crate::report::Report;

/// A cluster's token, asked of the cluster each time.
struct FromDriver<'a> {
    driver: &'a dyn Driver,
    host: &'a (dyn Host + Send + Sync),
}

impl TokenSource for FromDriver<'_> {
    fn token(&self, asker: &Asker) -> Result<Secret, TokenUnavailable> {
        self.driver.admit(self.host, asker).map_err(|error| {
            let refusal = match &error {
                JoinError::DuplicateName(_) => Refusal::DuplicateName,
                JoinError::NotListed(_) => Refusal::NotListed,
                _ => Refusal::NotReady,
            };
            TokenUnavailable { refusal, reason: scrub(&error.to_string(), &self.driver.secrets()) }
        })
    }
}

/// Serves the rendezvous of a member for ever; returns at once where the member offers nothing.
pub fn serve(host: &(dyn Host + Send + Sync), report: &dyn Report, driver: &dyn Driver) {
    let Some(offer) = driver.offer() else { return };
    let secrets = Secrets { all: offer.secret.clone(), managers: offer.manager_secret.clone() };
    let name = match host.read("/etc/hostname", 4096) {
        Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        _ => String::new(),
    };
    let source = FromDriver { driver, host };
    let clock = || host.now();
    let log = |line: &str| report.note(line);
    // One socket for both families where the kernel has IPv6, else for IPv4 alone.
    let any: [SocketAddr; 2] = [(Ipv6Addr::UNSPECIFIED, offer.port).into(), (Ipv4Addr::UNSPECIFIED, offer.port).into()];
    loop {
        let mut failures = Vec::new();
        for address in any {
            match Server::bind(address, secrets.clone(), &name, &source, &clock, &log) {
                Ok(server) => {
                    report.note(&format!("rendezvous: nodes with the cluster secret get the token at {address}"));
                    server.serve();
                }
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        report.note(&format!("rendezvous: cannot listen, trying again: {}", failures.join("; ")));
        host.sleep(Duration::from_secs(10));
    }
}
