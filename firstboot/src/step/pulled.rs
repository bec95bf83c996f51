//! For tests of steps: a step is cut off at every point, begun again, and must come to the same end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Step;
use crate::host::simulated::{Killed, SimulatedHost};

/// Carries out `steps` one after another on machines that `machine` makes, the last of them cut off at every point and
/// begun again. Gives how many points there were.
pub fn at_every_point(machine: impl Fn() -> SimulatedHost, steps: &[Step]) -> u64 {
    let (last, before) = steps.split_last().unwrap();
    let prepared = || {
        let host = machine();
        for step in before {
            step.apply(&host).unwrap();
        }
        host
    };
    let reference = prepared();
    let start = reference.points();
    last.apply(&reference).unwrap();
    let points = reference.points() - start;
    for point in 0..points {
        let host = prepared();
        host.state().plug = Some(start + point);
        let killed = catch_unwind(AssertUnwindSafe(|| last.apply(&host)));
        assert!(killed.is_err_and(|payload| payload.is::<Killed>()), "point {point} of {points}");
        host.reboot();
        last.apply(&host).unwrap();
        assert_eq!(host.disk(), reference.disk(), "point {point} of {points}");
        // And once more, with nothing to do.
        last.apply(&host).unwrap();
        assert_eq!(host.disk(), reference.disk(), "repeated after point {point}");
    }
    points
}
