//! The last steps of a role's build: initrd, UKI, disk image, and the forms it is published in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::plan::{Built, extension};
use super::role::{Build, Sealed};
use super::{BuildError, Format, Prepared};
use crate::boot::{initrd, loader, modules, uki};
use crate::image::disk::{self, DiskInput};
use crate::image::layout::{MIB, SectorSize};
use crate::image::manifest::{ImageInfo, Manifest, Output, Package, RootInfo, UkiInfo};
use crate::image::{bmap, fat, verity};
use crate::publish;
use crate::root::seal;

impl Build<'_> {
    /// The kernel and its initrd, in one directory of the cache.
    pub(super) fn kernel(&self, tree: &Path) -> Result<PathBuf, BuildError> {
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

    pub(super) fn image(&self, sealed: &Path, kernel: &Path, prepared: &Prepared) -> Result<Built, BuildError> {
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
        let manifest = self.manifest(information, uki_info, &disk, outputs, prepared);
        let path = out.join(format!("{}.manifest.json", plan.name));
        manifest.write(&path)?;
        Ok(Built { role: plan.profile.role.clone(), manifest: path, raw, sha256: disk.sha256, unchanged: false })
    }

    fn manifest(
        &self,
        information: Sealed,
        uki: UkiInfo,
        disk: &disk::DiskImage,
        outputs: BTreeMap<String, Output>,
        prepared: &Prepared,
    ) -> Manifest {
        let plan = self.plan;
        Manifest {
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
            uki,
            layout: disk.layout.clone(),
            outputs,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_hash_is_read_back() {
        assert_eq!(parse_hash(&"0a".repeat(32)), Some([10; 32]));
        assert_eq!(parse_hash("zz"), None);
        assert_eq!(parse_hash(&"é".repeat(32)), None);
    }
}
