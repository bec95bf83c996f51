//! The initrd: stage1 as `/init`, the modules it may load, and what it must know.
//!
//! A `newc` cpio archive, compressed with zstd. Entries are in the order of their paths with every parent directory before
//! its children, owned by root, dated 1970, numbered in order, so the same parts give the same bytes.
//! The layout is what stage1 reads:
//!
//! ```text
//! /init                                      stage1
//! /etc/ingot/stage1.json                     its configuration
//! /usr/lib/modules/UNAME/kernel/...          modules, uncompressed
//! /usr/lib/modules/UNAME/modules.{dep,alias,softdep,builtin}
//! /lib/firmware/...                          what those modules ask for, if the root has it (the kernel looks here)
//! /dev /proc /sys /run /sysroot              empty, to mount on
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};
use thiserror::Error;

use super::modules::Selection;

/// Where more effort stops paying: level 6 packs the modules of a Debian kernel into 4.4 MB in a third of a second,
/// level 12 into 4.1 MB in five times that. The initrd is made anew for every build.
const LEVEL: i32 = 6;
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "run", "sys", "sysroot"];

/// An initrd could not be made.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// stage1 could not be read.
    #[error("cannot read stage1 from {}: {source}", path.display())]
    Stage1 {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// stage1 needs a dynamic linker, which the initrd does not have.
    #[error("{}: {problem}; build stage1 with `-C target-feature=+crt-static` and an explicit --target", path.display())]
    NotStatic {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A path that cannot be in an archive, or two files for one path.
    #[error("`{path}` cannot be put into the initrd: {problem}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Firmware of a GPU: tens of megabytes that no machine needs before its root is there.
    #[error(
        "the initrd would hold {path}, firmware of a GPU; take the module that asks for it (nouveau, nvidia) out of \
         kernel.initrd_modules: it is loaded from the root"
    )]
    GpuFirmware {
        /// The file.
        path: String,
    },
    /// Packing failed.
    #[error("cannot pack the initrd: {0}")]
    Pack(#[from] io::Error),
}

/// A further file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// What goes into an initrd.
#[derive(Debug, Clone, Copy)]
pub struct InitrdInput<'a> {
    /// The static stage1 binary.
    pub stage1: &'a Path,
    /// Modules, tables and firmware.
    pub modules: &'a Selection,
    /// The content of `/etc/ingot/stage1.json`.
    pub stage1_json: &'a str,
    /// Further files by path without a leading `/`.
    pub extra: &'a BTreeMap<String, Extra>,
    /// Threads for compression; they do not change the result.
    pub jobs: usize,
}

/// A finished initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initrd {
    /// The compressed archive.
    pub bytes: Vec<u8>,
    /// Size of the archive before compression, in bytes.
    pub unpacked: u64,
    /// The largest files with their uncompressed sizes in bytes, the largest first, at most ten.
    pub biggest: Vec<(String, u64)>,
}

/// Packs an initrd.
pub fn build(input: &InitrdInput) -> Result<Initrd, InitrdError> {
    let stage1 =
        std::fs::read(input.stage1).map_err(|source| InitrdError::Stage1 { path: input.stage1.to_owned(), source })?;
    check_static(input.stage1, &stage1)?;

    let mut files: BTreeMap<String, (&[u8], u32)> = BTreeMap::new();
    let mut add = |path: String, bytes, mode| match files.insert(path.clone(), (bytes, mode)) {
        None => Ok(()),
        Some(_) => Err(InitrdError::Path { path, problem: "there are two files of this name" }),
    };
    add("init".to_owned(), &stage1, 0o755)?;
    add("etc/ingot/stage1.json".to_owned(), input.stage1_json.as_bytes(), 0o644)?;
    let base = format!("usr/lib/modules/{}", input.modules.uname);
    for (path, bytes) in &input.modules.modules {
        add(format!("{base}/{path}"), bytes, 0o644)?;
    }
    for (name, text) in &input.modules.tables {
        add(format!("{base}/{name}"), text.as_bytes(), 0o644)?;
    }
    for (name, bytes) in &input.modules.firmware {
        if is_gpu_firmware(name) {
            return Err(InitrdError::GpuFirmware { path: format!("lib/firmware/{name}") });
        }
        add(format!("lib/firmware/{name}"), bytes, 0o644)?;
    }
    for (path, extra) in input.extra {
        if path.split_once("lib/firmware/").is_some_and(|(_, name)| is_gpu_firmware(name)) {
            return Err(InitrdError::GpuFirmware { path: path.clone() });
        }
        add(path.clone(), &extra.bytes, extra.mode & 0o7777)?;
    }
    pack(&files, input.jobs)
}

/// NVIDIA's firmware, of its own driver (`nvidia/550.163.01/gsp_ga10x.bin`) and of nouveau (`nvidia/ga102/gsp/…`).
fn is_gpu_firmware(name: &str) -> bool {
    name.starts_with("nvidia/")
}

enum Node<'a> {
    Directory,
    File(&'a [u8], u32),
}

fn pack(files: &BTreeMap<String, (&[u8], u32)>, jobs: usize) -> Result<Initrd, InitrdError> {
    let mut nodes: BTreeMap<&str, Node> = MOUNT_POINTS.into_iter().map(|path| (path, Node::Directory)).collect();
    for (path, (bytes, mode)) in files {
        let refuse = |problem| InitrdError::Path { path: path.clone(), problem };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') || path == "TRAILER!!!" {
            return Err(refuse("it is not a plain relative path"));
        }
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if let Some(Node::File(..)) = nodes.insert(above, Node::Directory) {
                return Err(refuse("a file stands where its directory should be"));
            }
            parent = above;
        }
        if nodes.insert(path, Node::File(bytes, *mode)).is_some() {
            return Err(refuse("it is a directory already"));
        }
    }

    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    // With at least one worker the result does not depend on how many there are.
    encoder.multithread(u32::try_from(jobs.max(1)).unwrap_or(1))?;
    let mut archive = Counting { inner: encoder, count: 0 };
    // A path sorts before what is below it, so that parents come first.
    for (number, (path, node)) in (1..).zip(&nodes) {
        let entry = Builder::new(path).ino(number).mtime(0);
        match node {
            Node::Directory => {
                entry
                    .mode(0o755)
                    .set_mode_file_type(ModeFileType::Directory)
                    .nlink(2)
                    .write(&mut archive, 0)
                    .finish()?;
            }
            Node::File(bytes, mode) => {
                let size = u32::try_from(bytes.len())
                    .map_err(|_| InitrdError::Path { path: (*path).to_owned(), problem: "it is larger than 4 GiB" })?;
                let mut writer = entry.mode(*mode).set_mode_file_type(ModeFileType::Regular).write(&mut archive, size);
                writer.write_all(bytes)?;
                writer.finish()?;
            }
        }
    }
    trailer(&mut archive)?;
    let unpacked = archive.count;
    let bytes = archive.inner.finish()?;

    let mut biggest: Vec<(String, u64)> = files.iter().map(|(path, (b, _))| (path.clone(), b.len() as u64)).collect();
    biggest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    biggest.truncate(10);
    Ok(Initrd { bytes, unpacked, biggest })
}

/// A stage1 that needs a dynamic linker would only fail on the node, with "No such file or directory".
fn check_static(path: &Path, bytes: &[u8]) -> Result<(), InitrdError> {
    use object::read::elf::{ElfFile64, ProgramHeader};
    let wrong = |problem| InitrdError::NotStatic { path: path.to_owned(), problem };
    let file = ElfFile64::<object::Endianness>::parse(bytes).map_err(|_| wrong("it is not a 64-bit ELF program"))?;
    let endian = file.endian();
    if file.elf_program_headers().iter().any(|header| header.p_type(endian) == object::elf::PT_INTERP) {
        return Err(wrong("it is dynamically linked"));
    }
    Ok(())
}

struct Counting<W> {
    inner: W,
    count: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::peer;

    /// The smallest thing that is a static ELF program: a header without program headers.
    fn program() -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
        elf[52..54].copy_from_slice(&64u16.to_le_bytes());
        elf
    }

    fn sample(dir: &Path, jobs: usize) -> Initrd {
        let stage1 = dir.join("stage1");
        std::fs::write(&stage1, program()).unwrap();
        let modules = Selection {
            uname: "6.1".to_owned(),
            modules: [("kernel/fs/a.ko".to_owned(), vec![1; 5000])].into(),
            tables: [("modules.dep", "kernel/fs/a.ko:\n".to_owned())].into(),
            firmware: [("b.bin".to_owned(), vec![2; 3])].into(),
            early: Vec::new(),
        };
        let extra = [("etc/x".to_owned(), Extra { bytes: b"hello".to_vec(), mode: 0o600 })].into();
        build(&InitrdInput { stage1: &stage1, modules: &modules, stage1_json: "{}", extra: &extra, jobs }).unwrap()
    }

    #[test]
    fn the_archive_has_every_parent_before_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let initrd = sample(dir.path(), 2);
        let bytes = zstd::decode_all(&initrd.bytes[..]).unwrap();
        assert_eq!(bytes.len() as u64, initrd.unpacked);
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            names.push(format!("{:o} {}", entry.mode(), entry.name()));
            rest = reader.finish().unwrap();
        }
        insta::assert_snapshot!(names.join("\n"));
        assert_eq!(initrd.biggest[0], ("usr/lib/modules/6.1/kernel/fs/a.ko".to_owned(), 5000));
    }

    #[test]
    fn threads_do_not_change_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sample(dir.path(), 1) == sample(dir.path(), 4));
    }

    #[test]
    fn cpio_unpacks_it() {
        let Some(cpio) = peer("cpio") else { return };
        let dir = tempfile::tempdir().unwrap();
        let bytes = zstd::decode_all(&sample(dir.path(), 1).bytes[..]).unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        cpio.args(["-i", "--quiet"]).directory(&out).input(bytes).run().unwrap();
        assert_eq!(std::fs::read(out.join("init")).unwrap(), program());
        assert_eq!(std::fs::read(out.join("etc/x")).unwrap(), b"hello");
        assert!(out.join("sysroot").is_dir());
    }

    #[test]
    fn firmware_of_gpus_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stage1 = dir.path().join("stage1");
        std::fs::write(&stage1, program()).unwrap();
        let none = BTreeMap::new();
        let run = |modules: &Selection, extra: &BTreeMap<String, Extra>| {
            build(&InitrdInput { stage1: &stage1, modules, stage1_json: "{}", extra, jobs: 1 })
        };
        for name in ["nvidia/550.163.01/gsp_ga10x.bin", "nvidia/ga102/gsp/gsp-535.113.01.bin.xz"] {
            let modules = Selection { firmware: [(name.to_owned(), vec![1])].into(), ..Selection::default() };
            let message = run(&modules, &none).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("kernel.initrd_modules"), "{message}");
            let path = format!("usr/lib/firmware/{name}");
            let extra = [(path, Extra { bytes: vec![1], mode: 0o644 })].into();
            assert!(matches!(run(&Selection::default(), &extra), Err(InitrdError::GpuFirmware { .. })));
        }
        let modules = Selection { firmware: [("rtl_nic/x.fw".to_owned(), vec![1])].into(), ..Selection::default() };
        run(&modules, &none).unwrap();
    }

    #[test]
    fn a_dynamic_stage1_and_hostile_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stage1 = dir.path().join("stage1");
        let (modules, mut extra) = (Selection::default(), BTreeMap::new());
        let run = |extra: &BTreeMap<String, Extra>| {
            build(&InitrdInput { stage1: &stage1, modules: &modules, stage1_json: "{}", extra, jobs: 1 })
        };
        assert!(matches!(run(&extra), Err(InitrdError::Stage1 { .. })));
        std::fs::copy("/bin/sh", &stage1).unwrap();
        assert!(matches!(run(&extra), Err(InitrdError::NotStatic { .. })));
        std::fs::write(&stage1, program()).unwrap();
        for path in ["../x", "/x", "a//b", "init", "init/x", "etc", ""] {
            extra.clear();
            extra.insert(path.to_owned(), Extra { bytes: Vec::new(), mode: 0o644 });
            assert!(matches!(run(&extra), Err(InitrdError::Path { .. })), "{path}");
        }
    }
}
