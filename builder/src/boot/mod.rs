//! The `boot` stage: from a kernel, its modules and stage1 to one signed-or-signable file that the firmware starts.
//!
//! In the order of the data: [`modules`] (what the initrd must be able to load) → [`initrd`] (stage1 and those
//! modules as a cpio archive) → [`uki`] (systemd's stub, kernel, initrd and command line in one PE file) →
//! [`loader`] (the files of the EFI system partition).
//!
//! Nothing runs and nothing is asked of the host: the parts come from the image's root and the tools tree, and the
//! same parts give the same bytes.

pub mod initrd;
mod inside;
pub mod loader;
pub mod modules;
pub mod pe;
pub mod uki;
