//! The steps of one role's build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{BuildError, Format, Prepared, Request, Site, Step, sets};
use crate::boot::{initrd, loader, modules, uki};
use crate::cache::Key;
use crate::image::disk::{self, DiskInput};
use crate::image::layout::{MIB, SectorSize};
use crate::image::manifest::{ImageInfo, Manifest, Output, Package, RootInfo, UkiInfo};
use crate::image::{bmap, erofs, fat, verity};
use crate::lock::{Lock, LockedSet};
use crate::profile::{Container, FileContent, Profile};
use crate::progress::Progress;
use crate::publish;
use crate::root::{RootPackage, containers, content, install, make_root, order, provided, seal};
use crate::store::{Fetch, Store};
use crate::tools::Tools;

/// Identifies everything that Ingot derives an id from.
const NAMESPACE: Uuid = Uuid::from_u128(0x9a3c_77f4_52d1_4e0c_8f1d_2b6e_31a0_c5d7);

/// A finished role.
#[derive(Debug, Clone, Serialize)]
pub struct Built {
    /// The role.
    pub role: String,
    /// The manifest, which names all other files.
    pub manifest: PathBuf,
    /// The raw image.
    pub raw: PathBuf,
    /// SHA-256 of the raw image.
    pub sha256: String,
    /// Whether nothing had to be done.
    pub unchanged: bool,
}

/// Everything about a role that is known before anything is built.
pub struct RolePlan {
    profile: Profile,
    packages: LockedSet,
    container_sets: BTreeMap<String, LockedSet>,
    tools_set: LockedSet,
    tools_profile: Profile,
    name: String,
    keys: Keys,
    version: String,
    id: Uuid,
}

struct Keys {
    tools: String,
    install: String,
    containers: BTreeMap<String, String>,
    seal: String,
    kernel: String,
    image: String,
}

impl RolePlan {
    /// The profile.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The steps, in the order in which they run.
    pub fn steps(&self, site: &Site, out: &Path, formats: &[Format]) -> Vec<Step> {
        let cache = &site.cache;
        let missing =
            |set: &LockedSet| set.packages.iter().filter(|p| !site.store.has(&p.sha256, Some(p.size))).count();
        let all_missing = missing(&self.packages)
            + missing(&self.tools_set)
            + self.container_sets.values().map(missing).sum::<usize>();
        let mut steps = vec![
            Step {
                name: "fetch",
                what: format!("{all_missing} packages that the store does not have"),
                key: Key::new("fetch", 1).part("set", &self.keys.install).part("tools", &self.keys.tools).finish(),
                cached: all_missing == 0,
            },
            Step {
                name: "tools",
                what: format!("unpack {} packages of {}", self.tools_set.packages.len(), self.tools_set.name),
                key: self.keys.tools.clone(),
                cached: cache.has("tools", &self.keys.tools),
            },
            Step {
                name: "install",
                what: format!("install {} packages of {}", self.packages.packages.len(), self.packages.name),
                key: self.keys.install.clone(),
                cached: cache.has("trees", &self.keys.install),
            },
        ];
        for (name, key) in &self.keys.containers {
            steps.push(Step {
                name: "container",
                what: format!("container image {name}"),
                key: key.clone(),
                cached: cache.has("containers", key),
            });
        }
        let format = if self.profile.image.format == crate::profile::RootFormat::Erofs { "erofs" } else { "squashfs" };
        steps.push(Step {
            name: "seal",
            what: format!("overlays, units, scrubbing; {format} with dm-verity"),
            key: self.keys.seal.clone(),
            cached: cache.has("roots", &self.keys.seal),
        });
        steps.push(Step {
            name: "kernel",
            what: "select modules and pack the initrd".to_owned(),
            key: self.keys.kernel.clone(),
            cached: cache.has("kernels", &self.keys.kernel),
        });
        let done = self.finished(out, formats).is_some();
        steps.push(Step {
            name: "image",
            what: format!("UKI, partitions, {}.raw", self.name),
            key: self.keys.image.clone(),
            cached: done,
        });
        steps.push(Step {
            name: "publish",
            what: format!(
                "block map, manifest{}",
                formats.iter().filter(|f| **f != Format::Raw).map(|f| format!(", {f:?}")).collect::<String>()
            ),
            key: self.keys.image.clone(),
            cached: done,
        });
        steps
    }

    /// The finished image in `out`, if it was made from the same inputs and all its files are there.
    fn finished(&self, out: &Path, formats: &[Format]) -> Option<Built> {
        let path = out.join(format!("{}.manifest.json", self.name));
        let manifest = Manifest::read(&path).ok()?;
        if manifest.inputs.get("build") != Some(&self.keys.image) {
            return None;
        }
        let wanted: BTreeSet<&str> = formats.iter().map(|f| extension(*f)).chain(["raw", "bmap"]).collect();
        let complete = wanted.iter().all(|name| {
            manifest
                .outputs
                .get(*name)
                .is_some_and(|o| fs::metadata(out.join(&o.file)).is_ok_and(|m| m.len() == o.bytes))
        });
        let raw = manifest.outputs.get("raw")?;
        complete.then(|| Built {
            role: self.profile.role.clone(),
            manifest: path,
            raw: out.join(&raw.file),
            sha256: raw.sha256.clone(),
            unchanged: true,
        })
    }
}

fn extension(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::RawZst => "raw.zst",
        Format::Qcow2 => "qcow2",
    }
}

/// Reads the lock and works out every key.
pub fn plan(site: &Site, role: &str, request: &Request<'_>) -> Result<RolePlan, BuildError> {
    let lock = site.lock()?;
    let mut profile = sets::load(site, role)?.profile;
    let mut name = role.replace('/', "-");
    if let Some(sector_size) = request.sector_size.filter(|size| *size != profile.image.sector_size) {
        profile.image.sector_size = sector_size;
        name.push_str(&format!("-{sector_size}"));
    }
    let set = sets::role_set(&profile);
    let packages = checked(&lock, &set.name, &set.inputs_hash(&profile.repositories)?)?;
    let mut container_sets = BTreeMap::new();
    for (name, set) in sets::container_sets(&profile) {
        let locked = checked(&lock, &set.name, &set.inputs_hash(&profile.repositories)?)?;
        container_sets.insert(name, locked);
    }
    let (tools, tools_profile) = sets::tools_set(site, &profile)?;
    let tools_set = checked(&lock, &tools.name, &tools.inputs_hash(&tools_profile.repositories)?)?;
    let (firstboot, stage1) = request.node.hashes()?;

    let tools_key = Key::new("tools", 2).part("packages", hashes(&tools_set)).finish();
    let options = &profile.packages;
    let install = Key::new("install", 2)
        .part("packages", hashes(&packages))
        .part("exclude", options.path_exclude.join("\n"))
        .part("include", options.path_include.join("\n"))
        .part("provided", options.provided.iter().cloned().collect::<Vec<_>>().join("\n"))
        .part("date", packages.date.to_string())
        .finish();
    let mut container_keys = BTreeMap::new();
    for (name, container) in &profile.containers {
        let packages = container_sets.get(name).map(hashes).unwrap_or_default();
        let key = Key::new("container", 1)
            .part("container", as_json(container))
            .part("packages", packages)
            .part("date", profile.base.architecture.as_str())
            .finish();
        container_keys.insert(name.clone(), key);
    }
    let content = Key::new("seal", 2)
        .part("install", &install)
        .part("tools", &tools_key)
        .part("containers", as_json(&container_keys))
        .part("profile", as_json(&without_paths(&profile)))
        .part("overlays", overlays_key(&profile)?)
        .part("files", files_key(&profile)?)
        .part("firstboot", firstboot);
    let seal = content.finish();
    let kernel = Key::new("kernel", 1)
        .part("install", &install)
        .part("modules", as_json(&profile.kernel.initrd_modules))
        .part("stage1", stage1)
        .part("slot", profile.image.slot_mib.to_string())
        .part("seal", &seal)
        .finish();
    let image = Key::new("image", 1)
        .part("seal", &seal)
        .part("kernel", &kernel)
        .part("tools", &tools_key)
        .part("cmdline", profile.kernel.cmdline.join(" "))
        .part("options", as_json(&profile.image))
        .finish();
    let id = Uuid::new_v5(&NAMESPACE, seal.as_bytes());
    let version = format!("{}-{}", date(packages.date), &seal[..8]);
    Ok(RolePlan {
        name,
        keys: Keys { tools: tools_key, install, containers: container_keys, seal, kernel, image },
        profile,
        packages,
        container_sets,
        tools_set,
        tools_profile,
        version,
        id,
    })
}

fn checked(lock: &Lock, name: &str, inputs: &str) -> Result<LockedSet, BuildError> {
    let set = lock.set(name)?;
    set.check(inputs)?;
    Ok(set)
}

fn hashes(set: &LockedSet) -> String {
    let mut list: Vec<&str> = set.packages.iter().map(|p| p.sha256.as_str()).collect();
    list.sort_unstable();
    list.join("\n")
}

/// Profiles and keys are strings, numbers and tables of them: they always have a JSON form.
fn as_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The profile without the paths of the checkout, whose contents are hashed by themselves: the same profile in two
/// directories is the same input.
fn without_paths(profile: &Profile) -> Profile {
    let mut profile = profile.clone();
    profile.overlays.clear();
    for repository in profile.repositories.values_mut() {
        repository.keyring = PathBuf::new();
        repository.url = None;
    }
    for file in profile.files.values_mut() {
        if let FileContent::Path(path) = &mut file.content {
            *path = PathBuf::new();
        }
    }
    for artifact in profile.artifacts.values_mut() {
        artifact.source = String::new();
    }
    for container in profile.containers.values_mut() {
        if let Container::Archive { path, .. } = container {
            *path = PathBuf::new();
        }
    }
    // The root is the same whatever the disk that it goes on.
    profile.image.sector_size = 512;
    // Facts for tests do not change the image.
    profile.qemu = crate::profile::QemuFacts { memory_mib: 0, cpus: 0, disk_gib: 0 };
    profile
}

fn overlays_key(profile: &Profile) -> Result<String, BuildError> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut key = Key::new("overlays", 1);
    for overlay in &profile.overlays {
        let mut open = vec![overlay.clone()];
        let mut paths = Vec::new();
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).map_err(BuildError::io(&directory))? {
                let entry = entry.map_err(BuildError::io(&directory))?;
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push(entry.path());
                }
                paths.push(entry.path());
            }
        }
        paths.sort();
        key = key.part("overlay", "");
        for path in paths {
            let relative = path.strip_prefix(overlay).unwrap_or(&path);
            let metadata = path.symlink_metadata().map_err(BuildError::io(&path))?;
            key = key.part("path", relative.as_os_str().as_bytes());
            if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(BuildError::io(&path))?;
                key = key.part("link", target.as_os_str().as_bytes());
            } else if metadata.is_file() {
                let executable = metadata.mode() & 0o111 != 0;
                key = key.part("executable", [u8::from(executable)]);
                key = key.part("content", fs::read(&path).map_err(BuildError::io(&path))?);
            }
        }
    }
    Ok(key.finish())
}

fn files_key(profile: &Profile) -> Result<String, BuildError> {
    let mut key = Key::new("files", 1);
    for (name, file) in &profile.files {
        if let FileContent::Path(path) = &file.content {
            key = key.part(name, fs::read(path).map_err(BuildError::io(path))?);
        }
    }
    Ok(key.finish())
}

/// `20261118` for seconds since 1970, by the civil-from-days algorithm of Howard Hinnant.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

/// Prepares the tools tree that goes with a role.
pub fn tools(site: &Site, plan: &RolePlan, progress: &dyn Progress) -> Result<Prepared, BuildError> {
    if !site.cache.has("tools", &plan.keys.tools) {
        let fetches = fetches(site, &plan.tools_set, &plan.tools_profile)?;
        site.store.ensure(&fetches, site.jobs.max(8), site.offline, progress)?;
    }
    let debs = || {
        let store = &site.store;
        Ok(plan.tools_set.packages.iter().map(|p| store.path(&p.sha256)).collect())
    };
    let tools = Tools::prepare(&site.cache, &plan.keys.tools, debs, site.jobs, progress)?;
    let versions = plan.tools_set.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect();
    Ok(Prepared { tools, key: plan.keys.tools.clone(), versions })
}

fn fetches(site: &Site, set: &LockedSet, profile: &Profile) -> Result<Vec<Fetch>, BuildError> {
    set.fetches(&site.store, |name| {
        if site.offline {
            return Ok(String::new()); // the store names what is missing
        }
        let repository = profile.repositories.get(name).ok_or_else(|| {
            BuildError::Input(format!("the lock's packages come from {name}, which the profile does not define"))
        })?;
        Ok(site.mirrors.resolve(repository)?)
    })
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
    build.fetch()?;
    let prepared = tools(site, plan, progress)?;
    let tree = build.install()?;
    let containers = build.containers()?;
    let sealed = build.seal(&tree, &containers, &prepared.tools)?;
    let kernel = build.kernel(&tree)?;
    build.image(&tree, &sealed, &kernel, &prepared)
}

struct Build<'a> {
    site: &'a Site,
    plan: &'a RolePlan,
    request: &'a Request<'a>,
    progress: &'a dyn Progress,
}

/// What sealing left in the cache beside the files.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    root_hash: String,
    salt: String,
    uuid: Uuid,
    data_blocks: u64,
    hash_bytes: u64,
}

impl Build<'_> {
    fn store(&self) -> &Store {
        &self.site.store
    }

    fn epoch(&self) -> u64 {
        self.plan.packages.date
    }

    fn fetch(&self) -> Result<(), BuildError> {
        let plan = self.plan;
        let mut all = Vec::new();
        if !self.site.cache.has("trees", &plan.keys.install) {
            all.extend(fetches(self.site, &plan.packages, &plan.profile)?);
        }
        for (name, set) in &plan.container_sets {
            if !plan.keys.containers.get(name).is_some_and(|key| self.site.cache.has("containers", key)) {
                all.extend(fetches(self.site, set, &plan.profile)?);
            }
        }
        if !self.site.cache.has("tools", &plan.keys.tools) {
            all.extend(fetches(self.site, &plan.tools_set, &plan.tools_profile)?);
        }
        for artifact in plan.profile.artifacts.values().filter(|a| a.source.starts_with("http")) {
            if !self.store().has(&artifact.sha256, None) {
                let name = artifact.source.rsplit('/').next().unwrap_or(&artifact.source).to_owned();
                all.push(Fetch { sha256: artifact.sha256.clone(), size: 0, urls: vec![artifact.source.clone()], name });
            }
        }
        // Downloads wait for the network, not for a core.
        self.store().ensure(&all, self.site.jobs.max(8), self.site.offline, self.progress)?;
        Ok(())
    }

    /// The tree with all packages configured.
    fn install(&self) -> Result<PathBuf, BuildError> {
        let plan = self.plan;
        let entry = self.site.cache.produce("trees", &plan.keys.install, |scratch| {
            let hashes: Vec<&str> = plan.packages.packages.iter().map(|p| p.sha256.as_str()).collect();
            let debs = crate::store::normalize_all(self.store(), &hashes, self.site.jobs, self.progress)?;
            let mut packages: Vec<RootPackage> = plan
                .packages
                .packages
                .iter()
                .zip(debs)
                .map(|(package, deb)| RootPackage {
                    name: package.name.clone(),
                    essential: package.essential,
                    relations: order::Relations {
                        pre_depends: package.pre_depends.clone(),
                        depends: package.depends.clone(),
                        provides: package.provides.clone(),
                    },
                    deb,
                })
                .collect();
            let options = &plan.profile.packages;
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
            let input = install::Install {
                packages: &packages,
                path_exclude: &options.path_exclude,
                path_include: &options.path_include,
                epoch: self.epoch(),
                jobs: self.site.jobs,
            };
            install::install(scratch, &input, self.progress)?;
            Ok::<_, BuildError>(())
        })?;
        Ok(entry.join("root"))
    }

    fn containers(&self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let mut result = BTreeMap::new();
        for (name, container) in &self.plan.profile.containers {
            let Some(key) = self.plan.keys.containers.get(name) else { continue };
            let entry = self.site.cache.produce("containers", key, |scratch| {
                let out = scratch.join("image.tar");
                match container {
                    Container::Archive { reference, path, digest } => {
                        containers::from_archive(reference, path, digest, &out)?;
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
                            epoch: self.epoch(),
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
            let _mounted = Overlay::mount(tree, scratch)?;
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
            tools
                .sandbox()
                .bind_read_only(&merged, Path::new("/tree"))
                .bind(scratch, Path::new("/out"))
                .tool(&command[0])
                .args(&command[1..])
                .run()
                .map_err(|source| BuildError::Program { what: "writing the root file system".into(), source })?;
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
            drop(_mounted);
            for name in ["upper", "work", "merged"] {
                let path = scratch.join(name);
                fs::remove_dir_all(&path).map_err(BuildError::io(&path))?;
            }
            Ok(())
        })
    }

    /// Derived, so that two builds agree, and different for every content.
    fn salt(&self) -> [u8; 32] {
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
            if !artifact.source.starts_with("http") {
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

    /// The kernel and its initrd, in one directory of the cache.
    fn kernel(&self, tree: &Path) -> Result<PathBuf, BuildError> {
        let plan = self.plan;
        self.site.cache.produce("kernels", &plan.keys.kernel, |scratch| {
            let task = self.progress.start("packing the initrd", None);
            let kernel = seal::kernel(tree)?;
            let wanted = modules::default_initrd_set().and(plan.profile.kernel.initrd_modules.iter().cloned());
            let selection = modules::select(tree, &kernel.release, &wanted)?;
            let stage1 = json!({
                "load": selection.early,
                "build_time": self.epoch(),
                "image": { "role": plan.profile.role, "version": plan.version, "id": plan.id },
                "slot_bytes": plan.profile.image.slot_mib * MIB,
            });
            let built = initrd::build(&initrd::InitrdInput {
                stage1: &self.request.node.stage1,
                modules: &selection,
                stage1_json: &format!("{stage1:#}\n"),
                extra: &BTreeMap::new(),
                jobs: self.site.jobs,
            })?;
            let information = json!({
                "release": kernel.release,
                "unpacked": built.unpacked,
                "biggest": built.biggest,
                "modules": selection.modules.keys().collect::<Vec<_>>(),
            });
            fs::copy(&kernel.image, scratch.join("vmlinuz")).map_err(BuildError::io(&kernel.image))?;
            fs::write(scratch.join("initrd"), &built.bytes).map_err(BuildError::io(scratch))?;
            fs::write(scratch.join("kernel.json"), information.to_string()).map_err(BuildError::io(scratch))?;
            drop(task);
            Ok::<_, BuildError>(())
        })
    }

    fn image(&self, _tree: &Path, sealed: &Path, kernel: &Path, prepared: &Prepared) -> Result<Built, BuildError> {
        let plan = self.plan;
        let out = &self.request.out;
        fs::create_dir_all(out).map_err(BuildError::io(out))?;
        let information: Sealed = read_json(&sealed.join("sealed.json"))?;
        let kernel_information: KernelInformation = read_json(&kernel.join("kernel.json"))?;
        let task = self.progress.start("assembling the image", None);

        let cmdline = format!("roothash={} {}", information.root_hash, plan.profile.kernel.cmdline.join(" "));
        let read = |path: &Path| fs::read(path).map_err(BuildError::io(path));
        let initrd_bytes = read(&kernel.join("initrd"))?;
        let stub = prepared.tools.file("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
        let os_release = sealed.join("os-release");
        let os_release = fs::read_to_string(&os_release).map_err(BuildError::io(&os_release))?;
        let assembled = uki::assemble(&uki::UkiInput {
            stub: &read(&stub)?,
            kernel: &read(&kernel.join("vmlinuz"))?,
            initrd: &initrd_bytes,
            cmdline: &cmdline,
            os_release: &os_release,
            uname: &kernel_information.release,
            splash: None,
        })?;
        let parts = initrd::Initrd {
            bytes: initrd_bytes,
            unpacked: kernel_information.unpacked,
            biggest: kernel_information.biggest,
        };
        assembled.check_budget(plan.profile.image.uki_budget_mib, &parts)?;
        let uki_name = loader::uki_name(&plan.profile.role, &plan.version);
        let boot = prepared.tools.file("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?;
        let uki_info = UkiInfo {
            name: uki_name.clone(),
            bytes: assembled.bytes.len() as u64,
            sha256: assembled.sha256(),
            uname: kernel_information.release.clone(),
            cmdline,
            sections: assembled.sections.clone(),
            modules: kernel_information.modules,
        };
        let esp = loader::esp_files(&boot, &uki_name, fat::Content::Bytes(assembled.bytes))?;

        let raw = out.join(format!("{}.raw", plan.name));
        let root_hash = parse_hash(&information.root_hash)
            .ok_or_else(|| BuildError::Input(format!("{} is damaged; remove it", sealed.display())))?;
        let verity = verity::Verity {
            root_hash,
            data_blocks: information.data_blocks,
            hash_bytes: information.hash_bytes,
            salt: self.salt().to_vec(),
            uuid: information.uuid,
        };
        let sector_size = SectorSize::try_from(plan.profile.image.sector_size)
            .map_err(|error| BuildError::Input(error.to_string()))?;
        let disk = disk::assemble(&DiskInput {
            sector_size,
            esp_bytes: plan.profile.image.esp_mib * MIB,
            slot_bytes: plan.profile.image.slot_mib * MIB,
            esp: &esp,
            root: &sealed.join("root.img"),
            hash: &sealed.join("verity.img"),
            verity: &verity,
            image_id: plan.id,
            time: self.epoch(),
            out: &raw,
        })?;
        drop(task);
        let outputs = self.publish(&disk)?;
        let manifest = Manifest {
            schema: crate::image::manifest::SCHEMA,
            image: ImageInfo {
                role: plan.profile.role.clone(),
                version: plan.version.clone(),
                id: plan.id,
                base: plan.profile.base.id.clone(),
                architecture: plan.profile.base.architecture.clone(),
                build_time: self.epoch(),
                ingot: env!("CARGO_PKG_VERSION").to_owned(),
            },
            inputs: BTreeMap::from([
                ("build".to_owned(), plan.keys.image.clone()),
                ("install".to_owned(), plan.keys.install.clone()),
                ("lock".to_owned(), plan.packages.profile.clone()),
                ("seal".to_owned(), plan.keys.seal.clone()),
                ("tools".to_owned(), prepared.key.clone()),
            ]),
            tools: prepared
                .versions
                .iter()
                .filter(|(name, _)| ["erofs-utils", "squashfs-tools", "systemd-boot-efi"].contains(&name.as_str()))
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect(),
            packages: plan
                .packages
                .packages
                .iter()
                .map(|p| Package {
                    name: p.name.clone(),
                    architecture: p.architecture.clone(),
                    version: p.version.clone(),
                    origin: p.repository.clone(),
                    sha256: p.sha256.clone(),
                })
                .collect(),
            root: RootInfo {
                format: plan.profile.image.format,
                compression: plan.profile.image.compression.clone(),
                bytes: information.data_blocks * verity::BLOCK as u64,
                root_hash: information.root_hash,
                salt: information.salt,
                hash_bytes: information.hash_bytes,
            },
            uki: uki_info,
            layout: disk.layout.clone(),
            outputs,
        };
        let path = out.join(format!("{}.manifest.json", plan.name));
        manifest.write(&path)?;
        Ok(Built { role: plan.profile.role.clone(), manifest: path, raw, sha256: disk.sha256, unchanged: false })
    }

    fn publish(&self, disk: &disk::DiskImage) -> Result<BTreeMap<String, Output>, BuildError> {
        let out = &self.request.out;
        let name = |extension: &str| format!("{}.{extension}", self.plan.name);
        let mut outputs = BTreeMap::new();
        outputs.insert("raw".to_owned(), Output { file: name("raw"), bytes: disk.size, sha256: disk.sha256.clone() });
        let map = out.join(name("raw.bmap"));
        bmap::Bmap::create(disk, self.site.jobs)?.write(&map)?;
        let bytes = fs::read(&map).map_err(BuildError::io(&map))?;
        outputs.insert(
            "bmap".to_owned(),
            Output { file: name("raw.bmap"), bytes: bytes.len() as u64, sha256: sha256_hex(&bytes) },
        );
        for format in &self.request.formats {
            let file = out.join(name(extension(*format)));
            let task = match format {
                Format::Raw => continue,
                _ => self.progress.start(&format!("writing {}", extension(*format)), None),
            };
            let output = match format {
                Format::Raw => continue,
                Format::RawZst => publish::compressed::write(disk, &file, self.site.jobs)?,
                Format::Qcow2 => publish::qcow2::write(disk, &file)?,
            };
            drop(task);
            outputs.insert(extension(*format).to_owned(), output);
        }
        Ok(outputs)
    }
}

#[derive(Debug, Deserialize)]
struct KernelInformation {
    release: String,
    unpacked: u64,
    biggest: Vec<(String, u64)>,
    modules: Vec<String>,
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BuildError> {
    let text = fs::read_to_string(path).map_err(BuildError::io(path))?;
    serde_json::from_str(&text)
        .map_err(|error| BuildError::Input(format!("{} is damaged ({error}); remove it", path.display())))
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    crate::image::hex(&sha2::Sha256::digest(bytes))
}

fn parse_hash(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(hash)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "19700101");
        assert_eq!(date(1_709_164_800), "20240229");
        assert_eq!(date(1_795_000_000), "20261118");
    }

    #[test]
    fn a_root_hash_is_read_back() {
        assert_eq!(parse_hash(&"0a".repeat(32)), Some([10; 32]));
        assert_eq!(parse_hash("zz"), None);
        assert_eq!(parse_hash(&"é".repeat(32)), None);
    }
}
