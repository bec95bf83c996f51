//! `ingot config seal`

use std::path::{Path, PathBuf};

use ingot_firstboot::config::sealed::PublicKey;
use ingot_firstboot::config::{check, seal_document};
use serde_json::json;

use super::documents::Given;
use crate::cli::args::{ConfigFiles, Global};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json};
use crate::progress::Progress as _;

/// Seals the last of the files, which stands alone or above the defaults of a role.
pub fn run(
    global: &Global,
    files: &ConfigFiles,
    to: &[PathBuf],
    out: Option<&Path>,
    printer: &Printer,
) -> Result<(), Failure> {
    let given = Given::read(global, files)?;
    // What is sealed can no longer be looked at, so it must be right before.
    check(&given.documents).map_err(|error| Failure::input(given.placed(error)))?;
    let Some(document) = given.documents.last() else { return Ok(()) };
    let recipients = to.iter().map(|path| public_key(path)).collect::<Result<Vec<_>, _>>()?;
    let (text, sealed) = seal_document(&document.name, &document.bytes, &recipients).map_err(Failure::input)?;
    match out {
        Some(out) => {
            std::fs::write(out, &text).map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
            if global.json {
                print_json(&json!({ "file": out, "sealed": sealed }));
            } else {
                print(&format!("{}: {sealed} secrets sealed", out.display()));
            }
        }
        None if global.json => print_json(&json!({ "text": text, "sealed": sealed })),
        None => {
            printer.note(&format!("{sealed} secrets sealed"));
            print(&text);
        }
    }
    Ok(())
}

fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::input(format!("{}: {error}", path.display())))?;
    text.parse().map_err(|error| {
        Failure::input(format!("{}: {error}; `ingot keys generate NAME --kind config` makes one", path.display()))
    })
}
