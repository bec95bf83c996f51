//! The `root` stage.
