//! The `boot` stage.
