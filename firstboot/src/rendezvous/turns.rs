//! Turns for those who cannot be served now: each is told another moment to come back at.
//!
//! Nodes that are all told "in five seconds" are all there again in five seconds. Here each one gets the next free
//! place in a row that moves at the rate at which nodes can be served, so that those who come back find room. Nobody
//! has to come: a place that is not taken is lost and costs nothing but its time.

use std::time::{Duration, Instant};

/// The longest wait that is handed out; beyond it nodes draw lots among themselves.
const LONGEST: Duration = Duration::from_mins(5);

/// The row of places.
#[derive(Debug)]
pub struct Turns {
    interval: Duration,
    next: Instant,
}

impl Turns {
    /// A row that moves `per_second` places a second (more than zero).
    pub fn new(now: Instant, per_second: f64) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / per_second.max(0.001)), next: now }
    }

    /// How long the next one in the row has to wait.
    pub fn after(&mut self, now: Instant) -> Duration {
        let place = self.next.max(now) + self.interval;
        let wait = place.saturating_duration_since(now);
        if wait <= LONGEST {
            self.next = place;
        }
        wait.min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_gets_another_moment_and_nobody_waits_too_long() {
        let start = Instant::now();
        let mut turns = Turns::new(start, 10.0);
        let waits: Vec<Duration> = (0..4000).map(|_| turns.after(start)).collect();
        assert_eq!(waits[0], Duration::from_millis(100));
        assert!(waits[..3000].windows(2).all(|pair| pair[0] < pair[1]));
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert_eq!(turns.after(start + Duration::from_hours(1)), Duration::from_millis(100), "the row empties");
    }
}
