//! `users`, `user`, `groups` and `ssh_authorized_keys` of cloud-config as `[[user]]` and `[ssh]`.
//!
//! The default user of a distribution is root here: an appliance has no other account of its own. So keys that
//! cloud-init would give the default user are root's, and those that `user` names gets them too.

use std::collections::BTreeMap;

use super::keys::applies;
use super::user_data::{is_null, list};
use super::yaml::{entries, items};
use crate::config::problem::Findings;
use crate::config::tree::{Node, Origin, Value};

/// What a document says about accounts.
#[derive(Default)]
pub struct Accounts {
    /// Keys of root.
    pub root_keys: Vec<Node>,
    /// The document's `groups`.
    pub groups: Option<Node>,
    /// `[[user]]`, in their order.
    users: Vec<(String, Node)>,
    /// The one that `user` names.
    default: Option<String>,
}

/// A text at a place.
fn text(origin: &Origin, text: &str) -> Node {
    Node { origin: origin.clone(), value: Value::Text(text.to_owned()) }
}

/// The names in a text with commas.
fn names(origin: &Origin, names: &str) -> Vec<Node> {
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(|name| text(origin, name)).collect()
}

fn is_root(name: &str) -> bool {
    matches!(name, "default" | "root")
}

impl Accounts {
    /// Takes `users`: a text, or a list of texts and mappings.
    pub fn users(&mut self, node: Node, findings: &mut Findings) {
        let listed = match &node.value {
            Value::Text(all) => names(&node.origin, all),
            Value::Table(_) => {
                let help = "write a list: `- name: ops`";
                return findings.error(&node.origin, "users", "is a mapping, not a list", help);
            }
            _ => items(node, "users", findings),
        };
        for item in listed {
            match &item.value {
                Value::Text(all) => {
                    let place = item.origin.clone();
                    for node in names(&place, all) {
                        if let Value::Text(name) = &node.value {
                            self.add(name, Node::table(place.clone()));
                        }
                    }
                }
                Value::Array(inner) => {
                    for node in inner {
                        match &node.value {
                            Value::Text(name) => self.add(name, Node::table(node.origin.clone())),
                            other => {
                                findings.error(&node.origin, "users", format!("is {}, not a name", other.kind()), "");
                            }
                        }
                    }
                }
                _ => {
                    self.mapping(item, findings);
                }
            }
        }
    }

    /// Takes `user`: what the default user is called and is.
    pub fn user(&mut self, node: Node, findings: &mut Findings) {
        self.default = match &node.value {
            Value::Text(name) => {
                let name = name.clone();
                self.add(&name, Node::table(node.origin));
                Some(name)
            }
            _ => self.mapping(node, findings),
        };
    }

    fn add(&mut self, name: &str, mut user: Node) {
        if is_root(name) {
            return;
        }
        let origin = user.origin.clone();
        user.set(&["name"], text(&origin, name));
        match self.users.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.merge(user),
            None => self.users.push((name.to_owned(), user)),
        }
    }

    /// One user; gives its name.
    fn mapping(&mut self, item: Node, findings: &mut Findings) -> Option<String> {
        let origin = item.origin.clone();
        let name = match item.as_table().and_then(|table| table.get("name")).map(|entry| &entry.node.value) {
            Some(Value::Text(name)) => name.clone(),
            _ if item.as_table().is_some() => {
                findings.error(&origin, "users[].name", "is missing, or no text", "give each user a name");
                return None;
            }
            _ => {
                findings.error(&origin, "users", format!("is {}, not a user", item.value.kind()), "");
                return None;
            }
        };
        let mut user = Node::table(origin.clone());
        for (key, place, node) in entries(item, "users[]", &origin, findings) {
            if key == "name" || !applies("users[].", &key, &place, &node, findings) || is_null(&node) {
                continue;
            }
            let keys = matches!(key.as_str(), "ssh_authorized_keys" | "ssh-authorized-keys");
            if is_root(&name) {
                if keys {
                    self.root_keys.extend(items(node, "users[].ssh_authorized_keys", findings));
                } else {
                    let help = "leave it out; root is what the image says";
                    findings.warning(&place, &format!("users[].{key}"), "has no effect for root", help);
                }
                continue;
            }
            match key.as_str() {
                _ if keys => user.set(&["authorized_keys"], node),
                "gecos" => user.set(&["comment"], node),
                "homedir" => user.set(&["home"], node),
                "groups" => user.set(&["groups"], groups(node)),
                "sudo" => sudo(node, &mut user),
                "uid" => user.set(&["uid"], uid(node)),
                key => user.set(&[key], node),
            }
        }
        self.add(&name, user);
        Some(name)
    }

    /// Writes what was gathered into the tree.
    pub fn carry_over(mut self, tree: &mut Node, findings: &mut Findings) {
        let groups = self.groups.take();
        self.memberships(groups, findings);
        if let Some(default) = self.default.take().filter(|name| !is_root(name))
            && let Some((_, user)) = self.users.iter_mut().find(|(name, _)| *name == default)
            && let Some(first) = self.root_keys.first()
        {
            let mut keys = match user.remove("authorized_keys").map(|entry| entry.node.value) {
                Some(Value::Array(keys)) => keys,
                _ => Vec::new(),
            };
            keys.extend(self.root_keys.iter().cloned());
            user.set(&["authorized_keys"], list(first.origin.clone(), keys));
        }
        if let Some(first) = self.root_keys.first() {
            let origin = first.origin.clone();
            tree.set(&["ssh", "authorized_keys"], list(origin, self.root_keys));
        }
        if let Some((_, first)) = self.users.first() {
            let origin = first.origin.clone();
            tree.set(&["user"], list(origin, self.users.into_iter().map(|(_, user)| user).collect()));
        }
    }

    /// `groups`: names, each perhaps with its members.
    fn memberships(&mut self, groups: Option<Node>, findings: &mut Findings) {
        let Some(groups) = groups else { return };
        let mut members: BTreeMap<String, (Origin, Vec<Node>)> = BTreeMap::new();
        let origin = groups.origin.clone();
        let listed = match groups.value {
            Value::Text(all) => names(&origin, &all),
            Value::Table(_) => vec![groups],
            _ => items(groups, "groups", findings),
        };
        for item in listed {
            if let Value::Text(name) = item.value {
                members.entry(name).or_insert((item.origin, Vec::new()));
                continue;
            }
            let place = item.origin.clone();
            for (name, key, node) in entries(item, "groups", &place, findings) {
                let who = match &node.value {
                    Value::Text(all) => names(&node.origin, all),
                    _ => items(node, "groups", findings),
                };
                members.entry(name).or_insert((key, Vec::new())).1.extend(who);
            }
        }
        for (group, (place, who)) in members {
            let mut found = false;
            for member in &who {
                let Value::Text(name) = &member.value else { continue };
                let Some((_, user)) = self.users.iter_mut().find(|(known, _)| known == name) else { continue };
                let mut all = match user.remove("groups").map(|entry| entry.node.value) {
                    Some(Value::Array(all)) => all,
                    _ => Vec::new(),
                };
                all.push(text(&member.origin, &group));
                user.set(&["groups"], list(place.clone(), all));
                found = true;
            }
            if !found {
                let help = "a group is made where a user of this document is in it";
                findings.warning(&place, "groups", "names a group without such a member; it has no effect", help);
            }
        }
    }
}

/// A list of groups: cloud-init takes a text with commas too, and, of old, a mapping.
fn groups(node: Node) -> Node {
    let origin = node.origin.clone();
    match node.value {
        Value::Text(all) => {
            let all = names(&origin, &all);
            list(origin, all)
        }
        Value::Table(table) => {
            let all = table.iter().map(|(name, entry)| text(&entry.key, name)).collect();
            list(origin, all)
        }
        value => Node { origin, value },
    }
}

/// Rules of sudo: a text or a list. `false` and nothing mean none.
fn sudo(node: Node, user: &mut Node) {
    let origin = node.origin.clone();
    match node.value {
        Value::Boolean(false) => {}
        Value::Text(_) => user.set(&["sudo"], list(origin, vec![node])),
        Value::Array(mut rules) => {
            rules.retain(|rule| !is_null(rule));
            user.set(&["sudo"], list(origin, rules));
        }
        value => user.set(&["sudo"], Node { origin, value }),
    }
}

/// A user's number; cloud-init takes it as a text too. What is no number stays as it is; reading it says so.
fn uid(mut node: Node) -> Node {
    if let Value::Text(text) = &node.value
        && let Ok(number) = text.trim().parse()
    {
        node.value = Value::Integer(number);
    }
    node
}
