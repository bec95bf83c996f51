//! Solving again with as few changes as possible: for an update of some packages and of nothing else.
//!
//! Takes what was chosen before and the names that may change. Those get the version that they would get if everything
//! were chosen anew; everything else keeps its version, and its place among alternatives, where the repositories still
//! have it and nothing forces another one. Where nothing may change and nothing is gone, the result is what was chosen
//! before.

use std::collections::{BTreeMap, BTreeSet};

use super::{PackageId, Request, SolveError, Universe, glob, solve};

/// What was chosen before, and what of it may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Version and architecture by name.
    pub packages: BTreeMap<&'a str, (&'a str, &'a str)>,
    /// Names, or patterns of names, of the packages that may change.
    pub update: BTreeSet<&'a str>,
}

impl Kept<'_> {
    /// Whether a package is one of those that may change.
    pub fn updates(&self, name: &str) -> bool {
        self.update.iter().any(|pattern| glob::matches(pattern, name))
    }
}

/// Finds the packages for a request; see the module's text. Gives with them the names of packages that had to change
/// because no repository has their versions any more.
///
/// # Errors
/// As [`solve`]: what has no solution has none with anything kept either.
pub fn solve_keeping<'k>(
    universe: &mut Universe<'_>,
    request: &Request,
    kept: &Kept<'k>,
) -> Result<(Vec<PackageId>, BTreeSet<&'k str>), SolveError> {
    universe.prefer(&[]);
    // What an update leads to must not depend on what else could stay if it were a smaller one.
    let newest = solve(universe, request)?;
    let mut request = request.clone();
    for id in newest {
        let package = universe.package(id);
        if kept.updates(package.name) {
            request.pins.insert(package.name.to_owned(), package.version.to_owned());
        }
    }
    let mut gone = BTreeSet::new();
    let mut first = Vec::new();
    for (name, (version, architecture)) in kept.packages.iter().filter(|(name, _)| !kept.updates(name)) {
        let same = |id: &&PackageId| {
            let package = universe.package(**id);
            package.version == *version && package.architecture == *architecture
        };
        match universe.versions(name).iter().find(same) {
            Some(id) => first.push(*id),
            None => drop(gone.insert(*name)),
        }
    }
    universe.prefer(&first);
    let solution = solve(universe, &request);
    universe.prefer(&[]);
    Ok((solution?, gone))
}
