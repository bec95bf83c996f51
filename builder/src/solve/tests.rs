use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::archive::index::Suite;
use crate::archive::relation;

mod against_apt;
mod apt;

/// `name version ; field: value ; …` per line, as an index.
fn index(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let mut parts = line.split(" ; ");
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        writeln!(text, "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: p/{name}_{version}.deb")
            .unwrap();
        for field in parts {
            writeln!(text, "{field}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn request(include: &[&str]) -> Request {
    Request { include: include.iter().map(|n| (*n).to_owned()).collect(), ..Request::default() }
}

fn solved(suites: &[Suite], request: &Request) -> Result<Vec<String>, SolveError> {
    let universe = Universe::new(&suites.iter().collect::<Vec<_>>(), "amd64").unwrap();
    let ids = solve(&universe, request)?;
    Ok(ids.into_iter().map(|id| format!("{} {}", universe.package(id).name, universe.package(id).version)).collect())
}

fn one(lines: &[&str], request: &Request) -> Result<Vec<String>, SolveError> {
    solved(&[Suite::of_text("main", 500, &index(lines))], request)
}

#[test]
fn alternatives_take_the_first_that_works_and_the_latest_version() {
    let lines = ["a 1 ; Depends: x | b, c (>= 2)", "b 1", "c 1", "c 2", "c 3~rc1"];
    assert_eq!(one(&lines, &request(&["a"])).unwrap(), ["a 1", "b 1", "c 3~rc1"]);
}

#[test]
fn an_alternative_is_left_out_where_another_one_is_needed_anyway() {
    let lines = [
        "a 1 ; Depends: systemd, logrotate",
        "logrotate 1 ; Depends: cron | systemd",
        "cron 1 ; Depends: mail",
        "mail 1",
        "systemd 1",
    ];
    assert_eq!(one(&lines, &request(&["a"])).unwrap(), ["a 1", "logrotate 1", "systemd 1"]);
    assert_eq!(one(&lines, &request(&["a", "cron"])).unwrap().len(), 5);
}

#[test]
fn real_packages_go_before_providers_and_versioned_relations_need_versioned_provides() {
    let lines = ["a 1 ; Depends: mta", "mta 1", "exim 4 ; Provides: mta"];
    assert_eq!(one(&lines, &request(&["a"])).unwrap(), ["a 1", "mta 1"]);
    let lines = ["a 1 ; Depends: mta (>= 2)", "exim 4 ; Provides: mta", "postfix 3 ; Provides: mta (= 2)"];
    assert_eq!(one(&lines, &request(&["a"])).unwrap(), ["a 1", "postfix 3"]);
}

#[test]
fn a_package_may_conflict_with_what_it_provides_itself() {
    let lines =
        ["a 1 ; Depends: mta", "exim 4 ; Provides: mta ; Conflicts: mta", "postfix 3 ; Provides: mta ; Conflicts: mta"];
    assert_eq!(one(&lines, &request(&["a"])).unwrap(), ["a 1", "exim 4"]);
    assert!(one(&lines, &request(&["exim", "postfix"])).is_err());
}

#[test]
fn priority_wins_over_version_and_phased_versions_wait() {
    let suites = [
        Suite::of_text("distribution", 500, &index(&["docker 20"])),
        Suite::of_text("vendor", 900, &index(&["docker 19"])),
    ];
    assert_eq!(solved(&suites, &request(&["docker"])).unwrap(), ["docker 19"]);
    let lines = ["snapd 1", "snapd 2 ; Phased-Update-Percentage: 40"];
    assert_eq!(one(&lines, &request(&["snapd"])).unwrap(), ["snapd 1"]);
    let pinned = |pin: &str| Request { pins: [("snapd".to_owned(), pin.to_owned())].into(), ..request(&["snapd"]) };
    assert_eq!(one(&lines, &pinned("2")).unwrap(), ["snapd 2"]);
    assert_eq!(one(&lines, &Request { phased: true, ..request(&["snapd"]) }).unwrap(), ["snapd 2"]);
    // A pattern does not name it.
    assert_eq!(one(&lines, &pinned("*")).unwrap(), ["snapd 1"]);
}

#[test]
fn a_version_that_is_being_phased_in_is_not_taken_where_nothing_else_is_there() {
    let lines = ["a 1 ; Depends: b (>= 2)", "b 1", "b 2 ; Phased-Update-Percentage: 0"];
    let text = one(&lines, &request(&["a"])).unwrap_err().to_string();
    assert!(text.contains("the archive is still phasing it in (0 %)") && text.contains("`phased = true`"), "{text}");
    let text = one(&["b 2 ; Phased-Update-Percentage: 10"], &request(&["b"])).unwrap_err().to_string();
    assert!(text.contains("the archive is still phasing it in (10 %)"), "{text}");
    let with = Request { phased: true, ..request(&["a"]) };
    assert_eq!(one(&lines, &with).unwrap(), ["a 1", "b 2"]);
    // A lock of a profile that says nothing of phasing keeps its hash.
    assert!(!serde_json::to_string(&request(&["a"])).unwrap().contains("phased"));
    assert!(serde_json::to_string(&with).unwrap().contains("\"phased\":true"));
}

#[test]
fn provided_names_need_no_package_and_recommends_are_followed_where_possible() {
    let lines = [
        "a 1 ; Depends: initramfs-tool ; Recommends: b, c, nothing",
        "b 1 ; Recommends: d",
        "c 1 ; Conflicts: a",
        "d 1",
    ];
    let provided = Request { provided: ["initramfs-tool".to_owned()].into(), ..request(&["a"]) };
    assert_eq!(one(&lines, &provided).unwrap(), ["a 1"]);
    let more = Request { recommends: true, ..provided };
    assert_eq!(one(&lines, &more).unwrap(), ["a 1", "b 1", "d 1"]);
}

#[test]
fn essential_and_required_packages_are_roots() {
    let lines = [
        "a 1",
        "dpkg 1 ; Essential: yes ; Depends: tar",
        "tar 1",
        "base 1 ; Priority: required",
        "b 1 ; Priority: important",
    ];
    let all = Request { include_essential: true, ..request(&["a"]) };
    assert_eq!(one(&lines, &all).unwrap(), ["a 1", "base 1", "dpkg 1", "tar 1"]);
}

#[test]
fn names_that_cannot_be_asked_for_say_why() {
    let lines = ["exim 4 ; Provides: mta", "postfix 3 ; Provides: mta", "docker 2"];
    let text = |r: &Request| one(&lines, r).unwrap_err().to_string();
    assert_eq!(
        text(&request(&["mta"])),
        "`mta` is a virtual package; name one of the packages that provide it: exim, postfix"
    );
    assert_eq!(text(&request(&["dokcer"])), "no repository has a package `dokcer`; did you mean docker?");
    let pinned = Request { pins: [("docker".to_owned(), "3.*".to_owned())].into(), ..request(&["docker"]) };
    assert_eq!(text(&pinned), "package `docker` is pinned to `3.*`, but there is only 2 (main)");
    let both = Request { exclude: ["docker".to_owned()].into(), ..request(&["docker"]) };
    assert_eq!(text(&both), "package `docker` is both included and excluded");
}

#[test]
fn a_conflict_names_both_packages_the_relation_and_the_way_they_came_in() {
    let lines = [
        "app 1 ; Depends: engine",
        "engine 2 ; Depends: runc",
        "runc 1.1",
        "docker-ce 29 ; Depends: containerd.io",
        "containerd.io 2 ; Conflicts: runc",
        "other 1",
    ];
    let error = one(&lines, &request(&["app", "docker-ce", "other"])).unwrap_err().to_string();
    insta::assert_snapshot!(error, @r"
    the packages asked for cannot be installed together:
      containerd.io 2 (main) conflicts with runc 1.1 (main): `Conflicts: runc` of containerd.io
        containerd.io: needed by docker-ce 29 (main) as `containerd.io`, which is asked for
        runc: needed by engine 2 (main) as `runc`, needed by app 1 (main) as `engine`, which is asked for
    ");
}

#[test]
fn pins_and_missing_packages_show_in_the_explanation() {
    let lines =
        ["kubelet 1.31 ; Depends: cri (>= 1.31)", "cri 1.31", "cri 1.30", "lost 1 ; Depends: gone (>= 3) | away"];
    let pinned = Request { pins: [("cri".to_owned(), "1.30".to_owned())].into(), ..request(&["kubelet", "cri"]) };
    insta::assert_snapshot!(one(&lines, &pinned).unwrap_err().to_string(), @r"
    the packages asked for cannot be installed together:
      cri 1.31 (main) cannot be used: the profile pins it to `1.30`
        cri: needed by kubelet 1.31 (main) as `cri (>= 1.31)`, which is asked for
    ");
    insta::assert_snapshot!(one(&lines, &request(&["lost"])).unwrap_err().to_string(), @r"
    the packages asked for cannot be installed together:
      lost 1 (main) needs `gone (>= 3) | away`, and no repository has gone
        lost: asked for
    ");
}

/// Whether a set of packages is a solution: what the solver must guarantee, written down once more.
fn is_sound(suite: &Suite, chosen: &[String], asked: &[String]) -> Result<(), String> {
    let packages = suite.packages("amd64").unwrap();
    let chosen: Vec<_> = packages.iter().filter(|p| chosen.contains(&format!("{} {}", p.name, p.version))).collect();
    let satisfied = |r: &relation::Relation<'_>, by: &crate::archive::packages::Package<'_>| {
        let provides = relation::parse(by.provides).unwrap();
        (r.name == by.name && r.accepts(by.version))
            || provides.iter().flatten().any(|p| p.name == r.name && r.accepts_provided(p.condition.map(|c| c.1)))
    };
    for name in asked {
        if !chosen.iter().any(|p| p.name == name) {
            return Err(format!("{name} is not installed"));
        }
    }
    for package in &chosen {
        if chosen.iter().filter(|p| p.name == package.name).count() > 1 {
            return Err(format!("{} is there twice", package.name));
        }
        for group in relation::parse(package.depends).unwrap() {
            if !group.iter().any(|r| chosen.iter().any(|p| satisfied(r, p))) {
                return Err(format!("{} lacks {group:?}", package.name));
            }
        }
        for bad in relation::parse(package.conflicts).unwrap().into_iter().flatten() {
            if let Some(other) = chosen.iter().find(|p| p.name != package.name && satisfied(&bad, p)) {
                return Err(format!("{} conflicts with {}", package.name, other.name));
            }
        }
    }
    Ok(())
}

fn random_index() -> impl Strategy<Value = String> {
    let name = 0u8..7;
    let relation = (name.clone(), prop::option::of((0usize..3, 1u8..4)));
    let relation = relation.prop_map(|(name, condition)| match condition {
        None => format!("p{name}"),
        Some((sign, version)) => format!("p{name} ({} {version})", [">=", "<<", "="][sign]),
    });
    let depends =
        prop::collection::vec(prop::collection::vec(relation.clone(), 1..3).prop_map(|g| g.join(" | ")), 0..3);
    let conflicts = prop::collection::vec(relation, 0..2);
    let provides = prop::collection::vec(0u8..7, 0..2);
    let package = (name, 1u8..4, depends, conflicts, provides);
    prop::collection::vec(package, 1..14).prop_map(|packages| {
        let unique: BTreeMap<(u8, u8), _> = packages.into_iter().map(|(n, v, d, c, p)| ((n, v), (d, c, p))).collect();
        let lines: Vec<String> = unique
            .into_iter()
            .map(|((name, version), (depends, conflicts, provides))| {
                let provides: Vec<String> = provides.iter().map(|n| format!("p{n}")).collect();
                format!(
                    "p{name} {version} ; Depends: {} ; Conflicts: {} ; Provides: {}",
                    depends.join(", "),
                    conflicts.join(", "),
                    provides.join(", ")
                )
            })
            .collect();
        index(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// Tries every choice of at most one version per name.
fn any_solution(suite: &Suite, asked: &[String]) -> bool {
    let packages = suite.packages("amd64").unwrap();
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for p in &packages {
        by_name.entry(p.name).or_default().push(format!("{} {}", p.name, p.version));
    }
    let mut choices: Vec<Vec<String>> = vec![vec![]];
    for versions in by_name.values() {
        choices = choices
            .iter()
            .flat_map(|c| {
                std::iter::once(c.clone()).chain(versions.iter().map(|v| [c.clone(), vec![v.clone()]].concat()))
            })
            .collect();
    }
    choices.iter().any(|c| is_sound(suite, c, asked).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// What is found is sound; what is refused has no solution and an explanation that does not fail.
    #[test]
    fn agrees_with_trying_everything(text in random_index(), asked in prop::collection::btree_set(0u8..7, 1..3)) {
        let suite = Suite::of_text("r", 500, &text);
        let known: Vec<String> = asked.iter().map(|n| format!("p{n}"))
            .filter(|n| suite.packages("amd64").unwrap().iter().any(|p| p.name == n)).collect();
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let universe = Universe::new(&[&suite], "amd64").unwrap();
        match solve(&universe, &request(&names)) {
            Ok(ids) => {
                let chosen: Vec<String> = ids.iter().map(|id| {
                    let p = universe.package(*id);
                    format!("{} {}", p.name, p.version)
                }).collect();
                prop_assert_eq!(is_sound(&suite, &chosen, &known), Ok(()));
                prop_assert_eq!(ids, solve(&universe, &request(&names)).unwrap());
            }
            Err(SolveError::Conflict { conflicts }) => {
                prop_assert!(!conflicts.is_empty());
                prop_assert!(!any_solution(&suite, &known), "{:?}", conflicts);
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}

fn kept<'a>(packages: &[&'a str], update: &[&'a str]) -> Kept<'a> {
    let packages = packages.iter().map(|p| p.split_once(' ').unwrap());
    Kept {
        packages: packages.map(|(name, version)| (name, (version, "amd64"))).collect(),
        update: update.iter().copied().collect(),
    }
}

fn keeping(lines: &[&str], request: &Request, kept: &Kept<'_>) -> (Vec<String>, Vec<String>) {
    let suite = Suite::of_text("main", 500, &index(lines));
    let mut universe = Universe::new(&[&suite], "amd64").unwrap();
    let (ids, gone) = solve_keeping(&mut universe, request, kept).unwrap();
    let text = |id: &PackageId| format!("{} {}", universe.package(*id).name, universe.package(*id).version);
    (ids.iter().map(text).collect(), gone.into_iter().map(str::to_owned).collect())
}

#[test]
fn an_update_changes_what_is_named_and_what_that_forces() {
    let lines = [
        "docker 1 ; Depends: containerd, libc",
        "docker 2 ; Depends: containerd (>= 2), libc",
        "containerd 1",
        "containerd 2",
        "containerd 3",
        "libc 1",
        "libc 2",
        "shell 1 ; Depends: libc",
        "shell 2 ; Depends: libc",
    ];
    let asked = request(&["docker", "shell"]);
    let before = ["containerd 1", "docker 1", "libc 1", "shell 1"];
    let after = |update: &[&str]| keeping(&lines, &asked, &kept(&before, update)).0;
    assert_eq!(after(&[]), before);
    assert_eq!(after(&["docker"]), ["containerd 3", "docker 2", "libc 1", "shell 1"]);
    assert_eq!(after(&["containerd"]), ["containerd 3", "docker 1", "libc 1", "shell 1"]);
    assert_eq!(after(&["sh*", "lib?"]), ["containerd 1", "docker 1", "libc 2", "shell 2"]);
    assert_eq!(after(&["*"]), one(&lines, &asked).unwrap());
}

#[test]
fn an_update_is_not_given_up_for_what_could_stay() {
    // The solver alone would rather keep `agent`, and take an old `engine` for it.
    let lines = [
        "engine 1",
        "engine 2",
        "engine 3 ; Breaks: agent (<< 2)",
        "agent 1 ; Depends: engine",
        "agent 2 ; Depends: engine",
    ];
    let before = ["agent 1", "engine 1"];
    for asked in [&["agent", "engine"][..], &["engine", "agent"], &["agent"]] {
        let (after, gone) = keeping(&lines, &request(asked), &kept(&before, &["engine"]));
        assert_eq!(after, ["agent 2", "engine 3"]);
        assert!(gone.is_empty());
    }
}

#[test]
fn alternatives_stay_and_what_is_gone_is_named() {
    let lines = [
        "a 2 ; Depends: exim | mta",
        "exim 4 ; Provides: mta",
        "postfix 3 ; Provides: mta",
        "postfix 4 ; Provides: mta",
        "b 1",
        "b 2",
    ];
    let (after, gone) = keeping(&lines, &request(&["a", "b"]), &kept(&["a 1", "b 1", "postfix 3"], &[]));
    assert_eq!((after, gone), (vec!["a 2".into(), "b 1".into(), "postfix 3".into()], vec!["a".into()]));
    // What is kept for one request does not colour the next.
    let suite = Suite::of_text("main", 500, &index(&lines));
    let mut universe = Universe::new(&[&suite], "amd64").unwrap();
    let asked = request(&["a", "b"]);
    let fresh = solve(&universe, &asked).unwrap();
    solve_keeping(&mut universe, &asked, &kept(&["b 1", "postfix 3"], &[])).unwrap();
    assert_eq!(solve(&universe, &asked).unwrap(), fresh);
}

#[test]
fn pins_take_patterns_of_names_and_an_exact_name_wins() {
    let lines = [
        "kernel 1 ; Depends: image-6.8.0-51 | image-6.8.0-52",
        "image-6.8.0-51 6.8.0-51.1",
        "image-6.8.0-51 6.8.0-51.2",
        "image-6.8.0-52 6.8.0-52.1",
        "docker 5:29.1",
        "docker 5:30.0",
        "docker-cli 5:29.1",
        "docker-cli 5:30.0",
    ];
    let solve = |pins: &[(&str, &str)]| {
        let pins = pins.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        one(&lines, &Request { pins, ..request(&["kernel", "docker", "docker-cli"]) })
    };
    assert_eq!(
        solve(&[("image-*", "6.8.0-52.*"), ("docker*", "5:29.*")]).unwrap(),
        ["docker 5:29.1", "docker-cli 5:29.1", "image-6.8.0-52 6.8.0-52.1", "kernel 1"]
    );
    assert_eq!(
        solve(&[("docker*", "5:29.*"), ("docker", "5:30.?")]).unwrap()[..2],
        ["docker 5:30.0", "docker-cli 5:29.1"]
    );
    let error = |pins| solve(pins).unwrap_err().to_string();
    assert_eq!(
        error(&[("docker-*", "4"), ("*-cli", "5:*")]),
        "package `docker-cli` is pinned to `5:*` and `4`, but there is only 5:30.0 (main), 5:29.1 (main)"
    );
    assert_eq!(error(&[("dokcer", "1")]), "the pin `dokcer` is for no package of any repository; did you mean docker?");
    assert_eq!(error(&[("nvidia-*", "1")]), "the pin `nvidia-*` is for no package of any repository");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// With nothing to update, what was chosen stays whatever came since; with everything, it is chosen anew.
    #[test]
    fn keeping_keeps(text in random_index(), newer in random_index(), asked in prop::collection::btree_set(0u8..7, 1..3)) {
        let old = Suite::of_text("r", 500, &text);
        let names: Vec<String> = asked.iter().map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let asked = request(&names);
        let universe = Universe::new(&[&old], "amd64").unwrap();
        let Ok(chosen) = solve(&universe, &asked) else { return Ok(()) };
        let chosen: BTreeMap<&str, &str> =
            chosen.iter().map(|id| (universe.package(*id).name, universe.package(*id).version)).collect();
        // Later packages, with versions of their own.
        let newer = newer.replace("\nVersion: ", "\nVersion: 9.");
        let new = Suite::of_text("r", 500, &newer);
        let mut universe = Universe::new(&[&old, &new], "amd64").unwrap();
        let Ok(fresh) = solve(&universe, &asked) else { return Ok(()) };
        let packages = chosen.iter().map(|(n, v)| (*n, (*v, "amd64"))).collect();
        let (kept, gone) = solve_keeping(&mut universe, &asked, &Kept { packages, update: BTreeSet::new() }).unwrap();
        let kept: BTreeMap<&str, &str> =
            kept.iter().map(|id| (universe.package(*id).name, universe.package(*id).version)).collect();
        prop_assert_eq!(&kept, &chosen);
        prop_assert!(gone.is_empty());
        let packages = chosen.iter().map(|(n, v)| (*n, (*v, "amd64"))).collect();
        let (all, _) = solve_keeping(&mut universe, &asked, &Kept { packages, update: ["*"].into() }).unwrap();
        prop_assert_eq!(all, fresh);
    }
}
