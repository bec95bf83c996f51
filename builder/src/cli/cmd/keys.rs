//! `ingot keys`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ingot_firstboot::config::sealed::{ConfigKey, PublicKey};
use serde_json::json;

use crate::cli::args::{Global, KeyKind, KeysCommand};
use crate::cli::{Failure, print, print_json};

pub fn run(global: &Global, command: &KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Generate { name, kind: KeyKind::Config, out } => generate(global, name, out),
        KeysCommand::Show { file } => show(global, file),
    }
}

fn generate(global: &Global, name: &str, directory: &Path) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Failure::input(format!("{name:?}: a name has letters, digits, `-`, `_` and `.`")));
    }
    let key = ConfigKey::generate().map_err(Failure::failed)?;
    let (secret_file, public_file) = (directory.join(format!("{name}.key")), directory.join(format!("{name}.pub")));
    if public_file.exists() {
        return Err(exists(&public_file));
    }
    let secret = format!(
        "# The config key of {name}. Put it as config.key onto an INGOT volume, or hand it over as the credential\n\
         # ingot.config-key. Who has it can read every secret that is sealed to {name}.pub.\n{}\n",
        key.to_secret().expose()
    );
    write_new(&secret_file, &secret, 0o600)?;
    write_new(&public_file, &format!("{} {name}\n", key.public()), 0o644)?;
    if global.json {
        print_json(&json!({
            "kind": "config", "secret_file": secret_file, "public_file": public_file, "public": key.public().to_string(),
        }));
    } else {
        print(&format!("{}\n{}", secret_file.display(), public_file.display()));
    }
    Ok(())
}

/// Writes a file that must not be there yet: no key is ever written over.
fn write_new(path: &PathBuf, text: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::failed(format!("{}: {error}", path.display())),
    })
}

fn exists(path: &Path) -> Failure {
    Failure::input(format!("{} is there already; a key is never written over", path.display()))
}

fn show(global: &Global, file: &Path) -> Result<(), Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::input(format!("{name}: {error}")))?;
    let public = match text.parse::<ConfigKey>() {
        Ok(key) => key.public(),
        Err(_) => text.parse::<PublicKey>().map_err(|error| Failure::input(format!("{name}: {error}")))?,
    };
    if global.json {
        print_json(&json!({ "kind": "config", "public": public.to_string() }));
    } else {
        print(&public.to_string());
    }
    Ok(())
}
