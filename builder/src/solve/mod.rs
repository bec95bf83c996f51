//! The `solve` stage.
