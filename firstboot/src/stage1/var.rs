//! The state partition: made on the first boot, checked when it has errors, grown when its partition is larger,
//! mounted. Data on it is never given up: an unknown content is an error, not a reason to make a filesystem.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use thiserror::Error;

use super::console;
use super::ext4::{self, Content, Ext4};
use crate::sys;

/// A filesystem that is smaller than its partition by less is left alone.
const LEAST_GROWTH: u64 = 16 << 20;

/// The state partition cannot be used.
#[derive(Debug, Error)]
pub enum VarError {
    /// A step failed.
    #[error("{step} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is something else on it.
    #[error(
        "{} holds {content}; it is not overwritten: save what is on it, then delete partition var or flash the disk again",
        .path.display()
    )]
    Foreign {
        /// The partition.
        path: PathBuf,
        /// What is on it.
        content: &'static str,
    },
    /// A program of the image failed.
    #[error("{program} {}: {how}", .path.display())]
    Tool {
        /// The program.
        program: &'static str,
        /// What it worked on.
        path: PathBuf,
        /// How it ended.
        how: String,
    },
}

/// What was done to have it ready, for the status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// A filesystem was made.
    pub made: bool,
    /// It was checked.
    pub checked: bool,
    /// The filesystem was grown.
    pub grown: bool,
}

/// Prepares the partition `node` and mounts it on `target`. `root` is the mounted system, whose `mke2fs` and
/// `e2fsck` are used: they come from the same verified image.
pub fn mount_prepared(node: &Path, target: &Path, root: &Path) -> Result<Prepared, VarError> {
    let at = |step| move |source| VarError::Io { step, path: node.to_owned(), source };
    let mut prepared = Prepared { made: false, checked: false, grown: false };
    let content = File::open(node).and_then(|file| ext4::probe(&file)).map_err(at("reading"))?;
    match content {
        Content::Nothing | Content::Ext4(Ext4 { is_untouched: true, .. }) => {
            make(node, root)?;
            prepared.made = true;
        }
        Content::Ext4(Ext4 { has_errors, .. }) => {
            if has_errors {
                check(node, root)?;
                prepared.checked = true;
            }
        }
        Content::Other(content) => return Err(VarError::Foreign { path: node.to_owned(), content }),
    }

    fs::create_dir_all(target).map_err(at("mounting"))?;
    let mut mounted = mount(node, target, "ext4", MountFlags::empty(), c"errors=remount-ro");
    if mounted.is_err() && !prepared.made && !prepared.checked {
        // The journal alone was not enough.
        check(node, root)?;
        prepared.checked = true;
        mounted = mount(node, target, "ext4", MountFlags::empty(), c"errors=remount-ro");
    }
    mounted.map_err(|error| at("mounting")(error.into()))?;
    prepared.grown = grow(node, target)?;
    Ok(prepared)
}

/// Makes the filesystem and has it on the disk before anything is mounted.
fn make(node: &Path, root: &Path) -> Result<(), VarError> {
    // Tables and journal are zeroed in the background once it is mounted; blocks of 4096 bytes whatever the size, so
    // that a small disk can grow; no discard, which takes minutes on some disks. 1 % for root is plenty here.
    const OPTIONS: [&str; 11] = [
        "-t",
        "ext4",
        "-F",
        "-q",
        "-L",
        "var",
        "-b4096",
        "-m1",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        "--",
    ];
    run_inside(root, "mke2fs", &OPTIONS, node, 0)?;
    let file = File::open(node).and_then(|file| file.sync_all());
    file.map_err(|source| VarError::Io { step: "writing", path: node.to_owned(), source })
}

/// Repairs what can be repaired without giving up data.
fn check(node: &Path, root: &Path) -> Result<(), VarError> {
    console::note(&format!("checking {}", node.display()));
    // 1 and 2: errors were corrected; 2 asks for a reboot only when it is mounted.
    run_inside(root, "e2fsck", &["-p", "--"], node, 3)
}

/// Runs a program of the image on a partition. `tolerated` is a mask of the bits of the exit status that are no
/// failure.
fn run_inside(
    root: &Path,
    program: &'static str,
    arguments: &[&str],
    node: &Path,
    tolerated: i32,
) -> Result<(), VarError> {
    let tool = |how| VarError::Tool { program, path: node.to_owned(), how };
    let directory = ["usr/sbin", "sbin", "usr/bin"]
        .into_iter()
        .find(|directory| root.join(directory).join(program).symlink_metadata().is_ok())
        .ok_or_else(|| tool("the image does not have it: add package e2fsprogs".to_owned()))?;
    let mut bound = Vec::new();
    for name in ["dev", "proc", "sys"] {
        let target = root.join(name);
        if let Err(source) = mount_bind(Path::new("/").join(name), &target) {
            return Err(VarError::Io { step: "binding", path: target, source: source.into() });
        }
        bound.push(target);
    }
    let output = sys::command_inside(root, Path::new("/").join(directory).join(program))
        .args(arguments)
        .arg(node)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .output();
    for target in bound.iter().rev() {
        // Not fatal: the real mount points are laid over it at the end.
        let _ = unmount(target, UnmountFlags::DETACH);
    }
    let output = output.map_err(|error| tool(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        console::detail(&format!("{program}: {line}"));
    }
    match output.status.code() {
        Some(code) if code & !tolerated == 0 => Ok(()),
        _ => {
            let last: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let last = last[last.len().saturating_sub(3)..].join(" / ");
            Err(tool(format!("{}: {last}", output.status)))
        }
    }
}

/// Grows the mounted filesystem to its partition.
fn grow(node: &Path, target: &Path) -> Result<bool, VarError> {
    let at = |step| move |source| VarError::Io { step, path: node.to_owned(), source };
    let file = File::open(node).map_err(at("reading"))?;
    let bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(at("reading"))?;
    // The superblock of a mounted filesystem is current in the block device's cache.
    let Content::Ext4(ext4) = ext4::probe(&file).map_err(at("reading"))? else {
        return Ok(false);
    };
    let blocks = bytes / ext4.block_bytes;
    if blocks.saturating_sub(ext4.blocks) * ext4.block_bytes < LEAST_GROWTH {
        return Ok(false);
    }
    let directory = File::open(target).map_err(at("growing"))?;
    sys::resize_ext4(&directory, blocks).map_err(at("growing"))?;
    Ok(true)
}
