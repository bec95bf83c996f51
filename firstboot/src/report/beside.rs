//! Reports of a process that runs beside the service, such as the look at a medium that was plugged in.
//!
//! The service may come to another state at any moment, so what the node's state is, is read at the moment of each
//! report, and in the end only what this process itself has said is taken back.

use std::sync::{Mutex, PoisonError};

use super::{Report, Reporter, Status, read_status};
use crate::host::Host;
use crate::status::Code;

/// Says what a process beside the service has found, and leaves the node's state to the service.
pub struct Beside<'a> {
    host: &'a dyn Host,
    consoles: bool,
    said: Mutex<Option<Said>>,
}

struct Said {
    code: Code,
    /// The service's state when that was said.
    over: Option<Status>,
}

impl<'a> Beside<'a> {
    /// Nothing is said yet. Without `consoles` only the file and standard output are written.
    pub fn new(host: &'a dyn Host, consoles: bool) -> Self {
        Self { host, consoles, said: Mutex::default() }
    }

    /// The node is still what it was: the service's state is shown again, where what this process said lies over it.
    pub fn take_back(&self) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Said { code, over: Some(over) }) = said else { return };
        if read_status(self.host).is_some_and(|now| now.code == code) {
            Reporter::new(self.host, self.consoles).report(over.code, &over.text);
        }
    }
}

impl Report for Beside<'_> {
    fn report(&self, code: Code, text: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = read_status(self.host);
        let own = said.take().filter(|said| now.as_ref().is_some_and(|now| now.code == said.code));
        *said = Some(Said { code, over: own.map_or(now, |said| said.over) });
        Reporter::new(self.host, self.consoles).report(code, text);
    }

    fn note(&self, line: &str) {
        Reporter::new(self.host, self.consoles).note(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealHost;

    #[test]
    fn what_the_service_comes_to_meanwhile_stays() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let service = Reporter::new(&host, false);
        let now = || read_status(&host).unwrap().code;
        service.report(Code::Joining, "x");
        // Nothing was said, so nothing is taken back.
        let beside = Beside::new(&host, false);
        service.report(Code::Joined, "y");
        beside.take_back();
        assert_eq!(now(), Code::Joined);
        // What was said twice gives way to what was there before.
        beside.report(Code::MediumIgnored, "a");
        beside.report(Code::MediumIgnored, "b");
        assert_eq!(now(), Code::MediumIgnored);
        beside.take_back();
        assert_eq!(now(), Code::Joined);
        let codes: Vec<Code> = read_status(&host).unwrap().history.iter().map(|moment| moment.code).collect();
        assert_eq!(codes[..3], [Code::Joining, Code::Joined, Code::MediumIgnored], "the history is the service's");
        // The service said something after it.
        beside.report(Code::MediumIgnored, "c");
        Reporter::new(&host, false).report(Code::WaitingForManager, "z");
        beside.take_back();
        assert_eq!(now(), Code::WaitingForManager);
    }
}
