//! Unified kernel images: systemd's stub, the kernel, the initrd and the command line in one EFI program.
//!
//! Follows the UAPI specification "Unified Kernel Image". The sections and their order are `ukify`'s, and so are the
//! bytes: `.osrel`, `.cmdline`, `.uname`, `.splash`, `.linux`, `.initrd`, with the stub's and the kernel's `.sbat`
//! merged. The command line is part of what is signed, and it carries the root hash: a UKI therefore stands for
//! exactly one root.
//!
//! An image that was assembled is [`Uki<Unsigned>`]; signing gives [`Uki<Signed>`].

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::initrd::Initrd;
use super::pe::{CODE, DATA, Pe, PeError};

/// The kernel cuts a longer command line (`COMMAND_LINE_SIZE` on x86, with its final NUL).
const MAX_COMMAND_LINE: usize = 2047;
const SBAT_HEADER: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
const SBAT_UKI: &str = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/";

/// A UKI could not be put together.
#[derive(Debug, Error)]
pub enum UkiError {
    /// The stub is not usable.
    #[error("the EFI stub: {0}")]
    Stub(#[source] PeError),
    /// The kernel is not usable.
    #[error("the kernel image: {0}")]
    Kernel(#[source] PeError),
    /// A text that cannot be.
    #[error("the {what} {problem}")]
    Text {
        /// `kernel command line`, `os-release`, `kernel version`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Larger than the profile allows.
    #[error("the UKI has {}, the budget (image.uki_budget_mib) is {budget} MiB; the biggest parts:\n{}", mib(*.size), parts(.biggest))]
    Budget {
        /// Size of the UKI in bytes.
        size: u64,
        /// The budget in MiB.
        budget: u64,
        /// Parts and their sizes in bytes, the biggest first.
        biggest: Vec<(String, u64)>,
    },
}

fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn parts(biggest: &[(String, u64)]) -> String {
    let lines: Vec<String> = biggest.iter().map(|(name, size)| format!("  {:>9}  {name}", mib(*size))).collect();
    lines.join("\n")
}

/// Not signed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {}

/// Signed for Secure Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {}

/// What goes into a UKI.
#[derive(Debug, Clone, Copy)]
pub struct UkiInput<'a> {
    /// systemd's `linuxx64.efi.stub`.
    pub stub: &'a [u8],
    /// The kernel image (`vmlinuz`).
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: &'a [u8],
    /// The kernel command line.
    pub cmdline: &'a str,
    /// The root's `os-release`, from which the boot loader takes title and version.
    pub os_release: &'a str,
    /// The kernel's version, as `uname -r` gives it.
    pub uname: &'a str,
    /// A BMP picture to show while booting.
    pub splash: Option<&'a [u8]>,
}

/// A section, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionInfo {
    /// `.linux`.
    pub name: String,
    /// Size of the content in bytes.
    pub bytes: u64,
    /// SHA-256 of the content in hex.
    pub sha256: String,
}

/// A unified kernel image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uki<State> {
    /// The EFI program.
    pub bytes: Vec<u8>,
    /// Its sections.
    pub sections: Vec<SectionInfo>,
    state: PhantomData<State>,
}

/// Puts a UKI together.
pub fn assemble(input: &UkiInput) -> Result<Uki<Unsigned>, UkiError> {
    let cmdline = text("kernel command line", input.cmdline)?;
    if cmdline.len() > MAX_COMMAND_LINE || cmdline.contains('\n') {
        let problem = format!("has {} bytes; at most {MAX_COMMAND_LINE} on one line", cmdline.len());
        return Err(UkiError::Text { what: "kernel command line", problem });
    }
    let kernel = Pe::parse(input.kernel.to_vec()).map_err(UkiError::Kernel)?;
    let mut uki = Pe::parse(input.stub.to_vec()).map_err(UkiError::Stub)?;
    uki.prepare().map_err(UkiError::Stub)?;
    if !kernel.nx_compatible() {
        // The kernel runs inside this program: the promise must hold for both.
        uki.clear_nx_compatible();
    }
    let sbat = merged_sbat(&[&uki, &kernel]);
    let mut sections: Vec<(&str, &[u8], u32)> = vec![
        (".osrel", text("os-release", input.os_release)?.as_bytes(), DATA),
        (".cmdline", cmdline.as_bytes(), DATA),
        (".uname", text("kernel version", input.uname)?.as_bytes(), DATA),
    ];
    sections.extend(input.splash.map(|splash| (".splash", splash, DATA)));
    // Kernels before 5.8 are started in place; the others are only read.
    sections.extend([(".linux", input.kernel, CODE), (".initrd", input.initrd, DATA)]);
    for (name, content, characteristics) in sections {
        uki.append(name, content, characteristics).map_err(UkiError::Stub)?;
    }
    uki.replace(".sbat", sbat.as_bytes()).map_err(UkiError::Stub)?;
    Ok(Uki { sections: section_infos(&uki), bytes: uki.into_bytes(), state: PhantomData })
}

/// Reads a UKI's sections: what it was made of.
pub fn read(bytes: Vec<u8>) -> Result<(Pe, Vec<SectionInfo>), PeError> {
    let pe = Pe::parse(bytes)?;
    for name in [".linux", ".osrel"] {
        if pe.section(name).is_none() {
            return Err(PeError::Format("it has no kernel or no os-release: not a UKI"));
        }
    }
    let infos = section_infos(&pe);
    Ok((pe, infos))
}

/// A UKI as text for people and for snapshots: the sections, and the short texts among them.
pub fn dump(pe: &Pe) -> String {
    let mut out = pe.dump();
    for name in [".uname", ".cmdline", ".osrel", ".sbat"] {
        if let Some(content) = pe.content(name) {
            out.push_str(name);
            out.push('\n');
            for line in String::from_utf8_lossy(content).trim_end_matches('\0').lines() {
                out.push_str("    ");
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

impl<State> Uki<State> {
    /// Refuses a UKI above the budget and names the parts that make it large.
    pub fn check_budget(&self, budget_mib: u64, initrd: &Initrd) -> Result<(), UkiError> {
        let size = self.bytes.len() as u64;
        if size <= budget_mib.saturating_mul(1 << 20) {
            return Ok(());
        }
        let mut biggest: Vec<(String, u64)> =
            self.sections.iter().map(|section| (format!("section {}", section.name), section.bytes)).collect();
        biggest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        biggest.truncate(2);
        biggest.extend(initrd.biggest.iter().map(|(path, size)| (format!("initrd /{path} (uncompressed)"), *size)));
        Err(UkiError::Budget { size, budget: budget_mib, biggest })
    }

    /// SHA-256 of the file in hex.
    pub fn sha256(&self) -> String {
        crate::image::hex(&Sha256::digest(&self.bytes))
    }
}

impl Uki<Unsigned> {
    /// Takes the bytes that a signer gave back. They must be this program with a signature, section for section.
    pub fn signed(&self, bytes: Vec<u8>) -> Result<Uki<Signed>, PeError> {
        let pe = Pe::parse(bytes)?;
        if !pe.is_signed() {
            return Err(PeError::Format("the signer gave back a file without a signature"));
        }
        if section_infos(&pe) != self.sections {
            return Err(PeError::Format("the signer gave back another program"));
        }
        Ok(Uki { sections: self.sections.clone(), bytes: pe.into_bytes(), state: PhantomData })
    }
}

fn section_infos(pe: &Pe) -> Vec<SectionInfo> {
    let info = |name: &str| {
        let content = pe.content(name).unwrap_or_default();
        let sha256 = crate::image::hex(&Sha256::digest(content));
        SectionInfo { name: name.to_owned(), bytes: content.len() as u64, sha256 }
    };
    pe.sections().iter().map(|section| info(&section.name)).collect()
}

fn text<'a>(what: &'static str, text: &'a str) -> Result<&'a str, UkiError> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(UkiError::Text { what, problem: "is empty or has a NUL in it".to_owned() });
    }
    Ok(text)
}

/// Revocation data of all parts, so that each of them can be revoked.
fn merged_sbat(parts: &[&Pe]) -> String {
    let mut merged = SBAT_HEADER.to_owned();
    for part in parts {
        let text = String::from_utf8_lossy(part.content(".sbat").unwrap_or_default()).into_owned();
        let text = text.trim_end_matches('\0');
        if text.starts_with("sbat,") {
            for line in text.lines().skip(1) {
                merged.push_str(line);
                merged.push('\n');
            }
        }
    }
    merged.push_str(SBAT_UKI);
    merged.push_str("\n\0");
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::pe::tests::program;
    use crate::image::testing::peer;

    fn input<'a>(stub: &'a [u8], kernel: &'a [u8], initrd: &'a [u8]) -> UkiInput<'a> {
        UkiInput {
            stub,
            kernel,
            initrd,
            cmdline: "roothash=00 console=ttyS0",
            os_release: "ID=ingot\nVERSION_ID=1\n",
            uname: "6.1.0",
            splash: None,
        }
    }

    #[test]
    fn the_dump_is_stable() {
        let kernel = program(0);
        let uki = assemble(&input(&program(8), &kernel, &[9; 3000])).unwrap();
        let (pe, sections) = read(uki.bytes.clone()).unwrap();
        assert_eq!(sections, uki.sections);
        assert_eq!(pe.content(".linux").unwrap(), kernel);
        assert_eq!(pe.content(".initrd").unwrap(), [9; 3000]);
        insta::assert_snapshot!(dump(&pe));
    }

    #[test]
    fn texts_are_checked() {
        let (stub, kernel) = (program(8), program(0));
        let long = "x".repeat(2048);
        for cmdline in ["", " ", "a\0b", "a\nb", long.as_str()] {
            let input = UkiInput { cmdline, ..input(&stub, &kernel, b"") };
            assert!(matches!(assemble(&input), Err(UkiError::Text { .. })));
        }
        assert!(matches!(assemble(&input(&stub, b"no kernel", b"")), Err(UkiError::Kernel(_))));
        assert!(matches!(assemble(&input(b"no stub", &kernel, b"")), Err(UkiError::Stub(_))));
        // The padding of such small headers has room for some sections, not for all.
        let error = assemble(&input(&program(0), &kernel, b"")).err().map(|error| error.to_string());
        assert!(error.is_none_or(|text| text.contains("systemd 254")));
    }

    #[test]
    fn a_uki_above_the_budget_names_its_biggest_parts() {
        let uki = assemble(&input(&program(8), &program(0), &vec![9; 3 << 20])).unwrap();
        let biggest = vec![("usr/lib/modules/6.1/big.ko".to_owned(), 5 << 20)];
        let initrd = Initrd { bytes: Vec::new(), unpacked: 0, biggest };
        uki.check_budget(4, &initrd).unwrap();
        let text = uki.check_budget(2, &initrd).unwrap_err().to_string();
        assert!(text.contains("section .initrd") && text.contains("5.0 MiB  initrd /usr/lib"), "{text}");
    }

    #[test]
    fn a_signer_cannot_change_the_program() {
        let uki = assemble(&input(&program(8), &program(0), b"initrd")).unwrap();
        assert!(uki.signed(uki.bytes.clone()).is_err());
        let mut signed = uki.bytes.clone();
        signed[0x58 + 112 + 36] = 8;
        assert!(uki.signed(signed.clone()).is_ok());
        let at = signed.windows(6).position(|window| window == b"initrd").unwrap();
        signed[at] = b'X';
        assert!(uki.signed(signed).is_err());
    }

    /// A stub that systemd made: the one that the environment names, or this machine's.
    fn real_stub() -> Option<Vec<u8>> {
        let installed = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub".into();
        let stub = std::fs::read(std::env::var_os("INGOT_TEST_EFI_STUB").unwrap_or(installed)).ok();
        if stub.is_none() {
            println!("skipped: systemd-boot-efi is not installed");
        }
        stub
    }

    #[test]
    fn objdump_sees_the_same_sections() {
        let (Some(objdump), Some(stub)) = (peer("objdump"), real_stub()) else { return };
        let kernel = program(0);
        let uki = match assemble(&input(&stub, &kernel, &[9; 3000])) {
            Ok(uki) => uki,
            Err(error) => {
                // Stubs before systemd 254 are refused; that the refusal says so is what can be tested here.
                assert!(error.to_string().contains("systemd 254"), "{error}");
                return;
            }
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &uki.bytes).unwrap();
        let said = String::from_utf8(objdump.arg("-h").arg(file.path()).run().unwrap().stdout).unwrap();
        let rows = said.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next()?.parse::<u32>().ok()?;
            Some((words.next()?.to_owned(), u64::from_str_radix(words.next()?, 16).ok()?))
        });
        let wanted: Vec<(String, u64)> = uki.sections.iter().map(|s| (s.name.clone(), s.bytes)).collect();
        assert_eq!(rows.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn ukify_writes_the_same_bytes() {
        let (Some(ukify), Some(stub)) = (peer("ukify"), real_stub()) else { return };
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (kernel, initrd) = (program(0), vec![9; 3001]);
        let input = input(&stub, &kernel, &initrd);
        let Ok(uki) = assemble(&input) else { return };
        let out = dir.path().join("out.efi");
        let osrel = format!("@{}", write("osrel", input.os_release.as_bytes()).display());
        ukify
            .arg("build")
            .arg("--stub")
            .arg(write("stub", &stub))
            .arg("--linux")
            .arg(write("linux", &kernel))
            .arg("--initrd")
            .arg(write("initrd", &initrd))
            .args(["--cmdline", input.cmdline, "--uname", input.uname, "--os-release", &osrel, "--output"])
            .arg(&out)
            .run()
            .unwrap();
        assert!(std::fs::read(out).unwrap() == uki.bytes);
    }
}
