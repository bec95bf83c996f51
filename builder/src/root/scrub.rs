//! Takes away what tells one build from another, or one machine from another.
//!
//! The list is the union of what image builders have learnt to remove: identities, seeds, logs, caches, backups,
//! and the dates that programs write into files.

use std::fs;
use std::path::Path;

use super::RootError;

/// Removed with everything below.
const TREES: [&str; 10] = [
    "var/cache",
    "var/log",
    "var/lib/apt",
    "var/tmp",
    "tmp",
    "run",
    "dev",
    "boot",
    "var/lib/systemd/catalog",
    "var/lib/initramfs-tools",
];

/// Removed.
const FILES: [&str; 22] = [
    "etc/hostname",
    "etc/fstab",
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/shadow-",
    "etc/group-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/apt/sources.list",
    "etc/ld.so.cache~",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/ucf/cache-old",
];

/// Scrubs `root`; `epoch` is the build's date in seconds since 1970.
pub fn scrub(root: &Path, epoch: u64) -> Result<(), RootError> {
    keep_kernel_configuration(root)?;
    for tree in TREES {
        empty(&root.join(tree))?;
    }
    for file in FILES {
        remove(&root.join(file))?;
    }
    for_each(&root.join("etc/ssh"), |name| name.starts_with("ssh_host_"))?;
    for_each(&root.join("var/cache/debconf"), |name| name.ends_with("-old"))?;
    for_each(&root.join("var/lib/dpkg"), |name| name.ends_with("-old"))?;
    // Links to headers that are not on the image.
    for entry in fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten() {
        remove(&entry.path().join("build"))?;
        remove(&entry.path().join("source"))?;
    }
    for link in ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"] {
        remove(&root.join(link))?;
    }
    // systemd takes an empty machine-id as "not set yet"; stage1 gives each node its own.
    let machine_id = root.join("etc/machine-id");
    fs::write(&machine_id, "").map_err(RootError::io(&machine_id))?;
    shadow(root, epoch)
}

/// What a kernel was configured with goes from `/boot`, which an image leaves empty, to its modules: programs that judge a
/// machine look for it there too. kubeadm refuses a machine where it finds none.
fn keep_kernel_configuration(root: &Path) -> Result<(), RootError> {
    for entry in fs::read_dir(root.join("usr/lib/modules")).into_iter().flatten().flatten() {
        let from = root.join("boot").join(format!("config-{}", entry.file_name().to_string_lossy()));
        if from.is_file() {
            fs::rename(&from, entry.path().join("config")).map_err(RootError::io(&from))?;
        }
    }
    Ok(())
}

/// The day of the last password change is the day of the build for every account that a package made.
fn shadow(root: &Path, epoch: u64) -> Result<(), RootError> {
    let path = root.join("etc/shadow");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let day = (epoch / 86_400).to_string();
    let fixed: String = text.lines().map(|line| with_day(line, &day) + "\n").collect();
    fs::write(&path, fixed).map_err(RootError::io(&path))
}

fn with_day(line: &str, day: &str) -> String {
    let mut fields: Vec<&str> = line.split(':').collect();
    if fields.len() > 2 && !fields[2].is_empty() {
        fields[2] = day;
    }
    fields.join(":")
}

fn empty(directory: &Path) -> Result<(), RootError> {
    if directory.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
        return Ok(());
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            fs::remove_dir_all(&path).map_err(RootError::io(&path))?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

fn for_each(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), RootError> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), RootError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RootError::io(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_the_build_is_replaced() {
        assert_eq!(with_day("root:*:20412:0:99999:7:::", "1"), "root:*:1:0:99999:7:::");
        assert_eq!(with_day("x:!*::::::", "1"), "x:!*::::::");
    }

    #[test]
    fn identities_and_logs_go_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["etc/ssh", "var/log/apt", "var/lib/dpkg", "usr/lib/modules/6/kernel", "boot/grub", "run/lock"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "var/log/apt/x",
            "var/lib/dpkg/status-old",
            "var/lib/dpkg/status",
            "etc/machine-id",
            "usr/lib/modules/6/build",
            "boot/config-6",
            "boot/vmlinuz-6",
        ] {
            fs::write(root.join(path), "x").unwrap();
        }
        fs::write(root.join("etc/shadow"), "root:*:20412:0:99999:7:::\n").unwrap();
        scrub(root, 86_400 * 3).unwrap();
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
        assert!(root.join("etc/ssh/sshd_config").exists());
        assert!(!root.join("var/log/apt").exists());
        assert!(root.join("var/log").exists());
        assert!(!root.join("var/lib/dpkg/status-old").exists());
        assert!(root.join("var/lib/dpkg/status").exists());
        assert!(!root.join("usr/lib/modules/6/build").exists());
        assert!(root.join("boot").read_dir().unwrap().next().is_none());
        assert_eq!(fs::read(root.join("usr/lib/modules/6/config")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("etc/machine-id")).unwrap(), b"");
        assert_eq!(fs::read_to_string(root.join("etc/shadow")).unwrap(), "root:*:3:0:99999:7:::\n");
    }
}
