//! How the service comes by a valid configuration.
//!
//! Until the node has joined, a medium wins over what was read earlier; what was read and is valid is kept on the
//! state partition, so the medium may be pulled out. A source that is named and does not answer is waited for: for ever
//! where there is nothing else, for a minute where media say something. Once the node has joined, its configuration is
//! sealed (`sealed`), and nobody with a USB stick makes it another node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config_keys::ConfigKeys;
use super::{Failure, Service};
use crate::config::{ConfigError, Document, Loaded, Machine, Opener, Seal, load_with, only_permits, seal_of};
use crate::host::HostError;
use crate::journal::Journal;
use crate::provider::{Found, ROLE_DEFAULTS, keep_signed, newest_signature, role_defaults};
use crate::status::Code;

/// Where the documents of the media are kept; they hold secrets.
pub const KEPT: &str = "/var/lib/ingot/config.json";

/// What a power cut may leave of it before it is whole; it holds secrets too.
const KEPT_UNFINISHED: &str = "/var/lib/ingot/.config.json.ingot-new";

/// How long a late medium is waited for before the node says that it waits.
pub const MEDIUM_SECONDS: u64 = 60;
/// How long one is waited for where the node could go on with what it read in an earlier boot.
const MEDIUM_SECONDS_AGAIN: u64 = 5;
/// How often the same state is said again, in seconds.
const REPEAT_SECONDS: u64 = 60;

/// Documents of 16 media of the largest size, in base64.
const MAXIMUM_KEPT_BYTES: u64 = 32 * 1024 * 1024;

/// What is kept of a configuration that was valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub version: u32,
    pub documents: Vec<Document>,
    pub media: Vec<String>,
    /// The newest signature that was accepted, in seconds since 1970; 0 where none was.
    #[serde(default)]
    pub newest_signature: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { version: 1, documents: Vec::new(), media: Vec::new(), newest_signature: 0 }
    }
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
        let mut keys = ConfigKeys::kept(self.host)?;
        if journal.is_sealed() {
            let kept = self.signed_medium(&role, kept.unwrap_or_default(), machine)?;
            return Self::sealed(role, kept, &keys, machine);
        }
        // A role whose seal cannot be read asks for signatures: anything else would be less than it says.
        let seal = seal_of(&role).unwrap_or(Seal { require_signed: true, ..Seal::default() });
        // Once a configuration is being applied, a medium that was pulled out is not waited for again.
        let patience = match (self.current.is_empty(), &kept) {
            (false, _) => 0,
            (true, Some(_)) => MEDIUM_SECONDS_AGAIN,
            (true, None) => MEDIUM_SECONDS,
        };
        let mut waited = 0;
        let mut refused: Option<(Found, u64)> = None;
        let mut said_unreadable = Vec::new();
        let mut said_no_key = false;
        let mut said_waiting: Option<u64> = None;
        loop {
            let mut found = self.sources.look(machine);
            if !found.media.is_empty() || !found.unreadable.is_empty() {
                self.report.medium_seen();
            }
            let mut newest = kept.as_ref().map_or(0, |kept| kept.newest_signature);
            if seal.require_signed {
                let known = kept.as_ref().map_or(&[][..], |kept| &kept.documents);
                let signed = keep_signed(&found, &seal.site_keys, newest, known);
                // Not once more with every attempt: the state that the node is in would be hidden by it.
                if signed.refused != self.said_unsigned {
                    let refused = signed.refused.iter().map(|(_, error)| error.to_string());
                    refused.for_each(|refused| self.report.report(Code::SignatureRefused, &refused));
                    self.said_unsigned = signed.refused;
                }
                found.documents = signed.documents;
                newest = newest.max(signed.newest);
            }
            if found.unreadable != said_unreadable {
                found.unreadable.iter().for_each(|medium| self.report.report(Code::MediumUnreadable, medium));
                said_unreadable.clone_from(&found.unreadable);
            }
            if keys.learn(self.host, &found.config_keys)? > 0 && !std::mem::replace(&mut said_no_key, true) {
                self.report.note("a config key that was found is no key of `ingot keys generate --kind config`");
            }
            // What somebody has brought by hand is enough where a server is dead. What a hypervisor or another server says is
            // not: it lies below what is still to come, and a node that went on with it would seal half a configuration.
            let enough = found.pending.is_empty() || waited >= MEDIUM_SECONDS && found.is_on_media();
            if !found.documents.is_empty() && enough {
                // A configuration that was refused is looked at again when it changes, and named again now and then.
                let again =
                    refused.as_ref().is_none_or(|(before, at)| *before != found || waited - at >= REPEAT_SECONDS);
                if again {
                    match self.adopt(&role, &found, &keys, newest, machine)? {
                        Ok(obtained) => return Ok(obtained),
                        Err(error) => self.refuse(&error),
                    }
                    refused = Some((found, waited));
                }
            } else if waited >= patience {
                if let Some(kept) = &kept {
                    return Self::unsealed(role, kept, &keys, machine);
                }
                match load_with(&role, machine, Opener::Node(&[])) {
                    // A source that is named on purpose may say what the role alone does not.
                    Ok(loaded) if !only_permits(&role) && found.pending.is_empty() => {
                        return Ok(Obtained { loaded, documents: role, from: format!("{ROLE_DEFAULTS}, no medium") });
                    }
                    result => {
                        if said_waiting.is_none_or(|at| waited - at >= REPEAT_SECONDS) {
                            self.report.report(Code::WaitingForConfig, &waiting_for(result.err(), &found.pending));
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
        keys: &ConfigKeys,
        newest: u64,
        machine: &Machine,
    ) -> Result<Result<Obtained, ConfigError>, Failure> {
        let documents: Vec<Document> = role.iter().chain(&found.documents).cloned().collect();
        let loaded = match load_with(&documents, machine, Opener::Node(keys.as_slice())) {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Err(error)),
        };
        if documents != self.current {
            found.notes.iter().for_each(|note| self.report.note(&format!("warning: {note}")));
            found.pending.iter().for_each(|source| self.report.note(&format!("warning: went on without {source}")));
            self.keep(&Kept {
                version: 1,
                documents: found.documents.clone(),
                media: found.media.clone(),
                newest_signature: newest.max(newest_signature(found, &loaded.config.seal.site_keys)),
            })?;
        }
        Ok(Ok(Obtained { loaded, documents, from: found.media.join(", ") }))
    }

    pub(super) fn keep(&self, kept: &Kept) -> Result<(), HostError> {
        // Plain data becomes JSON in any case.
        let json = serde_json::to_vec(kept).unwrap_or_default();
        self.host.write(KEPT, &json, 0o600)
    }

    /// What a node that has joined, or is about to leave, was configured with; `None` where it never was.
    pub(super) fn kept_configuration(&self, machine: &Machine) -> Result<Option<Obtained>, Failure> {
        let role = role_defaults(self.host)?;
        let kept = self.read_kept()?.unwrap_or(Kept {
            version: 1,
            documents: Vec::new(),
            media: Vec::new(),
            newest_signature: 0,
        });
        if role.is_empty() && kept.documents.is_empty() {
            return Ok(None);
        }
        Self::sealed(role, kept, &ConfigKeys::kept(self.host)?, machine).map(Some)
    }

    fn sealed(role: Vec<Document>, kept: Kept, keys: &ConfigKeys, machine: &Machine) -> Result<Obtained, Failure> {
        let from = if kept.media.is_empty() { ROLE_DEFAULTS.to_owned() } else { kept.media.join(", ") };
        let documents: Vec<Document> = role.into_iter().chain(kept.documents).collect();
        match load_with(&documents, machine, Opener::Node(keys.as_slice())) {
            Ok(loaded) => Ok(Obtained { loaded, documents, from: format!("sealed, first read from {from}") }),
            Err(error) => Err(Failure::new(Code::ConfigInvalid, format!("the sealed configuration: {error}"))),
        }
    }

    fn unsealed(role: Vec<Document>, kept: &Kept, keys: &ConfigKeys, machine: &Machine) -> Result<Obtained, Failure> {
        let from = format!("read in an earlier attempt from {}", kept.media.join(", "));
        let documents: Vec<Document> = role.into_iter().chain(kept.documents.clone()).collect();
        match load_with(&documents, machine, Opener::Node(keys.as_slice())) {
            Ok(loaded) => Ok(Obtained { loaded, documents, from }),
            Err(error) => Err(Failure::new(Code::ConfigInvalid, format!("{from}: {error}"))),
        }
    }

    pub(super) fn read_kept(&self) -> Result<Option<Kept>, HostError> {
        // A disk that cannot be written is no reason to stop here: a member goes on, and what has to write says so itself.
        if self.host.exists(KEPT_UNFINISHED)
            && let Err(error) = self.host.remove(KEPT_UNFINISHED)
        {
            let Some(code) = error.storage() else { return Err(error) };
            self.report.report(code, &format!("{error}; it holds secrets, and goes when the disk can be written"));
        }
        let Some(bytes) = self.host.read(KEPT, MAXIMUM_KEPT_BYTES)? else { return Ok(None) };
        let kept: Option<Kept> = serde_json::from_slice(&bytes).ok().filter(|kept: &Kept| kept.version == 1);
        if kept.is_none() {
            self.report.note(&format!("{KEPT} is damaged or of another version; it is not used"));
        }
        Ok(kept)
    }

    pub(super) fn refuse(&self, error: &ConfigError) {
        // Each problem has its own line: the console shows the first dozen, the journal has all.
        for problem in error.problems.iter().take(12) {
            self.report.report(Code::ConfigInvalid, &problem.to_string());
        }
        for problem in error.problems.iter().skip(12) {
            self.report.note(&format!("config-invalid: {problem}"));
        }
    }
}

fn waiting_for(error: Option<ConfigError>, pending: &[String]) -> String {
    if !pending.is_empty() {
        return pending.join("; ");
    }
    let lacks = error
        .map(|error| error.problems.iter().map(|problem| problem.key.clone()).collect::<Vec<_>>().join(", "))
        .filter(|lacks| !lacks.is_empty())
        .map_or_else(String::new, |lacks| format!("; the role itself lacks {lacks}"));
    format!("plug in a volume labelled INGOT with node.toml, or one labelled CIDATA{lacks}")
}

#[cfg(test)]
#[path = "obtain_tests.rs"]
mod tests;
