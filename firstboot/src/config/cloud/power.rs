//! `power_state` of cloud-config, which becomes `[power]`.
//!
//! cloud-init switches off after its own last stage; a node after it has joined. A condition that is a command is
//! refused: nobody can say before what it does.

use super::keys::applies;
use super::user_data::boolean;
use super::yaml::entries;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Value};

const CONDITION_HELP: &str =
    "write true or false; a command that decides belongs under runcmd, and may say `reboot` itself";

/// Carries it over.
pub fn power_state(node: Node, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    let mut power = Node::table(origin.clone());
    let mut wanted = true;
    for (key, place, node) in entries(node, "power_state", &origin, findings) {
        if !applies("power_state.", &key, &place, &node, findings) {
            continue;
        }
        match key.as_str() {
            "condition" if matches!(&node.value, Value::Boolean(_) | Value::Text(_)) => {
                let before = findings.errors.len();
                let condition = boolean(&node, "power_state.condition", findings);
                for problem in &mut findings.errors[before..] {
                    CONDITION_HELP.clone_into(&mut problem.help);
                }
                wanted = condition != Some(false);
            }
            "condition" => {
                let what = format!("is {}, not true or false", node.value.kind());
                findings.error(&node.origin, "power_state.condition", what, CONDITION_HELP);
            }
            "delay" => power.set(&["delay"], minutes(node, findings)),
            _ => power.set(&["mode"], node),
        }
    }
    if wanted {
        tree.set(&["power"], power);
    }
}

/// The delay: `now`, or minutes with or without a `+`.
fn minutes(mut node: Node, findings: &mut Findings) -> Node {
    if let Value::Text(text) = &node.value {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let known = if text == "now" { Some(0) } else { digits.parse::<u32>().ok() };
        if known.is_none() {
            findings.error(&node.origin, "power_state.delay", "is no delay", "write now, or minutes: \"+5\"");
        }
        node.value = Value::Integer(known.unwrap_or_default().into());
    }
    node
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Machine, load};

    fn power(text: &str) -> Result<String, String> {
        let bytes = format!("#cloud-config\npower_state: {text}\n").into_bytes();
        let loaded = load(&[Document { name: "u".into(), format: Format::UserData, bytes }], &Machine::default());
        let loaded = loaded.map_err(|error| error.to_string())?;
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        Ok(loaded.config.power.map(|power| power.to_string()).unwrap_or_default())
    }

    #[test]
    fn cloud_inits_forms_are_read() {
        for (text, expected) in [
            ("{mode: reboot}", "reboot, once"),
            ("{mode: poweroff, delay: now, condition: true}", "poweroff, once"),
            ("{mode: halt, delay: '+5', timeout: 30, message: bye}", "halt after 5 minutes, once"),
            ("{mode: reboot, delay: 7, condition: 'true'}", "reboot after 7 minutes, once"),
            ("{mode: reboot, delay: '30'}", "reboot after 30 minutes, once"),
            ("{mode: reboot, condition: false}", ""),
        ] {
            assert_eq!(power(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("{delay: now}", "power.mode: is missing"),
            ("{mode: suspend}", "u:2:21: power.mode: \"suspend\": is none of"),
            ("{mode: reboot, delay: soon}", "u:2:36: power_state.delay: is no delay"),
            ("{mode: reboot, delay: '-5'}", "power_state.delay: is no delay"),
            ("{mode: reboot, condition: test -e /x}", "belongs under runcmd"),
            ("{mode: reboot, condition: [test, -e, /x]}", "power_state.condition: is a list"),
        ] {
            let error = power(text).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
