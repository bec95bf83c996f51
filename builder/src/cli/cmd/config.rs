//! `ingot config`

use std::path::Path;

use ingot_firstboot::config::{Document, Format, check};

use crate::build::sets;
use crate::cli::args::{ConfigCommand, Global};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::progress::Progress as _;

pub fn run(global: &Global, command: &ConfigCommand, printer: &Printer) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { file, role } => check_file(global, file, role.as_deref(), printer),
    }
}

fn check_file(global: &Global, file: &Path, role: Option<&str>, printer: &Printer) -> Result<(), Failure> {
    let mut documents = Vec::new();
    if let Some(role) = role {
        let profile = sets::load(&site(global)?, role)?.profile;
        let text = toml::to_string(&profile.config).map_err(Failure::input)?;
        documents.push(Document {
            name: format!("defaults of {role}"),
            format: Format::RoleToml,
            bytes: text.into_bytes(),
        });
    }
    let bytes = std::fs::read(file).map_err(|error| Failure::input(format!("{}: {error}", file.display())))?;
    documents.push(Document { name: file.display().to_string(), format: Format::NodeToml, bytes });
    let checked = check(&documents).map_err(Failure::input)?;
    for warning in &checked.warnings {
        printer.warn(&warning.to_string());
    }
    for note in &checked.notes {
        printer.warn(&format!("needs nothing: {note}"));
    }
    let open: Vec<String> =
        checked.others.as_ref().err().map(|e| e.problems.iter().map(|p| p.key.clone()).collect()).unwrap_or_default();
    if role.is_some() && !open.is_empty() && checked.machines.is_empty() {
        let problems = checked.others.err().map(|error| error.to_string()).unwrap_or_default();
        return Err(Failure::input(problems));
    }
    if global.json {
        let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
        let machines: Vec<String> = checked.machines.iter().map(|(machine, _)| machine.to_string()).collect();
        print_json(&serde_json::json!({
            "valid": true, "warnings": warnings, "machines": machines, "left_to_the_role": open,
        }));
    } else if open.is_empty() {
        print(&format!("{} is valid", file.display()));
    } else {
        print(&format!("{} is valid; it leaves to the role: {}", file.display(), open.join(", ")));
    }
    Ok(())
}
