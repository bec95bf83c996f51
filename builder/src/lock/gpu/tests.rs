//! Names, versions and relations here are those of the archives of Ubuntu 24.04 and Debian 13.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::archive::index::Access;
use crate::archive::mirror::Mirrors;
use crate::archive::test_archive::{NOW, TestArchive};
use crate::lock::{Context, Lock, LockError, SetRequest, resolve};
use crate::progress::Silent;
use crate::solve::Request;
use crate::store::Store;

const KERNEL: &str = "linux-image-6.8.0-151-generic";
const MODULES: &str = "linux-modules-nvidia-580-server-open-6.8.0-151-generic";
const DRIVER: &str = "580.178.04-0ubuntu0.24.04.1";

fn package(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        repository: "ubuntu".into(),
        filename: format!("pool/{name}.deb"),
        size: 1,
        sha256: "0".repeat(64),
        essential: false,
        installed_size: 0,
        source: String::new(),
        pre_depends: String::new(),
        depends: String::new(),
        provides: String::new(),
    }
}

fn modules(name: &str, version: &str, depends: &str) -> LockedPackage {
    LockedPackage { depends: depends.into(), ..package(name, version) }
}

fn noble_modules() -> LockedPackage {
    modules(
        MODULES,
        "6.8.0-151.151",
        "linux-image-6.8.0-151-generic | linux-image-unsigned-6.8.0-151-generic, nvidia-kernel-common-580-server (<= 580.178.04-1), nvidia-kernel-common-580-server (>= 580.178.04)",
    )
}

/// What `parts/nvidia` and `parts/nvidia-containers` lock on Ubuntu 24.04.
fn noble() -> Vec<LockedPackage> {
    let mut set = vec![package(KERNEL, "6.8.0-151.151"), noble_modules(), package("bash", "5.2.21-2ubuntu4")];
    for name in ["nvidia-utils-580-server", "nvidia-kernel-common-580-server", "libnvidia-compute-580-server"] {
        set.push(package(name, DRIVER));
    }
    set.push(package("nvidia-firmware-580-server-580.178.04", DRIVER));
    set.push(package("nvidia-fabricmanager-580", DRIVER));
    set.push(package("libnvidia-nscq-580", "580.178.04-0ubuntu0.24.04.2"));
    set.extend(TOOLKIT.map(|name| package(name, "1.19.0-1")));
    set
}

/// The set with one package in place of that of the same name, or added.
fn with(mut set: Vec<LockedPackage>, new: LockedPackage) -> Vec<LockedPackage> {
    set.retain(|p| p.name != new.name);
    set.push(new);
    set
}

fn said(set: &[LockedPackage]) -> String {
    check(set).unwrap_err().to_string()
}

#[test]
fn a_consistent_set_and_a_set_without_a_gpu_pass() {
    check(&noble()).unwrap();
    check(&[package("bash", "5.2"), package(KERNEL, "6.8.0-151.151"), package("linux-image-generic", "6.8.0-151.151")])
        .unwrap();
    check(&[]).unwrap();
}

#[test]
fn modules_of_another_kernel_are_refused_with_both_names_and_what_to_include() {
    let mut set = noble();
    set.retain(|p| p.name != MODULES);
    let other = "linux-modules-nvidia-580-server-open-6.8.0-149-generic";
    set.push(LockedPackage { name: other.into(), version: "6.8.0-149.149".into(), ..noble_modules() });
    let message = said(&set);
    for part in [other, "6.8.0-149.149", KERNEL, "6.8.0-151.151", &format!("include `{MODULES}`")] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    // The modules' own dependency brought their kernel too: the set then has two.
    set.push(package("linux-image-6.8.0-149-generic", "6.8.0-149.149"));
    assert!(matches!(check(&set), Err(GpuError::Kernel { .. })));
    // Another flavour of the same ABI is another kernel.
    let set = with(noble(), package("linux-image-6.8.0-151-lowlatency", "6.8.0-151.151"));
    assert!(said(&set).contains("linux-modules-nvidia-580-server-open-6.8.0-151-lowlatency"));
    let mut set = noble();
    set.retain(|p| p.name != KERNEL);
    assert!(matches!(check(&set), Err(GpuError::NoKernel { built_for, .. }) if built_for == "6.8.0-151-generic"));
}

#[test]
fn every_part_of_the_driver_must_be_of_the_modules_version() {
    for name in
        ["nvidia-utils-580-server", "nvidia-fabricmanager-580", "libnvidia-nscq-580", "nvidia-kernel-common-580-server"]
    {
        let message = said(&with(noble(), package(name, "580.159.03-0ubuntu0.24.04.1")));
        for part in [name, "580.159.03", MODULES, "580.178.04", &format!("pin `{name}` = \"580.178.04-*\"")] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
    // Closed modules bound their driver from below only; a later one does not match them all the same.
    let closed = modules(
        "linux-modules-nvidia-580-server-6.8.0-151-generic",
        "6.8.0-151.151",
        "debconf (>= 0.5) | debconf-2.0, linux-image-6.8.0-151-generic | linux-image-unsigned-6.8.0-151-generic, linux-objects-nvidia-580-server-6.8.0-151-generic (= 6.8.0-151.151), nvidia-kernel-common-580-server (>= 580.173.02)",
    );
    let mut set = with(noble(), closed);
    set.retain(|p| p.name != MODULES);
    assert!(
        matches!(check(&set), Err(GpuError::Driver { first_driver, .. }) if first_driver.to_string() == "580.173.02")
    );
    // Without modules the parts are measured by each other.
    assert!(matches!(
        check(&[
            package("nvidia-utils-580", DRIVER),
            package("nvidia-fabricmanager-580", "580.159.03-0ubuntu0.24.04.1")
        ]),
        Err(GpuError::Driver { .. })
    ));
    let unclear = modules(MODULES, "6.8.0-151.151", KERNEL);
    assert!(matches!(check(&with(noble(), unclear)), Err(GpuError::Undated { .. })));
}

#[test]
fn a_transitional_package_that_leads_to_another_branch_is_refused() {
    let meta = "linux-modules-nvidia-535-server-open-generic";
    let message = said(&with(noble(), modules(meta, "6.8.0-151.151", "linux-modules-nvidia-580-server-open-generic")));
    assert!(message.contains(meta) && message.contains("branch 535") && message.contains("branch 580"), "{message}");
    for name in ["nvidia-fabricmanager-570", "libnvidia-nscq-590"] {
        assert!(matches!(check(&with(noble(), package(name, DRIVER))), Err(GpuError::Branch { .. })), "{name}");
    }
}

#[test]
fn the_toolkits_packages_are_of_one_version() {
    let message = said(&with(noble(), package("libnvidia-container1", "1.20.0-1")));
    assert!(message.contains("libnvidia-container1 1.20.0-1"), "{message}");
    assert!(message.contains("`nvidia-container-toolkit-base` = \"1.19.0-1\""), "{message}");
}

/// Debian 13 builds the modules on the way: the driver's packages have no branch in their names.
fn trixie() -> Vec<LockedPackage> {
    let of_driver =
        |name: &str| LockedPackage { source: "nvidia-graphics-drivers".into(), ..package(name, "550.163.01-2") };
    let mut set = vec![
        package("linux-image-6.12.94+deb13-amd64", "6.12.94-1"),
        package("linux-headers-6.12.94+deb13-amd64", "6.12.94-1"),
        package("linux-headers-6.12.94+deb13-common", "6.12.94-1"),
        package("nvidia-modprobe", "570.133.07-1"),
        package("nvidia-installer-cleanup", "20240109+1"),
        package("nvidia-persistenced", "550.163.01-1"),
    ];
    set.extend(["nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "firmware-nvidia-gsp"].map(of_driver));
    set
}

#[test]
fn debians_driver_is_known_by_its_source_and_needs_the_kernels_headers() {
    check(&trixie()).unwrap();
    let smi = LockedPackage { source: "nvidia-graphics-drivers".into(), ..package("nvidia-smi", "535.274.02-1") };
    let message = said(&with(trixie(), smi));
    assert!(message.starts_with("nvidia-kernel-dkms 550.163.01-2 is of driver 550.163.01"), "{message}");
    let mut set = trixie();
    set.retain(|p| p.name != "linux-headers-6.12.94+deb13-amd64");
    set.push(package("linux-headers-6.12.90+deb13-amd64", "6.12.90-1"));
    let message = said(&set);
    assert!(message.contains("the headers are linux-headers-6.12.90+deb13-amd64 6.12.90-1;"), "{message}");
    assert!(message.contains("include `linux-headers-6.12.94+deb13-amd64`"), "{message}");
}

#[test]
fn names_of_the_archives_are_read() {
    let parsed = PrebuiltModules::parse("linux-modules-nvidia-535-5.15.0-1081-nvidia-lowlatency").unwrap();
    assert_eq!((parsed.branch, parsed.server, parsed.open), (535, false, false));
    assert_eq!(parsed.release, "5.15.0-1081-nvidia-lowlatency");
    for name in [
        "linux-modules-nvidia-580-server-open-generic",
        "linux-modules-nvidia-580-open-generic-hwe-24.04",
        "linux-modules-nvidia-580-generic-6.17",
        "linux-modules-6.8.0-151-generic",
        "linux-objects-nvidia-580-server-6.8.0-151-generic",
    ] {
        assert_eq!(PrebuiltModules::parse(name), None, "{name}");
    }
    assert_eq!(kernel_release("linux-image-unsigned-7.0.0-44-generic"), Some("7.0.0-44-generic"));
    assert_eq!(kernel_release("linux-image-6.12.94+deb13-amd64"), Some("6.12.94+deb13-amd64"));
    for name in
        ["linux-image-generic", "linux-image-generic-6.17", "linux-image-amd64", "linux-image-generic-hwe-24.04"]
    {
        assert_eq!(kernel_release(name), None, "{name}");
    }
    for (name, branch) in [
        ("nvidia-headless-no-dkms-580-server", Some(580)),
        ("libnvidia-tesla-535-cuda1", Some(535)),
        ("linux-modules-nvidia-565-server-generic", Some(565)),
        ("linux-signatures-nvidia-6.8.0-151-generic", None),
        ("nvidia-cuda-toolkit", None),
        ("libnvidia-container1", None),
        ("python3-580", None),
    ] {
        assert_eq!(branch_of(name), branch, "{name}");
    }
    let upstream = |version: &str| DriverVersion::of_package(version).map(|v| v.to_string());
    assert_eq!(upstream("535.274.02-1~deb13u1").as_deref(), Some("535.274.02"));
    assert_eq!(upstream("1:580.65.06+dfsg-1").as_deref(), Some("580.65.06"));
    for version in ["6.8.0-151.151", "20240109+1", "580", "580.", "580..1", "58.1", "", "1.19.0-1"] {
        assert_eq!(upstream(version), None, "{version}");
    }
}

fn index(packages: &[LockedPackage]) -> Vec<u8> {
    let stanza = |p: &LockedPackage| {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: amd64\nDepends: {}\nFilename: ./{}.deb\nSize: 1\nSHA256: {}\n\n",
            p.name, p.version, p.depends, p.name, p.sha256
        )
    };
    packages.iter().map(stanza).collect::<String>().replace("Depends: \n", "").into_bytes()
}

/// Locks these names from two signed archives: one in Ubuntu's layout with `ubuntu`, and NVIDIA's flat one with `toolkit`.
fn locked(ubuntu: &[LockedPackage], toolkit: &[LockedPackage], include: &[&str]) -> Result<Lock, LockError> {
    let (mut suites, mut flat) = (TestArchive::new(), TestArchive::new());
    let head = "Architectures: amd64\nComponents: restricted\n";
    suites.add_suite("dists/noble/", head, &[("restricted/binary-amd64/Packages", index(ubuntu))], false);
    flat.add_suite("", "", &[("Packages", index(toolkit))], false);
    let repositories =
        [suites.repository("ubuntu", &["noble"], &["restricted"]), flat.repository("nvidia", &["/"], &[])];
    let (suites, flat) = (suites.serve(), flat.serve());
    let urls = [("ubuntu".to_owned(), suites.url("")), ("nvidia".to_owned(), flat.url(""))];
    let mirrors = Mirrors::with_host(urls.into(), [], Path::new("/nonexistent"));
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let set = SetRequest {
        name: "gpu@ubuntu-24.04".into(),
        request: Request { include: include.iter().map(|n| (*n).to_owned()).collect(), ..Request::default() },
        repositories: vec!["ubuntu".into(), "nvidia".into()],
    };
    let access = Access {
        store: &store,
        mirrors: &mirrors,
        architecture: "amd64",
        now: NOW,
        history: &crate::archive::history::History::default(),
        offline: false,
        jobs: 2,
        progress: &Silent,
    };
    let repositories = repositories.map(|r| (r.name.clone(), r)).into();
    Ok(resolve(&[set], Context { repositories: &repositories, access }, None)?.lock)
}

#[test]
fn a_set_from_ubuntus_and_nvidias_archives_is_locked_only_if_it_fits() {
    let ubuntu: Vec<LockedPackage> = noble().into_iter().filter(|p| !TOOLKIT.contains(&p.name.as_str())).collect();
    let mut toolkit: Vec<LockedPackage> = TOOLKIT.map(|name| package(name, "1.19.0-1")).into();
    let include = [MODULES, "nvidia-utils-580-server", "nvidia-fabricmanager-580", TOOLKIT[0], TOOLKIT[1]];
    let set = locked(&ubuntu, &toolkit, &include).unwrap().set("gpu@ubuntu-24.04").unwrap();
    assert_eq!(set.package(TOOLKIT[1]).unwrap().repository, "nvidia");
    assert!(set.package(KERNEL).is_some(), "the modules bring their kernel");

    let late = with(ubuntu.clone(), package("nvidia-fabricmanager-580", "580.159.03-0ubuntu0.24.04.1"));
    let error = locked(&late, &toolkit, &include).unwrap_err();
    assert!(matches!(error, LockError::Gpu { .. }));
    let message = error.to_string();
    assert!(message.starts_with("`gpu@ubuntu-24.04`: ") && message.contains("nvidia-fabricmanager-580"), "{message}");

    let other = [ubuntu.clone(), vec![package("linux-image-6.8.0-149-generic", "6.8.0-149.149")]].concat();
    let both = [&include[..], &["linux-image-6.8.0-149-generic"]].concat();
    assert!(locked(&other, &toolkit, &both).unwrap_err().to_string().contains("is built for kernel 6.8.0-151-generic"));

    toolkit[1].version = "1.20.0-1".into();
    assert!(locked(&ubuntu, &toolkit, &include).unwrap_err().to_string().contains("one container toolkit"));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC*", tail in "[0-9a-z.+~:-]{0,30}") {
        for name in [text.clone(), format!("linux-modules-nvidia-{tail}"), format!("nvidia-{tail}")] {
            if let Some(modules) = PrebuiltModules::parse(&name) {
                prop_assert_eq!(modules.to_string(), name.clone());
                prop_assert_eq!(branch_of(&name), Some(modules.branch));
            }
            let _ = (branch_of(&name), kernel_release(&name), DriverVersion::of_package(&name));
        }
        if let Some(driver) = DriverVersion::of_package(&tail) {
            prop_assert!(tail.contains(&driver.to_string()));
        }
    }

    #[test]
    fn what_is_written_reads_back(
        branch in 100_u32..1000,
        server: bool,
        open: bool,
        abi in "[1-9][0-9]?\\.[0-9]{1,2}\\.[0-9]{1,2}-[0-9]{1,4}",
        flavour in "(generic|nvidia|lowlatency-64k|aws)",
    ) {
        let modules = PrebuiltModules { branch, server, open, release: format!("{abi}-{flavour}") };
        prop_assert_eq!(PrebuiltModules::parse(&modules.to_string()), Some(modules.clone()));
        let image = format!("linux-image-{}", modules.release);
        prop_assert_eq!(kernel_release(&image), Some(modules.release.as_str()));
    }

    #[test]
    fn the_upstream_part_is_what_stands_before_the_revision(
        branch in 100_u32..1000, minor in 0_u32..1000, patch in 0_u32..100, revision in "[0-9][a-z0-9.~]{0,12}",
    ) {
        let upstream = format!("{branch}.{minor}.{patch:02}");
        let version = DriverVersion::of_package(&format!("{upstream}-{revision}")).unwrap();
        prop_assert_eq!(version.to_string(), upstream);
    }
}
