//! The order in which dpkg is given packages.
//!
//! dpkg sorts configuration by itself, but it refuses to unpack a package whose `Pre-Depends` are not configured.
//! So the packages are given in batches: each is unpacked and, where a later one pre-depends on it, configured
//! with what it depends on. Usually two batches are enough.

use std::collections::{BTreeMap, BTreeSet};

/// What ordering needs to know of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    /// The `Pre-Depends` field.
    pub pre_depends: String,
    /// The `Depends` field.
    pub depends: String,
    /// The `Provides` field.
    pub provides: String,
}

/// Splits `packages` into batches; `configured` are those that need no more attention.
///
/// Every batch but the last is to be configured before the next is unpacked. A circle of `Pre-Depends`
/// cannot be satisfied by any order; its packages end up in one batch and dpkg has the last word.
pub fn batches(packages: &BTreeMap<String, Relations>, configured: &BTreeSet<String>) -> Vec<Vec<String>> {
    let providers = providers(packages);
    let mut done = configured.clone();
    let mut left: BTreeSet<String> = packages.keys().filter(|name| !done.contains(*name)).cloned().collect();
    let mut result = Vec::new();
    while !left.is_empty() {
        // What some package that is left pre-depends on, with all that those need to be configured.
        let mut needed = BTreeSet::new();
        for name in &left {
            for target in targets(&packages[name].pre_depends, &providers) {
                closure(&target, packages, &providers, &done, &mut needed);
            }
        }
        let first: BTreeSet<String> = needed.intersection(&left).cloned().collect();
        let satisfied = |name: &String| {
            targets(&packages[name].pre_depends, &providers).iter().all(|t| done.contains(t) || !left.contains(t))
        };
        // Of those, the ones that can be configured now: nothing they need waits for another batch.
        let mut batch = BTreeSet::new();
        for name in &first {
            let mut with = BTreeSet::new();
            closure(name, packages, &providers, &done, &mut with);
            if with.iter().all(satisfied) {
                batch.extend(with);
            }
        }
        if batch.is_empty() {
            batch = needed.iter().filter(|name| satisfied(name)).cloned().collect();
        }
        if batch.is_empty() {
            batch = if first.is_empty() { left.clone() } else { first };
        }
        done.extend(batch.iter().cloned());
        left.retain(|name| !batch.contains(name));
        result.push(batch.into_iter().collect());
    }
    result
}

/// Real names by the name that a relation may use.
fn providers(packages: &BTreeMap<String, Relations>) -> BTreeMap<String, BTreeSet<String>> {
    let mut result: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, relations) in packages {
        result.entry(name.clone()).or_default().insert(name.clone());
        for provided in names(&relations.provides).into_iter().flatten() {
            result.entry(provided).or_default().insert(name.clone());
        }
    }
    result
}

/// The packages of the set that satisfy a relation field: for each group the alternatives that are there.
fn targets(field: &str, providers: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    names(field).into_iter().flatten().filter_map(|name| providers.get(&name)).flatten().cloned().collect()
}

fn closure(
    name: &str,
    packages: &BTreeMap<String, Relations>,
    providers: &BTreeMap<String, BTreeSet<String>>,
    done: &BTreeSet<String>,
    found: &mut BTreeSet<String>,
) {
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        let Some(relations) = packages.get(&name) else { continue };
        if done.contains(&name) || !found.insert(name) {
            continue;
        }
        open.extend(targets(&relations.depends, providers));
        open.extend(targets(&relations.pre_depends, providers));
    }
}

/// The names in a relation field, group by group: `a (>= 1) | b, c:any` gives `[[a, b], [c]]`.
pub fn names(field: &str) -> Vec<Vec<String>> {
    field
        .split(',')
        .map(|group| {
            group
                .split('|')
                .filter_map(|one| {
                    let name = one.trim().split([' ', '(', '[', '<', ':', '\t', '\n']).next().unwrap_or_default();
                    (!name.is_empty()).then(|| name.to_owned())
                })
                .collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packages(entries: &[(&str, &str, &str)]) -> BTreeMap<String, Relations> {
        entries
            .iter()
            .map(|(name, pre, depends)| {
                let relations =
                    Relations { pre_depends: (*pre).into(), depends: (*depends).into(), provides: String::new() };
                ((*name).to_owned(), relations)
            })
            .collect()
    }

    #[test]
    fn without_pre_depends_one_batch_is_enough() {
        let set = packages(&[("a", "", "b"), ("b", "", "a")]);
        assert_eq!(batches(&set, &BTreeSet::new()), [["a", "b"]]);
    }

    #[test]
    fn what_is_pre_depended_on_comes_first_with_what_it_needs() {
        let set = packages(&[
            ("systemd", "libseccomp2 (>= 2.5)", ""),
            ("libseccomp2", "", "libx | liby"),
            ("liby", "", ""),
            ("z", "", ""),
        ]);
        let order = batches(&set, &BTreeSet::new());
        assert_eq!(order, [vec!["libseccomp2", "liby"], vec!["systemd", "z"]]);
    }

    #[test]
    fn names_are_read_from_fields() {
        assert_eq!(names("a (>= 1) | b:any, c [amd64]"), [vec!["a", "b"], vec!["c"]]);
        assert!(names("").is_empty());
    }

    proptest! {
        /// Every package is in exactly one batch, and no package comes before one it pre-depends on,
        /// unless they form a circle.
        #[test]
        fn order_respects_pre_depends(edges in proptest::collection::vec((0_u8..12, 0_u8..12, any::<bool>()), 0..40)) {
            let mut set: BTreeMap<String, Relations> = (0..12).map(|n| (format!("p{n}"), Relations::default())).collect();
            for (from, to, pre) in &edges {
                // Only towards smaller numbers: no circles.
                if to < from {
                    let relations = set.get_mut(&format!("p{from}")).unwrap();
                    let field = if *pre { &mut relations.pre_depends } else { &mut relations.depends };
                    if !field.is_empty() { field.push_str(", "); }
                    field.push_str(&format!("p{to}"));
                }
            }
            let order = batches(&set, &BTreeSet::new());
            let position: BTreeMap<&String, usize> =
                order.iter().enumerate().flat_map(|(i, batch)| batch.iter().map(move |name| (name, i))).collect();
            prop_assert_eq!(position.len(), 12);
            prop_assert_eq!(order.iter().map(Vec::len).sum::<usize>(), 12);
            for (name, relations) in &set {
                for target in names(&relations.pre_depends).into_iter().flatten() {
                    prop_assert!(position[&target] < position[name], "{} after {}: {:?}", target, name, order);
                }
            }
        }
    }
}
