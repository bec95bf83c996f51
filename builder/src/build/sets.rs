//! Which sets of packages a role needs: its own, one for each container made from packages, one for kernel modules that
//! are built, and the tools.

use std::collections::{BTreeMap, BTreeSet};

use super::{BuildError, Site};
use crate::lock::{Lock, LockedSet, SetRequest, dkms_set_name};
use crate::profile::{self, Container, Explained, Profile, Repository};
use crate::solve::Request;

/// Sets that are resolved against the same repositories.
pub struct Group {
    /// Repositories by name.
    pub repositories: BTreeMap<String, Repository>,
    /// Debian architecture.
    pub architecture: String,
    /// What is resolved.
    pub sets: Vec<SetRequest>,
}

/// The set of a role.
pub fn role_set(profile: &Profile) -> SetRequest {
    let mut include = profile.packages.include.clone();
    include.insert(profile.kernel.package.clone());
    SetRequest {
        name: role_set_name(profile),
        request: Request {
            include,
            exclude: profile.packages.exclude.clone(),
            pins: profile.packages.pins.clone(),
            provided: profile.packages.provided.clone(),
            recommends: profile.packages.recommends,
            phased: profile.packages.phased,
            include_essential: true,
        },
        repositories: repository_order(profile),
    }
}

/// `quickstart/worker@debian-13`
pub fn role_set_name(profile: &Profile) -> String {
    format!("{}@{}", profile.role, profile.base.id)
}

/// The sets of a role's containers that are made from packages, by the container's name.
pub fn container_sets(profile: &Profile) -> BTreeMap<String, SetRequest> {
    let mut sets = BTreeMap::new();
    for (name, container) in &profile.containers {
        if let Container::Packages { packages, .. } = container {
            let request = Request {
                include: packages.iter().cloned().collect(),
                pins: profile.packages.pins.clone(),
                phased: profile.packages.phased,
                ..Request::default()
            };
            let set = SetRequest {
                name: format!("{}#{name}", role_set_name(profile)),
                request,
                repositories: repository_order(profile),
            };
            sets.insert(name.clone(), set);
        }
    }
    sets
}

/// The set of packages that build kernel modules for a role; `None` where it has nothing built.
pub fn dkms_set(profile: &Profile) -> Option<SetRequest> {
    let request = Request {
        include: profile.dkms.clone(),
        exclude: profile.packages.exclude.clone(),
        pins: profile.packages.pins.clone(),
        provided: profile.packages.provided.clone(),
        recommends: false,
        phased: profile.packages.phased,
        include_essential: true,
    };
    (!profile.dkms.is_empty()).then(|| SetRequest {
        name: dkms_set_name(&role_set_name(profile)),
        request,
        repositories: repository_order(profile),
    })
}

/// The base's repositories first: of equal priority they win.
fn repository_order(profile: &Profile) -> Vec<String> {
    let mut order = profile.base.repositories.clone();
    order.extend(profile.repositories.keys().filter(|name| !profile.base.repositories.contains(name)).cloned());
    order
}

/// The set of the tools tree that goes with a base, and the profile that says where it comes from.
///
/// The tools come from the newest base of the same distribution, whatever the role's base: old releases
/// carry old programs.
pub fn tools_set(site: &Site, profile: &Profile) -> Result<(SetRequest, Profile), BuildError> {
    let base = newest_base(site, &profile.base.distribution).unwrap_or_else(|| profile.base.id.clone());
    let tools = profile::load(&site.tree, "parts/tools", Some(&base))?.profile;
    // Not the node's packages that every base brings: only what parts/tools itself names.
    let (file, _) = site.tree.read("parts/tools")?;
    let mut include: BTreeSet<String> = file.packages.include.into_iter().collect();
    for key in [&tools.base.distribution, &tools.base.id] {
        include.extend(file.when.get(key).into_iter().flat_map(|f| f.packages.include.iter().cloned()));
    }
    let set = SetRequest {
        name: format!("tools@{}", tools.base.id),
        request: Request { include, ..Request::default() },
        repositories: repository_order(&tools),
    };
    Ok((set, tools))
}

fn newest_base(site: &Site, distribution: &str) -> Option<String> {
    let prefix = format!("base/{distribution}-");
    let number = |version: &str| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
    site.tree
        .names()
        .into_iter()
        .filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned))
        .max_by_key(|version| number(version))
        .map(|version| format!("{distribution}-{version}"))
}

/// Loads a role's profile on the base that the site asks for.
pub fn load(site: &Site, role: &str) -> Result<Explained, BuildError> {
    Ok(profile::load(&site.tree, role, site.base.as_deref())?)
}

/// All sets that `roles` need, grouped by where they are resolved.
pub fn groups(site: &Site, roles: &[String]) -> Result<Vec<Group>, BuildError> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut add = |base: &Profile, set: SetRequest| {
        // Repositories differ between bases and, with a vendor's archive, between roles.
        let key = format!("{} {:?}", base.base.id, base.repositories);
        let group = groups.entry(key).or_insert_with(|| Group {
            repositories: base.repositories.clone(),
            architecture: base.base.architecture.clone(),
            sets: Vec::new(),
        });
        if !group.sets.iter().any(|known| known.name == set.name) {
            group.sets.push(set);
        }
    };
    for role in roles {
        let profile = load(site, role)?.profile;
        add(&profile, role_set(&profile));
        for set in container_sets(&profile).into_values() {
            add(&profile, set);
        }
        if let Some(set) = dkms_set(&profile) {
            add(&profile, set);
        }
        let (set, tools) = tools_set(site, &profile)?;
        add(&tools, set);
    }
    Ok(groups.into_values().collect())
}

/// A role with its packages as locked.
pub struct Locked {
    /// The role's profile.
    pub profile: Profile,
    /// Its packages.
    pub packages: LockedSet,
    /// Packages of its containers that are made from packages, by the container's name.
    pub containers: BTreeMap<String, LockedSet>,
    /// The packages that build kernel modules for it, where it has any built.
    pub dkms: Option<LockedSet>,
    /// Packages of the tools tree.
    pub tools: LockedSet,
    /// The profile that says where the tools come from.
    pub tools_profile: Profile,
}

/// The sets of a role as the lock has them; fails if they were locked for another profile.
pub fn locked(site: &Site, lock: &Lock, profile: Profile) -> Result<Locked, BuildError> {
    let checked = |request: &SetRequest, profile: &Profile| -> Result<LockedSet, BuildError> {
        let set = lock.set(&request.name)?;
        set.check(&request.inputs_hash(&profile.repositories)?)?;
        Ok(set)
    };
    let packages = checked(&role_set(&profile), &profile)?;
    let mut containers = BTreeMap::new();
    for (name, request) in container_sets(&profile) {
        containers.insert(name, checked(&request, &profile)?);
    }
    let dkms = dkms_set(&profile).map(|request| checked(&request, &profile)).transpose()?;
    // Once more: a lock may have been put together by hand, or by a merge.
    lock.check_gpu(&packages.name)?;
    let (request, tools_profile) = tools_set(site, &profile)?;
    let tools = checked(&request, &tools_profile)?;
    Ok(Locked { profile, packages, containers, dkms, tools, tools_profile })
}
