//! Ingot as an ordinary user: runs itself again in a user namespace in which it is root.
//!
//! Maintainer scripts change owners, so one mapped id is not enough: the ranges of `/etc/subuid` and
//! `/etc/subgid` are mapped through `newuidmap(1)` and `newgidmap(1)`, which every distribution installs with
//! the rights to do so. Outside, files that "root" makes belong to the user, so images come out as the user's own.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;

use rustix::thread::UnshareFlags;
use thiserror::Error;

use super::sys;
use crate::process::{ProcessError, Tool};

/// The hidden command of the instance that becomes root in a user namespace.
pub const COMMAND: &str = "__user-namespace";

/// Why an ordinary user cannot build here.
#[derive(Debug, Error)]
pub enum UserError {
    /// The user has no range of subordinate ids.
    #[error(
        "{user} has no range of at least 65536 ids in {file}; add one with: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoRange {
        /// The user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// `newuidmap` is missing or failed.
    #[error("cannot map user ids (is the package uidmap installed?): {0}")]
    Map(#[from] ProcessError),
    /// The kernel refuses user namespaces.
    #[error(
        "the kernel refuses a user namespace: {0}; on Ubuntu 24.04 and later run: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or build as root"
    )]
    Refused(std::io::Error),
    /// Something else about starting ourselves again.
    #[error("cannot start again in a user namespace: {0}")]
    Io(#[from] std::io::Error),
}

/// Whether this process is in a user namespace, so that its root is not the host's root.
pub fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Runs our command line again as root of a user namespace; gives its exit status.
///
/// Must be called while the process has one thread.
pub fn run_as_root(arguments: &[OsString]) -> Result<i32, UserError> {
    let user = user_name()?;
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let (uid_start, uid_count) = range("/etc/subuid", &user, uid)?;
    let (gid_start, gid_count) = range("/etc/subgid", &user, uid)?;
    let (ready_read, ready_write) = inheritable_pipe()?;
    let (go_read, go_write) = inheritable_pipe()?;
    #[allow(clippy::disallowed_methods)] // the process door waits for its programs; this one must be mapped first
    let mut child = std::process::Command::new("/proc/self/exe")
        .arg(COMMAND)
        .arg(ready_write.as_raw_fd().to_string())
        .arg(go_read.as_raw_fd().to_string())
        .args(arguments)
        .spawn()?;
    drop((ready_write, go_read));
    let mut byte = [0_u8];
    let told = fs::File::from(ready_read).read(&mut byte)?;
    if told == 1 {
        let pid = child.id().to_string();
        let map = |tool: &str, own: u32, start: u32, count: u32| {
            Tool::new(tool).args([&pid, "0", &own.to_string(), "1", "1", &start.to_string(), &count.to_string()]).run()
        };
        let mapped =
            map("newuidmap", uid, uid_start, uid_count).and_then(|_| map("newgidmap", gid, gid_start, gid_count));
        if let Err(error) = mapped {
            drop(go_write);
            let _ = child.wait();
            return Err(error.into());
        }
        fs::File::from(go_write).write_all(&[1])?;
    }
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The other side: enters the namespace, waits until it is mapped, and gives the command line to run.
pub fn become_root(arguments: &[OsString]) -> Result<Vec<OsString>, UserError> {
    let number = |index: usize| arguments.get(index).and_then(|a| a.to_str()).unwrap_or_default().to_owned();
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(|e| UserError::Refused(e.into()))?;
    fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", number(0)))?.write_all(&[1])?;
    let mut byte = [0_u8];
    if fs::File::open(format!("/proc/self/fd/{}", number(1)))?.read(&mut byte)? == 0 {
        return Err(UserError::Io(std::io::Error::other("the ids were not mapped")));
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(std::io::Error::from)?;
    Ok(arguments.get(2..).unwrap_or_default().to_vec())
}

fn inheritable_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    // Without `O_CLOEXEC`: both ends are handed to the instance that is started next.
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty())?)
}

fn user_name() -> Result<String, UserError> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let accounts = fs::read_to_string("/etc/passwd")?;
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    Ok(name.unwrap_or(uid))
}

/// The first range of at least 65536 ids for the user, by name or number.
fn range(file: &'static str, user: &str, uid: u32) -> Result<(u32, u32), UserError> {
    let text = fs::read_to_string(file).unwrap_or_default();
    find_range(&text, user, uid).ok_or_else(|| UserError::NoRange { user: user.to_owned(), file })
}

fn find_range(text: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let start = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        ((owner == user || owner == uid) && count >= 65_536).then_some((start, count.min(65_536 * 4)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let text = "alice:100000:65536\n1001:200000:65536\nbob:1:10\n";
        assert_eq!(find_range(text, "alice", 1000), Some((100_000, 65_536)));
        assert_eq!(find_range(text, "carol", 1001), Some((200_000, 65_536)));
        assert_eq!(find_range(text, "bob", 1002), None, "a range too small for a distribution's users");
        assert_eq!(find_range("alice:x:y\n:::", "alice", 1000), None);
    }
}
