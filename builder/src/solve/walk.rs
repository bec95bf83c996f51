//! A walk along relations in apt's order: depth first, field by field, taking an alternative only where none is there yet.
//!
//! It has two uses. Over all packages it gives at once what apt would install, without looking left or right; where
//! that is sound, as it nearly always is, nothing more has to be decided. Over a solution of the solver it leaves out
//! what the solver took before it knew that something else was there anyway, such as the `cron` of
//! `cron | systemd-sysv`.

use std::collections::{BTreeMap, BTreeSet};

use super::provider::{refusal, targets};
use super::{PackageId, Request, Universe};
use crate::archive::relation::{self, Relation};

/// What apt's order leads to; `None` where that is no solution.
pub(super) fn first_choice(universe: &Universe<'_>, request: &Request, roots: &[&str]) -> Option<Vec<PackageId>> {
    let allowed = |id: &PackageId| refusal(universe, request, *id).is_none();
    let found = walk(universe, request, roots, allowed)?;
    is_sound(universe, &found).then(|| found.into_iter().collect())
}

/// The part of a solution that the roots (and, with `recommends`, the recommendations) lead to. It is a solution
/// too: its packages have their relations satisfied among themselves, and leaving out cannot make a conflict.
pub(super) fn needed(
    universe: &Universe<'_>,
    request: &Request,
    roots: &[&str],
    solution: &[PackageId],
) -> Vec<PackageId> {
    let chosen: BTreeSet<PackageId> = solution.iter().copied().collect();
    let found = walk(universe, request, roots, |id| chosen.contains(id));
    found.map_or_else(|| solution.to_vec(), |found| found.into_iter().collect())
}

/// `None` if a root or a relation has nothing that is allowed.
fn walk(
    universe: &Universe<'_>,
    request: &Request,
    roots: &[&str],
    allowed: impl Fn(&PackageId) -> bool,
) -> Option<BTreeSet<PackageId>> {
    let named = roots.iter().filter(|name| !request.provided.contains(**name));
    let roots = named.map(|name| universe.versions(name).iter().copied().find(&allowed));
    let roots: Vec<PackageId> = roots.collect::<Option<_>>()?;
    let mut found: BTreeSet<PackageId> = roots.iter().copied().collect();
    // No recursion: chains of dependencies can be long. The group to look at next is on top.
    let mut stack: Vec<Step<'_>> = Vec::new();
    for root in roots {
        push_groups(universe, request, root, &mut stack)?;
        while let Some(Step { group, optional }) = stack.pop() {
            if group.iter().any(|r| r.accepts_provided(None) && request.provided.contains(r.name)) {
                continue;
            }
            let alternatives: Vec<PackageId> =
                group.iter().flat_map(|r| targets(universe, r)).filter(&allowed).collect();
            if alternatives.iter().any(|id| found.contains(id)) {
                continue;
            }
            // What is to stay where possible goes before what stands first in the relation.
            let kept = alternatives.iter().find(|id| universe.is_preferred(**id));
            match kept.or(alternatives.first()) {
                Some(choice) => {
                    found.insert(*choice);
                    push_groups(universe, request, *choice, &mut stack)?;
                }
                None if optional => {}
                None => return None,
            }
        }
    }
    Some(found)
}

struct Step<'a> {
    group: Vec<Relation<'a>>,
    optional: bool,
}

fn push_groups<'a>(universe: &Universe<'a>, request: &Request, id: PackageId, stack: &mut Vec<Step<'a>>) -> Option<()> {
    let package = universe.package(id);
    let recommends = if request.recommends { package.recommends } else { "" };
    let fields = [(package.pre_depends, false), (package.depends, false), (recommends, true)];
    let start = stack.len();
    for (field, optional) in fields {
        let groups = relation::parse(field).ok()?;
        stack.extend(groups.into_iter().map(|group| Step { group, optional }));
    }
    stack[start..].reverse();
    Some(())
}

/// Whether no package is there in two versions or conflicts with another one.
fn is_sound(universe: &Universe<'_>, found: &BTreeSet<PackageId>) -> bool {
    let mut names = BTreeMap::new();
    found.iter().all(|id| {
        let package = universe.package(*id);
        let first = names.insert(package.name, *id).is_none();
        let clear = [package.conflicts, package.breaks, package.provides].iter().enumerate().all(|(field, text)| {
            let Ok(groups) = relation::parse(text) else { return false };
            let mut hit = groups.iter().flatten().flat_map(|r| targets(universe, r));
            field == 2 || !hit.any(|other| found.contains(&other) && universe.package(other).name != package.name)
        });
        first && clear
    })
}
