//! `ingot config seal`

use std::path::{Path, PathBuf};

use ingot_firstboot::config::sealed::PublicKey;
use ingot_firstboot::config::{Document, Format, check, seal_document};
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json};
use crate::progress::Progress as _;

pub fn run(global: &Global, file: &Path, to: &[PathBuf], out: Option<&Path>, printer: &Printer) -> Result<(), Failure> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| Failure::input(format!("{name}: {error}")))?;
    // What is sealed can no longer be looked at, so it must be right before.
    let document = Document { name: name.clone(), format: Format::NodeToml, bytes };
    check(std::slice::from_ref(&document)).map_err(Failure::input)?;
    let recipients = to.iter().map(|path| public_key(path)).collect::<Result<Vec<_>, _>>()?;
    let (text, sealed) = seal_document(&name, &document.bytes, &recipients).map_err(Failure::input)?;
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
