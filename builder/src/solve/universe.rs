//! All packages that may be chosen, by name and by what they provide.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::archive::ArchiveError;
use crate::archive::index::Suite;
use crate::archive::packages::Package;
use crate::archive::{relation, version};

/// A package of a [`Universe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageId(pub(super) u32);

impl PackageId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

struct Entry<'a> {
    package: Package<'a>,
    repository: &'a str,
    priority: i32,
    name: u32,
}

/// The packages of some suites. Borrows their text.
pub struct Universe<'a> {
    entries: Vec<Entry<'a>>,
    names: Vec<&'a str>,
    ids: HashMap<&'a str, u32>,
    /// Packages of each name, the one to prefer first.
    by_name: Vec<Vec<PackageId>>,
    /// Who provides a name, with the version provided: by name of the provider, its preferred version first.
    provided: HashMap<&'a str, Vec<(PackageId, Option<&'a str>)>>,
    /// What [`Universe::prefer`] put first, and the order of its name before that.
    preferred: BTreeMap<PackageId, Vec<PackageId>>,
    architecture: String,
}

impl<'a> Universe<'a> {
    /// Reads the packages of the suites. Where two suites have the same version of a package, the one
    /// with the higher priority counts, of equals the one that comes first.
    pub fn new(suites: &[&'a Suite], architecture: &str) -> Result<Self, ArchiveError> {
        let mut universe = Self {
            entries: Vec::new(),
            names: Vec::new(),
            ids: HashMap::new(),
            by_name: Vec::new(),
            provided: HashMap::new(),
            preferred: BTreeMap::new(),
            architecture: architecture.to_owned(),
        };
        let mut ordered: Vec<&'a Suite> = suites.to_vec();
        ordered.sort_by_key(|s| Reverse(s.priority));
        for suite in ordered {
            for package in suite.packages(architecture)? {
                universe.add(&package, suite);
            }
        }
        universe.arrange();
        Ok(universe)
    }

    fn add(&mut self, package: &Package<'a>, suite: &'a Suite) {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let name = *self.ids.entry(package.name).or_insert(next);
        if name == next {
            self.names.push(package.name);
            self.by_name.push(Vec::new());
        }
        let known = &self.by_name[name as usize];
        let same = |id: &PackageId| {
            let other = &self.entries[id.index()].package;
            other.version == package.version && other.architecture == package.architecture
        };
        if known.iter().any(same) {
            return;
        }
        let id = PackageId(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.by_name[name as usize].push(id);
        self.entries.push(Entry { package: *package, repository: &suite.repository, priority: suite.priority, name });
    }

    fn arrange(&mut self) {
        for ids in self.by_name.iter_mut().filter(|ids| ids.len() > 1) {
            ids.sort_by(|a, b| {
                let (x, y) = (&self.entries[a.index()], &self.entries[b.index()]);
                (y.priority.cmp(&x.priority))
                    .then_with(|| version::compare(y.package.version, x.package.version))
                    .then_with(|| (x.package.architecture == "all").cmp(&(y.package.architecture == "all")))
                    .then_with(|| a.cmp(b))
            });
        }
        let mut order: Vec<u32> = (0..).take(self.names.len()).collect();
        order.sort_by_key(|name| self.names[*name as usize]);
        for name in order {
            for id in &self.by_name[name as usize] {
                // What cannot be read is left out here; the solver refuses the package itself, with the reason.
                let Ok(groups) = relation::parse(self.entries[id.index()].package.provides) else { continue };
                for relation in groups.into_iter().flatten() {
                    let version = relation.condition.map(|(_, version)| version);
                    self.provided.entry(relation.name).or_default().push((*id, version));
                }
            }
        }
    }

    /// Puts these packages before all others of their names, whatever priorities and versions say. What an earlier call put
    /// first goes back to where it was.
    pub(super) fn prefer(&mut self, first: &[PackageId]) {
        for (id, order) in std::mem::take(&mut self.preferred) {
            self.reorder(self.name_id(id), order);
        }
        for id in first {
            let name = self.name_id(*id);
            let order = self.by_name[name as usize].clone();
            let mut new = order.clone();
            new.retain(|other| other != id);
            new.insert(0, *id);
            self.reorder(name, new);
            self.preferred.insert(*id, order);
        }
    }

    /// Whether [`Universe::prefer`] put it first.
    pub(super) fn is_preferred(&self, id: PackageId) -> bool {
        self.preferred.contains_key(&id)
    }

    /// Gives the packages of a name another order, among what they provide too.
    fn reorder(&mut self, name: u32, order: Vec<PackageId>) {
        let mut virtual_names = BTreeSet::new();
        for id in &order {
            let groups = relation::parse(self.entries[id.index()].package.provides).unwrap_or_default();
            virtual_names.extend(groups.into_iter().flatten().map(|relation| relation.name));
        }
        for virtual_name in virtual_names {
            let Some(providers) = self.provided.get_mut(virtual_name) else { continue };
            let own = |(id, _): &(PackageId, Option<&str>)| self.entries[id.index()].name == name;
            // Providers of one name stand together.
            let Some(start) = providers.iter().position(own) else { continue };
            let length = providers[start..].iter().take_while(|entry| own(entry)).count();
            providers[start..start + length].sort_by_key(|(id, _)| order.iter().position(|other| other == id));
        }
        self.by_name[name as usize] = order;
    }

    /// Number of packages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no package at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The package's record.
    pub fn package(&self, id: PackageId) -> &Package<'a> {
        &self.entries[id.index()].package
    }

    /// The name of the repository that has the package.
    pub fn repository(&self, id: PackageId) -> &'a str {
        self.entries[id.index()].repository
    }

    /// The versions of a real package, the one to prefer first.
    pub fn versions(&self, name: &str) -> &[PackageId] {
        self.ids.get(name).map_or(&[], |id| &self.by_name[*id as usize])
    }

    /// Who provides a virtual name, and in which version.
    pub fn providers(&self, name: &str) -> &[(PackageId, Option<&'a str>)] {
        self.provided.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names of the packages that every system needs, sorted.
    pub fn essential_names(&self) -> impl Iterator<Item = &'a str> {
        let needed = self.entries.iter().filter(|e| e.package.essential || e.package.priority == "required");
        needed.map(|e| e.package.name).collect::<BTreeSet<_>>().into_iter()
    }

    /// `docker.io 27.5.1 (debian-13)`
    pub(super) fn describe(&self, id: PackageId) -> String {
        format!("{} {}", self.package(id).name, self.describe_version(id))
    }

    /// `27.5.1 (debian-13)`
    pub(super) fn describe_version(&self, id: PackageId) -> String {
        format!("{} ({})", self.package(id).version, self.repository(id))
    }

    pub(super) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(super) fn name_id(&self, id: PackageId) -> u32 {
        self.entries[id.index()].name
    }

    pub(super) fn id_of_name(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(super) fn name(&self, name: u32) -> Option<&'a str> {
        self.names.get(name as usize).copied()
    }

    pub(super) fn name_count(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// Up to three names like a mistyped one.
    pub(super) fn similar_names(&self, name: &str) -> Vec<String> {
        similar(name, self.names.iter().copied())
    }

    /// Names of all packages, in no order that means anything.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().copied()
    }
}

/// Up to three of the names that are like a mistyped one, the nearest first.
pub fn similar<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let near = names.into_iter().filter(|n| n.len().abs_diff(name.len()) <= 2);
    let scored = near.map(|n| (strsim::damerau_levenshtein(n, name), n)).filter(|(distance, _)| *distance <= 2);
    let scored: BTreeSet<(usize, &str)> = scored.collect();
    scored.into_iter().take(3).map(|(_, n)| n.to_owned()).collect()
}
