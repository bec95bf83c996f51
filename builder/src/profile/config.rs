//! A role's defaults for node configuration, the `[config]` of its profile: checked where they are written, with the
//! code that the node reads them with, and given on with the place of each.

use std::path::Path;

use ingot_firstboot::config::schema::RoleValue;
use ingot_firstboot::config::{Document, Format, check_within};
use toml::de::DeTable;

use super::error::ProfileError;
use super::{Explained, Profile};

/// Checks every `[config]` of one file: its own and those under `[when.NAME]`.
pub fn check_file(path: &Path, text: &str, table: &DeTable<'_>) -> Result<(), ProfileError> {
    let name = path.display().to_string();
    let check = |within: &[&str]| check_within(&name, text.as_bytes(), within).map(drop).map_err(ProfileError::Config);
    if table.is_empty() {
        return Ok(());
    }
    check(&["config"])?;
    let when = table.get("when").and_then(|when| when.get_ref().as_table());
    for condition in when.into_iter().flat_map(DeTable::keys) {
        check(&["when", condition.get_ref(), "config"])?;
    }
    Ok(())
}

/// Checks what the files of a role make together.
pub fn check_merged(profile: &Profile) -> Result<(), ProfileError> {
    if profile.config.is_empty() {
        return Ok(());
    }
    let document = document(profile)?;
    check_within(&document.name, &document.bytes, &[]).map(drop).map_err(ProfileError::Config)
}

/// The defaults as the document that the image holds as `/usr/lib/ingot/role.toml`.
pub fn document(profile: &Profile) -> Result<Document, ProfileError> {
    let name = format!("defaults of {} on {}", profile.role, profile.base.id);
    let text = toml::to_string(&profile.config)
        .map_err(|error| ProfileError::Value { place: name.clone(), message: error.to_string() })?;
    Ok(Document { name, format: Format::RoleToml, bytes: text.into_bytes() })
}

/// Each default with the file and line that it comes from, paths relative to `root`.
pub fn values(explained: &Explained, root: &Path) -> Vec<RoleValue> {
    let mut places = Vec::new();
    for (key, _, place) in explained.merged.leaves() {
        let Some(key) = key.strip_prefix("config.") else { continue };
        let file = place.file.strip_prefix(root).unwrap_or(&place.file).display().to_string();
        places.push((key.trim_end_matches("[]").to_owned(), format!("{file}:{}", place.line)));
    }
    let mut values = Vec::new();
    collect(&explained.profile.config, "", &mut |key, value| {
        let origin = places.iter().find(|(place, _)| *place == key).map(|(_, origin)| origin.clone());
        values.push(RoleValue { key, value: value.to_string(), origin: origin.unwrap_or_default() });
    });
    values
}

fn collect(table: &toml::Table, path: &str, give: &mut impl FnMut(String, &toml::Value)) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(inner) => collect(inner, &path, give),
            value => give(path, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use ingot_firstboot::config::schema::{find, sample};
    use ingot_firstboot::config::{Machine, load};

    use super::*;
    use crate::profile::{self, Tree};

    fn profiles() -> Tree {
        Tree::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles")).unwrap()
    }

    /// The sample with an example in place of each secret.
    fn filled(sample: &str) -> String {
        let mut table = String::new();
        let line = |line: &str| {
            if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                header.clone_into(&mut table);
            }
            match line.split_once(" = \"replace-me") {
                Some((name, _)) => {
                    let path = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
                    format!("{name} = {}\n", find(&path).unwrap().example)
                }
                None => format!("{line}\n"),
            }
        };
        sample.lines().map(line).collect()
    }

    #[test]
    fn the_sample_of_every_role_is_accepted_once_its_secrets_are_filled_in() {
        let tree = profiles();
        let roles = tree.roles();
        assert!(roles.len() >= 3, "{roles:?}");
        for role in roles {
            let explained = profile::load(&tree, &role, None).unwrap();
            let text = sample(&role, &values(&explained, tree.root()));
            let load = |text: &str| {
                let given = Document { name: "f".into(), format: Format::NodeToml, bytes: text.as_bytes().to_vec() };
                let defaults = document(&explained.profile).unwrap();
                let documents = [defaults, given];
                load(
                    if explained.profile.config.is_empty() { &documents[1..] } else { &documents },
                    &Machine::default(),
                )
            };
            assert_eq!(load(&text).is_err(), text.contains("replace-me"), "{role}:\n{text}");
            load(&filled(&text)).unwrap_or_else(|error| panic!("{role}: {error}\n{text}"));
            for value in values(&explained, tree.root()) {
                assert!(value.origin.contains(".toml:") && text.contains(&value.origin), "{value:?}\n{text}");
            }
        }
    }
}
