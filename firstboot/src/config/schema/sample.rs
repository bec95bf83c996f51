//! A commented `node.toml` with exactly the keys that one role needs.

use super::{Key, Kind, Need, keys};
use crate::config::secret::SAMPLE_SECRET;

/// A value that a role gives by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleValue {
    /// The key with its tables: `join.driver`.
    pub key: String,
    /// The value in TOML.
    pub value: String,
    /// Where it was written: `profiles/parts/swarm.toml:15`.
    pub origin: String,
}

/// What stands in a sample in place of a secret; refused wherever it is used.
fn placeholder(key: &Key) -> String {
    let text = if key.path == "join.secret" { SAMPLE_SECRET } else { "replace-me" };
    format!("{text:?}")
}

/// The sample for a role that gives these values by itself. Keys that the role gives stand there as comments with
/// their origin; secrets are placeholders that every check refuses.
pub fn sample(role: &str, given: &[RoleValue]) -> String {
    let value_of = |path: &str| given.iter().find(|value| value.key == path).map(|value| value.value.as_str());
    let plain = |path: &str| value_of(path).map(|value| value.trim_matches('"')).unwrap_or_default();
    let (driver, join_role) = (plain("join.driver"), plain("join.role"));
    // What a node of aiWARE is, its modes say; where the role leaves them open, the sample's own do.
    let modes_example = keys().find(|key| key.path == "join.modes").map_or("", |key| key.example);
    let roles: Vec<&str> = match driver {
        "aiware" => texts(value_of("join.modes").unwrap_or(modes_example)),
        _ => vec![join_role],
    };
    let mut text = format!(
        "# node.toml for {role}: the keys that this role needs. Put it onto a USB stick (FAT) labelled INGOT.\n\
         # `ingot config check --role {role} node.toml` finds every mistake before a node does.\n"
    );
    let mut table = "";
    for key in keys().filter(|key| !matches!(key.kind, Kind::Table | Kind::Tables)) {
        if !driver.is_empty() && !key.is_for(driver, join_role) {
            continue;
        }
        let set = given.iter().find(|value| value.key == key.path || value.key.starts_with(&format!("{}.", key.path)));
        let needed = is_in_use(key, driver, &roles) && key.is_needed(driver, &roles);
        if set.is_none() && !needed {
            continue;
        }
        if key.table() != table {
            table = key.table();
            text.push_str(&match table.strip_suffix("[]") {
                Some(list) => format!("\n[[{list}]]\n"),
                None => format!("\n[{table}]\n"),
            });
        }
        text.push_str(&format!("# {}\n", key.doc.replace('`', "")));
        match set {
            Some(set) => {
                let name = set.key.strip_prefix(table).unwrap_or(&set.key).trim_start_matches('.');
                let value = if key.secret { "\"(secret)\"" } else { &set.value };
                text.push_str(&format!("# {name} = {value}    # the role's own: {}\n", set.origin));
            }
            None if key.secret => text.push_str(&format!("{} = {}\n", key.name(), placeholder(key))),
            None => text.push_str(&format!("{} = {}\n", key.name(), key.example)),
        }
    }
    if !driver.is_empty() {
        text.push_str(
            "\n# What holds for one machine only, by mac, serial or uuid: its name, its addresses.\n\
             # [[machine]]\n# match = { mac = \"52:54:00:12:34:10\" }\n# hostname = \"w1\"\n",
        );
    }
    text.push_str("\n# Every other key: docs/node-keys.md\n");
    text
}

/// The texts of a list in TOML that is on one line.
fn texts(list: &str) -> Vec<&str> {
    let items = list.trim_matches(['[', ']', ' ']).split(',');
    items.map(|item| item.trim().trim_matches(['"', '\''])).filter(|item| !item.is_empty()).collect()
}

/// True where the key's table is there at all: a list has an element where it is needed, and `[join]` is where there is
/// a driver.
fn is_in_use(key: &Key, driver: &str, roles: &[&str]) -> bool {
    match key.table() {
        "" => true,
        "join" => !driver.is_empty(),
        table => match table.strip_suffix("[]") {
            Some(list) => keys().any(|list_key| {
                list_key.path == list && matches!(list_key.need, Need::By(_)) && list_key.is_needed(driver, roles)
            }),
            None => !table.contains("[]") && matches!(key.need, Need::By(_)),
        },
    }
}
