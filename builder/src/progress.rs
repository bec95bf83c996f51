//! How long work tells a person where it is, without knowing whether it is a terminal, a log or a test.
//!
//! A stage takes `&dyn Progress` and reports on it; the command line decides how to draw it.

/// Where a stage reports what it is doing.
pub trait Progress: Sync {
    /// Begins a piece of work of `total` units (bytes, unless the label says otherwise), or of unknown size.
    fn start(&self, label: &str, total: Option<u64>) -> Box<dyn Task>;
    /// Says one line that a person should see even after the bars are gone.
    fn note(&self, line: &str);
    /// Says one line that a person must not overlook.
    fn warn(&self, line: &str);
}

/// One piece of work under way. Dropping it ends it.
pub trait Task: Send + Sync {
    /// `units` more are done.
    fn advance(&self, units: u64);
}

/// Reports nothing: for tests and for callers that are asked to be quiet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

struct SilentTask;

impl Task for SilentTask {
    fn advance(&self, _units: u64) {}
}

impl Progress for Silent {
    fn start(&self, _label: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(SilentTask)
    }
    fn note(&self, _line: &str) {}
    fn warn(&self, _line: &str) {}
}
