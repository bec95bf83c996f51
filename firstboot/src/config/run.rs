//! `[run]`: commands of the configuration, where the role allows them.
//!
//! `run.allow_commands = true` stands in the role's defaults on the image and nowhere else: it says that a fleet of
//! this role may behave in ways that its image does not show. It is no barrier against whoever writes the
//! configuration, who may give root a key.

use std::fmt;

use serde::{Serialize, Serializer};

use super::fields::Fields;
use super::node::Extent;
use super::problem::Findings;
use super::tree::{Node, Value};

/// The most commands of a list, and the most bytes of one.
pub const MAXIMUM_COMMANDS: usize = 100;
const MAXIMUM_COMMAND_BYTES: usize = 64 * 1024;

/// Commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Run {
    /// At each start of the machine.
    pub boot: Vec<Command>,
    /// Once in the life of the node, before it joins.
    pub first: Vec<Command>,
    /// Whether one of `first` that was cut off or failed is run again until it succeeds.
    pub repeat: bool,
}

/// A command as a script for `sh`; it may hold secrets, so it is neither shown nor made an argument.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(String);

impl Command {
    /// The script.
    pub fn script(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(command)")
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(command)")
    }
}

/// Reads `[run]`.
pub fn read(node: &Node, extent: Extent, findings: &mut Findings) -> Run {
    let Some(fields) = Fields::new(node, "run", findings) else { return Run::default() };
    let allowed = fields.boolean("allow_commands", findings).unwrap_or(false);
    let run = Run {
        boot: commands(&fields, "boot", findings),
        first: commands(&fields, "first", findings),
        repeat: fields.boolean("repeat", findings).unwrap_or(false),
    };
    if extent == Extent::Whole && !allowed {
        for key in ["boot", "first"] {
            if fields
                .entry(key)
                .is_some_and(|entry| !matches!(&entry.node.value, Value::Array(items) if items.is_empty()))
            {
                let help = "its profile would say allow_commands = true under [config.run]; `ingot config check --role` \
                            checks with a role's defaults";
                fields.error(key, "this role runs no commands of a configuration", help, findings);
            }
        }
    }
    run
}

fn commands(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Vec<Command> {
    let nodes = fields.list(key, findings);
    if nodes.len() > MAXIMUM_COMMANDS {
        fields.error(key, format!("has more than {MAXIMUM_COMMANDS} commands"), "put them into a script", findings);
    }
    let mut commands = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        match script(node) {
            Ok(script) => commands.push(Command(script)),
            Err(what) => {
                let help = "write a text for the shell, or a list of a program and its arguments";
                findings.error(&node.origin, &format!("{}[{index}]", fields.path_of(key)), what, help);
            }
        }
    }
    commands
}

/// The script of a command: the text itself, or the program with its arguments quoted.
fn script(node: &Node) -> Result<String, String> {
    let script = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Array(arguments) if !arguments.is_empty() => {
            let quoted: Result<Vec<String>, String> = arguments
                .iter()
                .map(|argument| match &argument.value {
                    Value::Text(text) => Ok(quoted(text)),
                    other => Err(format!("has {} as an argument", other.kind())),
                })
                .collect();
            format!("exec {}", quoted?.join(" "))
        }
        Value::Array(_) => return Err("is an empty list".into()),
        other => return Err(format!("is {}", other.kind())),
    };
    if script.trim().is_empty() {
        return Err("is empty".into());
    }
    if script.contains('\0') {
        return Err("has a zero byte".into());
    }
    if script.len() > MAXIMUM_COMMAND_BYTES {
        return Err("is longer than 64 KiB".into());
    }
    Ok(script)
}

/// An argument as the shell reads it back.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};

    const ROLE: &str = "[run]\nallow_commands = true\n";

    fn read_both(role: &str, text: &str) -> Result<Run, String> {
        let documents = [
            Document { name: "role".into(), format: Format::RoleToml, bytes: role.as_bytes().to_vec() },
            Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() },
        ];
        load(&documents, &Machine::default()).map(|loaded| loaded.config.run).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_role_that_says_so_runs_commands() {
        let text = "[run]\nfirst = [\"echo a\", [\"echo\", \"it's\"]]\nboot = [\"true\"]\n";
        let run = read_both(ROLE, text).unwrap();
        assert_eq!(run.first[0].script(), "echo a");
        assert_eq!(run.first[1].script(), "exec 'echo' 'it'\\''s'");
        assert!(!run.repeat);
        for role in ["hostname = \"x\"\n", "[run]\nallow_commands = false\n"] {
            let error = read_both(role, text).unwrap_err();
            assert!(error.contains("f:2:9: run.first: this role runs no commands"), "{error}");
            assert!(error.contains("run.boot: this role runs no commands"), "{error}");
            assert!(read_both(role, "[run]\nfirst = []\n").is_ok());
        }
    }

    #[test]
    fn no_other_document_can_allow_them() {
        for text in
            ["[run]\nallow_commands = true\n", "[[machine]]\nmatch = { serial = \"x\" }\nrun.allow_commands = true\n"]
        {
            let error = read_both(ROLE, text).unwrap_err();
            assert!(error.contains("run.allow_commands: can only be said by the role's image"), "{error}");
        }
        let cloud = Document {
            name: "u".into(),
            format: Format::UserData,
            bytes: b"#ingot-config\n[run]\nallow_commands = true\n".to_vec(),
        };
        assert!(load(&[cloud], &Machine::default()).unwrap_err().to_string().contains("can only be said"));
    }

    #[test]
    fn wrong_commands_are_named_and_never_repeated() {
        for (list, expected) in [
            ("[7]", "run.first[0]: is a whole number"),
            ("[\"\"]", "is empty"),
            ("[[]]", "is an empty list"),
            ("[[\"a\", 7]]", "has a whole number as an argument"),
            ("[\"hunter2\\u0000\"]", "zero byte"),
            ("\"hunter2\"", "is a text, not a list"),
        ] {
            let error = read_both(ROLE, &format!("[run]\nfirst = {list}\n")).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error:?} lacks {expected:?}");
        }
        let run = read_both(ROLE, "[run]\nfirst = [\"curl -u u:hunter2\"]\n").unwrap();
        assert!(!format!("{run:?} {}", serde_json::to_string(&run).unwrap()).contains("hunter2"));
    }

    #[test]
    fn the_shell_reads_arguments_back() {
        for text in ["a b", "it's", "$HOME", "`id`", "a\nb", "\\", "*", "", "-n", "ü\"'"] {
            let script = format!("printf '%s' {}", quoted(text));
            let output = crate::process::run("sh", &["-c", &script], std::time::Duration::from_secs(10)).unwrap();
            assert_eq!(output, text.as_bytes());
        }
    }
}
