//! For tests of steps: a step is cut off at every point, begun again, and must come to the same end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Effect, Step};
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

/// Carries a step out and finds everything there that its effects say.
pub fn does_what_it_says(host: &SimulatedHost, step: &Step) {
    step.apply(host).unwrap();
    let state = host.state();
    for effect in step.effects() {
        match effect {
            Effect::File { path, mode, content } => {
                assert_eq!(state.disk.files.get(&path), Some(&(content.bytes().to_vec(), mode)), "{path}");
            }
            Effect::Remove { path } => assert!(!state.disk.files.contains_key(&path), "{path}"),
            Effect::Run { argv } => assert!(state.commands.contains(&argv.join(" ")), "{argv:?}: {:?}", state.commands),
            Effect::Setting { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let shown = format!("{:?}", step.effects());
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("hunter2"), "{shown}");
}
