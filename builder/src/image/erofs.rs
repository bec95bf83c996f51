//! The root file system: the command lines of `mkfs.erofs` and `mksquashfs`.
//!
//! Takes the root's tree and the image options and gives the arguments for the program in the tools tree. The result
//! is read-only, compressed, and the same for the same tree whatever the host, the time and the number of threads:
//! the file system's UUID and every time stamp are given, and both programs sort what they find.
//!
//! All files get the build's time. Python's `.pyc` files that record their source's time are therefore stale on the
//! image; the root stage leaves them out or compiles them with checked hashes.

use std::path::Path;

use thiserror::Error;
use uuid::Uuid;

use crate::profile::RootFormat;

/// Size of a compressed unit of erofs in bytes. A larger one packs better and reads more for a single page.
const EROFS_CLUSTER: u32 = 65_536;
/// Size of a compressed unit of squashfs in bytes.
const SQUASHFS_BLOCK: u32 = 131_072;

/// The compression that the profile asks for is not one the format has.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CompressionError {
    /// Not an algorithm of this format.
    #[error("{format} has no compression `{algorithm}`; it has {}", known.join(", "))]
    Algorithm {
        /// `erofs` or `squashfs`.
        format: &'static str,
        /// What was asked for.
        algorithm: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A level that the algorithm does not have.
    #[error("`{compression}`: {algorithm} takes {}", levels(*.lowest, *.highest))]
    Level {
        /// What was asked for.
        compression: String,
        /// The algorithm.
        algorithm: &'static str,
        /// The lowest level.
        lowest: u32,
        /// The highest; 0 if there are no levels.
        highest: u32,
    },
}

fn levels(lowest: u32, highest: u32) -> String {
    if highest == 0 { "no level".to_owned() } else { format!("a level from {lowest} to {highest}: `ALGORITHM,LEVEL`") }
}

/// Name, lowest and highest level. Only what the kernel can read and the writer makes reproducibly.
const EROFS: [(&str, u32, u32); 4] = [("none", 0, 0), ("lz4", 0, 0), ("lz4hc", 1, 12), ("zstd", 1, 22)];
const SQUASHFS: [(&str, u32, u32); 6] =
    [("none", 0, 0), ("lz4", 0, 0), ("lz4hc", 0, 0), ("zstd", 1, 22), ("gzip", 1, 9), ("xz", 0, 0)];

/// The command that makes the root file system `out` from the tree `tree`, with `jobs` threads.
///
/// `compression` is `ALGORITHM` or `ALGORITHM,LEVEL` (`lz4hc,9`); `none` stores files as they are. `epoch` is the time of
/// every file in seconds since 1970. Paths are as the program sees them, inside its sandbox.
pub fn mkfs_command(
    format: RootFormat,
    compression: &str,
    epoch: u64,
    uuid: Uuid,
    tree: &Path,
    out: &Path,
    jobs: usize,
) -> Result<Vec<String>, CompressionError> {
    let epoch = epoch.to_string();
    let jobs = jobs.max(1).to_string();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut command = Vec::new();
    match format {
        RootFormat::Erofs => {
            let (algorithm, level) = parse("erofs", &EROFS, compression)?;
            command.extend(["mkfs.erofs", "--quiet", "-b4096"].map(str::to_owned));
            match level {
                _ if algorithm == "none" => {}
                None => command.extend([format!("-z{algorithm}"), format!("-C{EROFS_CLUSTER}")]),
                Some(level) => command.extend([format!("-z{algorithm},level={level}"), format!("-C{EROFS_CLUSTER}")]),
            }
            command.extend([format!("-T{epoch}"), "--all-time".to_owned(), format!("-U{uuid}")]);
            command.extend([format!("--workers={jobs}"), path(out), path(tree)]);
        }
        RootFormat::Squashfs => {
            let (algorithm, level) = parse("squashfs", &SQUASHFS, compression)?;
            command.extend(["mksquashfs".to_owned(), path(tree), path(out)]);
            command.extend(["-noappend", "-no-progress", "-quiet", "-xattrs", "-b"].map(str::to_owned));
            command.push(SQUASHFS_BLOCK.to_string());
            match algorithm {
                "none" => command.extend(["-noI", "-noD", "-noF", "-noX"].map(str::to_owned)),
                "lz4hc" => command.extend(["-comp", "lz4", "-Xhc"].map(str::to_owned)),
                _ => command.extend(["-comp".to_owned(), algorithm.to_owned()]),
            }
            if let Some(level) = level {
                command.extend(["-Xcompression-level".to_owned(), level.to_string()]);
            }
            command.extend(["-mkfs-time".to_owned(), epoch.clone(), "-all-time".to_owned(), epoch]);
            command.extend(["-processors".to_owned(), jobs]);
        }
    }
    Ok(command)
}

fn parse(
    format: &'static str,
    known: &[(&'static str, u32, u32)],
    compression: &str,
) -> Result<(&'static str, Option<u32>), CompressionError> {
    let (algorithm, level) = match compression.split_once(',') {
        Some((algorithm, level)) => (algorithm, Some(level.strip_prefix("level=").unwrap_or(level))),
        None => (compression, None),
    };
    let Some((algorithm, lowest, highest)) = known.iter().copied().find(|(name, ..)| *name == algorithm) else {
        let known = known.iter().map(|(name, ..)| *name).collect();
        return Err(CompressionError::Algorithm { format, algorithm: algorithm.to_owned(), known });
    };
    let wrong = || CompressionError::Level { compression: compression.to_owned(), algorithm, lowest, highest };
    let level = level.map(|level| level.parse::<u32>().map_err(|_| wrong())).transpose()?;
    match level {
        Some(level) if highest == 0 || level < lowest || level > highest => Err(wrong()),
        level => Ok((algorithm, level)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::peer;

    const UUID: Uuid = Uuid::from_u128(0x11);

    fn command(format: RootFormat, compression: &str, jobs: usize) -> Result<Vec<String>, CompressionError> {
        mkfs_command(format, compression, 1_700_000_000, UUID, Path::new("/tree"), Path::new("/out/root"), jobs)
    }

    #[test]
    fn the_command_lines() {
        let erofs = command(RootFormat::Erofs, "lz4hc,9", 2).unwrap().join(" ");
        assert_eq!(
            erofs,
            "mkfs.erofs --quiet -b4096 -zlz4hc,level=9 -C65536 -T1700000000 --all-time \
             -U00000000-0000-0000-0000-000000000011 --workers=2 /out/root /tree"
        );
        assert!(!command(RootFormat::Erofs, "none", 0).unwrap().iter().any(|argument| argument.starts_with("-z")));
        let squashfs = command(RootFormat::Squashfs, "zstd,3", 2).unwrap().join(" ");
        assert_eq!(
            squashfs,
            "mksquashfs /tree /out/root -noappend -no-progress -quiet -xattrs -b 131072 -comp zstd \
             -Xcompression-level 3 -mkfs-time 1700000000 -all-time 1700000000 -processors 2"
        );
    }

    #[test]
    fn impossible_compression_is_explained() {
        let text = |format, compression| command(format, compression, 1).unwrap_err().to_string();
        assert_eq!(text(RootFormat::Erofs, "gzip"), "erofs has no compression `gzip`; it has none, lz4, lz4hc, zstd");
        assert!(text(RootFormat::Erofs, "lz4,3").contains("takes no level"));
        assert!(text(RootFormat::Erofs, "lz4hc,13").contains("from 1 to 12"));
        assert!(text(RootFormat::Squashfs, "zstd,x").contains("from 1 to 22"));
    }

    #[test]
    fn the_programs_accept_it_and_repeat_themselves() {
        for (format, program, compression) in [
            (RootFormat::Erofs, "mkfs.erofs", "lz4hc,3"),
            (RootFormat::Squashfs, "mksquashfs", "zstd,3"),
            (RootFormat::Squashfs, "mksquashfs", "lz4hc"),
        ] {
            let Some(tool) = peer(program) else { continue };
            // The tools tree has mkfs.erofs 1.8 or later; Debian 12's 1.5 knows neither block sizes nor threads.
            let help = tool.clone().arg(if program == "mkfs.erofs" { "--help" } else { "-version" }).run();
            if program == "mkfs.erofs" && !help.is_ok_and(|said| said.stdout.windows(9).any(|w| w == b"--workers")) {
                println!("skipped: this mkfs.erofs is too old");
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            std::fs::create_dir_all(tree.join("b/c")).unwrap();
            for (name, size) in [("a", 10), ("b/big", 300_000), ("b/c/empty", 0)] {
                std::fs::write(tree.join(name), vec![b'x'; size]).unwrap();
            }
            let make = |name: &str, jobs| {
                let out = dir.path().join(name);
                let arguments = mkfs_command(format, compression, 1_700_000_000, UUID, &tree, &out, jobs).unwrap();
                tool.clone().args(&arguments[1..]).run().unwrap();
                std::fs::read(out).unwrap()
            };
            let (one, two) = (make("one", 1), make("two", 2));
            assert!(one == two, "{program} {compression}");
            assert!(one.len().is_multiple_of(4096));
        }
    }
}
