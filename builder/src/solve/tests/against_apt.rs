//! The solver against `apt-get install` on the same indexes, over hundreds of sets.
//!
//! The sets: what the profiles that ship ask for, some large ones, and sets drawn from all of `main` by a generator
//! with a fixed seed. `INGOT_SOLVER_SETS` says how many are drawn, `INGOT_SOLVER_SEED` which, and
//! `INGOT_SOLVER_REPORT` where the report goes, which is printed as well. A difference must have one of the reasons of
//! [`Verdict`], each of which is checked, not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::provider::targets;
use super::super::*;
use super::apt::Apt;
use crate::archive::{relation, test_index};
use crate::build::sets;
use crate::process::ProcessError;
use crate::profile;

const LARGE: [&[&str]; 7] = [
    &["systemd", "linux-image-amd64", "openssh-server", "containerd", "nftables", "exim4-daemon-light", "erofs-utils"],
    &["build-essential", "python3-dev", "default-jre"],
    &["docker.io", "qemu-system-x86", "libvirt-daemon-system"],
    &["gnome-core"],
    &["kde-plasma-desktop"],
    &["texlive-full"],
    &["docker.io", "linux-image-amd64", "systemd-boot", "openssh-server", "nvme-cli", "mdadm", "e2fsprogs"],
];

/// How many sets are drawn.
const DRAWN: usize = 300;

/// How many pairs that conflict are drawn.
const CONFLICTING: usize = 40;

struct Case {
    name: String,
    request: Request,
}

enum Verdict {
    /// The same packages in the same versions.
    Equal,
    /// Neither finds a way.
    BothRefuse,
    /// apt finds none. It has no complete search: ingot's packages, spelled out, it takes as they are.
    AptGivesUp,
    /// Both find one, and they differ in a choice that apt's order of working makes: see [`choices`]. ingot's, spelled
    /// out, apt takes as they are.
    Choice(String),
    /// None of these.
    Wrong(String),
}

/// splitmix64: the same numbers everywhere.
struct Generator(u64);

impl Generator {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

fn environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

fn request_of(names: impl IntoIterator<Item = String>) -> Request {
    Request { include: names.into_iter().collect(), include_essential: true, ..Request::default() }
}

fn cases(universe: &Universe<'_>) -> Vec<Case> {
    let tree = test_index::profiles();
    let mut cases: BTreeMap<String, Request> = BTreeMap::new();
    for role in tree.roles() {
        let profile = profile::load(&tree, &role, Some("debian-13")).unwrap().profile;
        let containers = sets::container_sets(&profile).into_values();
        for set in containers.chain([sets::role_set(&profile)]) {
            cases.insert(set.name, set.request);
        }
    }
    let (tools, _) = tree.read("parts/tools").unwrap();
    cases.insert(
        "parts/tools".into(),
        Request { include: tools.packages.include.into_iter().collect(), ..Request::default() },
    );
    for set in LARGE {
        cases.insert(set.join(" "), request_of(set.iter().map(|n| (*n).to_owned())));
    }
    let ids = (0..u32::try_from(universe.len()).unwrap()).map(PackageId);
    let main = ids.map(|id| universe.package(id)).filter(|package| package.filename.starts_with("pool/main/"));
    let names: Vec<&str> = main.map(|package| package.name).collect::<BTreeSet<_>>().into_iter().collect();
    let mut generator = Generator(environment("INGOT_SOLVER_SEED").unwrap_or(13) as u64);
    for number in 0..environment("INGOT_SOLVER_SETS").unwrap_or(DRAWN) {
        let size = 1 + number % 12;
        let drawn: BTreeSet<String> = (0..size).map(|_| names[generator.below(names.len())].to_owned()).collect();
        let name = format!("drawn {number}: {}", drawn.iter().map(String::as_str).collect::<Vec<_>>().join(" "));
        cases.insert(name, request_of(drawn));
    }
    // Two packages of which one says that it conflicts with the other, or with some versions of it: most cannot be had.
    let ids = (0..u32::try_from(universe.len()).unwrap()).map(PackageId);
    let hostile: Vec<(&str, String)> = ids
        .map(|id| universe.package(id))
        .filter(|package| package.filename.starts_with("pool/main/") && !package.conflicts.is_empty())
        .flat_map(|package| {
            let groups = relation::parse(package.conflicts).unwrap().into_iter().flatten();
            groups.map(move |relation| (package.name, relation.name.to_string()))
        })
        .filter(|(name, other)| name != other && names.binary_search(&other.as_str()).is_ok())
        .collect();
    for number in 0..CONFLICTING {
        let (name, other) = hostile[generator.below(hostile.len())].clone();
        cases.insert(format!("conflict {number}: {name} {other}"), request_of([name.to_owned(), other]));
    }
    cases.into_iter().map(|(name, request)| Case { name, request }).collect()
}

/// Where two sound sets part: for packages of both, the groups of alternatives that they satisfy with different
/// packages.
fn choices(universe: &Universe<'_>, ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Vec<String> {
    let text = |id: PackageId| format!("{} {}", universe.package(id).name, universe.package(id).version);
    let ids = (0..u32::try_from(universe.len()).unwrap()).map(PackageId);
    let both = ids.filter(|id| ours.contains(&text(*id)) && theirs.contains(&text(*id)));
    let mut found = Vec::new();
    for id in both {
        let package = universe.package(id);
        for group in [package.pre_depends, package.depends].iter().flat_map(|f| relation::parse(f).unwrap()) {
            let candidates: BTreeSet<String> =
                group.iter().flat_map(|relation| targets(universe, relation)).map(text).collect();
            let of = |set: &BTreeSet<String>| candidates.intersection(set).cloned().collect::<Vec<_>>();
            let (ours, theirs) = (of(ours), of(theirs));
            if ours != theirs {
                let group = group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
                let (ours, theirs) = (ours.join(", "), theirs.join(", "));
                found.push(format!("{} needs `{group}`: ingot has {ours}; apt has {theirs}", package.name));
            }
        }
    }
    found
}

fn compare(universe: &Universe<'_>, apt: &Apt, request: &Request, took: &mut Duration) -> Verdict {
    let started = Instant::now();
    let ours = solve(universe, request);
    *took = started.elapsed();
    let provided = !request.provided.is_empty();
    let mut asked: Vec<String> = request.include.iter().cloned().collect();
    if request.include_essential {
        asked.extend(universe.essential_names().map(str::to_owned));
    }
    let theirs = apt.install(&asked, provided);
    let ours = match (ours, &theirs) {
        (Err(_), Err(_)) => return Verdict::BothRefuse,
        (Err(error), Ok(theirs)) => return Verdict::Wrong(format!("{error}\napt has {}", list(theirs))),
        (Ok(ours), _) => ours,
    };
    let pair = |id: &PackageId| (universe.package(*id).name, universe.package(*id).version);
    let spelled: Vec<String> = ours.iter().map(pair).map(|(name, version)| format!("{name}={version}")).collect();
    let ours: BTreeSet<String> = ours.iter().map(pair).map(|(name, version)| format!("{name} {version}")).collect();
    if theirs.as_ref().is_ok_and(|theirs| ours == *theirs) {
        return Verdict::Equal;
    }
    // Whatever apt would have chosen: it takes ingot's choice, and finds nothing missing in it.
    match apt.install(&spelled, provided) {
        Ok(again) if again == ours => {}
        Ok(again) => {
            let more = again.difference(&ours).cloned().collect();
            return Verdict::Wrong(format!("of ingot's packages apt makes others, with {}", list(&more)));
        }
        Err(words) => return Verdict::Wrong(format!("apt does not take ingot's packages: {words}")),
    }
    let Ok(theirs) = theirs else { return Verdict::AptGivesUp };
    let (more, less) = (&ours - &theirs, &theirs - &ours);
    let found = choices(universe, &ours, &theirs);
    let details = format!("only ingot: {}; only apt: {}\n{}", list(&more), list(&less), found.join("\n"));
    if found.is_empty() { Verdict::Wrong(details) } else { Verdict::Choice(details) }
}

fn list(packages: &BTreeSet<String>) -> String {
    if packages.is_empty() {
        "nothing".into()
    } else {
        packages.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Compares all cases, as many at a time as there are processors.
fn compare_all(universe: &Universe<'_>, apt: &Apt, cases: &[Case]) -> Vec<(Verdict, Duration)> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<(Verdict, Duration)>>> = cases.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { break };
                    let mut took = Duration::ZERO;
                    let verdict = compare(universe, apt, &case.request, &mut took);
                    *results[number].lock().unwrap() = Some((verdict, took));
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().unwrap().unwrap()).collect()
}

#[test]
fn chooses_what_apt_chooses() {
    let Some(suites) = test_index::debian_13() else { return };
    let universe = Universe::new(&suites.iter().collect::<Vec<_>>(), "amd64").unwrap();
    let cases = cases(&universe);
    let provided = cases.iter().flat_map(|case| case.request.provided.iter().cloned()).collect();
    let apt = match Apt::new(&suites, &provided) {
        Ok(apt) => apt,
        Err(ProcessError::Start { .. }) => return println!("skipped: this host has no apt-get"),
        Err(error) => panic!("{error}"),
    };
    let started = Instant::now();
    let results = compare_all(&universe, &apt, &cases);
    let (mut equal, mut refused, mut given_up, mut other, mut wrong) = (0, 0, 0, 0, 0);
    let mut details = String::new();
    for (case, (verdict, _)) in cases.iter().zip(&results) {
        let (count, title, text) = match verdict {
            Verdict::Equal => {
                equal += 1;
                continue;
            }
            Verdict::BothRefuse => {
                refused += 1;
                continue;
            }
            Verdict::AptGivesUp => (&mut given_up, "apt gives up", ""),
            Verdict::Choice(text) => (&mut other, "another choice", &text[..]),
            Verdict::Wrong(text) => (&mut wrong, "WRONG", &text[..]),
        };
        *count += 1;
        writeln!(details, "{title}: {}\n    {}", case.name, text.replace('\n', "\n    ")).unwrap();
    }
    let slowest = results.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let report = format!(
        "{} sets from {} packages in {:.0?}, slowest solve {slowest:.0?}: {equal} equal, {refused} refused by both, \
         {given_up} where apt gives up, {other} with another choice, {wrong} wrong\n{details}",
        cases.len(),
        universe.len(),
        started.elapsed(),
    );
    assert!(refused > 0, "no set was drawn that cannot be had: {report}");
    println!("{report}");
    if let Some(path) = std::env::var_os("INGOT_SOLVER_REPORT") {
        std::fs::write(path, &report).unwrap();
    }
    assert_eq!(wrong, 0, "{report}");
}
