//! `ingot config`

mod documents;
mod seal;

use ingot_firstboot::config::schema::{json_schema, markdown, sample};
use ingot_firstboot::config::{Gate, Loaded, MachineMatch, Opener, check, load_with, machines_of};
use ingot_firstboot::plan::{Plan, Planned};
use ingot_firstboot::step::Archive;
use serde_json::json;

use crate::build::sets;
use crate::cli::args::{ConfigCommand, ConfigFiles, Global};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::profile;
use crate::progress::Progress as _;
use documents::Given;

pub fn run(global: &Global, command: &ConfigCommand, printer: &Printer) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(files) => check_files(global, files, printer),
        ConfigCommand::Explain { files, machine } => explain(global, files, machine.as_ref(), printer),
        ConfigCommand::Plan { files, machine } => plan(global, files, machine.as_ref(), printer),
        ConfigCommand::Sample { role } => write_sample(global, role),
        ConfigCommand::Seal { file, to, role, out } => {
            let files = ConfigFiles { files: vec![file.clone()], role: role.clone() };
            seal::run(global, &files, to, out.as_deref(), printer)
        }
        ConfigCommand::Schema { markdown: false } => {
            print_json(&json_schema());
            Ok(())
        }
        ConfigCommand::Schema { markdown: true } => {
            if global.json {
                print_json(&json!({ "markdown": markdown() }));
            } else {
                print(&markdown());
            }
            Ok(())
        }
    }
}

fn check_files(global: &Global, files: &ConfigFiles, printer: &Printer) -> Result<(), Failure> {
    let given = Given::read(global, files)?;
    let checked = check(&given.documents).map_err(|error| Failure::input(given.placed(error)))?;
    for warning in &checked.warnings {
        printer.warn(&warning.to_string());
    }
    for note in &checked.notes {
        printer.warn(&format!("needs nothing: {note}"));
    }
    let open: Vec<String> =
        checked.others.as_ref().err().map(|e| e.problems.iter().map(|p| p.key.clone()).collect()).unwrap_or_default();
    if files.role.is_some() && !open.is_empty() && checked.machines.is_empty() {
        let problems = checked.others.err().map(|error| given.placed(error).to_string()).unwrap_or_default();
        return Err(Failure::input(problems));
    }
    let names = files.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    if global.json {
        let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
        let machines: Vec<String> = checked.machines.iter().map(|(machine, _)| machine.to_string()).collect();
        print_json(&json!({
            "valid": true, "warnings": warnings, "machines": machines, "left_to_the_role": open,
        }));
    } else if open.is_empty() {
        print(&format!("{names} is valid"));
    } else {
        print(&format!("{names} is valid; it leaves to the role: {}", open.join(", ")));
    }
    Ok(())
}

/// The configuration of one machine, its warnings said.
fn load_for(given: &Given, machine: &MachineMatch, printer: &Printer) -> Result<Loaded, Failure> {
    let mut loaded = load_with(&given.documents, &machine.machine(), Opener::Author)
        .map_err(|error| Failure::input(given.placed(error)))?;
    loaded.warnings.iter().for_each(|warning| printer.warn(&warning.to_string()));
    for value in &mut loaded.origins {
        given.place(&value.key, &mut value.origin);
    }
    for lost in &mut loaded.overridden {
        given.place(&lost.value.key, &mut lost.value.origin);
        given.place(&lost.value.key, &mut lost.by);
    }
    Ok(loaded)
}

/// Says so where a machine is meant that no `[[machine]]` names: a wrong letter would show every other machine's values.
fn say_unmatched(given: &Given, machine: Option<&MachineMatch>, printer: &Printer) {
    let known = machines_of(&given.documents);
    let Some(machine) = machine.filter(|_| !known.is_empty()) else { return };
    if !known.iter().any(|matches| matches.matches(&machine.machine())) {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        printer.warn(&format!(
            "no [[machine]] matches {machine}, so this is what every other machine gets; there are: {}",
            known.join("; ")
        ));
    }
}

fn explain(
    global: &Global,
    files: &ConfigFiles,
    machine: Option<&MachineMatch>,
    printer: &Printer,
) -> Result<(), Failure> {
    let given = Given::read(global, files)?;
    let loaded = load_for(&given, &machine.cloned().unwrap_or_default(), printer)?;
    say_unmatched(&given, machine, printer);
    if global.json {
        print_json(&json!({ "values": loaded.origins, "overridden": loaded.overridden }));
        return Ok(());
    }
    let lines: Vec<(String, String)> =
        loaded.origins.iter().map(|v| (format!("{} = {}", v.key, v.value), v.origin.to_string())).collect();
    let width = lines.iter().map(|(value, _)| value.chars().count()).filter(|w| *w <= 72).max().unwrap_or(0);
    for (value, origin) in &lines {
        print(&format!("{value:<width$}  # {origin}"));
    }
    if !loaded.overridden.is_empty() {
        print("\noverridden:");
    }
    for lost in &loaded.overridden {
        let value = format!("{} = {}", lost.value.key, lost.value.value);
        print(&format!("{value:<width$}  # {}, by {}", lost.value.origin, lost.by));
    }
    Ok(())
}

fn plan(
    global: &Global,
    files: &ConfigFiles,
    machine: Option<&MachineMatch>,
    printer: &Printer,
) -> Result<(), Failure> {
    let given = Given::read(global, files)?;
    say_unmatched(&given, machine, printer);
    let machine = machine.cloned().unwrap_or_default();
    let loaded = load_for(&given, &machine, printer)?;
    let containers = given.role.iter().flat_map(|role| role.profile.containers.keys());
    let archive = |name: &String| Archive { name: format!("{name}.tar"), bytes: 0, image: String::new() };
    let plan = Plan::new(&loaded.config, &machine.machine(), containers.map(archive).collect());
    let mut steps = plan.effects();
    if let Some(join) = &plan.join {
        let gate =
            |gate: &Gate| Planned { name: "gate".into(), text: format!("waits for {gate}"), effects: Vec::new() };
        let at = steps.len().saturating_sub(1);
        steps.splice(at..at, join.after.iter().map(gate));
    }
    steps.extend(loaded.config.power.map(|power| Planned {
        name: "power".into(),
        text: power.to_string(),
        effects: Vec::new(),
    }));
    if global.json {
        print_json(&json!({ "machine": machine.to_string(), "role": files.role, "steps": steps }));
        return Ok(());
    }
    steps.iter().flat_map(Planned::lines).for_each(|line| print(&line));
    if plan.join.is_none() {
        print("join: nothing");
    }
    Ok(())
}

fn write_sample(global: &Global, role: &str) -> Result<(), Failure> {
    let site = site(global)?;
    let explained = sets::load(&site, role)?;
    let text = sample(role, &profile::config::values(&explained, documents::root(&site)));
    if global.json {
        print_json(&json!({ "role": role, "sample": text }));
    } else {
        print(&text);
    }
    Ok(())
}
