//! The build of a role: the stages put together, as a list of named steps.
//!
//! Takes a [`Site`] (profiles, lock, cache, mirrors) and roles, gives a directory of images. Every step is a function of
//! hashed inputs; its result is kept under that hash, so a step whose inputs did not change is not run. Roles share
//! every step whose inputs are the same.
//!
//! | Step | Inputs | Result |
//! |---|---|---|
//! | fetch | lock | packages in the store |
//! | tools | locked tools | tree of programs |
//! | modules | locked packages of the modules' build | kernel modules built by DKMS |
//! | install | locked packages, dpkg options, built modules | tree with configured packages |
//! | containers | locked packages | docker-archives |
//! | seal | install, containers, profile, overlays, firstboot | root file system, hash tree |
//! | kernel | install, stage1, module list | initrd |
//! | image | seal, kernel, boot loader, sizes | UKI, raw disk image |
//! | publish | image | other forms, block map, manifest |

mod disk;
mod fetch;
mod keys;
mod node;
mod plan;
mod role;
pub mod sets;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

use crate::archive::history::History;
use crate::archive::mirror::Mirrors;
use crate::cache::{Cache, CacheError};
use crate::lock::{Lock, LockError};
use crate::profile::{ProfileError, Snapshot, Tree};
use crate::progress::Progress;
use crate::root::RootError;
use crate::store::{Store, StoreError};
use crate::tools::{Tools, ToolsError};

pub(crate) use fetch::{ensure, is_remote, of_artifacts, of_set};
pub use node::NodePrograms;
pub use plan::{Built, RolePlan, plan};
pub use role::{build, tools};

/// What a build works with.
pub struct Site {
    /// The profiles.
    pub tree: Tree,
    /// The lock file.
    pub lock_file: PathBuf,
    /// Results of steps.
    pub cache: Cache,
    /// Packages.
    pub store: Store,
    /// Where repositories are fetched from.
    pub mirrors: Mirrors,
    /// The base to use in place of the roles' own.
    pub base: Option<String>,
    /// Nothing is fetched.
    pub offline: bool,
    /// Threads, and downloads at a time.
    pub jobs: usize,
}

impl Site {
    /// The lock as it is on disk.
    pub fn lock(&self) -> Result<Lock, BuildError> {
        Ok(Lock::read(&self.lock_file)?)
    }
}

/// Forms that an image can be written in, beside the raw one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `NAME.raw`: always written, since the others are made from it.
    Raw,
    /// `NAME.raw.zst`
    RawZst,
    /// `NAME.qcow2`
    Qcow2,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "raw.zst" | "zst" => Ok(Self::RawZst),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(format!("`{other}` is no output; there are raw, raw.zst and qcow2")),
        }
    }
}

/// What to build.
pub struct Request<'a> {
    /// Roles by name.
    pub roles: &'a [String],
    /// Where images go.
    pub out: PathBuf,
    /// Forms beside the raw image.
    pub formats: Vec<Format>,
    /// Logical sector size of the disk in place of the profile's; the image's name then ends in it.
    pub sector_size: Option<u32>,
    /// The programs that run on the node.
    pub node: NodePrograms,
}

/// One step and whether its result is there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `install`
    pub name: &'static str,
    /// What it does here.
    pub what: String,
    /// The hash of its inputs.
    pub key: String,
    /// Whether the cache has its result.
    pub cached: bool,
}

/// A build failed.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant is the error of one stage
pub enum BuildError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Archive(#[from] crate::archive::ArchiveError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Modules(#[from] crate::boot::modules::ModulesError),
    #[error(transparent)]
    Initrd(#[from] crate::boot::initrd::InitrdError),
    #[error(transparent)]
    Uki(#[from] crate::boot::uki::UkiError),
    #[error(transparent)]
    Loader(#[from] crate::boot::loader::LoaderError),
    #[error(transparent)]
    Compression(#[from] crate::image::erofs::CompressionError),
    #[error(transparent)]
    Verity(#[from] crate::image::verity::VerityError),
    #[error(transparent)]
    Disk(#[from] crate::image::disk::DiskError),
    #[error(transparent)]
    Bmap(#[from] crate::image::bmap::BmapError),
    #[error(transparent)]
    Manifest(#[from] crate::image::manifest::ManifestError),
    #[error(transparent)]
    Publish(#[from] crate::publish::PublishError),
    /// A server answered, but not with what is wanted.
    #[error(
        "{source}\nan archive keeps old versions for a while only. Run `ingot lock` for those that it has now, name a mirror \
         that has more with --mirror NAME=URL, or build from a cache that has them"
    )]
    Gone { source: StoreError },
    #[error("{what}: {source}")]
    Program { what: String, source: crate::process::ProcessError },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{source}\nthe file system of {} is full ({} MiB free): make room there, or choose another with {option} DIR",
        .place.display(), .available >> 20
    )]
    Full { source: Box<Self>, place: PathBuf, available: u64, option: &'static str },
    /// The role's own settings do not go together with something found during the build.
    #[error("{0}")]
    Input(String),
}

impl BuildError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Says what to do about a full disk, whichever stage ran into it: most of them, and the programs that they run,
    /// know only that a write failed.
    fn with_room(self, site: &Site, out: &std::path::Path) -> Self {
        let text = self.to_string();
        let full = ["No space left on device", "Disk quota exceeded"].iter().any(|words| text.contains(words));
        if !full || text.contains("--cache DIR") {
            return self;
        }
        let (place, option) = if text.contains(&out.display().to_string()) {
            (out.to_owned(), "--out")
        } else {
            (site.cache.root().to_owned(), "--cache")
        };
        let available = rustix::fs::statvfs(&place).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
        Self::Full { source: Box::new(self), place, available, option }
    }
}

/// The tools tree for a base's distribution, prepared.
pub struct Prepared {
    /// The tree.
    pub tools: Tools,
    /// Its key.
    pub key: String,
    /// Versions of its packages by name.
    pub versions: BTreeMap<String, String>,
}

/// How to lock.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// Seconds since 1970: what signatures and dates are checked against.
    pub now: u64,
    /// Takes archives that have gone back in time.
    pub allow_rollback: bool,
    /// The moment of the archives to take, in place of the profiles'.
    pub snapshot: Option<Snapshot>,
}

/// The lock before and after.
pub struct Relocked {
    /// As it is on disk; empty if there is none.
    pub old: Lock,
    /// With the sets of the roles resolved.
    pub new: Lock,
    /// Packages, as `name version`, that an update was to leave as they are, and that no repository has any more.
    pub gone: BTreeSet<String>,
}

/// Resolves the sets of `roles` and puts them into the lock: anew, or with `update` only as far as an update of these
/// packages (names, or patterns of names) makes it necessary.
pub fn lock(
    site: &Site,
    roles: &[String],
    update: &[String],
    request: &LockRequest,
    progress: &dyn Progress,
) -> Result<Relocked, BuildError> {
    let old = match Lock::read(&site.lock_file) {
        Ok(lock) => lock,
        Err(LockError::Absent { .. }) if update.is_empty() => Lock::default(),
        Err(error) => return Err(error.into()),
    };
    let groups = sets::groups(site, roles)?;
    let update = crate::lock::Update { old: &old, packages: update };
    let all: Vec<crate::lock::SetRequest> = groups.iter().flat_map(|group| group.sets.iter().cloned()).collect();
    update.check(&all)?;
    let update = (!update.packages.is_empty()).then_some(update);
    let mut new = old.clone();
    let mut gone = BTreeSet::new();
    let history =
        History { locked: old.dates(), allow_rollback: request.allow_rollback, snapshot: request.snapshot.clone() };
    let mut have_snapshots = false;
    for group in groups {
        let access = crate::archive::index::Access {
            store: &site.store,
            mirrors: &site.mirrors,
            architecture: &group.architecture,
            now: request.now,
            history: &history,
            offline: site.offline,
            jobs: site.jobs,
            progress,
        };
        have_snapshots |= group.repositories.values().any(|r| r.snapshot_url.is_some());
        let context = crate::lock::Context { repositories: &group.repositories, access };
        let resolved = crate::lock::resolve(&group.sets, context, update)?;
        crate::bundle::keep_releases(&site.store, &resolved.lock)?;
        new = new.updated(resolved.lock);
        gone.extend(resolved.gone);
    }
    if let Some(snapshot) = request.snapshot.as_ref().filter(|_| !have_snapshots) {
        let message =
            format!("snapshot {snapshot} is asked for, and no repository of these roles has a `snapshot_url`");
        return Err(BuildError::Input(message));
    }
    Ok(Relocked { old, new, gone })
}
