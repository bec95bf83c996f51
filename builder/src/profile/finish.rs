//! The last step of the stage: from the merged tree to the typed [`Profile`], with every value checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::error::ProfileError;
use super::file::{ArtifactFile, BaseFile, ContainerFile, FileFile, ImageFile, ProfileFile, QemuFile, RepositoryFile};
use super::tree::Node;
use super::types::{
    Artifact, Base, Container, FileContent, FileEntry, HostMirror, ImageOptions, Kernel, Packages, Profile, QemuFacts,
    Repository, RootFormat, Units,
};
use super::{Snapshot, snapshot};

/// Makes the profile of `role` on `base` from the merged tree.
pub fn finish(role: &str, base: &str, merged: &Node) -> Result<Profile, ProfileError> {
    let file: ProfileFile = merged.value().try_into().map_err(|error: toml::de::Error| ProfileError::Value {
        place: format!("profile {role} on {base}, merged"),
        message: error.message().to_owned(),
    })?;
    let context = Context { role, merged };
    let base = finish_base(&context, base, file.base.unwrap_or_default())?;
    let repositories = file
        .repositories
        .into_iter()
        .map(|(name, entry)| Ok((name.clone(), finish_repository(&context, &base, name, entry)?)))
        .collect::<Result<BTreeMap<_, _>, ProfileError>>()?;
    for name in &base.repositories {
        if !repositories.contains_key(name) {
            return Err(context.value("base.repositories", format!("there is no repository {name}")));
        }
    }
    let exclude: BTreeSet<String> = file.packages.exclude.into_iter().collect();
    let packages = Packages {
        include: file.packages.include.into_iter().filter(|name| !exclude.contains(name)).collect(),
        exclude,
        pins: file.packages.pins,
        recommends: file.packages.recommends.unwrap_or(false),
        phased: file.packages.phased.unwrap_or(false),
        provided: file.packages.provided.into_iter().collect(),
        path_exclude: file.packages.path_exclude,
        path_include: file.packages.path_include,
    };
    let kernel = Kernel {
        package: file
            .kernel
            .package
            .ok_or_else(|| context.value("kernel.package", "no kernel package is named".to_owned()))?,
        cmdline: file.kernel.cmdline,
        sysctl: file.kernel.sysctl.into_iter().map(|(key, value)| (key, scalar(&value))).collect(),
        modules: file.kernel.modules.into_iter().collect(),
        initrd_modules: file.kernel.initrd_modules.into_iter().collect(),
    };
    for word in &kernel.cmdline {
        if word.contains(char::is_whitespace) || word.starts_with("roothash=") {
            return Err(context.element(
                "kernel.cmdline",
                word,
                format!("{word:?} must be one word and not `roothash=`, which the build itself sets"),
            ));
        }
    }
    Ok(Profile {
        role: role.to_owned(),
        base,
        repositories,
        packages,
        kernel,
        dkms: file.dkms.packages.into_iter().collect(),
        overlays: file.overlays.into_iter().map(PathBuf::from).collect(),
        units: Units {
            enable: file.units.enable.into_iter().collect(),
            disable: file.units.disable.into_iter().collect(),
            mask: file.units.mask.into_iter().collect(),
        },
        files: each(file.files, |path, entry| finish_file(&context, path, entry))?,
        artifacts: each(file.artifacts, |path, entry| finish_artifact(&context, path, entry))?,
        containers: each(file.containers, |name, entry| finish_container(&context, name, entry))?,
        persist: absolute_set(&context, "persist", file.persist)?,
        firewall: ports(&context, file.firewall.open)?,
        config: file.config,
        image: finish_image(&context, &file.image)?,
        qemu: finish_qemu(&file.qemu),
    })
}

struct Context<'a> {
    role: &'a str,
    merged: &'a Node,
}

impl Context<'_> {
    /// An error about one element of the list at `key`.
    fn element(&self, key: &str, element: &str, message: String) -> ProfileError {
        let place = self
            .merged
            .leaves()
            .into_iter()
            .find(|(name, value, _)| name.strip_suffix("[]") == Some(key) && value.as_str() == Some(element));
        match place {
            Some((_, _, place)) => ProfileError::Value { place: format!("{place}: {key}"), message },
            None => self.value(key, message),
        }
    }

    /// An error about the value at `key`, with its place if the key is there.
    fn value(&self, key: &str, message: String) -> ProfileError {
        let place = self
            .merged
            .leaves()
            .into_iter()
            .find(|(name, _, _)| {
                name == key || name.strip_suffix("[]") == Some(key) || name.starts_with(&format!("{key}."))
            })
            .map_or_else(|| format!("profile {}: {key}", self.role), |(_, _, place)| format!("{place}: {key}"));
        ProfileError::Value { place, message }
    }
}

fn each<T, U>(
    entries: BTreeMap<String, T>,
    mut convert: impl FnMut(&str, T) -> Result<U, ProfileError>,
) -> Result<BTreeMap<String, U>, ProfileError> {
    entries.into_iter().map(|(key, entry)| Ok((key.clone(), convert(&key, entry)?))).collect()
}

fn finish_base(context: &Context<'_>, id: &str, file: BaseFile) -> Result<Base, ProfileError> {
    let needed = |key: &str, value: Option<String>| {
        value.ok_or_else(|| context.value(&format!("base.{key}"), format!("the base {id} does not say its {key}")))
    };
    Ok(Base {
        id: id.to_owned(),
        distribution: needed("distribution", file.distribution)?,
        codename: needed("codename", file.codename)?,
        version: needed("version", file.version)?,
        architecture: file.architecture.unwrap_or_else(|| "amd64".to_owned()),
        repositories: file.repositories,
    })
}

fn finish_repository(
    context: &Context<'_>,
    base: &Base,
    name: String,
    file: RepositoryFile,
) -> Result<Repository, ProfileError> {
    let key = format!("repositories.{name}");
    let expand = |text: String| {
        text.replace("${codename}", &base.codename)
            .replace("${version}", &base.version)
            .replace("${distribution}", &base.distribution)
            .replace("${architecture}", &base.architecture)
    };
    if file.suites.is_empty() {
        return Err(context.value(&key, "no suite is named".to_owned()));
    }
    let flat_suites = file.suites.iter().filter(|suite| suite.ends_with('/')).count();
    if flat_suites > 0 && (flat_suites != file.suites.len() || !file.components.is_empty()) {
        return Err(context.value(&key, "a flat repository has one path ending in / and no components".to_owned()));
    }
    if flat_suites == 0 && file.components.is_empty() {
        return Err(context.value(&key, "no component is named (a flat repository's suite ends in /)".to_owned()));
    }
    let keyring = file
        .keyring
        .ok_or_else(|| context.value(&key, "no keyring: a repository is never trusted without one".to_owned()))?;
    let parsed = file.snapshot.map(|text| text.parse::<Snapshot>());
    let snapshot = parsed.transpose().map_err(|message| context.value(&format!("{key}.snapshot"), message))?;
    if file.snapshot_url.as_ref().is_some_and(|url| !url.contains(snapshot::VARIABLE)) {
        let message = format!("the URL needs a {} where the moment goes", snapshot::VARIABLE);
        return Err(context.value(&format!("{key}.snapshot_url"), message));
    }
    Ok(Repository {
        snapshot,
        snapshot_url: file.snapshot_url.map(expand),
        url: file.url.map(expand),
        host_mirror: file
            .host_mirror
            .map(|mirror| HostMirror { distribution: mirror.distribution, archive: mirror.archive }),
        suites: file.suites.into_iter().map(expand).collect(),
        components: file.components,
        keyring: PathBuf::from(keyring),
        priority: file.priority.unwrap_or(500),
        name,
    })
}

fn mode(context: &Context<'_>, key: &str, text: Option<&str>) -> Result<u32, ProfileError> {
    let text = text.unwrap_or("0644");
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| context.value(key, format!("{text:?} is no mode; write octal digits like \"0644\"")))
}

/// Paths inside the image must be absolute and plain: a `..` would leave the root that is being written.
fn image_path(context: &Context<'_>, key: &str, path: &str) -> Result<(), ProfileError> {
    let plain = path.starts_with('/') && path.len() > 1 && path[1..].split('/').all(|p| !matches!(p, "" | "." | ".."));
    if plain { Ok(()) } else { Err(context.value(key, format!("{path:?} is not an absolute, plain path"))) }
}

fn finish_file(context: &Context<'_>, path: &str, file: FileFile) -> Result<FileEntry, ProfileError> {
    let key = format!("files.\"{path}\"");
    image_path(context, &key, path)?;
    let given = match (file.content, file.source) {
        (Some(text), None) => FileContent::Inline(text),
        (None, Some(source)) => FileContent::Path(PathBuf::from(source)),
        _ => return Err(context.value(&key, "give either `content` or `source`".to_owned())),
    };
    Ok(FileEntry { content: given, mode: mode(context, &key, file.mode.as_deref())? })
}

fn finish_artifact(context: &Context<'_>, path: &str, file: ArtifactFile) -> Result<Artifact, ProfileError> {
    let key = format!("artifacts.\"{path}\"");
    image_path(context, &key, path)?;
    let source = match (file.url, file.path) {
        (Some(url), None) if url.starts_with("https://") || url.starts_with("http://") => url,
        (None, Some(path)) => path,
        _ => return Err(context.value(&key, "give either an http(s) `url` or a `path`".to_owned())),
    };
    let sha256 = file.sha256.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(context.value(&key, "`sha256` must be 64 hexadecimal digits".to_owned()));
    }
    Ok(Artifact { source, sha256, mode: mode(context, &key, file.mode.as_deref())? })
}

fn finish_container(context: &Context<'_>, name: &str, file: ContainerFile) -> Result<Container, ProfileError> {
    let key = format!("containers.{name}");
    if name == "dkms" {
        return Err(context.value(&key, "a container cannot have the name of the set that builds modules".to_owned()));
    }
    if !file.reference.contains(':') {
        return Err(context.value(&key, format!("the reference {:?} needs a tag", file.reference)));
    }
    match (file.path, file.digest) {
        (Some(path), Some(digest)) if file.packages.is_empty() && file.command.is_empty() && file.files.is_empty() => {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                return Err(context.value(&key, "`digest` must be sha256: and 64 hexadecimal digits".to_owned()));
            }
            Ok(Container::Archive { reference: file.reference, path: PathBuf::from(path), digest })
        }
        (None, None) if !file.packages.is_empty() => {
            for path in file.files.keys() {
                image_path(context, &key, path)?;
            }
            Ok(Container::Packages {
                reference: file.reference,
                packages: file.packages,
                command: file.command,
                files: file.files,
            })
        }
        _ => {
            Err(context
                .value(&key, "give either `path` and `digest`, or `packages` (with `command`, `files`)".to_owned()))
        }
    }
}

fn absolute_set(context: &Context<'_>, key: &str, paths: Vec<String>) -> Result<BTreeSet<String>, ProfileError> {
    for path in &paths {
        image_path(context, key, path)?;
    }
    Ok(paths.into_iter().collect())
}

fn ports(context: &Context<'_>, entries: Vec<String>) -> Result<BTreeSet<String>, ProfileError> {
    for entry in &entries {
        let valid = entry.split_once('/').is_some_and(|(port, protocol)| {
            let mut ends = port.splitn(2, '-').map(|p| p.parse::<u16>().ok().filter(|p| *p > 0));
            let low = ends.next().flatten();
            let high = ends.next().unwrap_or(low);
            low.is_some() && high >= low && matches!(protocol, "tcp" | "udp")
        });
        if !valid {
            return Err(context.element(
                "firewall.open",
                entry,
                format!("{entry:?} is no port; write 2377/tcp or 3000-3010/udp"),
            ));
        }
    }
    Ok(entries.into_iter().collect())
}

fn finish_image(context: &Context<'_>, file: &ImageFile) -> Result<ImageOptions, ProfileError> {
    let format = file.format.unwrap_or(RootFormat::Erofs);
    let image = ImageOptions {
        format,
        compression: file.compression.clone().unwrap_or_else(|| default_compression(format).to_owned()),
        esp_mib: file.esp_mib.unwrap_or(256),
        slot_mib: file.slot_mib.unwrap_or(3072),
        uki_budget_mib: file.uki_budget_mib.unwrap_or(64),
        sector_size: file.sector_size.unwrap_or(512),
    };
    if ![512, 4096].contains(&image.sector_size) {
        return Err(context.value("image.sector_size", "must be 512 or 4096".to_owned()));
    }
    if image.esp_mib < 2 * image.uki_budget_mib {
        return Err(context.value(
            "image.esp_mib",
            format!("{} MiB cannot hold the kernels of two slots of up to {} MiB", image.esp_mib, image.uki_budget_mib),
        ));
    }
    Ok(image)
}

/// What writes fast: higher levels save a twentieth of the size for many times the time.
fn default_compression(format: RootFormat) -> &'static str {
    match format {
        RootFormat::Erofs => "lz4hc,1",
        RootFormat::Squashfs => "zstd,3",
    }
}

fn finish_qemu(file: &QemuFile) -> QemuFacts {
    QemuFacts {
        memory_mib: file.memory_mib.unwrap_or(1024),
        cpus: file.cpus.unwrap_or(1),
        disk_gib: file.disk_gib.unwrap_or(12),
    }
}

fn scalar(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Boolean(true) => "1".to_owned(),
        toml::Value::Boolean(false) => "0".to_owned(),
        other => other.to_string(),
    }
}
