//! Builds kernel modules with DKMS, in a tree that is thrown away afterwards.
//!
//! Takes the locked packages with the modules' sources, the kernel's headers and a compiler. Gives the modules as
//! `RELEASE/updates/dkms/*.ko`, to be laid over an image's `/usr/lib/modules`, and the kernel's `Module.symvers`, by which
//! they can be checked. The compiler and the sources are not on any image.
//!
//! The same packages give the same modules: they are built in the same place at the same time, and DKMS does not sign
//! them, which it would do with a key that it makes up.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::RootError;
use super::install::{self, Install};
use crate::process::last_lines;
use crate::progress::Progress;
use crate::sandbox::Sandbox;

/// Modules below the directory that [`build`] leaves.
pub const MODULES: &str = "modules";
/// The symbols that the kernel exports, below the same directory.
pub const SYMVERS: &str = "Module.symvers";

/// Keeps packages' scripts from building, so that it happens here, and modules unsigned.
const FILES: [(&str, &str); 2] =
    [("etc/dkms/no-autoinstall", ""), ("etc/dkms/framework.conf.d/ingot.conf", "sign_file=/nonexistent\n")];

/// What the packages of the build need not bring: the kernel itself, its firmware, and texts.
pub const PATH_EXCLUDE: [&str; 7] = [
    "/boot/vmlinuz-*",
    "/lib/modules/*/kernel/*",
    "/usr/lib/modules/*/kernel/*",
    "/usr/lib/firmware/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Builds in `scratch`, and leaves there [`MODULES`] and [`SYMVERS`]. The paths and files of `input` are this stage's own.
pub fn build(scratch: &Path, input: &Install<'_>, progress: &dyn Progress) -> Result<(), RootError> {
    let exclude = PATH_EXCLUDE.map(str::to_owned);
    let input = Install { path_exclude: &exclude, path_include: &[], files: &FILES, modules: None, ..*input };
    let root = install::install(scratch, &input, progress)?;
    let release = release(&root)?;
    let task = progress.start("building kernel modules", None);
    let sandbox = Sandbox::new(&root)
        .writable()
        .environment("SOURCE_DATE_EPOCH", &input.epoch.to_string())
        .environment("KBUILD_BUILD_TIMESTAMP", &format!("@{}", input.epoch))
        .environment("KBUILD_BUILD_USER", "ingot")
        .environment("KBUILD_BUILD_HOST", "ingot");
    for source in sources(&root)? {
        let failed = |source| RootError::Program { what: "registering a module's source with DKMS".into(), source };
        sandbox.tool("dkms").args(["add", &source]).run().map_err(failed)?;
    }
    let target = scratch.join(MODULES).join(&release).join("updates/dkms");
    fs::create_dir_all(&target).map_err(RootError::io(&target))?;
    for module in registered(&root)? {
        build_one(&sandbox, &root, &module, &release, input.jobs)?;
        collect(&root.join("var/lib/dkms").join(&module).join(&release), &target)?;
    }
    drop(task);
    let symvers = root.join(format!("usr/src/linux-headers-{release}")).join(SYMVERS);
    fs::copy(&symvers, scratch.join(SYMVERS)).map_err(RootError::io(&symvers))?;
    fs::remove_dir_all(&root).map_err(RootError::io(&root))
}

/// The kernel whose headers are there.
fn release(root: &Path) -> Result<String, RootError> {
    let found: Vec<String> = names(&root.join("usr/lib/modules"))?
        .into_iter()
        .filter(|name| root.join(format!("usr/src/linux-headers-{name}")).is_dir())
        .collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(RootError::Content(
            "modules cannot be built: the packages of [dkms] bring no kernel headers; add `linux-headers-…`".to_owned(),
        )),
        _ => Err(RootError::Content(format!(
            "modules are built for one kernel, but the packages of [dkms] bring headers of {}",
            found.join(" and ")
        ))),
    }
}

/// Names in a directory, sorted; none where there is no directory.
fn names(directory: &Path) -> Result<Vec<String>, RootError> {
    let mut found = Vec::new();
    if directory.is_dir() {
        for entry in fs::read_dir(directory).map_err(RootError::io(directory))? {
            let entry = entry.map_err(RootError::io(directory))?;
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Sources that DKMS can build, by path in the tree.
fn sources(root: &Path) -> Result<Vec<String>, RootError> {
    let all = names(&root.join("usr/src"))?.into_iter().map(|name| format!("/usr/src/{name}"));
    let found: Vec<String> = all.filter(|path| root.join(&path[1..]).join("dkms.conf").is_file()).collect();
    if found.is_empty() {
        return Err(RootError::Content(
            "modules cannot be built: no package of [dkms] brings a source with a dkms.conf; name a `…-dkms` package"
                .to_owned(),
        ));
    }
    Ok(found)
}

/// Modules that DKMS knows, as `NAME/VERSION`.
fn registered(root: &Path) -> Result<Vec<String>, RootError> {
    let tree = root.join("var/lib/dkms");
    let mut found = Vec::new();
    for name in names(&tree)? {
        for version in names(&tree.join(&name))? {
            if tree.join(&name).join(&version).join("source").symlink_metadata().is_ok() {
                found.push(format!("{name}/{version}"));
            }
        }
    }
    Ok(found)
}

fn build_one(sandbox: &Sandbox, root: &Path, module: &str, release: &str, jobs: usize) -> Result<(), RootError> {
    let (jobs, log) = (jobs.max(1).to_string(), root.join("var/lib/dkms").join(module).join("build/make.log"));
    let command = sandbox.tool("dkms").args(["build", module, "-k", release, "-j", &jobs]).expression();
    let output = command.stderr_to_stdout().stdout_capture().unchecked().run().map_err(RootError::io(root))?;
    if output.status.success() {
        return Ok(());
    }
    // dkms says only where its log is.
    let mut text = output.stdout;
    text.extend(fs::read(log).unwrap_or_default());
    Err(RootError::Module {
        module: module.to_owned(),
        release: release.to_owned(),
        tail: last_lines(&text, 30),
        tree: root.to_owned(),
    })
}

/// Copies what was built. DKMS has a directory for each machine; here there is one.
fn collect(built: &Path, target: &Path) -> Result<(), RootError> {
    for machine in names(built)? {
        let directory = built.join(machine).join("module");
        // Beside the modules lies what only their build needed.
        for name in names(&directory)?.into_iter().filter(|name| name.contains(".ko")) {
            let (from, to) = (directory.join(&name), target.join(&name));
            fs::copy(&from, &to).map_err(RootError::io(&from))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).map_err(RootError::io(&to))?;
        }
    }
    Ok(())
}

/// Lays modules over those of a tree. They must be of a kernel that the tree has.
pub fn put_modules(modules: &Path, target: &Path) -> Result<(), RootError> {
    for release in names(modules)? {
        if !target.join(&release).is_dir() {
            let there = names(target)?.join(" and ");
            return Err(RootError::Content(format!(
                "modules were built for kernel {release}, and the image has {there}; lock kernel and headers of one version"
            )));
        }
        copy_tree(&modules.join(&release), &target.join(&release))?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), RootError> {
    for name in names(from)? {
        let (source, target): (PathBuf, PathBuf) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            fs::create_dir_all(&target).map_err(RootError::io(&target))?;
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(RootError::io(&source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for path in paths {
            write(&directory.path().join(path), path);
        }
        directory
    }

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn one_kernel_with_headers_is_built_for() {
        let one = tree(&[
            "usr/lib/modules/6.12-amd64/x",
            "usr/lib/modules/6.11-amd64/x",
            "usr/src/linux-headers-6.12-amd64/x",
        ]);
        assert_eq!(release(one.path()).unwrap(), "6.12-amd64");
        write(&one.path().join("usr/src/linux-headers-6.11-amd64/x"), "");
        assert!(release(one.path()).unwrap_err().to_string().contains("6.11-amd64 and 6.12-amd64"));
        assert!(release(tree(&["usr/src/x"]).path()).unwrap_err().to_string().contains("no kernel headers"));
    }

    #[test]
    fn sources_are_those_with_a_dkms_conf_and_modules_those_that_dkms_knows() {
        let root = tree(&["usr/src/nvidia-current-550.163.01/dkms.conf", "usr/src/linux-headers-6.12/Makefile"]);
        assert_eq!(sources(root.path()).unwrap(), ["/usr/src/nvidia-current-550.163.01"]);
        assert!(sources(tree(&["usr/src/linux-headers-6.12/Makefile"]).path()).is_err());
        assert!(registered(root.path()).unwrap().is_empty());
        write(&root.path().join("var/lib/dkms/nvidia-current/550.163.01/source"), "");
        write(&root.path().join("var/lib/dkms/mok.pub"), "");
        assert_eq!(registered(root.path()).unwrap(), ["nvidia-current/550.163.01"]);
    }

    #[test]
    fn modules_go_to_their_kernel_and_to_no_other() {
        let built = tree(&["6.12-amd64/updates/dkms/a.ko"]);
        let image = tree(&["6.12-amd64/kernel/b.ko"]);
        put_modules(built.path(), image.path()).unwrap();
        assert!(image.path().join("6.12-amd64/updates/dkms/a.ko").is_file());
        let message = put_modules(built.path(), tree(&["6.13-amd64/x"]).path()).unwrap_err().to_string();
        assert!(message.contains("6.12-amd64") && message.contains("6.13-amd64"), "{message}");
    }
}
