//! The `archive` stage.
