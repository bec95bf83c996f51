//! The `tools` stage.
