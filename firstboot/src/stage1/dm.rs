//! The device mapper: makes the read-only device whose every block the kernel checks against the root hash.
//!
//! Interface: `linux/dm-ioctl.h` version 4 on `/dev/mapper/control`; target: the kernel's
//! `admin-guide/device-mapper/verity`.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::verity::{BLOCK, Superblock};
use crate::sys::{DeviceMapperCommand, DeviceMapperRequest, device_mapper};

const CONTROL: &str = "/dev/mapper/control";
/// `sizeof(struct dm_ioctl)`.
const HEADER: usize = 312;
/// `sizeof(struct dm_target_spec)`.
const TARGET: usize = 40;
const READ_ONLY: u32 = 1;

/// The verity device could not be made.
#[derive(Debug, Error)]
#[error("dm-verity: {step}: {source}")]
pub struct DeviceMapperError {
    step: &'static str,
    source: io::Error,
}

/// The numbers by which the kernel knows a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

/// A verity device that is to be made.
#[derive(Debug)]
pub struct VerityDevice<'a> {
    /// Its name below `/dev/mapper`.
    pub name: &'a str,
    /// The partition with the data.
    pub data: DeviceNumber,
    /// The partition with superblock and tree.
    pub hashes: DeviceNumber,
    /// The superblock.
    pub superblock: &'a Superblock,
    /// The root hash.
    pub root_hash: [u8; 32],
}

impl VerityDevice<'_> {
    /// Makes the device; gives its path. A block that does not match stops the kernel (`panic_on_corruption`): a
    /// node must not run on with a part of its system unreadable.
    pub fn open(&self) -> Result<PathBuf, DeviceMapperError> {
        let step = |step| move |source| DeviceMapperError { step, source };
        let control = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(step("opening its control"))?;
        let mut request = self.request(0, &[], true).map_err(step("naming the device"))?;
        device_mapper(&control, DeviceMapperCommand::Create, &mut request).map_err(step("creating the device"))?;
        let minor = minor_of(&request);
        if let Err(error) = self.load(&control) {
            // Leave nothing half made behind for a second try; the first error is the one to report.
            if let Ok(mut request) = self.request(0, &[], false) {
                let _ = device_mapper(&control, DeviceMapperCommand::Remove, &mut request);
            }
            return Err(error);
        }
        let node = format!("dm-{minor}");
        let link = Path::new("/dev/mapper").join(self.name);
        let _ = fs::remove_file(&link);
        symlink(Path::new("..").join(&node), &link).map_err(step("naming the device"))?;
        Ok(link)
    }

    fn load(&self, control: &File) -> Result<(), DeviceMapperError> {
        let step = |step| move |source| DeviceMapperError { step, source };
        let target = self.target();
        let mut request = self.request(READ_ONLY, &target, false).map_err(step("writing the table"))?;
        device_mapper(control, DeviceMapperCommand::LoadTable, &mut request).map_err(step("loading the table"))?;
        let mut request = self.request(0, &[], false).map_err(step("starting the device"))?;
        device_mapper(control, DeviceMapperCommand::Resume, &mut request).map_err(step("starting the device"))
    }

    /// The parameters of the target.
    fn parameters(&self) -> String {
        let salt = if self.superblock.salt.is_empty() { "-".to_owned() } else { hex(&self.superblock.salt) };
        format!(
            "1 {}:{} {}:{} {BLOCK} {BLOCK} {} 1 sha256 {} {salt} 1 panic_on_corruption",
            self.data.major,
            self.data.minor,
            self.hashes.major,
            self.hashes.minor,
            self.superblock.data_blocks,
            hex(&self.root_hash)
        )
    }

    /// One `struct dm_target_spec` with its parameters.
    fn target(&self) -> Vec<u8> {
        let parameters = self.parameters();
        // The kernel wants the targets aligned to eight bytes.
        let length = (TARGET + parameters.len() + 1).next_multiple_of(8);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend((self.superblock.data_blocks * (BLOCK / 512)).to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend(b"verity\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(parameters.as_bytes());
        bytes.resize(length, 0);
        bytes
    }

    /// A `struct dm_ioctl` for this device, with at most one target behind it. A device is created with name and
    /// UUID, and addressed by one of them.
    fn request(&self, flags: u32, target: &[u8], with_uuid: bool) -> io::Result<DeviceMapperRequest> {
        let mut request = DeviceMapperRequest([0; 4096]);
        let uuid: String = hex(&self.superblock.uuid);
        let uuid = format!("CRYPT-VERITY-{uuid}-{}", self.name);
        let too_long = self.name.len() > 127 || uuid.len() > 128 || HEADER + target.len() > request.0.len();
        if too_long {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut put = |at: usize, bytes: &[u8]| request.0[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &4_u32.to_ne_bytes());
        put(12, &4096_u32.to_ne_bytes());
        put(16, &312_u32.to_ne_bytes());
        put(20, &u32::from(!target.is_empty()).to_ne_bytes());
        put(28, &flags.to_ne_bytes());
        put(48, self.name.as_bytes());
        put(HEADER, target);
        if with_uuid {
            put(176, uuid.as_bytes());
        }
        Ok(request)
    }
}

/// The minor number in the kernel's answer, which is encoded as in `stat`.
fn minor_of(request: &DeviceMapperRequest) -> u32 {
    let mut device = [0; 8];
    device.copy_from_slice(&request.0[40..48]);
    rustix::fs::minor(u64::from_ne_bytes(device))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(superblock: &Superblock) -> VerityDevice<'_> {
        let number = |minor| DeviceNumber { major: 254, minor };
        VerityDevice { name: "root", data: number(3), hashes: number(2), superblock, root_hash: [0xab; 32] }
    }

    #[test]
    fn the_request_is_laid_out_as_the_kernel_wants_it() {
        let superblock = Superblock { uuid: [1; 16], data_blocks: 100, salt: vec![0xcd; 32] };
        let device = device(&superblock);
        let parameters = device.parameters();
        assert!(parameters.starts_with("1 254:3 254:2 4096 4096 100 1 sha256 abab"));
        assert!(parameters.ends_with("cdcd 1 panic_on_corruption"));
        let target = device.target();
        assert_eq!(target.len() % 8, 0);
        assert_eq!(target[8..16], 800_u64.to_ne_bytes());
        assert_eq!(target.last(), Some(&0));
        let request = device.request(READ_ONLY, &target, false).unwrap();
        assert_eq!(&request.0[48..53], b"root\0");
        assert_eq!(request.0[176], 0, "a loaded table is addressed by name alone");
        assert_eq!(&request.0[HEADER + 24..HEADER + 31], b"verity\0");
        let request = device.request(0, &[], true).unwrap();
        assert!(request.0[176..].starts_with(b"CRYPT-VERITY-0101"));
    }

    #[test]
    fn the_longest_salt_fits() {
        let superblock = Superblock { uuid: [1; 16], data_blocks: u64::MAX >> 17, salt: vec![0xcd; 256] };
        let device = device(&superblock);
        assert!(device.request(READ_ONLY, &device.target(), false).is_ok());
    }
}
