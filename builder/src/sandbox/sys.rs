//! System calls without a safe wrapper.

use rustix::io;
use rustix::thread::UnshareFlags;

/// Leaves the given namespaces of the caller for new ones.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: rustix marks this unsafe because of `CLONE_FILES`, after which file descriptors of one
    // thread mean nothing to another. That flag is never passed here.
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
