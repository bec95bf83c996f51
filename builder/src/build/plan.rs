//! What is known about a role before anything is built: its packages, the key of every step, and what is done already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use super::keys::{as_json, date, files_key, hashes, overlays_key, without_paths};
use super::{BuildError, Format, Request, Site, Step, sets};
use crate::cache::Key;
use crate::image::manifest::Manifest;
use crate::lock::LockedSet;
use crate::profile::Profile;

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
    pub(super) profile: Profile,
    pub(super) packages: LockedSet,
    pub(super) container_sets: BTreeMap<String, LockedSet>,
    /// The packages that build kernel modules, where the role has any built.
    pub(super) dkms_set: Option<LockedSet>,
    pub(super) tools_set: LockedSet,
    pub(super) tools_profile: Profile,
    pub(super) name: String,
    pub(super) keys: Keys,
    pub(super) version: String,
    pub(super) id: Uuid,
}

pub(super) struct Keys {
    pub(super) tools: String,
    pub(super) dkms: Option<String>,
    pub(super) install: String,
    pub(super) containers: BTreeMap<String, String>,
    pub(super) seal: String,
    pub(super) kernel: String,
    pub(super) image: String,
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
            + self.dkms_set.as_ref().map_or(0, missing)
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
        ];
        if let (Some(set), Some(key)) = (&self.dkms_set, &self.keys.dkms) {
            steps.push(Step {
                name: "modules",
                what: format!("build kernel modules with {} packages of {}", set.packages.len(), set.name),
                key: key.clone(),
                cached: cache.has("modules", key),
            });
        }
        steps.push(Step {
            name: "install",
            what: format!("install {} packages of {}", self.packages.packages.len(), self.packages.name),
            key: self.keys.install.clone(),
            cached: cache.has("trees", &self.keys.install),
        });
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
    pub(super) fn finished(&self, out: &Path, formats: &[Format]) -> Option<Built> {
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

pub(super) fn extension(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::RawZst => "raw.zst",
        Format::Qcow2 => "qcow2",
    }
}

/// Reads the lock and works out every key.
pub fn plan(site: &Site, role: &str, request: &Request<'_>) -> Result<RolePlan, BuildError> {
    let profile = sets::load(site, role)?.profile;
    let locked = sets::locked(site, &site.lock()?, profile)?;
    let sets::Locked {
        mut profile,
        packages,
        containers: container_sets,
        dkms: dkms_set,
        tools: tools_set,
        tools_profile,
    } = locked;
    let mut name = role.replace('/', "-");
    if let Some(sector_size) = request.sector_size.filter(|size| *size != profile.image.sector_size) {
        profile.image.sector_size = sector_size;
        name.push_str(&format!("-{sector_size}"));
    }
    let (firstboot, stage1) = request.node.hashes()?;

    let tools_key = Key::new("tools", 2).part("packages", hashes(&tools_set)).finish();
    let dkms = dkms_set.as_ref().map(|set| dkms_key(set, &profile));
    let options = &profile.packages;
    let install = Key::new("install", 4)
        .part("packages", hashes(&packages))
        .part("exclude", options.path_exclude.join("\n"))
        .part("include", options.path_include.join("\n"))
        .part("provided", options.provided.iter().cloned().collect::<Vec<_>>().join("\n"))
        .part("date", packages.date.to_string())
        .part("modules", dkms.as_deref().unwrap_or_default())
        .finish();
    let mut container_keys = BTreeMap::new();
    let relocatable = without_paths(&profile);
    for name in profile.containers.keys() {
        let packages = container_sets.get(name).map(hashes).unwrap_or_default();
        let key = Key::new("container", 3)
            .part("container", as_json(&relocatable.containers.get(name)))
            .part("packages", packages)
            .part("architecture", profile.base.architecture.as_str())
            .part("date", container_sets.get(name).map_or_else(String::new, |set| set.date.to_string()))
            .finish();
        container_keys.insert(name.clone(), key);
    }
    let content = Key::new("seal", 3)
        .part("install", &install)
        .part("lock", &packages.profile)
        .part("tools", &tools_key)
        .part("containers", as_json(&container_keys))
        .part("profile", as_json(&relocatable))
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
        keys: Keys { tools: tools_key, dkms, install, containers: container_keys, seal, kernel, image },
        profile,
        packages,
        container_sets,
        dkms_set,
        tools_set,
        tools_profile,
        version,
        id,
    })
}

fn dkms_key(set: &LockedSet, profile: &Profile) -> String {
    Key::new("modules", 2)
        .part("packages", hashes(set))
        .part("provided", profile.packages.provided.iter().cloned().collect::<Vec<_>>().join("\n"))
        .part("date", set.date.to_string())
        .finish()
}
