//! Ctrl-C and SIGTERM: the first asks a run to stop and clean up, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Starts watching for SIGINT, SIGTERM and SIGHUP, once per process, and gives the flag that they set.
///
/// Where the kernel refuses the handler, the signals keep their meaning of ending the process.
pub fn watch() -> Arc<AtomicBool> {
    Arc::clone(FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: a signal that finds the flag set ends the process, the one before it only sets it.
            let armed = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag));
            if armed.is_ok() {
                // Registered above for the same signal, so this can only fail for want of memory.
                drop(signal_hook::flag::register(signal, Arc::clone(&flag)));
            }
        }
        flag
    }))
}

/// Whether the process was asked to stop since [`watch`].
pub fn requested() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}
