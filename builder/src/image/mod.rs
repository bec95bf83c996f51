//! The `image` stage.
