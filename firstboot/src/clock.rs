//! The clock's floor: a machine without a battery begins in 1970, and no certificate is valid then.
//!
//! Takes the time at which the image was built; the clock is never before it. Time servers, or a manager's proven
//! clock at the rendezvous, do the rest.

use serde::Deserialize;

use crate::host::{Host, HostError};

/// What the image says about itself.
pub const IMAGE_FACTS: &str = "/usr/lib/ingot/image.json";

/// The facts of the image (`/usr/lib/ingot/image.json`) that the service needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// The role: `quickstart/worker`.
    pub role: String,
    /// The version.
    pub version: String,
    /// The identity of the image's content.
    pub id: String,
    /// When it was built (the lock's date), in seconds since 1970.
    pub build_time: u64,
}

/// Reads the image's facts; empty ones where the image has none.
///
/// # Errors
/// The file is there and cannot be read.
pub fn image_facts(host: &dyn Host) -> Result<ImageFacts, HostError> {
    let bytes = host.read(IMAGE_FACTS, 1024 * 1024)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// Sets the clock to the floor where it is before it; true where it did.
///
/// # Errors
/// The clock cannot be set.
pub fn raise(host: &dyn Host, floor: u64) -> Result<bool, HostError> {
    if host.now() >= floor {
        return Ok(false);
    }
    host.set_clock(floor)?;
    Ok(true)
}
