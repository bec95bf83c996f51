//! Debian 13's indexes as this host's mirror has them, for tests that compare with apt and dpkg.

use std::collections::BTreeMap;
use std::path::Path;

use super::index::{self, Access, Suite};
use super::mirror::Mirrors;
use crate::lock::tests::{is_unreachable, now, test_store};
use crate::profile::{self, Tree};
use crate::progress::Silent;

/// The profiles that ship.
pub(crate) fn profiles() -> Tree {
    Tree::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles")).unwrap()
}

/// Every suite and component of the base, in its order; `None`, with a line that says so, where there is no mirror.
pub(crate) fn debian_13() -> Option<Vec<Suite>> {
    let tree = profiles();
    let role = tree.roles().into_iter().next().unwrap();
    let profile = profile::load(&tree, &role, Some("debian-13")).unwrap().profile;
    let repositories: Vec<_> = profile.base.repositories.iter().map(|name| &profile.repositories[name]).collect();
    let mirrors = Mirrors::new(BTreeMap::new());
    if repositories.iter().any(|repository| mirrors.resolve(repository).is_err()) {
        println!("skipped: this host has no Debian mirror");
        return None;
    }
    let (_temporary, store) = test_store();
    let history = super::history::History::default();
    let access = Access {
        store: &store,
        mirrors: &mirrors,
        architecture: "amd64",
        now: now(),
        history: &history,
        offline: false,
        jobs: 8,
        progress: &Silent,
    };
    match index::load(&repositories, access) {
        Ok(suites) => Some(suites),
        Err(error) if is_unreachable(&error) => {
            println!("skipped: the archive cannot be reached: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
