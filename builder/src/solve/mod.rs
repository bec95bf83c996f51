//! The `solve` stage: from names that are asked for to exact packages.
//!
//! Takes a [`Universe`] (the packages of some suites) and a [`Request`], gives the packages to install, sorted by name:
//! the same ones for the same input, on every host. First `walk.rs` takes the first choice of everything in apt's
//! order. Where that does not fit together a SAT solver (resolvo) decides, over the encoding in `provider.rs`; where
//! there is no solution at all `explain.rs` says in words which packages stand against each other and how each
//! of them came in.
//!
//! [`solve_keeping`] changes as little as possible of what was chosen before.
//!
//! Choices follow apt's: the first alternative that works, real packages before virtual ones, the candidate of the
//! repository with the highest priority whatever its version, the latest version within one priority, nothing
//! that is only recommended unless asked for.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

mod explain;
mod glob;
mod keep;
mod provider;
mod universe;
mod walk;

pub use explain::Conflict;
pub use glob::matches;
pub use keep::{Kept, solve_keeping};
pub use universe::{PackageId, Universe, similar};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Request {
    /// Packages by name.
    pub include: BTreeSet<String>,
    /// Packages that must not be installed.
    pub exclude: BTreeSet<String>,
    /// Version pins by package name. Both may be patterns with `*` and `?`. A pin of the exact name stands alone; of pins
    /// by pattern all that match the name must hold.
    pub pins: BTreeMap<String, String>,
    /// Names that count as installed without a package: what Ingot itself provides.
    pub provided: BTreeSet<String>,
    /// Installs recommended packages too, where that is possible.
    pub recommends: bool,
    /// Takes versions that an archive is still phasing in (`Phased-Update-Percentage` below 100). Otherwise only those
    /// that a pin names exactly.
    #[serde(skip_serializing_if = "is_false")]
    pub phased: bool,
    /// Asks for every package that is `Essential: yes` or `Priority: required` as well.
    pub include_essential: bool,
}

impl Request {
    /// The versions, or patterns of versions, that the pins allow for a name.
    fn pins_of(&self, name: &str) -> Vec<&str> {
        if let Some(exact) = self.pins.get(name) {
            return vec![exact];
        }
        let patterns = self.pins.iter().filter(|(pattern, _)| glob::is_pattern(pattern));
        patterns.filter(|(pattern, _)| glob::matches(pattern, name)).map(|(_, version)| version.as_str()).collect()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde calls
fn is_false(value: &bool) -> bool {
    !*value
}

/// There is no set of packages for a request.
#[derive(Debug, Error)]
pub enum SolveError {
    /// A package that is asked for is in no repository.
    #[error("no repository has a package `{name}`{}", hint(similar))]
    Unknown {
        /// The name.
        name: String,
        /// Names like it.
        similar: Vec<String>,
    },
    /// A name that is asked for is virtual: which package is meant is for the profile to say.
    #[error("`{name}` is a virtual package; name one of the packages that provide it: {}", providers.join(", "))]
    Virtual {
        /// The name.
        name: String,
        /// Packages that provide it.
        providers: Vec<String>,
    },
    /// A package is both asked for and excluded.
    #[error("package `{name}` is both included and excluded")]
    Contradiction {
        /// The name.
        name: String,
    },
    /// A pin leaves no version of a package that is asked for.
    #[error("package `{name}` is pinned to `{pin}`, but there is only {}", available.join(", "))]
    Pin {
        /// The name.
        name: String,
        /// The pin.
        pin: String,
        /// `version (repository)` of what there is.
        available: Vec<String>,
    },
    /// A pin is for a package that no repository has.
    #[error("the pin `{pin}` is for no package of any repository{}", hint(similar))]
    UnusedPin {
        /// The name, or the pattern of names, that is pinned.
        pin: String,
        /// Names like it.
        similar: Vec<String>,
    },
    /// The packages exclude each other.
    #[error("the packages asked for cannot be installed together:{}", listed(conflicts))]
    Conflict {
        /// What stands in the way; each alone says enough to act on.
        conflicts: Vec<Conflict>,
    },
}

fn listed(conflicts: &[Conflict]) -> String {
    conflicts.iter().flat_map(|c| ["\n".to_owned(), c.to_string()]).collect()
}

fn hint(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(", ")) }
}

/// Finds the packages for a request.
pub fn solve(universe: &Universe<'_>, request: &Request) -> Result<Vec<PackageId>, SolveError> {
    for name in &request.include {
        check_root(universe, request, name)?;
    }
    // A pin that does nothing is most likely mistyped, and would leave a package free that is meant to stay.
    let useless = |pin: &&String| {
        if glob::is_pattern(pin) {
            !universe.names().any(|name| glob::matches(pin, name))
        } else {
            universe.versions(pin).is_empty()
        }
    };
    if let Some(pin) = request.pins.keys().find(useless) {
        return Err(SolveError::UnusedPin { pin: pin.clone(), similar: universe.similar_names(pin) });
    }
    let asked: Vec<&str> = request.include.iter().map(String::as_str).collect();
    let mut roots = asked.clone();
    if request.include_essential {
        let more =
            universe.essential_names().filter(|n| !request.exclude.contains(*n) && !request.include.contains(*n));
        roots.extend(more);
    }
    let mut solution = match walk::first_choice(universe, request, &roots) {
        Some(solution) => solution,
        None => search(universe, request, &asked, &roots)?,
    };
    solution.sort_by_key(|id| (universe.package(*id).name, *id));
    Ok(solution)
}

/// Finds a solution where the first choice of everything is none.
fn search(
    universe: &Universe<'_>,
    request: &Request,
    asked: &[&str],
    roots: &[&str],
) -> Result<Vec<PackageId>, SolveError> {
    let Some(mut solution) = provider::run(universe, request, roots, &[]) else {
        return Err(SolveError::Conflict { conflicts: explain::explain(universe, request, asked, roots) });
    };
    if request.recommends {
        solution = with_recommends(universe, request, roots, solution);
    }
    Ok(walk::needed(universe, request, roots, &solution))
}

fn check_root(universe: &Universe<'_>, request: &Request, name: &str) -> Result<(), SolveError> {
    let name = name.to_owned();
    if request.exclude.contains(&name) {
        return Err(SolveError::Contradiction { name });
    }
    let candidates = universe.versions(&name);
    if candidates.is_empty() {
        let providers: BTreeSet<&str> =
            universe.providers(&name).iter().map(|(id, _)| universe.package(*id).name).collect();
        if providers.is_empty() {
            let similar = universe.similar_names(&name);
            return Err(SolveError::Unknown { name, similar });
        }
        return Err(SolveError::Virtual { name, providers: providers.into_iter().map(str::to_owned).collect() });
    }
    let pins = request.pins_of(&name);
    let fits = |id: &PackageId| pins.iter().all(|pin| glob::matches(pin, universe.package(*id).version));
    if !candidates.iter().any(fits) {
        let available = candidates.iter().map(|id| universe.describe_version(*id)).collect();
        return Err(SolveError::Pin { pin: pins.join("` and `"), name, available });
    }
    Ok(())
}

/// Adds what the packages recommend, until nothing more can be added. A recommendation that cannot be
/// followed is left out, as apt does.
fn with_recommends(
    universe: &Universe<'_>,
    request: &Request,
    roots: &[&str],
    mut solution: Vec<PackageId>,
) -> Vec<PackageId> {
    let mut followed: Vec<&str> = Vec::new();
    let mut refused: BTreeSet<&str> = BTreeSet::new();
    loop {
        let mut open: Vec<&str> = provider::open_recommends(universe, request, &solution);
        open.retain(|group| !refused.contains(group) && !followed.contains(group));
        if open.is_empty() {
            return solution;
        }
        // All at once usually works; otherwise halves, down to the single ones that do not.
        let mut stack = vec![open];
        while let Some(batch) = stack.pop() {
            let mut trial = followed.clone();
            trial.extend(&batch);
            if let Some(found) = provider::run(universe, request, roots, &trial) {
                (solution, followed) = (found, trial);
            } else if let [single] = batch[..] {
                refused.insert(single);
            } else {
                let (first, second) = batch.split_at(batch.len() / 2);
                stack.push(second.to_vec());
                stack.push(first.to_vec());
            }
        }
    }
}

#[cfg(test)]
mod tests;
