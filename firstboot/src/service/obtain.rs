//! How the service comes by a valid configuration.
//!
//! Until the node has joined, what is found wins over what was read earlier, source by source (`layers`); what was read
//! and is valid is kept on the state partition, so a medium may be pulled out. What wins over the rest may come late: as
//! long as media are still being found, or one is broken, or a source that is named does not answer, nothing below it
//! is taken, for a minute at most; a source that is named is waited for without end where nothing else is there. Where
//! something is still broken or invalid when the node has joined, its configuration is not sealed until that is gone.
//! Once it is sealed (`sealed`), nobody with a USB stick makes it another node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accepted::Accepted;
use super::config_keys::ConfigKeys;
use super::layers::{Layers, lay, outside_the_image};
use super::{Failure, Service};
use crate::config::{
    ConfigError, Document, Join, Loaded, Machine, Opener, Origin, Problem, Seal, SourceKind, load_with, media_wait_of,
    only_permits, seal_of,
};
use crate::host::{Host, HostError};
use crate::journal::Journal;
use crate::provider::{Found, ROLE_DEFAULTS, Signed, keep_signed, newest_signature, role_defaults};
use crate::stage1::cmdline::split;
use crate::status::Code;

/// Where the documents of the media are kept; they hold secrets.
pub const KEPT: &str = "/var/lib/ingot/config.json";

/// What a power cut may leave of it before it is whole; it holds secrets too.
const KEPT_UNFINISHED: &str = "/var/lib/ingot/.config.json.ingot-new";

/// How long a late medium is waited for before the node says that it waits, unless the role or the kernel command line
/// says otherwise.
const MEDIUM: Duration = Duration::from_mins(1);
/// The kernel parameter that says otherwise, in seconds.
const MEDIA_WAIT: &str = "ingot.media_wait";
/// How long one is waited for where the node could go on with what it read in an earlier boot.
const MEDIUM_AGAIN: Duration = Duration::from_secs(5);
/// How often the same state is said again.
const REPEAT: Duration = Duration::from_mins(1);

/// Documents of 16 media of the largest size, in base64.
pub(super) const MAXIMUM_KEPT_BYTES: u64 = 32 * 1024 * 1024;

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

/// What one search for a configuration has to do with, and what it has said already.
struct Search<'a> {
    role: &'a [Document],
    kept: Option<Kept>,
    keys: ConfigKeys,
    /// How a node that is a member has joined, where that is known.
    member: Option<Join>,
    /// How long a source that is late or broken is waited for.
    limit: Duration,
    /// What was refused, and when.
    refused: Option<(Found, Duration)>,
    said_unreadable: Vec<String>,
    said_no_key: bool,
    said_waiting: Option<Duration>,
}

/// A look, and what counts of it.
struct Look {
    found: Found,
    layers: Layers,
    /// The newest signature, in seconds since 1970.
    newest: u64,
}

impl Service<'_> {
    /// Waits for a valid configuration, for ever if it must.
    pub(super) fn obtain(&mut self, journal: &Journal<'_>, machine: &Machine) -> Result<Obtained, Failure> {
        let role = role_defaults(self.host)?;
        let kept = self.read_kept()?;
        let keys = ConfigKeys::kept(self.host)?;
        self.unsure.clear();
        if journal.is_sealed() {
            let kept = self.signed_medium(&role, kept.unwrap_or_default(), machine)?;
            return Self::sealed(role, kept, &keys, machine);
        }
        let mut member = None;
        if let (true, Some(kept)) = (journal.joined().is_some(), &kept) {
            member = Self::unsealed(role.clone(), kept, &keys, machine).ok().and_then(|now| now.loaded.config.join);
        }
        let mut search = Search {
            role: &role,
            kept,
            keys,
            member,
            limit: self.media_wait(&role),
            refused: None,
            said_unreadable: Vec::new(),
            said_no_key: false,
            said_waiting: None,
        };
        let began = self.host.uptime();
        loop {
            let look = self.look(&mut search, machine)?;
            // A look takes as long as a dead server lets it.
            let waited = self.host.uptime().saturating_sub(began);
            if let Some(obtained) = self.try_what_is_there(&mut search, &look, waited, machine)? {
                let names = look.found.unreadable.into_iter().filter(|line| {
                    SourceKind::of_source(line)
                        .is_some_and(|kind| !kind.is_medium() && look.layers.broken.contains(&kind))
                });
                self.unsure.extend(names);
                return Ok(obtained);
            }
            self.host.sleep(Duration::from_secs(1));
        }
    }

    /// How long a source is waited for that is late, does not answer or is broken.
    fn media_wait(&self, role: &[Document]) -> Duration {
        let line = self.host.read("/proc/cmdline", 64 * 1024).ok().flatten().unwrap_or_default();
        let parameters = split(&String::from_utf8_lossy(&line));
        let given = parameters.iter().rev().find(|(name, _)| name == MEDIA_WAIT).map(|(_, value)| value.as_deref());
        match given.map(|value| value.unwrap_or_default().parse::<u64>().ok().filter(|seconds| *seconds <= 3600)) {
            Some(Some(seconds)) => return Duration::from_secs(seconds),
            Some(None) => self.report.note(&format!("warning: {MEDIA_WAIT} is not a number of seconds up to 3600")),
            None => {}
        }
        media_wait_of(role).unwrap_or(MEDIUM)
    }

    /// Looks at all sources, and says what is new about them.
    fn look(&mut self, search: &mut Search<'_>, machine: &Machine) -> Result<Look, Failure> {
        let mut found = self.sources.look(machine);
        if !found.media.is_empty() || !found.unreadable.is_empty() {
            self.report.medium_seen();
        }
        let nothing = Kept::default();
        let kept = search.kept.as_ref().unwrap_or(&nothing);
        let mut newest = kept.newest_signature.max(Accepted::read(self.host)?.newest);
        if let Some(signed) = signed_part(self.host, &found, search.role, kept)? {
            // Not once more with every attempt: the state that the node is in would be hidden by it.
            if signed.refused != self.said_unsigned {
                let refused = signed.refused.iter().map(|(_, error)| error.to_string());
                refused.for_each(|refused| self.report.report(Code::SignatureRefused, &refused));
                self.said_unsigned = signed.refused;
            }
            found.documents = signed.documents;
            newest = newest.max(signed.newest);
        }
        if found.unreadable != search.said_unreadable {
            found.unreadable.iter().for_each(|medium| self.report.report(Code::MediumUnreadable, medium));
            search.said_unreadable.clone_from(&found.unreadable);
        }
        if search.keys.learn(self.host, &found.config_keys)? > 0 && !std::mem::replace(&mut search.said_no_key, true) {
            self.report.note("a config key that was found is no key of `ingot keys generate --kind config`");
        }
        let layers = lay(&found, &kept.documents, &kept.media);
        Ok(Look { found, layers, newest })
    }

    /// The configuration that a look gives, if it is time to take one.
    fn try_what_is_there(
        &mut self,
        search: &mut Search<'_>,
        look: &Look,
        waited: Duration,
        machine: &Machine,
    ) -> Result<Option<Obtained>, Failure> {
        if look.layers.documents.is_empty() {
            return Ok(self.role_alone(search, look, waited, machine));
        }
        if waited < self.patience(search, look) {
            if waited >= search.limit {
                self.say_waiting(search, look, waited, None);
            }
            return Ok(None);
        }
        // A configuration that was refused is looked at again when it changes, and named again now and then.
        let refused = search.refused.as_ref().filter(|(before, at)| *before == look.found && waited < *at + REPEAT);
        if refused.is_none() {
            match self.adopt(search, look, machine)? {
                Ok(obtained) => return Ok(Some(obtained)),
                Err(error) => self.refuse(&error),
            }
            search.refused = Some((look.found.clone(), waited));
        }
        // What was good before is so still. It is not sealed while somebody may be correcting it.
        let Some(kept) = search.kept.as_ref().filter(|kept| kept.documents != look.layers.documents) else {
            return Ok(None);
        };
        if waited < search.limit {
            return Ok(None);
        }
        let result = Self::unsealed(search.role.to_vec(), kept, &search.keys, machine).ok();
        if result.is_some() {
            self.unsure.push(format!("{} is not valid", look.found.media.join(", ")));
        }
        Ok(result)
    }

    /// How long to wait for what may still win over what is there, or change it.
    fn patience(&self, search: &Search<'_>, look: &Look) -> Duration {
        let Look { found, layers, .. } = look;
        // Once a configuration is being applied, a medium that was pulled out is not waited for again.
        if !self.current.is_empty() && outside_the_image(&self.current) == layers.documents {
            return Duration::ZERO;
        }
        let is_kept = |kind: Option<SourceKind>| kind.is_some() && layers.kept.contains(&kind);
        let unanswered = found.pending.iter().any(|source| !is_kept(SourceKind::of_source(source)));
        let silent = unanswered || layers.broken.iter().any(|kind| !is_kept(Some(*kind)));
        let late = layers.top < Some(SourceKind::Ingot) && !self.sources.are_settled();
        let again = search.limit.min(MEDIUM_AGAIN);
        match &search.kept {
            Some(kept) if kept.documents == layers.documents => {
                if silent || late || !layers.kept.is_empty() {
                    again
                } else {
                    Duration::ZERO
                }
            }
            // What somebody has brought by hand is enough where a server is dead. What a hypervisor or another server says
            // is not: it lies below what is still to come, and a node that went on with it would seal half a configuration.
            _ if unanswered && !layers.top.is_some_and(SourceKind::is_medium) => Duration::MAX,
            _ if silent => search.limit,
            Some(_) if late || !layers.kept.is_empty() => again,
            None if late => search.limit,
            _ => Duration::ZERO,
        }
    }

    /// What the role says by itself, where nothing else is there after the wait.
    fn role_alone(
        &self,
        search: &mut Search<'_>,
        look: &Look,
        waited: Duration,
        machine: &Machine,
    ) -> Option<Obtained> {
        if waited < search.limit {
            return None;
        }
        let role = search.role;
        match load_with(role, machine, Opener::Node(&[])) {
            // A source that is named on purpose may say what the role alone does not.
            Ok(loaded) if !only_permits(role) && look.found.pending.is_empty() => {
                return Some(Obtained {
                    loaded,
                    documents: role.to_vec(),
                    from: format!("{ROLE_DEFAULTS}, no medium"),
                });
            }
            result => self.say_waiting(search, look, waited, result.err()),
        }
        None
    }

    /// Says now and then what is waited for.
    fn say_waiting(&self, search: &mut Search<'_>, look: &Look, waited: Duration, error: Option<ConfigError>) {
        if search.said_waiting.is_none_or(|at| waited >= at + REPEAT) {
            self.report.report(Code::WaitingForConfig, &waiting_for(error, &look.found.pending));
            search.said_waiting = Some(waited);
        }
    }

    /// Takes what the sources say, if it is valid, and keeps it.
    fn adopt(
        &self,
        search: &Search<'_>,
        look: &Look,
        machine: &Machine,
    ) -> Result<Result<Obtained, ConfigError>, Failure> {
        let Look { found, layers, newest } = look;
        let documents: Vec<Document> = search.role.iter().chain(&layers.documents).cloned().collect();
        let loaded = match load_with(&documents, machine, Opener::Node(search.keys.as_slice())) {
            Ok(loaded) => loaded,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(error) = moves(search.member.as_ref(), &loaded, &layers.media) {
            return Ok(Err(error));
        }
        let media = if layers.media.is_empty() { found.media.clone() } else { layers.media.clone() };
        let from = if layers.documents.iter().any(|document| found.documents.contains(document)) {
            media.join(", ")
        } else {
            format!("read in an earlier attempt from {}", media.join(", "))
        };
        if documents != self.current {
            found.notes.iter().for_each(|note| self.report.note(&format!("warning: {note}")));
            found.pending.iter().for_each(|source| self.report.note(&format!("warning: went on without {source}")));
            let newest_signature = (*newest).max(newest_signature(found, &loaded.config.seal.site_keys));
            let new = Kept { version: 1, documents: layers.documents.clone(), media, newest_signature };
            if search.kept.as_ref() != Some(&new) {
                self.keep(&new)?;
            }
        }
        Ok(Ok(Obtained { loaded, documents, from }))
    }

    /// Whether the sources say something else now than what is being applied, and it could be applied.
    pub(super) fn sources_changed(&self, machine: &Machine) -> bool {
        let found = self.counting(self.sources.look(machine));
        self.could_be_applied(&lay(&found, &outside_the_image(&self.current), &[]), machine)
    }

    /// Whether documents are others than those that are being applied, and valid.
    pub(super) fn could_be_applied(&self, layers: &Layers, machine: &Machine) -> bool {
        let Ok(keys) = ConfigKeys::kept(self.host) else { return false };
        let role = self.current.iter().filter(|document| document.name == ROLE_DEFAULTS);
        let documents: Vec<Document> = role.chain(&layers.documents).cloned().collect();
        documents != self.current && load_with(&documents, machine, Opener::Node(keys.as_slice())).is_ok()
    }

    /// What counts of what was found, beside what is being applied.
    pub(super) fn counting(&self, found: Found) -> Found {
        let (role, outside): (Vec<_>, Vec<_>) =
            self.current.iter().cloned().partition(|document| document.name == ROLE_DEFAULTS);
        let kept = Kept { documents: outside, ..Kept::default() };
        match signed_part(self.host, &found, &role, &kept) {
            Ok(None) => found,
            Ok(Some(signed)) => Found { documents: signed.documents, ..found },
            // Without knowing what was accepted, nothing new counts.
            Err(_) => Found { documents: Vec::new(), ..found },
        }
    }

    pub(super) fn keep(&self, kept: &Kept) -> Result<(), HostError> {
        // Plain data becomes JSON in any case.
        let json = serde_json::to_vec(kept).unwrap_or_default();
        self.host.write(KEPT, &json, 0o600)?;
        Accepted::note(self.host, kept.newest_signature, &kept.documents)
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

/// What of the documents counts where the role asks for signatures; `None` where it does not.
fn signed_part(host: &dyn Host, found: &Found, role: &[Document], kept: &Kept) -> Result<Option<Signed>, HostError> {
    // A role whose seal cannot be read asks for signatures: anything else would be less than it says.
    let seal = seal_of(role).unwrap_or(Seal { require_signed: true, ..Seal::default() });
    if !seal.require_signed {
        return Ok(None);
    }
    let accepted = Accepted::read(host)?;
    let newest = kept.newest_signature.max(accepted.newest);
    let known = |document: &Document| kept.documents.contains(document) || accepted.knows(document);
    Ok(Some(keep_signed(found, &seal.site_keys, newest, &known)))
}

/// What is wrong with a configuration that would put a member elsewhere.
pub(super) fn moves(member: Option<&Join>, next: &Loaded, media: &[String]) -> Option<ConfigError> {
    let why = member?.stays(next.config.join.as_ref()).err()?;
    let origin = next.origins.iter().find(|value| value.key == "join.driver").map(|value| value.origin.clone());
    Some(ConfigError {
        problems: vec![Problem {
            origin: origin.unwrap_or_else(|| Origin::document(&media.join(", ").into())),
            key: "join".into(),
            message: format!("this node is a member of a cluster, and the new configuration {why}"),
            help: "say `firstboot leave` on the node first".into(),
        }],
    })
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
