//! Devices as they appear: a walk over `/sys/devices` for those that are there, and the kernel's uevents for those
//! that come later.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};

/// The multicast group of the kernel's own uevents.
const KERNEL_GROUP: u32 = 1;

/// What happened since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// The aliases of new devices.
    pub aliases: Vec<String>,
    /// Events were lost: look at everything again.
    pub lost: bool,
}

/// The stream of uevents.
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Starts listening. To be done before the walk, so that nothing falls between the two.
    pub fn listen() -> io::Result<Uevents> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        // Room for a burst of devices; the default is too small for a shelf of disks. Losing events is noticed.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Uevents { socket })
    }

    /// Waits until something happens, at most this long, and gives what happened.
    pub fn wait(&self, at_most: Duration) -> News {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        // An error here is an interrupted wait; the next one comes at once.
        let _ = poll(&mut sockets, Some(&timeout));
        let mut news = News::default();
        let mut message = vec![0; 16 << 10];
        loop {
            match recv(&self.socket, &mut *message, RecvFlags::DONTWAIT) {
                Ok((_, length)) => news.aliases.extend(alias_of(message.get(..length).unwrap_or_default())),
                Err(Errno::NOBUFS) => news.lost = true,
                Err(Errno::INTR) => {}
                Err(_) => return news,
            }
        }
    }
}

/// The alias in a uevent (`add@/devices/...`, then `KEY=value` entries, each ended by a zero byte) of a new device.
fn alias_of(message: &[u8]) -> Option<String> {
    let mut parts = message.split(|&byte| byte == 0);
    if !parts.next()?.starts_with(b"add@") {
        return None;
    }
    let alias = parts.find_map(|part| part.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(alias.to_vec()).ok()
}

/// The aliases of all devices below a directory of `/sys`, each once, sorted.
pub fn aliases_below(directory: &Path) -> Vec<String> {
    let mut aliases = std::collections::BTreeSet::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != "power" => directories.push(entry.path()),
                Ok(kind) if kind.is_file() && name == "modalias" => {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    if !text.trim().is_empty() {
                        aliases.insert(text.trim().to_owned());
                    }
                }
                _ => {}
            }
        }
    }
    aliases.into_iter().collect()
}

/// Whether the device with this alias is a USB host controller, by its PCI class.
pub fn is_usb_controller(alias: &str) -> bool {
    alias.strip_prefix("pci:").is_some_and(|rest| rest.contains("bc0Csc03"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_alias_of_new_devices_only() {
        let message = |text: &str| text.replace('|', "\0").into_bytes();
        let add = "add@/devices/x|ACTION=add|DEVPATH=/devices/x|SUBSYSTEM=pci|MODALIAS=pci:v1|SEQNUM=7|";
        assert_eq!(alias_of(&message(add)), Some("pci:v1".to_owned()));
        assert_eq!(alias_of(&message("remove@/devices/x|MODALIAS=pci:v1|")), None);
        assert_eq!(alias_of(&message("add@/devices/x|SUBSYSTEM=block|")), None);
        assert_eq!(alias_of(b""), None);
        assert_eq!(alias_of(b"add@x\0MODALIAS=\xff\xff"), None);
    }

    #[test]
    fn usb_controllers_are_told_by_their_class() {
        assert!(is_usb_controller("pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30"));
        assert!(!is_usb_controller("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"));
        assert!(!is_usb_controller("usb:v0627p0001d0000dc00dsc00dp00ic03isc00ip00in00"));
    }

    #[test]
    fn finds_aliases_at_any_depth() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b/power")).unwrap();
        fs::write(directory.path().join("a/modalias"), "pci:v2\n").unwrap();
        fs::write(directory.path().join("a/b/modalias"), "pci:v1\n").unwrap();
        fs::write(directory.path().join("a/b/power/modalias"), "no\n").unwrap();
        assert_eq!(aliases_below(directory.path()), ["pci:v1", "pci:v2"]);
        assert!(aliases_below(&directory.path().join("missing")).is_empty());
    }
}
