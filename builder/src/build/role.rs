//! The steps of one role's build, up to the sealed root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::keys::as_json;
use super::plan::{Built, RolePlan};
use super::{BuildError, Prepared, Request, Site, fetch, watch};
use crate::boot::modules::foreign;
use crate::image::{erofs, verity};
use crate::lock::LockedSet;
use crate::profile::Container;
use crate::progress::Progress;
use crate::root::{RootPackage, containers, content, dkms, install, make_root, order, provided, seal};
use crate::store::Store;
use crate::tools::Tools;

/// Prepares the tools tree that goes with a role.
pub fn tools(site: &Site, plan: &RolePlan, progress: &dyn Progress) -> Result<Prepared, BuildError> {
    if !site.cache.has("tools", &plan.keys.tools) {
        let fetches = fetch::of_set(site, &plan.tools_set, &plan.tools_profile)?;
        fetch::ensure(site, &fetches, progress)?;
    }
    let debs = || {
        let store = &site.store;
        Ok(plan.tools_set.packages.iter().map(|p| store.path(&p.sha256)).collect())
    };
    let tools = Tools::prepare(&site.cache, &plan.keys.tools, debs, site.jobs, progress)?;
    let versions = plan.tools_set.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect();
    Ok(Prepared { tools, key: plan.keys.tools.clone(), versions })
}

/// Builds one role, or finds it built already.
pub fn build(
    site: &Site,
    plan: &RolePlan,
    request: &Request<'_>,
    progress: &dyn Progress,
) -> Result<Built, BuildError> {
    if let Some(done) = plan.finished(&request.out, &request.formats) {
        return Ok(done);
    }
    let build = Build { site, plan, request, progress };
    build.run().map_err(|error| error.with_room(site, &request.out))
}

pub(super) struct Build<'a> {
    pub(super) site: &'a Site,
    pub(super) plan: &'a RolePlan,
    pub(super) request: &'a Request<'a>,
    pub(super) progress: &'a dyn Progress,
}

/// What sealing left in the cache beside the files.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) root_hash: String,
    pub(super) salt: String,
    pub(super) uuid: Uuid,
    pub(super) data_blocks: u64,
    pub(super) hash_bytes: u64,
}

impl Build<'_> {
    /// The steps in their order.
    fn run(&self) -> Result<Built, BuildError> {
        self.fetch()?;
        let prepared = tools(self.site, self.plan, self.progress)?;
        let modules = self.modules()?;
        let tree = self.install(modules.as_deref())?;
        let containers = self.containers()?;
        let sealed = self.seal(&tree, &containers, &prepared.tools)?;
        let kernel = self.kernel(&tree)?;
        self.image(&sealed, &kernel, &prepared)
    }

    pub(super) fn store(&self) -> &Store {
        &self.site.store
    }

    pub(super) fn epoch(&self) -> u64 {
        self.plan.packages.date
    }

    fn fetch(&self) -> Result<(), BuildError> {
        let plan = self.plan;
        let mut all = Vec::new();
        if !self.site.cache.has("trees", &plan.keys.install) {
            all.extend(fetch::of_set(self.site, &plan.packages, &plan.profile)?);
        }
        if let (Some(set), Some(key)) = (&plan.dkms_set, &plan.keys.dkms)
            && !self.site.cache.has("modules", key)
            && !self.site.cache.has("trees", &plan.keys.install)
        {
            all.extend(fetch::of_set(self.site, set, &plan.profile)?);
        }
        for (name, set) in &plan.container_sets {
            if !plan.keys.containers.get(name).is_some_and(|key| self.site.cache.has("containers", key)) {
                all.extend(fetch::of_set(self.site, set, &plan.profile)?);
            }
        }
        if !self.site.cache.has("tools", &plan.keys.tools) {
            all.extend(fetch::of_set(self.site, &plan.tools_set, &plan.tools_profile)?);
        }
        all.extend(fetch::of_artifacts(self.site, &plan.profile));
        fetch::ensure(self.site, &all, self.progress)
    }

    /// Kernel modules that are built for the role, in a directory of the cache. Not looked at where the tree that they go
    /// into is there already.
    fn modules(&self) -> Result<Option<PathBuf>, BuildError> {
        let plan = self.plan;
        let (Some(set), Some(key)) = (&plan.dkms_set, &plan.keys.dkms) else { return Ok(None) };
        if self.site.cache.has("trees", &plan.keys.install) {
            return Ok(None);
        }
        let entry = self.site.cache.produce("modules", key, |scratch| {
            self.with_packages(set, scratch, |input| Ok(dkms::build(scratch, input, self.progress)?))
        })?;
        Ok(Some(entry))
    }

    /// The tree with all packages configured, and with the modules that were built for it.
    fn install(&self, modules: Option<&Path>) -> Result<PathBuf, BuildError> {
        let plan = self.plan;
        let built = modules.map(|entry| entry.join(dkms::MODULES));
        let entry = self.site.cache.produce("trees", &plan.keys.install, |scratch| {
            let tree = self.with_packages(&plan.packages, scratch, |input| {
                let input = install::Install { modules: built.as_deref(), ..*input };
                Ok(install::install(scratch, &input, self.progress)?)
            })?;
            let kernel = crate::root::seal::kernel(&tree)?;
            let symvers = modules.map(|entry| entry.join(dkms::SYMVERS));
            foreign::check(&tree, &kernel.release, symvers.as_deref())?;
            Ok::<_, BuildError>(())
        })?;
        Ok(entry.join("root"))
    }

    /// Gives `work` the packages of a set as the profile has them installed.
    fn with_packages<T>(
        &self,
        set: &LockedSet,
        scratch: &Path,
        work: impl FnOnce(&install::Install<'_>) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let mut packages: Vec<RootPackage> = set
            .packages
            .iter()
            .map(|package| RootPackage {
                name: package.name.clone(),
                essential: package.essential,
                relations: order::Relations {
                    pre_depends: package.pre_depends.clone(),
                    depends: package.depends.clone(),
                    provides: package.provides.clone(),
                },
                deb: crate::store::normalized_path(self.store(), &package.sha256),
            })
            .collect();
        let options = &self.plan.profile.packages;
        if !options.provided.is_empty() {
            let deb = scratch.join(format!("{}.deb", provided::NAME));
            provided::write(&deb, &options.provided)?;
            packages.push(RootPackage {
                name: provided::NAME.to_owned(),
                essential: false,
                relations: order::Relations::default(),
                deb,
            });
        }
        let hashes: BTreeMap<&str, &str> = set.packages.iter().map(|p| (p.name.as_str(), p.sha256.as_str())).collect();
        let provide = |packages: &[&RootPackage]| {
            let hashes: Vec<&str> = packages.iter().filter_map(|p| hashes.get(p.name.as_str()).copied()).collect();
            crate::store::normalize_all(self.store(), &hashes, self.site.jobs, self.progress)?;
            Ok(())
        };
        work(&install::Install {
            packages: &packages,
            provide: &provide,
            path_exclude: &options.path_exclude,
            path_include: &options.path_include,
            files: &[],
            modules: None,
            epoch: set.date,
            jobs: self.site.jobs,
        })
    }

    fn containers(&self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let mut result = BTreeMap::new();
        for (name, container) in &self.plan.profile.containers {
            let Some(key) = self.plan.keys.containers.get(name) else { continue };
            let entry = self.site.cache.produce("containers", key, |scratch| {
                let out = scratch.join("image.tar");
                match container {
                    Container::Archive { reference, path, digest } => {
                        containers::pinned::Pinned { reference, path, digest }.write(&out)?;
                    }
                    Container::Packages { reference, command, files, .. } => {
                        let set = self.plan.container_sets.get(name);
                        let debs: Vec<PathBuf> = set
                            .map(|s| s.packages.iter().map(|p| self.store().path(&p.sha256)).collect())
                            .unwrap_or_default();
                        let root = scratch.join("root");
                        make_root(&root)?;
                        let input = containers::FromPackages {
                            reference,
                            debs: &debs,
                            command,
                            files,
                            epoch: set.map_or_else(|| self.epoch(), |set| set.date),
                            architecture: &self.plan.profile.base.architecture,
                        };
                        containers::from_packages(&input, &root, &out, self.site.jobs, self.progress)?;
                        fs::remove_dir_all(&root).map_err(BuildError::io(&root))?;
                    }
                }
                Ok::<_, BuildError>(())
            })?;
            result.insert(name.clone(), entry.join("image.tar"));
        }
        Ok(result)
    }

    /// The root file system and its hash tree, in one directory of the cache.
    fn seal(&self, tree: &Path, containers: &BTreeMap<String, PathBuf>, tools: &Tools) -> Result<PathBuf, BuildError> {
        let plan = self.plan;
        self.site.cache.produce("roots", &plan.keys.seal, |scratch| {
            let merged = scratch.join("merged");
            make_root(&scratch.join("upper"))?;
            for name in ["work", "merged"] {
                let path = scratch.join(name);
                fs::create_dir(&path).map_err(BuildError::io(&path))?;
            }
            let mounted = Overlay::mount(tree, scratch)?;
            let task = self.progress.start("sealing the root", None);
            let content = content::Content {
                profile: &plan.profile,
                firstboot: &self.request.node.firstboot,
                image_json: self.image_json(),
                artifacts: self.artifacts()?,
                containers: containers.clone(),
            };
            seal::seal(&merged, &content, self.epoch())?;
            let os_release = merged.join("usr/lib/os-release");
            fs::copy(&os_release, scratch.join("os-release")).map_err(BuildError::io(&os_release))?;
            drop(task);

            let task = self.progress.start("writing the root file system", None);
            let options = &plan.profile.image;
            let command = erofs::mkfs_command(
                options.format,
                &options.compression,
                self.epoch(),
                Uuid::new_v5(&plan.id, b"root"),
                Path::new("/tree"),
                Path::new("/out/root.img"),
                self.site.jobs,
            )?;
            let tool = tools
                .sandbox()
                .bind_read_only(&merged, Path::new("/tree"))
                .bind(scratch, Path::new("/out"))
                .tool(&command[0])
                .args(&command[1..]);
            watch::run(&tool, &scratch.join("root.img"), "writing the root file system")?;
            drop(task);

            let task = self.progress.start("hashing the root file system", None);
            let salt: [u8; 32] = self.salt();
            let uuid = Uuid::new_v5(&plan.id, b"verity");
            let made =
                verity::create(&scratch.join("root.img"), &scratch.join("verity.img"), &salt, uuid, self.site.jobs)?;
            drop(task);
            let sealed = Sealed {
                root_hash: made.root_hash_hex(),
                salt: crate::image::hex(&salt),
                uuid,
                data_blocks: made.data_blocks,
                hash_bytes: made.hash_bytes,
            };
            let path = scratch.join("sealed.json");
            fs::write(&path, as_json(&sealed)).map_err(BuildError::io(&path))?;
            drop(mounted);
            for name in ["upper", "work", "merged"] {
                let path = scratch.join(name);
                fs::remove_dir_all(&path).map_err(BuildError::io(&path))?;
            }
            Ok(())
        })
    }

    /// Derived, so that two builds agree, and different for every content.
    pub(super) fn salt(&self) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::new()
            .chain_update(b"ingot verity salt")
            .chain_update(self.plan.keys.seal.as_bytes())
            .finalize()
            .into()
    }

    fn image_json(&self) -> String {
        let plan = self.plan;
        let value = json!({
            "role": plan.profile.role,
            "version": plan.version,
            "id": plan.id,
            "base": plan.profile.base.id,
            "build_time": self.epoch(),
            "lock": plan.packages.profile,
        });
        format!("{value:#}\n")
    }

    fn artifacts(&self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let mut result = BTreeMap::new();
        for (path, artifact) in &self.plan.profile.artifacts {
            if !fetch::is_remote(artifact) {
                let source = Path::new(&artifact.source);
                let mut file = fs::File::open(source).map_err(BuildError::io(source))?;
                let found = self.store().put(&mut file)?;
                if found != artifact.sha256 {
                    return Err(BuildError::Input(format!(
                        "artifact {path} from {}: its SHA-256 is {found}, the profile pins {}",
                        artifact.source, artifact.sha256
                    )));
                }
            }
            result.insert(path.clone(), self.store().path(&artifact.sha256));
        }
        Ok(result)
    }
}

/// The tree of packages with a writable layer over it, mounted in our own mount namespace.
struct Overlay {
    target: PathBuf,
}

impl Overlay {
    fn mount(lower: &Path, scratch: &Path) -> Result<Self, BuildError> {
        let target = scratch.join("merged");
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={},volatile",
            lower.display(),
            scratch.join("upper").display(),
            scratch.join("work").display()
        );
        if crate::sandbox::user::in_user_namespace() {
            options.push_str(",userxattr");
        }
        let options = std::ffi::CString::new(options).map_err(|e| BuildError::io(&target)(e.into()))?;
        rustix::mount::mount("overlay", &target, "overlay", MountFlags::empty(), &*options)
            .map_err(|e| BuildError::io(&target)(e.into()))?;
        Ok(Self { target })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Our mount namespace ends with us, and the mount with it, should this fail.
        let _ = rustix::mount::unmount(&self.target, UnmountFlags::DETACH);
    }
}
