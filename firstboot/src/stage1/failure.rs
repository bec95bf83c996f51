//! What happens when a boot cannot go on: one status line, what to do, and a reboot that lets boot counting choose
//! the other slot. There is no shell: an appliance gives no root prompt to whoever stands before it.

use std::fmt::Display;
use std::thread;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use super::cmdline::AfterFailure;
use super::console;
use crate::status::Code;

/// Why the boot cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub code: Code,
    /// What happened.
    pub text: String,
}

impl Failure {
    /// For `map_err`: this code, with the error's text.
    pub fn of<E: Display>(code: Code) -> impl FnOnce(E) -> Failure {
        move |error| Failure { code, text: error.to_string() }
    }
}

/// Says what happened and what follows, and does it.
pub fn give_up(failure: &Failure, then: AfterFailure) -> ! {
    let Failure { code, text } = failure;
    let say = || {
        console::status(*code, text);
        console::note(&format!("what to do: {}", code.remedy()));
    };
    say();
    match then {
        AfterFailure::Wait => {
            // Again now and then, for whoever attaches a screen later.
            loop {
                console::note("not rebooting, because the command line has panic=0");
                thread::sleep(Duration::from_mins(1));
                say();
            }
        }
        AfterFailure::Reboot(delay) => {
            console::note(&format!("rebooting in {} seconds", delay.as_secs()));
            thread::sleep(delay);
            rustix::fs::sync();
            // Process 1 of the initial namespace may always do this; should it fail, ending process 1 makes the
            // kernel panic, which reboots as well where panic= says so.
            let _ = reboot(RebootCommand::Restart);
            std::process::abort()
        }
    }
}
