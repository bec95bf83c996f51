//! A sealed node and its media.
//!
//! Once a node has joined, its configuration is the one that was applied. Media are looked at all the same: what is not
//! signed is ignored and named, once for each medium; what a site key has signed, later than what the node has, takes
//! the place of its whole configuration. Somebody who is root on the node can lift the seal.

use super::accepted::Accepted;
use super::config_keys::ConfigKeys;
use super::obtain::{KEPT, Kept, MAXIMUM_KEPT_BYTES, moves};
use super::{CONFIGURED, Failure, Service};
use crate::config::{Document, Machine, Opener, load_with, seal_of};
use crate::host::{Host, HostError};
use crate::journal::{Event, Journal, JournalError};
use crate::provider::{keep_signed, role_defaults};
use crate::report::Report;
use crate::status::Code;

/// The media that were named in this boot, one a line, also by other processes.
const IGNORED: &str = "/run/ingot/ignored-media";
/// Keeps the modules of USB storage from being loaded; `/etc` outlives a boot.
pub const USB_BLOCK: &str = "/etc/modprobe.d/ingot-usb-storage.conf";
const USB_BLOCK_TEXT: &str = "# Written by Ingot's first boot: seal.block_usb in node.toml.\n\
                              install usb-storage /bin/false\ninstall uas /bin/false\n";

impl Service<'_> {
    /// Looks at the media of a sealed node; true where a signed configuration was taken from one.
    ///
    /// # Errors
    /// What is kept cannot be read or written.
    pub fn look_at_media(&mut self) -> Result<bool, HostError> {
        let role = role_defaults(self.host)?;
        let kept = self.read_kept()?.unwrap_or_default();
        let machine = self.host.machine();
        let before = kept.clone();
        Ok(self.signed_medium(&role, kept, &machine)? != before)
    }

    /// What a sealed node keeps, after a look at its media.
    pub(super) fn signed_medium(
        &mut self,
        role: &[Document],
        kept: Kept,
        machine: &Machine,
    ) -> Result<Kept, HostError> {
        let found = self.sources.look_at_media(machine);
        for medium in &found.unreadable {
            self.name_once(medium, "");
        }
        // A stick that the node was made from is still plugged in.
        if found.documents.iter().all(|document| kept.documents.contains(document)) {
            return Ok(kept);
        }
        let keys = ConfigKeys::kept(self.host)?;
        let present: Vec<Document> = role.iter().chain(&kept.documents).cloned().collect();
        let loaded = load_with(&present, machine, Opener::Node(keys.as_slice()));
        let seal = loaded.as_ref().map_or_else(|_| seal_of(&present).unwrap_or_default(), |is| is.config.seal.clone());
        let accepted = Accepted::read(self.host)?;
        let newest = kept.newest_signature.max(accepted.newest);
        let known = |document: &Document| kept.documents.contains(document);
        let signed = keep_signed(&found, &seal.site_keys, newest, &known);
        for (source, error) in &signed.refused {
            let media = found.media.iter().filter(|medium| medium.starts_with(source)).cloned().collect::<Vec<_>>();
            self.name_once(&media.join(", "), &error.to_string());
        }
        if signed.newest == 0 {
            return Ok(kept);
        }
        let documents: Vec<Document> = role.iter().chain(&signed.documents).cloned().collect();
        let new = match load_with(&documents, machine, Opener::Node(keys.as_slice())) {
            Ok(new) => new,
            Err(error) => {
                self.refuse(&error);
                return Ok(kept);
            }
        };
        let member = loaded.as_ref().ok().and_then(|present| present.config.join.as_ref());
        if let Some(error) = moves(member, &new, &found.media) {
            self.refuse(&error);
            return Ok(kept);
        }
        if loaded.is_ok_and(|present| present.config.join != new.config.join) {
            self.report.note("warning: the new configuration joins otherwise; the node stays in the cluster it is in");
        }
        let accepted = |medium: &&String| !signed.refused.iter().any(|(source, _)| medium.starts_with(source));
        let media: Vec<String> = found.media.iter().filter(accepted).cloned().collect();
        let new = Kept { version: 1, documents: signed.documents, media, newest_signature: signed.newest };
        self.keep(&new)?;
        self.report.report(Code::ConfigReplaced, &new.media.join(", "));
        Ok(new)
    }

    fn name_once(&mut self, medium: &str, why: &str) {
        let line = if why.is_empty() { medium.to_owned() } else { format!("{medium}: {why}") };
        let named = self.host.read(IGNORED, 1024 * 1024).ok().flatten().unwrap_or_default();
        let mut named = String::from_utf8_lossy(&named).into_owned();
        if !self.ignored.insert(line.clone()) || named.lines().any(|known| known == line) {
            return;
        }
        named.push_str(&format!("{line}\n"));
        // A full /run costs no more than naming the medium again.
        let _ = self.host.write(IGNORED, named.as_bytes(), 0o600);
        self.report.report(Code::MediumIgnored, &format!("the node is sealed; {line}"));
    }

    /// Blocks USB storage, or lets it be again.
    pub(super) fn block_usb(&self, wanted: bool) -> Result<(), Failure> {
        match (wanted, self.host.exists(USB_BLOCK)) {
            (true, false) => {
                self.host.write(USB_BLOCK, USB_BLOCK_TEXT.as_bytes(), 0o644)?;
                // A stick that is in use keeps its module until the next boot.
                let unload = ["--remove", "--quiet", "uas", "usb_storage"];
                if self.host.run("modprobe", &unload, super::RELEASE_PATIENCE).is_err() {
                    self.report.note("USB storage is in use; it is blocked from the next boot on");
                }
            }
            (false, true) => self.host.remove(USB_BLOCK)?,
            _ => {}
        }
        Ok(())
    }
}

/// Looks at the media of a sealed node, for the event of a medium that was plugged in; true where a signed
/// configuration was taken, so that the service has to be started again. A node that is not sealed has a service that
/// looks by itself.
///
/// # Errors
/// The journal, or what is kept, cannot be read or written.
pub fn look_at_plugged_medium(service: &mut Service<'_>, host: &dyn Host) -> Result<bool, JournalError> {
    // Only read: the service may be writing.
    if !Journal::says_sealed(host)? {
        return Ok(false);
    }
    Ok(service.look_at_media()?)
}

/// Makes blocked USB storage work again.
///
/// # Errors
/// The block cannot be removed.
pub(super) fn let_usb_be(host: &dyn Host) -> Result<(), HostError> {
    if host.exists(USB_BLOCK) {
        host.remove(USB_BLOCK)?;
        // A stick that is plugged in already is found as soon as its driver is there; one that comes later loads it.
        for module in ["usb_storage", "uas"] {
            let _ = host.run("modprobe", &["--quiet", module], super::RELEASE_PATIENCE);
        }
    }
    Ok(())
}

/// Lifts the seal: the next look at the sources counts, as on the first boot. With `forget` the configuration that was
/// kept is removed too, so that the node waits for a new one and has no network until then; what it has joined it stays
/// in. What was signed before the newest configuration that it had stays refused. A node that has left joins again with
/// what it has.
///
/// # Errors
/// The journal or the files cannot be written.
pub fn unseal(host: &dyn Host, report: &dyn Report, forget: bool) -> Result<(), JournalError> {
    let mut journal = Journal::open(host)?;
    if journal.is_sealed() || journal.is_out() {
        journal.record(Event::Unsealed)?;
    }
    let_usb_be(host)?;
    if forget {
        let kept = host.read(KEPT, MAXIMUM_KEPT_BYTES)?.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        if let Some(kept) = kept {
            Accepted::note(host, kept.newest_signature, &kept.documents)?;
        }
        host.remove(KEPT)?;
        host.remove(CONFIGURED)?;
    }
    report.note(if forget { "the seal is lifted and the configuration is forgotten" } else { "the seal is lifted" });
    Ok(())
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
