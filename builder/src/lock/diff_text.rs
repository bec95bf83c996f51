//! A [`Diff`] for people to read.

use std::collections::BTreeSet;
use std::fmt;

use super::{Change, Diff, Kind, SetDiff, SetState, topic};

/// Names longer than this push what follows to the right.
const NAME_WIDTH: usize = 44;

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changed");
        }
        for (title, changes) in [("kernel", &self.kernel), ("driver", &self.driver), ("docker", &self.docker)] {
            self.section(f, title, &changes.iter().collect::<Vec<_>>())?;
        }
        let groups = [
            ("upgraded", &self.upgraded),
            ("new", &self.new),
            ("removed", &self.removed),
            ("downgraded", &self.downgraded),
            ("same version, other package", &self.rebuilt),
        ];
        for (title, changes) in groups {
            // A list of everything that a whole set has says nothing; its line below has the number.
            let shown: Vec<&Change> = changes.iter().filter(|c| !self.is_of_whole_sets(c)).collect();
            self.section(f, &format!("{title} ({})", shown.len()), &shown)?;
        }
        if !self.sets.is_empty() {
            writeln!(f, "sets")?;
        }
        for set in &self.sets {
            writeln!(f, "  {set}")?;
        }
        if !self.gone_back.is_empty() {
            writeln!(f, "older than before: {}", self.gone_back.join(", "))?;
        }
        let change = signed(self.installed_before, self.installed_after);
        writeln!(f, "download {}, installed {change}", mib(self.download))
    }
}

impl Diff {
    fn section(&self, f: &mut fmt::Formatter<'_>, title: &str, changes: &[&Change]) -> fmt::Result {
        if changes.is_empty() {
            return Ok(());
        }
        writeln!(f, "{title}")?;
        let width = changes.iter().map(|c| c.title().len()).filter(|w| *w <= NAME_WIDTH).max().unwrap_or(0);
        let everywhere: BTreeSet<&String> = self.sets.iter().map(|s| &s.set).collect();
        for change in changes {
            write!(f, "  {:width$}  {}", change.title(), change.versions())?;
            if change.sets.iter().collect::<BTreeSet<_>>() != everywhere {
                write!(f, "  [{}]", change.sets.join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn is_of_whole_sets(&self, change: &Change) -> bool {
        let changed = |name: &String| self.sets.iter().any(|s| s.set == *name && s.state == SetState::Changed);
        !change.sets.iter().any(changed)
    }
}

impl fmt::Display for SetDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.set)?;
        match self.state {
            SetState::New => write!(f, "new, {} packages, installed {}", self.packages, mib(self.installed_after)),
            SetState::Removed => write!(f, "removed"),
            SetState::Changed if self.changed == 0 => write!(f, "the same {} packages", self.packages),
            SetState::Changed => write!(
                f,
                "{} of {} packages changed, installed {}",
                self.changed,
                self.packages,
                signed(self.installed_before, self.installed_after)
            ),
        }?;
        if !self.moments.is_empty() {
            write!(f, ", {}", self.moments.join(", "))?;
        }
        if self.changed == 0 && self.profile_changed {
            write!(f, ", the profile asks differently")?;
        }
        Ok(())
    }
}

impl Change {
    /// `docker.io`, or `linux-image-6.12.1-amd64 -> linux-image-6.12.9-amd64`
    fn title(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from.package != to.package => format!("{} -> {}", from.package, to.package),
            _ => self.package().to_owned(),
        }
    }

    /// `27.1 -> 28.0`, with what is out of the ordinary; what the section's title says already is left out.
    fn versions(&self) -> String {
        let word = |word| if topic(self.package()).is_some() { word } else { "" };
        let (from, to) = match (&self.from, &self.to) {
            (Some(from), Some(to)) => (from, to),
            (None, Some(side)) => return format!("{}{}", side.version, word(" (new)")),
            (Some(side), None) => return format!("{}{}", side.version, word(" (removed)")),
            (None, None) => return String::new(),
        };
        let moved = if from.repository == to.repository {
            String::new()
        } else {
            format!(", from {}, before from {}", to.repository, from.repository)
        };
        match self.kind {
            Kind::Rebuilt if moved.is_empty() && from.package == to.package => {
                format!("{}, other content under the same version", to.version)
            }
            Kind::Rebuilt => format!("{}{moved}", to.version),
            Kind::Downgraded => format!("{} -> {}{}{moved}", from.version, to.version, word(" (downgraded)")),
            _ => format!("{} -> {}{moved}", from.version, to.version),
        }
    }
}

/// Bytes as people read them.
fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// `+1.5 MiB (590.2 MiB)`
fn signed(before: u64, after: u64) -> String {
    if before == after {
        return mib(after);
    }
    let sign = if after < before { '-' } else { '+' };
    format!("{sign}{} ({})", mib(before.abs_diff(after)), mib(after))
}
