//! The `profile` stage: from a role's name to one merged, checked [`Profile`].
//!
//! Takes a profile tree (`profiles/`) and a role's name. Follows `extends`, checks every key, merges the parts,
//! remembers where each value came from, and gives a [`Profile`] whose paths are absolute and whose
//! lists are in a fixed order. Nothing here reads the network or the archive.

mod types;

pub use types::*;
