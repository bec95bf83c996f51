//! How Debian's relations are put to the solver.
//!
//! - A solver's name is a real package's name; at most one version of each is chosen.
//! - A version set is an explicit list of versions of one real name.
//! - `a | b` is a union over, for each alternative in order, the real package and then its providers by name. Virtual
//!   packages need nothing else: they are never chosen themselves.
//! - `Conflicts` and `Breaks` say of every other name that they touch: it must be among all minus the bad versions.
//! - A pin or an exclusion takes candidates away and leaves a reason behind, which an explanation can show.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;

use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider, Interner,
    KnownDependencies, NameId, Problem, Requirement, SolvableId, Solver, SolverCache, StringId, VersionSetId,
    VersionSetUnionId,
};

use super::{PackageId, Request, Universe, glob};
use crate::archive::relation::{self, Relation, RelationError};

/// Solves for these roots, and for recommendations that are to be followed. `None` if there is no solution.
pub(super) fn run(
    universe: &Universe<'_>,
    request: &Request,
    roots: &[&str],
    recommends: &[&str],
) -> Option<Vec<PackageId>> {
    let (mut solver, problem) = prepare(universe, request, roots, recommends);
    Some(solver.solve(problem).ok()?.into_iter().map(package_id).collect())
}

/// A solver with its problem, for [`run`] and for explaining why there is no solution.
pub(super) fn prepare<'u, 'a>(
    universe: &'u Universe<'a>,
    request: &'u Request,
    roots: &[&str],
    recommends: &[&str],
) -> (Solver<Provider<'u, 'a>>, Problem) {
    let provider = Provider {
        universe,
        request,
        sets: RefCell::default(),
        known_sets: RefCell::default(),
        unions: RefCell::default(),
        strings: RefCell::default(),
        strangers: RefCell::default(),
    };
    let named = roots.iter().filter(|name| !request.provided.contains(**name)).map(|name| {
        let set = provider.set((*name).to_owned(), name, universe.versions(name).to_vec());
        Requirement::Single(set).into()
    });
    let mut requirements: Vec<ConditionalRequirement> = named.collect();
    for group in recommends {
        // Only groups that could be read are ever asked for.
        let groups = relation::parse(group).unwrap_or_default();
        requirements.extend(groups.iter().filter_map(|g| provider.requirement(g)));
    }
    (Solver::new(provider), Problem::new().requirements(requirements))
}

/// Recommendations of chosen packages that nothing chosen satisfies, in order of the packages' names.
pub(super) fn open_recommends<'a>(universe: &Universe<'a>, request: &Request, solution: &[PackageId]) -> Vec<&'a str> {
    let mut chosen = solution.to_vec();
    chosen.sort_by_key(|id| (universe.package(*id).name, *id));
    let is_chosen: std::collections::HashSet<PackageId> = chosen.iter().copied().collect();
    let mut open = Vec::new();
    for id in &chosen {
        for text in universe.package(*id).recommends.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let Ok(groups) = relation::parse(text) else { continue };
            let satisfied = groups.iter().flatten().any(|r| {
                request.provided.contains(r.name) || targets(universe, r).iter().any(|t| is_chosen.contains(t))
            });
            if !satisfied && !open.contains(&text) {
                open.push(text);
            }
        }
    }
    open
}

/// Every package that satisfies a relation: real ones, the best first, then providers.
pub(super) fn targets(universe: &Universe<'_>, relation: &Relation<'_>) -> Vec<PackageId> {
    if !relation.concerns(universe.architecture()) {
        return Vec::new();
    }
    let real = universe.versions(relation.name).iter().copied();
    let real = real.filter(|id| relation.accepts(universe.package(*id).version));
    let provided = universe.providers(relation.name).iter();
    let provided = provided.filter(|(_, version)| relation.accepts_provided(*version)).map(|(id, _)| *id);
    let mut all: Vec<PackageId> = real.collect();
    all.extend(provided.filter(|id| universe.package(*id).name != relation.name));
    all
}

/// Why a package must not be chosen, if so.
pub(super) fn refusal(universe: &Universe<'_>, request: &Request, id: PackageId) -> Option<String> {
    let package = universe.package(id);
    if request.exclude.contains(package.name) {
        return Some("the profile excludes it".to_owned());
    }
    let pins = request.pins_of(package.name);
    if let Some(pin) = pins.iter().find(|pin| !glob::matches(pin, package.version)) {
        return Some(format!("the profile pins it to `{pin}`"));
    }
    // apt draws lots by machine. Two builders would not agree, so here a version waits until it is meant for all.
    let asked_for = request.phased || pins.contains(&package.version);
    (package.phased < 100 && !asked_for).then(|| {
        format!(
            "the archive is still phasing it in ({} %); take it with `phased = true`, or with a pin that names it",
            package.phased
        )
    })
}

pub(super) fn package_id(solvable: SolvableId) -> PackageId {
    PackageId(solvable.into_raw())
}

fn solvable_id(package: PackageId) -> SolvableId {
    SolvableId::from_raw(package.0)
}

/// Name, allowed versions and text of a [`Set`].
type SetKey = (u32, Vec<PackageId>, String);

struct Set {
    name: u32,
    /// Sorted.
    allowed: Vec<PackageId>,
    /// The relation as written.
    text: String,
}

/// What the solver asks about packages.
pub(super) struct Provider<'u, 'a> {
    pub universe: &'u Universe<'a>,
    pub request: &'u Request,
    sets: RefCell<Vec<Set>>,
    known_sets: RefCell<HashMap<SetKey, VersionSetId>>,
    /// Members, and the whole relation as written.
    unions: RefCell<Vec<(Vec<VersionSetId>, String)>>,
    strings: RefCell<Vec<String>>,
    /// Names that relations use and no package has.
    strangers: RefCell<Vec<String>>,
}

fn next_id(length: usize) -> u32 {
    // More than four thousand million relations do not fit in memory.
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Provider<'_, '_> {
    fn name(&self, name: &str) -> u32 {
        self.universe.id_of_name(name).unwrap_or_else(|| {
            let mut strangers = self.strangers.borrow_mut();
            let at = strangers.iter().position(|n| n == name).unwrap_or_else(|| {
                strangers.push(name.to_owned());
                strangers.len() - 1
            });
            self.universe.name_count() + next_id(at)
        })
    }

    fn set(&self, text: String, name: &str, mut allowed: Vec<PackageId>) -> VersionSetId {
        allowed.sort_unstable();
        let name = self.name(name);
        let key = (name, allowed.clone(), text.clone());
        *self.known_sets.borrow_mut().entry(key).or_insert_with(|| {
            let mut sets = self.sets.borrow_mut();
            sets.push(Set { name, allowed, text });
            VersionSetId(next_id(sets.len() - 1))
        })
    }

    /// `None` where the group holds without any package.
    fn requirement(&self, group: &[Relation<'_>]) -> Option<ConditionalRequirement> {
        let provided = |r: &Relation<'_>| r.accepts_provided(None) && self.request.provided.contains(r.name);
        if group.iter().any(provided) {
            return None;
        }
        let text = group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
        // Whether it has nothing that is preferred, and the set: what is to stay where possible is tried first.
        let mut members: Vec<(bool, VersionSetId)> = Vec::new();
        for relation in group {
            // Packages of one name that satisfy the relation make one set; names keep the order of preference.
            let mut by_name: Vec<(u32, Vec<PackageId>)> = Vec::new();
            for target in targets(self.universe, relation) {
                let name = self.universe.name_id(target);
                match by_name.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, ids)) if ids.contains(&target) => {}
                    Some((_, ids)) => ids.push(target),
                    None => by_name.push((name, vec![target])),
                }
            }
            for (name, allowed) in by_name {
                let name = self.universe.name(name).unwrap_or_default();
                let other = !allowed.iter().any(|id| self.universe.is_preferred(*id));
                members.push((other, self.set(text.clone(), name, allowed)));
            }
        }
        members.sort_by_key(|(other, _)| *other);
        let mut members: Vec<VersionSetId> = members.into_iter().map(|(_, set)| set).collect();
        members.dedup();
        Some(match members[..] {
            [] => Requirement::Single(self.set(text, group.first().map_or("", |r| r.name), Vec::new())).into(),
            [single] => Requirement::Single(single).into(),
            _ => {
                let mut unions = self.unions.borrow_mut();
                unions.push((members, text));
                Requirement::Union(VersionSetUnionId(next_id(unions.len() - 1))).into()
            }
        })
    }

    fn dependencies(&self, id: PackageId) -> Result<KnownDependencies, RelationError> {
        let package = self.universe.package(id);
        relation::parse(package.provides)?;
        let mut known = KnownDependencies::default();
        for field in [package.pre_depends, package.depends] {
            for group in relation::parse(field)? {
                known.requirements.extend(self.requirement(&group));
            }
        }
        for field in [package.conflicts, package.breaks] {
            for relation in relation::parse(field)?.into_iter().flatten() {
                self.forbid(id, &relation, &mut known.constrains);
            }
        }
        Ok(known)
    }

    fn forbid(&self, id: PackageId, relation: &Relation<'_>, constrains: &mut Vec<VersionSetId>) {
        let own = self.universe.package(id).name;
        let mut bad: Vec<PackageId> = targets(self.universe, relation);
        // A package never conflicts with itself, whatever it provides.
        bad.retain(|target| self.universe.package(*target).name != own);
        bad.sort_by_key(|target| (self.universe.package(*target).name, *target));
        for same_name in bad.chunk_by(|a, b| self.universe.name_id(*a) == self.universe.name_id(*b)) {
            let name = self.universe.package(same_name[0]).name;
            let good = self.universe.versions(name).iter().copied().filter(|v| !same_name.contains(v)).collect();
            constrains.push(self.set(relation.to_string(), name, good));
        }
    }

    fn string(&self, text: String) -> StringId {
        let mut strings = self.strings.borrow_mut();
        let at = strings.iter().position(|s| *s == text).unwrap_or_else(|| {
            strings.push(text);
            strings.len() - 1
        });
        StringId(next_id(at))
    }

    /// A requirement as the package writes it.
    pub fn requirement_text(&self, requirement: Requirement) -> String {
        match requirement {
            Requirement::Single(set) => self.sets.borrow()[set.0 as usize].text.clone(),
            Requirement::Union(union) => self.unions.borrow()[union.0 as usize].1.clone(),
        }
    }

    /// The name that a requirement without candidates asks for first.
    pub fn requirement_name(&self, requirement: Requirement) -> String {
        let text = self.requirement_text(requirement);
        text.split([' ', ':', '|']).next().unwrap_or_default().to_owned()
    }

    pub fn string_text(&self, string: StringId) -> String {
        self.strings.borrow()[string.0 as usize].clone()
    }
}

impl Interner for Provider<'_, '_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        self.universe.describe(package_id(solvable))
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        let raw = name.into_raw();
        match self.universe.name(raw) {
            Some(name) => name.to_owned(),
            None => self.strangers.borrow()[(raw - self.universe.name_count()) as usize].clone(),
        }
    }

    fn display_version_set(&self, set: VersionSetId) -> impl Display + '_ {
        self.requirement_text(Requirement::Single(set))
    }

    fn display_string(&self, string: StringId) -> impl Display + '_ {
        self.string_text(string)
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        NameId::from_raw(self.sets.borrow()[set.0 as usize].name)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        NameId::from_raw(self.universe.name_id(package_id(solvable)))
    }

    fn version_sets_in_union(&self, union: VersionSetUnionId) -> impl Iterator<Item = VersionSetId> {
        self.unions.borrow()[union.0 as usize].0.clone().into_iter()
    }

    fn resolve_condition(&self, _condition: ConditionId) -> Condition {
        // No requirement above carries a condition, so the solver has no id to ask with.
        unreachable!("Debian's relations have no conditions")
    }
}

impl DependencyProvider for Provider<'_, '_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        version_set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let sets = self.sets.borrow();
        let allowed = &sets[version_set.0 as usize].allowed;
        let keep = |c: &&SolvableId| allowed.binary_search(&package_id(**c)).is_ok() != inverse;
        candidates.iter().filter(keep).copied().collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let name = self.universe.name(name.into_raw())?;
        let versions = self.universe.versions(name);
        let excluded = versions.iter().filter_map(|id| {
            let reason = refusal(self.universe, self.request, *id)?;
            Some((solvable_id(*id), self.string(reason)))
        });
        Some(Candidates {
            candidates: versions.iter().copied().map(solvable_id).collect(),
            excluded: excluded.collect(),
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _solver: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        solvables.sort_by_key(|solvable| {
            let id = package_id(*solvable);
            let rank = self.universe.versions(self.universe.package(id).name).iter().position(|v| *v == id);
            (self.universe.name_id(id), rank)
        });
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.dependencies(package_id(solvable)) {
            Ok(known) => Dependencies::Known(known),
            Err(error) => Dependencies::Unknown(self.string(format!("its relations cannot be read: {error}"))),
        }
    }
}
