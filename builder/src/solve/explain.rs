//! Why there is no solution, in words.
//!
//! The request is first cut down to the fewest names that already fail. What the solver then says about its
//! conflict is a graph; each of its contradictions becomes one [`Conflict`] that names the packages
//! on both sides, the relation between them as it is written in the package, and how each of them came in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use resolvo::conflict::{ConflictCause, ConflictEdge, ConflictGraph, ConflictNode};
use resolvo::{Requirement, UnsolvableOrCancelled};

use super::provider::{self, Provider};
use super::{PackageId, Request, Universe};
use crate::archive::relation;

/// More than this many do not help anybody.
const SHOWN: usize = 8;

/// One reason why the packages cannot be installed together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// `docker-ce 5:29.1 (docker) conflicts with docker.io 27.5 (debian-13): Conflicts: docker.io`
    pub statement: String,
    /// How the packages in it came in: `docker.io: needed by a (`Depends: docker.io`), which is asked for`.
    pub because: Vec<String>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.statement)?;
        for line in &self.because {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Explains why `roots` (the names `asked` for, and the essential ones) have no solution.
pub(super) fn explain(universe: &Universe<'_>, request: &Request, asked: &[&str], roots: &[&str]) -> Vec<Conflict> {
    let roots = fewest(universe, request, asked, roots);
    let (mut solver, problem) = provider::prepare(universe, request, &roots, &[]);
    let conflict = match solver.solve(problem) {
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => conflict,
        // Cannot happen: these roots failed a moment ago, and nothing here cancels.
        Ok(_) | Err(UnsolvableOrCancelled::Cancelled(_)) => {
            return vec![Conflict {
                statement: format!("{} cannot be installed together", roots.join(", ")),
                because: vec![],
            }];
        }
    };
    let graph = Graph::of(&conflict.graph(&solver));
    let mut conflicts = graph.contradictions(solver.provider());
    if conflicts.len() > SHOWN {
        let more = conflicts.len() - SHOWN;
        conflicts.truncate(SHOWN);
        conflicts.push(Conflict { statement: format!("… and {more} more of this kind"), because: vec![] });
    }
    conflicts
}

/// Leaves out names one after another as long as the rest still fails: what remains is to blame together.
fn fewest<'n>(universe: &Universe<'_>, request: &Request, asked: &[&'n str], roots: &[&'n str]) -> Vec<&'n str> {
    let fails = |names: &[&str]| provider::run(universe, request, names, &[]).is_none();
    let mut kept = if fails(asked) { asked.to_vec() } else { roots.to_vec() };
    // Halves first, so that a long list shrinks in few steps.
    let mut step = kept.len().div_ceil(2);
    while step > 0 {
        let mut at = 0;
        while at < kept.len() {
            let mut trial = kept.clone();
            trial.drain(at..(at + step).min(kept.len()));
            if fails(&trial) {
                kept = trial;
            } else {
                at += step;
            }
        }
        step = if step == 1 { 0 } else { step.div_ceil(2) };
    }
    kept
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Root,
    Package(PackageId),
    Missing,
    Refused(resolvo::StringId),
}

/// The solver's graph without its types.
struct Graph {
    edges: Vec<(Node, Node, ConflictEdge)>,
}

impl Graph {
    fn of(graph: &ConflictGraph) -> Self {
        let nodes = graph.graph.raw_nodes();
        let node = |index: usize| match nodes[index].weight {
            ConflictNode::Root => Node::Root,
            ConflictNode::Solvable(solvable) => Node::Package(provider::package_id(solvable)),
            ConflictNode::UnresolvedDependency => Node::Missing,
            ConflictNode::Excluded(reason) => Node::Refused(reason),
        };
        let edges = graph.graph.raw_edges().iter();
        let mut edges: Vec<_> = edges.map(|e| (node(e.source().index()), node(e.target().index()), e.weight)).collect();
        edges.sort();
        Self { edges }
    }

    fn contradictions(&self, provider: &Provider<'_, '_>) -> Vec<Conflict> {
        let origins = self.origins();
        let mut found = BTreeMap::new();
        let universe = provider.universe;
        for (from, to, edge) in &self.edges {
            let (statement, concerned) = match (from, to, edge) {
                (_, Node::Missing, ConflictEdge::Requires(requirement)) => {
                    (missing(provider, *from, *requirement), vec![*from])
                }
                (Node::Package(a), Node::Refused(reason), _) => {
                    let reason = provider.string_text(*reason);
                    (format!("{} cannot be used: {reason}", universe.describe(*a)), vec![*from])
                }
                (
                    Node::Package(a),
                    Node::Package(b),
                    ConflictEdge::Conflict(ConflictCause::ForbidMultipleInstances),
                ) => {
                    let text = "and only one version can be installed";
                    let (a, b) = (universe.describe(*a), universe.describe(*b));
                    (format!("{a} and {b} are both needed, {text}"), vec![*from, *to])
                }
                (Node::Package(a), Node::Package(b), ConflictEdge::Conflict(ConflictCause::Constrains(_))) => {
                    let relation = blame(universe, *a, *b);
                    let (a, b) = (universe.describe(*a), universe.describe(*b));
                    (format!("{a} conflicts with {b}: {relation}"), vec![*from, *to])
                }
                _ => continue,
            };
            let because: Vec<String> =
                concerned.iter().filter_map(|node| Self::chain(provider, &origins, *node)).collect();
            found.entry(statement).or_insert(because);
        }
        found.into_iter().map(|(statement, because)| Conflict { statement, because }).collect()
    }

    /// For each node the requirement through which it is reached from the root on the shortest way.
    fn origins(&self) -> BTreeMap<Node, (Node, Requirement)> {
        let mut origins = BTreeMap::new();
        let mut seen = BTreeSet::from([Node::Root]);
        let mut queue = VecDeque::from([Node::Root]);
        while let Some(node) = queue.pop_front() {
            for (from, to, edge) in &self.edges {
                let ConflictEdge::Requires(requirement) = edge else { continue };
                if *from == node && seen.insert(*to) {
                    origins.insert(*to, (node, *requirement));
                    queue.push_back(*to);
                }
            }
        }
        origins
    }

    /// `c 1 (x): needed by b 2 (x) (c (>= 1)), needed by a 1 (x) (b), which is asked for`
    fn chain(provider: &Provider<'_, '_>, origins: &BTreeMap<Node, (Node, Requirement)>, node: Node) -> Option<String> {
        let Node::Package(id) = node else { return None };
        let mut text = format!("{}:", provider.universe.package(id).name);
        let mut at = node;
        loop {
            let (parent, requirement) = origins.get(&at)?;
            let Node::Package(parent_id) = parent else { break };
            let parent_text = provider.universe.describe(*parent_id);
            let relation = provider.requirement_text(*requirement);
            text.extend([" needed by ", &parent_text, " as `", &relation, "`,"]);
            at = *parent;
        }
        let how = match at {
            Node::Package(root) if provider.request.include.contains(provider.universe.package(root).name) => {
                "asked for"
            }
            _ => "part of every system (essential or required)",
        };
        text.push_str(if at == node { " " } else { " which is " });
        text.push_str(how);
        Some(text)
    }
}

fn missing(provider: &Provider<'_, '_>, from: Node, requirement: Requirement) -> String {
    let universe = provider.universe;
    let text = provider.requirement_text(requirement);
    let name = provider.requirement_name(requirement);
    let there: Vec<String> = universe.versions(&name).iter().map(|id| universe.describe_version(*id)).collect();
    let there = if there.is_empty() {
        format!("no repository has {name}")
    } else {
        format!("there is only {}", there.join(", "))
    };
    match from {
        Node::Package(id) => format!("{} needs `{text}`, and {there}", universe.describe(id)),
        _ => format!("`{text}` is asked for, and {there}"),
    }
}

/// The field of `a` that keeps `b` away, as written.
fn blame(universe: &Universe<'_>, a: PackageId, b: PackageId) -> String {
    let package = universe.package(a);
    for (field, text) in [("Conflicts", package.conflicts), ("Breaks", package.breaks)] {
        let Ok(groups) = relation::parse(text) else { continue };
        let hit = groups.into_iter().flatten().find(|r| provider::targets(universe, r).contains(&b));
        if let Some(relation) = hit {
            let via = if relation.name == universe.package(b).name {
                String::new()
            } else {
                format!(", which {} provides", universe.package(b).name)
            };
            return format!("`{field}: {relation}` of {}{via}", package.name);
        }
    }
    "by their relations".to_owned()
}
