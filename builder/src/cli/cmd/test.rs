//! `ingot test`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::build::{self, Format, NodePrograms, Request, Site};
use crate::cli::args::{Global, TestArgs};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::progress::Progress as _;
use crate::qemu::{ImageRef, Scenario, run_scenario};

/// Where scenarios lie that are given by name.
const SCENARIOS: &str = "tests/scenarios";

pub fn run(global: &Global, arguments: &TestArgs, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    let scenario = scenario(&site, &arguments.what)?;
    let node = NodePrograms::find(arguments.node_programs.as_deref())?;
    let mut images = BTreeMap::new();
    let mut tools = None;
    for key in scenario.images() {
        let request = Request {
            roles: std::slice::from_ref(&key.role),
            out: arguments.out.clone(),
            formats: vec![Format::Raw],
            sector_size: Some(key.sector),
            node: node.clone(),
        };
        let plan = build::plan(&site, &key.role, &request)?;
        let built = build::build(&site, &plan, &request, printer)?;
        if tools.is_none() {
            tools = Some(build::tools(&site, &plan, printer)?.tools);
        }
        let path = built.raw.canonicalize().map_err(Failure::failed)?;
        images.insert(key, ImageRef { path, facts: plan.profile().qemu.clone() });
    }
    let tools = match tools {
        Some(tools) => tools,
        // Every guest boots an image by its path: any role says which tools there are.
        None => {
            let role = site.tree.roles().into_iter().next();
            let role = role.ok_or_else(|| Failure::input("the profile tree has no role, so there are no tools"))?;
            let request = Request {
                roles: std::slice::from_ref(&role),
                out: arguments.out.clone(),
                formats: vec![Format::Raw],
                sector_size: None,
                node,
            };
            build::tools(&site, &build::plan(&site, &role, &request)?, printer)?.tools
        }
    };
    let launcher = tools.launcher().map_err(Failure::failed)?;
    let work = arguments.work.clone().unwrap_or_else(|| arguments.out.join("test").join(&scenario.name));
    std::fs::create_dir_all(&work).map_err(|error| Failure::failed(format!("{}: {error}", work.display())))?;
    let report = run_scenario(&scenario, &launcher, &images, &work, printer).map_err(Failure::failed)?;
    let file = work.join("report.json");
    let text = serde_json::to_string_pretty(&report).map_err(Failure::failed)?;
    std::fs::write(&file, text + "\n").map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
    if global.json {
        print_json(&report);
    } else {
        print(&report.to_text());
        printer.note(&format!("report and console logs: {}", work.display()));
    }
    if report.passed() {
        Ok(())
    } else {
        let reason = report.reason.clone().unwrap_or_default();
        Err(Failure::failed(format!("{} did not pass: {reason}", scenario.name)))
    }
}

/// A scenario by file or name, or the one that every role has: it boots and reports its state.
fn scenario(site: &Site, what: &str) -> Result<Scenario, Failure> {
    let named = Path::new(SCENARIOS).join(format!("{what}.toml"));
    let file = [PathBuf::from(what), named].into_iter().find(|path| path.is_file());
    if let Some(file) = file {
        return Scenario::read(&file).map_err(Failure::input);
    }
    let roles = site.tree.roles();
    if !roles.iter().any(|role| role == what) {
        return Err(Failure::input(format!(
            "{what} is no scenario file, none in {SCENARIOS}, and no role; there are the roles {}",
            roles.join(", ")
        )));
    }
    let text = format!(
        "name = {name:?}\ntimeout_seconds = 300\n\n[[guest]]\nname = \"node\"\nrole = {what:?}\n\n[[step]]\n\
         name = \"the node is up and asks for its configuration, or needs none\"\nguest = \"node\"\n\
         console = 'FB-(110|500|510) '\nwithin_seconds = 150\n",
        name = what.replace('/', "-"),
    );
    Scenario::parse(&text, Path::new(what)).map_err(Failure::input)
}
