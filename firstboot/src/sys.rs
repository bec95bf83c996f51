//! The kernel calls for which there is no safe wrapper: block device, device-mapper and ext4 ioctls, and a child
//! process that lives in another root.
//!
//! This is the crate's only module with `unsafe`. Each function takes and gives plain safe types, does one call
//! and reports the kernel's own error; what the calls are for is said where they are used.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::ioctl::{self, NoArg, Opcode, Setter, Updater, opcode};

/// `BLKRRPART`: read the partition table again.
const BLKRRPART: Opcode = opcode::none(0x12, 95);
/// `BLKPG`: tell the kernel of one partition.
const BLKPG: Opcode = opcode::none(0x12, 105);
/// `EXT4_IOC_RESIZE_FS`: grow a mounted ext4.
const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
/// The type of every device-mapper ioctl.
const DM_IOCTL_TYPE: u8 = 0xfd;
/// `sizeof(struct dm_ioctl)`: the size is part of the ioctl's number.
const DM_HEADER_BYTES: usize = 312;

/// A request to the device mapper: `struct dm_ioctl`, then the targets. The kernel reads and writes at most as many
/// bytes as the request's own `data_size` field says, which [`device_mapper`] checks against the size of this type.
#[repr(C, align(8))]
#[derive(Clone)]
pub struct DeviceMapperRequest(pub [u8; 4096]);

/// The device-mapper commands in use; the numbers are those of `linux/dm-ioctl.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceMapperCommand {
    /// `DM_DEV_CREATE`.
    Create,
    /// `DM_DEV_REMOVE`.
    Remove,
    /// `DM_DEV_SUSPEND`, which also resumes.
    Resume,
    /// `DM_TABLE_LOAD`.
    LoadTable,
}

/// The kernel's `_IOWR(DM_IOCTL, number, struct dm_ioctl)`.
const fn device_mapper_ioctl(number: u8) -> Opcode {
    opcode::read_write::<[u8; DM_HEADER_BYTES]>(DM_IOCTL_TYPE, number)
}

/// Asks the device mapper (`/dev/mapper/control`); the answer replaces the request.
pub fn device_mapper(
    control: &File,
    command: DeviceMapperCommand,
    request: &mut DeviceMapperRequest,
) -> io::Result<()> {
    let mut size = [0; 4];
    size.copy_from_slice(&request.0[12..16]);
    if u32::from_ne_bytes(size) as usize > request.0.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the numbers are those of linux/dm-ioctl.h; the kernel accesses `data_size` bytes from the start of
    // the request, which was checked above to lie inside it; any bit pattern is a valid request.
    unsafe {
        match command {
            DeviceMapperCommand::Create => {
                ioctl::ioctl(control, Updater::<{ device_mapper_ioctl(3) }, DeviceMapperRequest>::new(request))
            }
            DeviceMapperCommand::Remove => {
                ioctl::ioctl(control, Updater::<{ device_mapper_ioctl(4) }, DeviceMapperRequest>::new(request))
            }
            DeviceMapperCommand::Resume => {
                ioctl::ioctl(control, Updater::<{ device_mapper_ioctl(6) }, DeviceMapperRequest>::new(request))
            }
            DeviceMapperCommand::LoadTable => {
                ioctl::ioctl(control, Updater::<{ device_mapper_ioctl(9) }, DeviceMapperRequest>::new(request))
            }
        }
    }
    .map_err(io::Error::from)
}

/// Makes the kernel read the disk's partition table again. Fails with `EBUSY` while a partition is in use.
pub fn reread_partition_table(disk: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { ioctl::ioctl(disk, NoArg::<BLKRRPART>::new()) }.map_err(io::Error::from)
}

/// `struct ethtool_ringparam` and `struct ethtool_channels` of `linux/ethtool.h`: nine words, the command first.
pub type EthtoolRequest = [u32; 9];

/// `ETHTOOL_GRINGPARAM`, `ETHTOOL_SRINGPARAM`, `ETHTOOL_GCHANNELS`, `ETHTOOL_SCHANNELS`.
const ETHTOOL_COMMANDS: [u32; 4] = [0x10, 0x11, 0x3c, 0x3d];
/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: Opcode = 0x8946;

/// Asks the driver of a network interface; the answer replaces the request. Only commands whose structure has nine words
/// are passed on.
pub fn ethtool(interface: &str, request: &mut EthtoolRequest) -> io::Result<()> {
    /// `struct ifreq`: the name, and a union of 24 bytes of which the pointer is used.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        data: *mut EthtoolRequest,
        rest: [u8; 16],
    }
    let mut name = [0; 16];
    let fits = interface.len() < name.len() && !interface.contains('\0');
    if !fits || interface.is_empty() || !ETHTOOL_COMMANDS.contains(&request[0]) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut outer = InterfaceRequest { name, data: request, rest: [0; 16] };
    // SAFETY: the struct is laid out as in linux/if.h; `data` points to nine words that live for the whole call, which is
    // what the kernel reads and writes for each of the commands that were let through.
    unsafe { ioctl::ioctl(&socket, Updater::<SIOCETHTOOL, InterfaceRequest>::new(&mut outer)) }.map_err(io::Error::from)
}

/// What to tell the kernel of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionChange {
    /// `BLKPG_ADD_PARTITION`.
    Add,
    /// `BLKPG_RESIZE_PARTITION`.
    Resize,
}

/// Tells the kernel of one partition of a disk whose other partitions may be in use. `start` and `length` are in
/// bytes.
pub fn change_partition(disk: &File, change: PartitionChange, number: u32, start: u64, length: u64) -> io::Result<()> {
    #[repr(C)]
    struct BlkpgPartition {
        start: i64,
        length: i64,
        number: i32,
        names: [u8; 128],
    }
    #[repr(C)]
    struct BlkpgIoctl {
        operation: i32,
        flags: i32,
        length: i32,
        data: *mut BlkpgPartition,
    }
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(out_of_range)?,
        length: i64::try_from(length).map_err(out_of_range)?,
        number: i32::try_from(number).map_err(out_of_range)?,
        names: [0; 128],
    };
    let operation = match change {
        PartitionChange::Add => 1,
        PartitionChange::Resize => 3,
    };
    let size = i32::try_from(size_of::<BlkpgPartition>()).map_err(out_of_range)?;
    let mut request = BlkpgIoctl { operation, flags: 0, length: size, data: &raw mut partition };
    // SAFETY: both structs are laid out as in linux/blkpg.h; `data` points to a live value for the whole call.
    unsafe { ioctl::ioctl(disk, Updater::<BLKPG, BlkpgIoctl>::new(&mut request)) }.map_err(io::Error::from)
}

/// Grows the mounted ext4 that `directory` is on to `blocks` filesystem blocks.
pub fn resize_ext4(directory: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64.
    unsafe { ioctl::ioctl(directory, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }.map_err(io::Error::from)
}

/// A command that runs with `root` as its root directory; `program` is a path inside it.
pub fn command_inside(root: &Path, program: impl AsRef<OsStr>) -> Command {
    // The initrd has no other process and no shared process door: this is where its few children are made.
    #[allow(clippy::disallowed_methods)]
    let mut command = Command::new(program);
    let root = root.to_owned();
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing: rustix copies a short
    // path to a buffer on the stack.
    unsafe {
        command.pre_exec(move || {
            rustix::process::chroot(&root)?;
            rustix::process::chdir("/")?;
            Ok(())
        });
    }
    command
}
