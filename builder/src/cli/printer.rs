//! Draws progress: bars on a terminal, plain lines otherwise.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Progress, Task};

/// The one place that writes progress to standard error.
pub struct Printer {
    bars: MultiProgress,
    interactive: bool,
    quiet: bool,
}

impl Printer {
    /// Bars if standard error is a terminal and `quiet` is not asked for.
    pub fn new(quiet: bool) -> Self {
        let interactive = !quiet && std::io::stderr().is_terminal();
        let target = if interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), interactive, quiet }
    }

    fn line(&self, line: &str) {
        if self.interactive {
            // Nothing is left to do if standard error is gone.
            let _ = self.bars.println(line);
        } else {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

struct Bar {
    bar: ProgressBar,
}

impl Task for Bar {
    fn advance(&self, units: u64) {
        self.bar.inc(units);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Printer {
    fn start(&self, label: &str, total: Option<u64>) -> Box<dyn Task> {
        if !self.interactive && !self.quiet {
            self.line(label);
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        // Byte counts are large, counts of packages are not.
        let template = match total {
            Some(total) if total > 1 << 20 => "{msg:<36} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            Some(_) => "{msg:<36} {wide_bar} {pos}/{len}",
            None => "{msg:<36} {spinner} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        let bar = self.bars.add(bar);
        bar.enable_steady_tick(Duration::from_millis(120));
        Box::new(Bar { bar })
    }

    fn note(&self, line: &str) {
        if !self.quiet {
            self.line(line);
        }
    }

    fn warn(&self, line: &str) {
        self.line(&format!("warning: {line}"));
    }
}
