//! Steps about what a person at the machine has in hand or sees: the stick, and the screen.

use std::time::Instant;

use super::steps::{Found, RETRY, Run};
use crate::qemu::scenario::{OtherStick, Stick};

impl Run<'_> {
    /// Puts a stick in or pulls it out.
    pub(super) fn stick(&mut self, index: usize, stick: Stick, other: Option<&OtherStick>) -> Found {
        let node = &mut self.nodes[index];
        let done = match other {
            Some(other) => node.other_stick(other, &mut self.site_key),
            None => node.stick(stick),
        };
        done.map_or_else(|error| Found::bad("", error.to_string()), |()| Found::good(""))
    }

    /// Reads a file of the stick again and again until it is as it should be.
    pub(super) fn on_stick(
        &mut self,
        index: usize,
        path: &str,
        wrong_with: &dyn Fn(&str) -> Option<String>,
        deadline: Instant,
        late: &str,
    ) -> Found {
        loop {
            self.tell();
            // Between two writes of the node there may be half a directory.
            let (text, why) = match self.nodes[index].on_stick(path) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let why = wrong_with(&text);
                    (text, why)
                }
                Err(error) => (String::new(), Some(error.to_string())),
            };
            let Some(why) = why else { return Found::good(text) };
            if let Some(dead) = self.give_up(index) {
                return Found::bad(text, dead);
            }
            if Instant::now() >= deadline {
                return Found::bad(text, format!("{late}; the last time {why}"));
            }
            std::thread::sleep(RETRY.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Keeps a picture of the screen as `GUEST.NAME.png` beside the logs.
    pub(super) fn screen(&mut self, index: usize, name: &str) -> Found {
        let path = self.work.join(format!("{}.{name}.png", self.nodes[index].guest.name));
        match self.nodes[index].screen(&path) {
            Ok(()) => Found::good(path.display().to_string()),
            Err(error) => Found::bad("", error.to_string()),
        }
    }
}
