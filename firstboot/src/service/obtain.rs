//! How the service comes by a valid configuration.
//!
//! Until the node has joined, a medium wins over what was read earlier; what was read and is valid is kept on the
//! state partition, so the medium may be pulled out. Once the node has joined, its configuration is sealed: media
//! are no longer looked at, and nobody with a USB stick makes it another node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, Service};
use crate::config::{ConfigError, Document, Loaded, Machine, load};
use crate::journal::Journal;
use crate::provider::{Found, ROLE_DEFAULTS, role_defaults};
use crate::status::Code;

/// Where the documents of the media are kept; they hold secrets.
pub const KEPT: &str = "/var/lib/ingot/config.json";

/// How long a late medium is waited for before the node says that it waits.
pub const MEDIUM_SECONDS: u64 = 60;
/// How long one is waited for where the node could go on with what it read in an earlier boot.
const MEDIUM_SECONDS_AGAIN: u64 = 5;
/// How often the same state is said again, in seconds.
const REPEAT_SECONDS: u64 = 60;

/// Documents of 16 media of the largest size, in base64.
const MAXIMUM_KEPT_BYTES: u64 = 32 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    documents: Vec<Document>,
    media: Vec<String>,
}

/// A valid configuration.
pub(super) struct Obtained {
    pub loaded: Loaded,
    /// The documents that it was made of.
    pub documents: Vec<Document>,
    /// Where it comes from, for people.
    pub from: String,
}

impl Service<'_> {
    /// Waits for a valid configuration, for ever if it must.
    pub(super) fn obtain(&mut self, journal: &Journal<'_>, machine: &Machine) -> Result<Obtained, Failure> {
        let role = role_defaults(self.host)?;
        let kept = self.read_kept()?;
        if journal.joined().is_some() {
            let kept = kept.unwrap_or(Kept { version: 1, documents: Vec::new(), media: Vec::new() });
            return Self::sealed(role, kept, machine);
        }
        // Once a configuration is being applied, a medium that was pulled out is not waited for again.
        let patience = match (self.current.is_empty(), &kept) {
            (false, _) => 0,
            (true, Some(_)) => MEDIUM_SECONDS_AGAIN,
            (true, None) => MEDIUM_SECONDS,
        };
        let mut waited = 0;
        let mut refused: Option<(Found, u64)> = None;
        let mut said_unreadable = Vec::new();
        let mut said_waiting: Option<u64> = None;
        loop {
            let found = self.sources.look(machine);
            if found.unreadable != said_unreadable {
                found.unreadable.iter().for_each(|medium| self.report.report(Code::MediumUnreadable, medium));
                said_unreadable.clone_from(&found.unreadable);
            }
            if !found.documents.is_empty() {
                // A configuration that was refused is looked at again when it changes, and named again now and then.
                let again =
                    refused.as_ref().is_none_or(|(before, at)| *before != found || waited - at >= REPEAT_SECONDS);
                if again {
                    match self.adopt(&role, &found, machine)? {
                        Ok(obtained) => return Ok(obtained),
                        Err(error) => self.refuse(&error),
                    }
                    refused = Some((found, waited));
                }
            } else if waited >= patience {
                if let Some(kept) = &kept {
                    return Self::unsealed(role, kept, machine);
                }
                match load(&role, machine) {
                    Ok(loaded) if !role.is_empty() => {
                        return Ok(Obtained { loaded, documents: role, from: format!("{ROLE_DEFAULTS}, no medium") });
                    }
                    result => {
                        if said_waiting.is_none_or(|at| waited - at >= REPEAT_SECONDS) {
                            self.report.report(Code::WaitingForConfig, &waiting_for(result.err()));
                            said_waiting = Some(waited);
                        }
                    }
                }
            }
            self.host.sleep(Duration::from_secs(1));
            waited += 1;
        }
    }

    /// Takes what the media say, if it is valid, and keeps it.
    fn adopt(
        &self,
        role: &[Document],
        found: &Found,
        machine: &Machine,
    ) -> Result<Result<Obtained, ConfigError>, Failure> {
        let documents: Vec<Document> = role.iter().chain(&found.documents).cloned().collect();
        let loaded = match load(&documents, machine) {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Err(error)),
        };
        if documents != self.current {
            found.notes.iter().for_each(|note| self.report.note(&format!("warning: {note}")));
            let kept = Kept { version: 1, documents: found.documents.clone(), media: found.media.clone() };
            // Plain data becomes JSON in any case.
            let json = serde_json::to_vec(&kept).unwrap_or_default();
            self.host.write(KEPT, &json, 0o600)?;
        }
        Ok(Ok(Obtained { loaded, documents, from: found.media.join(", ") }))
    }

    /// What a node that has joined, or is about to leave, was configured with; `None` where it never was.
    pub(super) fn kept_configuration(&self, machine: &Machine) -> Result<Option<Obtained>, Failure> {
        let role = role_defaults(self.host)?;
        let kept = self.read_kept()?.unwrap_or(Kept { version: 1, documents: Vec::new(), media: Vec::new() });
        if role.is_empty() && kept.documents.is_empty() {
            return Ok(None);
        }
        Self::sealed(role, kept, machine).map(Some)
    }

    fn sealed(role: Vec<Document>, kept: Kept, machine: &Machine) -> Result<Obtained, Failure> {
        let from = if kept.media.is_empty() { ROLE_DEFAULTS.to_owned() } else { kept.media.join(", ") };
        let documents: Vec<Document> = role.into_iter().chain(kept.documents).collect();
        match load(&documents, machine) {
            Ok(loaded) => Ok(Obtained { loaded, documents, from: format!("sealed, first read from {from}") }),
            Err(error) => Err(Failure::new(Code::ConfigInvalid, format!("the sealed configuration: {error}"))),
        }
    }

    fn unsealed(role: Vec<Document>, kept: &Kept, machine: &Machine) -> Result<Obtained, Failure> {
        let from = format!("read in an earlier attempt from {}", kept.media.join(", "));
        let documents: Vec<Document> = role.into_iter().chain(kept.documents.clone()).collect();
        match load(&documents, machine) {
            Ok(loaded) => Ok(Obtained { loaded, documents, from }),
            Err(error) => Err(Failure::new(Code::ConfigInvalid, format!("{from}: {error}"))),
        }
    }

    fn read_kept(&self) -> Result<Option<Kept>, Failure> {
        let Some(bytes) = self.host.read(KEPT, MAXIMUM_KEPT_BYTES)? else { return Ok(None) };
        let kept: Option<Kept> = serde_json::from_slice(&bytes).ok().filter(|kept: &Kept| kept.version == 1);
        if kept.is_none() {
            self.report.note(&format!("{KEPT} is damaged or of another version; it is not used"));
        }
        Ok(kept)
    }

    fn refuse(&self, error: &ConfigError) {
        // Each problem has its own line: the console shows the first dozen, the journal has all.
        for problem in error.problems.iter().take(12) {
            self.report.report(Code::ConfigInvalid, &problem.to_string());
        }
        for problem in error.problems.iter().skip(12) {
            self.report.note(&format!("config-invalid: {problem}"));
        }
    }
}

fn waiting_for(error: Option<ConfigError>) -> String {
    let lacks = error
        .map(|error| error.problems.iter().map(|problem| problem.key.clone()).collect::<Vec<_>>().join(", "))
        .filter(|lacks| !lacks.is_empty())
        .map_or_else(String::new, |lacks| format!("; the role itself lacks {lacks}"));
    format!("plug in a volume labelled INGOT with node.toml, or one labelled CIDATA{lacks}")
}
