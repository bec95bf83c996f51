//! Installs packages into an empty tree with the tree's own dpkg.
//!
//! What does not depend on each other runs side by side: while dpkg installs the essential packages the others are made
//! ready, and while it configures, the kernel modules are indexed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{RootError, RootPackage, depmod, make_root, order, unpack};
use crate::process::last_lines;
use crate::progress::Progress;
use crate::sandbox::{Mount, PATH, Sandbox};

/// What is installed and how.
pub struct Install<'a> {
    /// The packages, complete: nothing is resolved here.
    pub packages: &'a [RootPackage],
    /// Makes the files that [`RootPackage::deb`] names. It is called for what dpkg itself needs, and then for the rest
    /// while dpkg is at work.
    pub provide: &'a (dyn Fn(&[&RootPackage]) -> Result<(), RootError> + Sync),
    /// dpkg's `--path-exclude`.
    pub path_exclude: &'a [String],
    /// dpkg's `--path-include`.
    pub path_include: &'a [String],
    /// Files that lie in the tree before anything is installed, by path and content.
    pub files: &'a [(&'a str, &'a str)],
    /// Kernel modules from outside the packages: a directory laid over `/usr/lib/modules` before these are indexed.
    pub modules: Option<&'a Path>,
    /// The time that stands for "now" where a script asks `SOURCE_DATE_EPOCH`: seconds since 1970.
    pub epoch: u64,
    /// Threads.
    pub jobs: usize,
}

/// Where packages are seen inside the sandbox.
const DEBS: &str = "/run/debs";
/// Where programs that stand in for the tree's own are seen inside the sandbox.
const STAND_INS: &str = "/run/stand-ins";
/// Installed before all others, in this order.
const FIRST: [&str; 2] = ["base-passwd", "base-files"];
/// Keeps scripts from starting services; see `invoke-rc.d(8)`.
const POLICY: &str = "usr/sbin/policy-rc.d";

/// Installs into `scratch/root`, which must not exist yet, and gives its path.
///
/// The tree is written through an overlay that skips every `fsync`, so it is only good when this returns `Ok`.
pub fn install(scratch: &Path, input: &Install<'_>, progress: &dyn Progress) -> Result<PathBuf, RootError> {
    let root = scratch.join("root");
    for directory in ["work", "empty", "debs", "stand-ins"] {
        let path = scratch.join(directory);
        fs::create_dir_all(&path).map_err(RootError::io(&path))?;
    }
    make_root(&root)?;
    unpack::prepare(&root)?;
    prepare_dpkg(&root)?;
    for (path, content) in input.files {
        write_file(&root.join(path), content)?;
    }
    depmod::stand_in(&scratch.join("stand-ins"))?;
    let essential = essential(input.packages);
    let (first, rest): (Vec<&RootPackage>, Vec<&RootPackage>) =
        input.packages.iter().partition(|package| essential.contains(&package.name));
    provide(scratch, input, &first)?;
    let work = scratch.join("work");
    let dpkg = Dpkg { sandbox: sandbox(scratch, input), input, root: &root, work: &work };
    std::thread::scope(|scope| {
        let provided = scope.spawn(|| provide(scratch, input, &rest));
        let installed = install_essential(&dpkg, &first, progress);
        let provided = provided.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        installed.and(provided)
    })?;
    install_rest(&dpkg, &essential, scratch, progress)?;
    fs::remove_file(root.join(POLICY)).map_err(RootError::io(&root))?;
    // The overlay's mark for "not synchronised" stays in its work directory.
    for directory in ["work", "empty", "debs", "stand-ins"] {
        let _ = fs::remove_dir_all(scratch.join(directory));
    }
    Ok(root)
}

/// Has the files of `packages` made, and shows them to dpkg.
fn provide(scratch: &Path, input: &Install<'_>, packages: &[&RootPackage]) -> Result<(), RootError> {
    (input.provide)(packages)?;
    link_debs(&scratch.join("debs"), packages)
}

/// Extracts what dpkg itself needs, and then has dpkg install it.
fn install_essential(dpkg: &Dpkg<'_>, packages: &[&RootPackage], progress: &dyn Progress) -> Result<(), RootError> {
    let paths: Vec<PathBuf> = packages.iter().map(|package| package.deb.clone()).collect();
    let task = progress.start("extracting essential packages", Some(paths.len() as u64));
    unpack::unpack_all(dpkg.root, &paths, dpkg.input.jobs, &*task)?;
    drop(task);
    if dpkg.root.join("usr/bin/mawk").exists() && dpkg.root.join("usr/bin/awk").symlink_metadata().is_err() {
        // Scripts call awk before the package that brings it has registered the alternative.
        std::os::unix::fs::symlink("mawk", dpkg.root.join("usr/bin/awk")).map_err(RootError::io(dpkg.root))?;
    }
    let _task = progress.start("installing essential packages", None);
    // Users and directories first: every other essential package's scripts rely on them.
    let (first, rest): (Vec<&str>, Vec<&str>) =
        packages.iter().map(|package| package.name.as_str()).partition(|name| FIRST.contains(name));
    let first = FIRST.into_iter().filter(|name| first.contains(name)).map(str::to_owned).collect();
    for names in [first, rest.into_iter().map(str::to_owned).collect::<Vec<_>>()] {
        if !names.is_empty() {
            // They depend on each other in circles; what they need is unpacked already.
            dpkg.run(&["--force-depends", "--install"], &names, "installing")?;
        }
    }
    Ok(())
}

/// Unpacks and configures all others.
fn install_rest(
    dpkg: &Dpkg<'_>,
    essential: &BTreeSet<String>,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<(), RootError> {
    let all: BTreeMap<String, order::Relations> =
        dpkg.input.packages.iter().map(|p| (p.name.clone(), p.relations.clone())).collect();
    let batches = order::batches(&all, essential);
    let task = progress.start("unpacking packages into the root", Some(all.len() as u64));
    for (index, batch) in batches.iter().enumerate() {
        dpkg.run(&["--unpack"], batch, "unpacking")?;
        task.advance(batch.len() as u64);
        if index + 1 < batches.len() {
            dpkg.run(&["--configure"], batch, "configuring")?;
        }
    }
    drop(task);
    if let Some(modules) = dpkg.input.modules {
        let target = dpkg.root.join("usr/lib/modules");
        super::dkms::put_modules(modules, &target)?;
    }
    let _task = progress.start("configuring packages", None);
    let indexed = std::thread::scope(|scope| {
        let indexing = scope.spawn(|| depmod::index(dpkg.root, &scratch.join("modules")));
        dpkg.run(&["--configure", "--pending"], &[], "configuring")?;
        indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    indexed.put_into(dpkg.root)?;
    dpkg.audit()
}

/// The packages that dpkg needs to run: those marked essential, with all they depend on.
fn essential(packages: &[RootPackage]) -> BTreeSet<String> {
    let by_name: BTreeMap<&str, &RootPackage> = packages.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = packages.iter().filter(|p| p.essential).map(|p| p.name.as_str()).collect();
    // Scripts of many packages are in debconf's language before anything can say that they need it.
    open.extend(["base-passwd", "debconf", "dpkg", "perl-base"].into_iter().filter(|n| by_name.contains_key(n)));
    while let Some(name) = open.pop() {
        let Some(package) = by_name.get(name) else { continue };
        if !found.insert(name.to_owned()) {
            continue;
        }
        for field in [&package.relations.depends, &package.relations.pre_depends] {
            for group in order::names(field) {
                for name in group {
                    match by_name.get_key_value(name.as_str()) {
                        Some((key, _)) => open.push(key),
                        None => open.extend(
                            packages
                                .iter()
                                .filter(|p| order::names(&p.relations.provides).iter().flatten().any(|n| *n == name))
                                .map(|p| p.name.as_str()),
                        ),
                    }
                }
            }
        }
    }
    found
}

struct Dpkg<'a> {
    sandbox: Sandbox,
    input: &'a Install<'a>,
    root: &'a Path,
    work: &'a Path,
}

impl Dpkg<'_> {
    fn run(&self, command: &[&str], packages: &[String], action: &str) -> Result<(), RootError> {
        let mut arguments: Vec<String> = vec![
            "--force-unsafe-io".into(),
            "--force-confdef".into(),
            "--force-confold".into(),
            // Ours is the whole set: a conflict was the solver's to find.
            "--no-debsig".into(),
            // One failed script is enough; what dpkg would go on doing only hides it.
            "--abort-after=1".into(),
        ];
        arguments.extend(self.input.path_exclude.iter().map(|p| format!("--path-exclude={p}")));
        arguments.extend(self.input.path_include.iter().map(|p| format!("--path-include={p}")));
        arguments.extend(command.iter().map(|c| (*c).to_owned()));
        let configure = command == ["--configure"];
        arguments.extend(packages.iter().map(|n| if configure { n.clone() } else { format!("{DEBS}/{n}.deb") }));
        self.renew_work()?;
        let output = self.sandbox.tool("dpkg").args(&arguments).expression();
        let output = output.stderr_to_stdout().stdout_capture().unchecked().run().map_err(RootError::io(self.root))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Err(RootError::Package {
            package: failed_package(&text),
            action: format!(" while {action} ({})", output.status),
            tail: last_lines(up_to_failure(&text).as_bytes(), 30),
            tree: self.root.to_owned(),
        })
    }

    /// A volatile overlay marks its work directory, so that nobody mounts what a crash may have damaged. Here the tree is
    /// only used if everything succeeded, and a fresh work directory has no mark.
    fn renew_work(&self) -> Result<(), RootError> {
        match fs::remove_dir_all(self.work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(RootError::io(self.work)(error)),
            _ => {}
        }
        fs::create_dir(self.work).map_err(RootError::io(self.work))
    }

    /// Nothing may be left half done.
    fn audit(&self) -> Result<(), RootError> {
        self.renew_work()?;
        let output = self
            .sandbox
            .tool("dpkg")
            .arg("--audit")
            .run()
            .map_err(|source| RootError::Program { what: "checking the installed packages".into(), source })?;
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        Err(RootError::Package {
            package: None,
            action: ": dpkg --audit finds packages that are not configured".into(),
            tail: last_lines(&output.stdout, 30),
            tree: self.root.to_owned(),
        })
    }
}

/// The package that dpkg names in its error messages.
fn failed_package(text: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let rest = line
            .strip_prefix("dpkg: error processing package ")
            .or_else(|| line.strip_prefix("dpkg: error processing archive "))?;
        let word = rest.split([' ', ':']).next()?;
        let name = word.strip_prefix(DEBS).map_or(word, |w| w.trim_start_matches('/'));
        Some(name.strip_suffix(".deb").unwrap_or(name).to_owned())
    })
}

/// What dpkg said up to its error: it still runs triggers and counts up errors after that.
fn up_to_failure(text: &str) -> &str {
    let Some(start) = text.rfind("dpkg: error processing ") else { return text };
    let mut end = start;
    for (index, line) in text[start..].split_inclusive('\n').enumerate() {
        // The reason is on the next line, after a blank.
        if index > 0 && !line.starts_with(' ') {
            break;
        }
        end += line.len();
    }
    &text[..end]
}

fn sandbox(scratch: &Path, input: &Install<'_>) -> Sandbox {
    Sandbox::new(&scratch.join("root"))
        .writable()
        .mount(Mount::Overlay {
            lower: vec![scratch.join("empty")],
            upper: scratch.join("root"),
            work: scratch.join("work"),
            inside: PathBuf::from("/"),
            volatile: true,
        })
        .bind_read_only(&scratch.join("debs"), Path::new(DEBS))
        .bind_read_only(&scratch.join("stand-ins"), Path::new(STAND_INS))
        .environment("PATH", &format!("{STAND_INS}:{PATH}"))
        .environment("DEBIAN_FRONTEND", "noninteractive")
        .environment("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .environment("DEBCONF_NOWARNINGS", "yes")
        .environment("SOURCE_DATE_EPOCH", &input.epoch.to_string())
        .environment("SYSTEMD_OFFLINE", "1")
        // stage1 is the initrd: a generated one would take longer than all other packages together.
        .environment("INITRD", "No")
        .environment("PERL_HASH_SEED", "0")
        .environment("PYTHONHASHSEED", "0")
}

fn prepare_dpkg(root: &Path) -> Result<(), RootError> {
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "usr/sbin", "tmp", "etc"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(RootError::io(&path))?;
    }
    for (file, content, mode) in [
        ("var/lib/dpkg/status", "", 0o644),
        ("var/lib/dpkg/available", "", 0o644),
        (POLICY, "#!/bin/sh\nexit 101\n", 0o755),
    ] {
        let path = root.join(file);
        fs::write(&path, content).map_err(RootError::io(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(RootError::io(&path))?;
    }
    Ok(())
}

fn write_file(path: &Path, content: &str) -> Result<(), RootError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).and_then(|()| fs::write(path, content)).map_err(RootError::io(path))
}

/// Shows the packages under short names: a command line has a limit.
fn link_debs(directory: &Path, packages: &[&RootPackage]) -> Result<(), RootError> {
    for package in packages {
        let link = directory.join(format!("{}.deb", package.name));
        if fs::hard_link(&package.deb, &link).is_err() {
            fs::copy(&package.deb, &link).map_err(RootError::io(&link))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_package_is_found_in_dpkgs_words() {
        let text = "Setting up x (1) ...\nbroken\ndpkg: error processing package libfoo:amd64 (--configure):\n installed libfoo:amd64 package post-installation script subprocess returned error exit status 1\n";
        assert_eq!(failed_package(text).as_deref(), Some("libfoo"));
        let text = "dpkg: error processing archive /run/debs/bar.deb (--unpack):\n";
        assert_eq!(failed_package(text).as_deref(), Some("bar"));
        assert_eq!(failed_package("all is well"), None);
    }

    #[test]
    fn what_dpkg_says_after_the_failure_is_left_out() {
        let failure = "broken\ndpkg: error processing package x (--configure):\n it failed\n";
        let text = format!("{failure}Processing triggers for y ...\nErrors were encountered while processing:\n x\n");
        assert_eq!(up_to_failure(&text), failure);
        assert_eq!(up_to_failure("killed"), "killed");
    }
}
