//! The order of versions against dpkg's own: its perl library for many pairs, the program for a sample of them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::archive::{relation, test_index};
use crate::process::{ProcessError, Tool};

fn version() -> impl Strategy<Value = String> {
    proptest::string::string_regex("([0-2]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-c.+~]{1,4}){0,2}").unwrap()
}

fn dpkg_says(left: &str, right: &str) -> Option<Ordering> {
    for (word, order) in [("lt", Ordering::Less), ("eq", Ordering::Equal), ("gt", Ordering::Greater)] {
        match Tool::new("dpkg").args(["--compare-versions", left, word, right]).run() {
            Ok(_) => return Some(order),
            Err(ProcessError::Start { .. }) => return None,
            Err(ProcessError::Failed { .. }) => {}
        }
    }
    panic!("dpkg gives no order for {left:?} and {right:?}");
}

#[test]
fn known_orders() {
    let ascending = [
        "~~",
        "~~a",
        "~",
        "",
        "0~rc1",
        "0",
        "1.0~beta1~svc1",
        "1.0~beta1",
        "1.0",
        "1.0-1",
        "1.0-1+b1",
        "1.0-1.1",
        "1.0+dfsg-1",
        "1.2",
        "1.10",
        "1:0.1",
        "10:0",
    ];
    for (i, left) in ascending.iter().enumerate() {
        for (j, right) in ascending.iter().enumerate() {
            // "" and "0" are one version to dpkg: a missing number is zero.
            let expected = if i.min(j) == 3 && i.max(j) == 5 { Ordering::Equal } else { i.cmp(&j) };
            if (i == 3) != (j == 3) && i.max(j) == 4 {
                continue;
            }
            assert_eq!(compare(left, right), expected, "{left:?} against {right:?}");
        }
    }
    assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
    assert_eq!(compare("0:1.0", "1.0"), Ordering::Equal);
    assert_eq!(compare("1.007", "1.7"), Ordering::Equal);
}

/// What sets a version apart from others: two versions with the same marks are of one class.
fn class(version: &str) -> String {
    let (epoch, rest) = version.split_once(':').map_or((None, version), |(epoch, rest)| (Some(epoch), rest));
    let (upstream, revision) = rest.rsplit_once('-').map_or((rest, None), |(up, revision)| (up, Some(revision)));
    let numbers = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let mut marks: Vec<&str> = Vec::new();
    let mut mark = |there: bool, name| {
        if there {
            marks.push(name);
        }
    };
    mark(epoch.is_some(), "epoch");
    mark(epoch == Some("0"), "epoch zero");
    mark(upstream.contains('~'), "tilde");
    mark(upstream.contains("~~"), "two tildes");
    mark(upstream.contains('+'), "plus");
    mark(upstream.contains('-'), "hyphen");
    mark(upstream.contains(|c: char| c.is_ascii_lowercase()), "letters");
    mark(upstream.contains(|c: char| c.is_ascii_uppercase()), "capitals");
    mark(upstream.starts_with(|c: char| !c.is_ascii_digit()), "no number first");
    mark(upstream.ends_with(|c: char| !c.is_ascii_digit()), "no number last");
    mark(upstream.contains(".."), "two dots");
    mark(numbers(upstream).iter().any(|n| n.len() > 1 && n.starts_with('0')), "leading zeros");
    mark(numbers(upstream).iter().any(|n| n.len() > 9), "long number");
    mark(revision.is_none(), "no revision");
    let revision = revision.unwrap_or_default();
    mark(revision == "0", "revision zero");
    mark(revision.contains('~'), "tilde in revision");
    mark(revision.contains('+'), "plus in revision");
    mark(revision.contains('.'), "dot in revision");
    mark(revision.contains(|c: char| c.is_ascii_alphabetic()), "letters in revision");
    if marks.is_empty() { "plain".to_owned() } else { marks.join(", ") }
}

/// The orders that dpkg's library gives; `None` where it is not installed.
fn library_says(pairs: &[(&str, &str)]) -> Option<Vec<Ordering>> {
    const PROGRAM: &str = "while (<STDIN>) { chomp; my ($a, $b) = split / /; print version_compare($a, $b), \"\\n\" }";
    let input: String = pairs.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
    let output = match Tool::new("perl").args(["-MDpkg::Version", "-e", PROGRAM]).input(input).run() {
        Ok(output) => output.stdout,
        Err(ProcessError::Failed { tail, .. }) if !tail.contains("locate Dpkg/Version.pm") => panic!("{tail}"),
        Err(_) => return None,
    };
    let orders = String::from_utf8(output).unwrap();
    Some(orders.lines().map(|line| line.parse::<i32>().unwrap().cmp(&0)).collect())
}

/// The pairs are chosen so that nothing is left out. All versions sorted, each against the next: an order that agrees
/// there agrees everywhere, because dpkg's is transitive. And every class of versions against every other one.
#[test]
fn every_version_of_an_index_has_its_place_in_dpkgs_order() {
    let Some(suites) = test_index::debian_13() else { return };
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for package in suites.iter().flat_map(|suite| suite.packages("amd64").unwrap()) {
        found.insert(package.version);
        let fields = [package.depends, package.pre_depends, package.recommends, package.conflicts, package.breaks];
        for field in fields.into_iter().chain([package.provides, package.replaces]) {
            let relations = relation::parse(field).unwrap();
            found.extend(relations.iter().flatten().filter_map(|r| Some(r.condition?.1)));
        }
    }
    let mut sorted: Vec<&str> = found.iter().copied().collect();
    sorted.sort_by(|left, right| compare(left, right));
    let mut classes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for version in &found {
        classes.entry(class(version)).or_default().push(version);
    }
    let mut pairs: Vec<(&str, &str)> = sorted.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let neighbours = pairs.len();
    for (number, first) in classes.values().enumerate() {
        for second in classes.values().skip(number) {
            // Two of each, from different places, in both directions.
            let (a, b) = (first[0], second[second.len() - 1]);
            let (c, d) = (first[first.len() / 2], second[second.len() / 2]);
            pairs.extend([(a, b), (d, c)]);
        }
    }
    let report = format!(
        "{} versions, {neighbours} neighbours, {} classes, {} pairs of classes",
        found.len(),
        classes.len(),
        classes.len() * (classes.len() + 1) / 2
    );
    let Some(orders) = library_says(&pairs) else {
        println!("skipped: this host has no perl with libdpkg-perl");
        return;
    };
    assert_eq!(orders.len(), pairs.len());
    let wrong: Vec<_> = pairs.iter().zip(&orders).filter(|((l, r), order)| compare(l, r) != **order).collect();
    assert!(wrong.is_empty(), "{report}; {} differ from dpkg, first {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    // The library is written in another language than the program: the program has the last word on a sample.
    let mut sample = 0;
    for ((left, right), order) in pairs.iter().zip(&orders).step_by(pairs.len() / 250 + 1) {
        match dpkg_says(left, right) {
            Some(said) => assert_eq!(said, *order, "{left} against {right}"),
            None => return println!("{report}: as dpkg's library has them; this host has no dpkg"),
        }
        sample += 1;
    }
    println!("{report}: all as dpkg's library has them, {sample} of them asked of dpkg itself");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn agrees_with_dpkg(left in version(), right in version()) {
        if let Some(order) = dpkg_says(&left, &right) {
            prop_assert_eq!(compare(&left, &right), order, "{} against {}", left, right);
        }
    }
}

proptest! {
    #[test]
    fn is_an_order(a in "\\PC{0,12}", b in "\\PC{0,12}", c in version()) {
        prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        prop_assert_eq!(compare(&c, &c), Ordering::Equal);
    }
}
