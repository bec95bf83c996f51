//! What runs on an Ingot node: the initrd's init, the first-boot service, and the types that the builder shares.

pub mod config;
pub mod status;
