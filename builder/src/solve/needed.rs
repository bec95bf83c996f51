//! What of a solution is needed.
//!
//! The solver takes the first alternative of `cron | systemd-sysv` before it knows that something else needs
//! systemd-sysv. apt looks at what is already marked before it marks more, depth first, in the order of the relations.
//! Walking a solution in that order, and taking an alternative only where none is there yet, leaves out what
//! apt would not install either. What is left is still a solution: every package found has every relation satisfied
//! among those found, and a part of a set without conflicts has none.

use std::collections::{BTreeMap, BTreeSet};

use super::provider::targets;
use super::{PackageId, Request, Universe};
use crate::archive::relation::{self, Relation};

/// The part of a solution that the roots (and, with `recommends`, the recommendations) lead to.
pub(super) fn needed(
    universe: &Universe<'_>,
    request: &Request,
    roots: &[&str],
    solution: &[PackageId],
) -> Vec<PackageId> {
    let by_name: BTreeMap<&str, PackageId> = solution.iter().map(|id| (universe.package(*id).name, *id)).collect();
    let roots: Vec<PackageId> = roots.iter().filter_map(|name| by_name.get(name).copied()).collect();
    let chosen: BTreeSet<PackageId> = solution.iter().copied().collect();
    let mut found: BTreeSet<PackageId> = roots.iter().copied().collect();
    // Depth first without recursion: chains of dependencies can be long. The next group to look at is on top.
    let mut stack: Vec<Vec<Relation<'_>>> = Vec::new();
    for root in roots {
        push_groups(universe, request, root, &mut stack);
        while let Some(group) = stack.pop() {
            let alternatives = group.iter().flat_map(|r| targets(universe, r)).filter(|id| chosen.contains(id));
            let alternatives: Vec<PackageId> = alternatives.collect();
            if alternatives.iter().any(|id| found.contains(id)) {
                continue;
            }
            if let Some(first) = alternatives.first() {
                found.insert(*first);
                push_groups(universe, request, *first, &mut stack);
            }
        }
    }
    found.into_iter().collect()
}

fn push_groups<'a>(universe: &Universe<'a>, request: &Request, id: PackageId, stack: &mut Vec<Vec<Relation<'a>>>) {
    let package = universe.package(id);
    let recommends = if request.recommends { package.recommends } else { "" };
    let fields = [package.pre_depends, package.depends, recommends];
    // The solver chose this package, so its relations can be read.
    let mut groups: Vec<_> = fields.into_iter().flat_map(|field| relation::parse(field).unwrap_or_default()).collect();
    groups.reverse();
    stack.extend(groups);
}
