//! The `lock` stage.
