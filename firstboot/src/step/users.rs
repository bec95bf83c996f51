//! Accounts of people: `[[user]]`.
//!
//! What the step makes it keeps a list of, on the disk before the first account is there. So an account of an earlier
//! configuration is taken out again, accounts of the image are never touched, and a power cut at any instant leaves
//! nothing behind that the next run does not know of. A home directory that is no longer needed stays: it holds
//! people's data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::accounts::Accounts;
use super::{Content, Effect, PATIENCE, StepError};
use crate::config::User;
use crate::host::{Host, Ids, Standing};

/// The list of what the step has made.
const STATE: &str = "/var/lib/ingot/users.json";
const KEYS: &str = "/etc/ssh/authorized_keys.d";
const SUDOERS: &str = "/etc/sudoers.d/90-ingot";
const SUDOERS_NEW: &str = "/run/ingot/sudoers";
const SKELETON: &str = "/etc/skel";
const MAXIMUM_STATE_BYTES: u64 = 4 * 1024 * 1024;
/// A file of `/etc/skel` is a few lines.
const MAXIMUM_SKELETON_BYTES: u64 = 64 * 1024;

/// Names and numbers of what the step has made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

pub fn apply(host: &dyn Host, users: &[User]) -> Result<(), StepError> {
    let made: Made = match host.read(STATE, MAXIMUM_STATE_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        None => Made::default(),
    };
    let before = Accounts::read(host)?;
    let mut accounts = before.clone();
    // A password that somebody has set on the node stays with its user.
    let passwords: Vec<String> =
        made.users.keys().filter_map(|name| accounts.password_line(name)).map(str::to_owned).collect();
    made.users.keys().for_each(|name| accounts.remove_user(name));
    made.groups.keys().for_each(|name| accounts.remove_group(name));
    let now = put_in(&mut accounts, &passwords, users, &made, host)?;

    let mut both = made.clone();
    both.users.extend(now.users.clone());
    both.groups.extend(now.groups.clone());
    keep(host, &both, &made)?;
    accounts.write(&before, host)?;
    for user in users {
        home(host, user, &accounts, &made)?;
        let text = keys_of(user);
        let path = format!("{KEYS}/{}", user.name);
        if text.is_empty() {
            host.remove(&path)?;
        } else {
            // sshd reads it as the user.
            host.write(&path, text.as_bytes(), 0o644)?;
        }
    }
    for name in made.users.keys().filter(|name| !now.users.contains_key(*name)) {
        host.remove(&format!("{KEYS}/{name}"))?;
    }
    sudo(host, users)?;
    keep(host, &now, &both)
}

/// What it does, without a machine: numbers that are not given are found there.
pub fn effects(users: &[User]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for user in users {
        let uid = user.uid.map_or_else(|| "the next free number".to_owned(), |uid| format!("number {uid}"));
        let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
        let groups = if groups.is_empty() { String::new() } else { format!(", in {}", groups.join(", ")) };
        effects.push(Effect::setting(format!("user {}", user.name), format!("{uid}, home {}{groups}", user.home())));
        if !user.authorized_keys.is_empty() {
            effects.push(Effect::text(format!("{KEYS}/{}", user.name), keys_of(user)));
        }
    }
    if users.iter().any(|user| !user.sudo.is_empty()) {
        effects.push(Effect::File { path: SUDOERS.into(), mode: 0o440, content: Content::Text(sudoers(users)) });
    }
    effects
}

fn keys_of(user: &User) -> String {
    user.authorized_keys.iter().map(|key| format!("{key}\n")).collect()
}

fn keep(host: &dyn Host, made: &Made, before: &Made) -> Result<(), StepError> {
    if made != before {
        // Names and numbers become JSON in any case.
        host.write(STATE, &serde_json::to_vec(made).unwrap_or_default(), 0o600)?;
    }
    Ok(())
}

/// Puts the users and their groups in, with the numbers that they had before.
fn put_in(
    accounts: &mut Accounts,
    passwords: &[String],
    users: &[User],
    made: &Made,
    host: &dyn Host,
) -> Result<Made, StepError> {
    let mut now = Made::default();
    let mut taken: BTreeSet<u32> = users.iter().filter_map(|user| user.uid).collect();
    taken.extend(made.users.values().chain(made.groups.values()));
    for user in users {
        let name = user.name.as_str();
        let unfit = |what: String| Err(StepError::Unfit(format!("user {name}: {what}")));
        if accounts.user(name).is_some() || accounts.gid(name).is_some() {
            return unfit("the image has a user or a group of this name; choose another".into());
        }
        let remembered = made.users.get(name).copied();
        let uid = user.uid.or(remembered).unwrap_or_else(|| accounts.free_number(&taken));
        if let Some(other) = accounts.name_of(uid) {
            // Its files have the number, so the other would get them.
            let help = if user.uid.is_some() {
                "leave uid out, or choose another"
            } else {
                "that was this user's before; choose a uid, and give its files to that"
            };
            return unfit(format!("the number {uid} is that of {other}; {help}"));
        }
        taken.insert(uid);
        let gid = match made.groups.get(name).copied() {
            Some(gid) if accounts.has_gid(gid) => {
                return unfit(format!(
                    "the number {gid} of its group is that of another group of this image; take the user out of the \
                     configuration for one start, and it gets a new one"
                ));
            }
            Some(gid) => gid,
            None if accounts.has_gid(uid) => accounts.free_number(&taken),
            None => uid,
        };
        taken.insert(gid);
        accounts.add_group(name, gid);
        let shell = match &user.shell {
            Some(shell) if !host.exists(shell.as_str()) => {
                return unfit(format!("the image has no shell {shell}"));
            }
            Some(shell) => shell.to_string(),
            None if host.exists("/bin/bash") => "/bin/bash".to_owned(),
            None => "/bin/sh".to_owned(),
        };
        accounts.add_user(name, Ids { uid, gid }, &user.comment, &user.home(), &shell);
        if let Some(line) = passwords.iter().find(|line| line.starts_with(&format!("{name}:"))) {
            accounts.keep_password(name, line);
        }
        now.users.insert(name.to_owned(), uid);
        now.groups.insert(name.to_owned(), gid);
    }
    for user in users {
        for group in user.groups.iter().map(crate::config::AccountName::as_str) {
            if accounts.gid(group).is_none() {
                let remembered = made.groups.get(group).copied().filter(|gid| !accounts.has_gid(*gid));
                let gid = remembered.unwrap_or_else(|| accounts.free_number(&taken));
                taken.insert(gid);
                accounts.add_group(group, gid);
                now.groups.insert(group.to_owned(), gid);
            }
            accounts.add_member(group, user.name.as_str());
        }
    }
    Ok(now)
}

fn home(host: &dyn Host, user: &User, accounts: &Accounts, made: &Made) -> Result<(), StepError> {
    let home = user.home();
    let name = user.name.as_str();
    let Some(ids) = accounts.user(name) else { return Ok(()) };
    match host.look(&home)? {
        None => {}
        Some(Standing::Directory { ids: there })
            if [0, ids.uid].contains(&there.uid) || made.users.get(name) == Some(&there.uid) => {}
        Some(Standing::Directory { ids: there }) => {
            let text = format!("user {name}: {home} belongs to the number {}; move it away, or set uid", there.uid);
            return Err(StepError::Unfit(text));
        }
        Some(_) => return Err(StepError::Unfit(format!("user {name}: {home} is no directory"))),
    }
    host.make_directory_as(&home, 0o750, ids)?;
    for (file, _) in host.list(SKELETON)? {
        let path = format!("{home}/{file}");
        if host.look(&path)?.is_none()
            && let Some(bytes) = host.read(&format!("{SKELETON}/{file}"), MAXIMUM_SKELETON_BYTES)?
        {
            host.write_as(&path, &bytes, 0o644, ids)?;
        }
    }
    Ok(())
}

fn sudoers(users: &[User]) -> String {
    let mut text = String::from("# Written by Ingot's first boot.\n");
    for user in users {
        user.sudo.iter().for_each(|rule| text.push_str(&format!("{} {rule}\n", user.name)));
    }
    text
}

/// Rules go live only when sudo itself has read them: one wrong line, and sudo refuses everybody everything.
fn sudo(host: &dyn Host, users: &[User]) -> Result<(), StepError> {
    if users.iter().all(|user| user.sudo.is_empty()) {
        host.remove(SUDOERS)?;
        return Ok(());
    }
    if !host.exists("/usr/bin/sudo") {
        let text = "user.sudo: the image has no sudo; add the package sudo to the role's profile, or leave the key out";
        return Err(StepError::Unfit(text.into()));
    }
    let text = sudoers(users);
    host.write(SUDOERS_NEW, text.as_bytes(), 0o440)?;
    host.run("visudo", &["-c", "-q", "-f", SUDOERS_NEW], PATIENCE)?;
    host.write(SUDOERS, text.as_bytes(), 0o440)?;
    Ok(())
}

#[cfg(test)]
#[path = "users_tests.rs"]
mod tests;
