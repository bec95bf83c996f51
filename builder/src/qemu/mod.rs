//! The `qemu` stage.
