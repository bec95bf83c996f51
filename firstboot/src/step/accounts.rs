//! The four files of accounts: `passwd`, `group`, `shadow` and `gshadow` below `/etc` (passwd(5), group(5), shadow(5),
//! gshadow(5)).
//!
//! Takes the files as they are; gives them with accounts taken out or put in, every other line as it was. The image
//! needs no program for that, and each file is written whole.

use std::collections::BTreeSet;

use super::StepError;
use crate::host::{Host, Ids};

const MAXIMUM_BYTES: u64 = 4 * 1024 * 1024;

/// The lines of the four files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    passwd: Vec<String>,
    group: Vec<String>,
    shadow: Vec<String>,
    gshadow: Vec<String>,
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

fn number(line: &str, index: usize) -> Option<u32> {
    field(line, index).parse().ok()
}

impl Accounts {
    /// Reads the files.
    pub fn read(host: &dyn Host) -> Result<Self, StepError> {
        let lines = |path: &str| -> Result<Vec<String>, StepError> {
            let bytes = host.read(path, MAXIMUM_BYTES)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
        };
        Ok(Self {
            passwd: lines("/etc/passwd")?,
            group: lines("/etc/group")?,
            shadow: lines("/etc/shadow")?,
            gshadow: lines("/etc/gshadow")?,
        })
    }

    /// Writes those that differ from what they were, in the order in which a reader between them finds no user without a
    /// group.
    pub fn write(&self, before: &Self, host: &dyn Host) -> Result<(), StepError> {
        let shadow = Ids { uid: 0, gid: self.gid("shadow").unwrap_or(0) };
        for (path, lines, old, mode, ids) in [
            ("/etc/gshadow", &self.gshadow, &before.gshadow, 0o640, shadow),
            ("/etc/group", &self.group, &before.group, 0o644, Ids::ROOT),
            ("/etc/shadow", &self.shadow, &before.shadow, 0o640, shadow),
            ("/etc/passwd", &self.passwd, &before.passwd, 0o644, Ids::ROOT),
        ] {
            if lines != old {
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                host.write_as(path, text.as_bytes(), mode, ids)?;
            }
        }
        Ok(())
    }

    /// A user's number and its group's.
    pub fn user(&self, name: &str) -> Option<Ids> {
        let line = self.passwd.iter().find(|line| field(line, 0) == name)?;
        Some(Ids { uid: number(line, 2)?, gid: number(line, 3)? })
    }

    /// A group's number.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.group.iter().find(|line| field(line, 0) == name).and_then(|line| number(line, 2))
    }

    /// True where a group has this number.
    pub fn has_gid(&self, gid: u32) -> bool {
        self.group.iter().any(|line| number(line, 2) == Some(gid))
    }

    /// The name of the user with a number.
    pub fn name_of(&self, uid: u32) -> Option<&str> {
        self.passwd.iter().find(|line| number(line, 2) == Some(uid)).map(|line| field(line, 0))
    }

    /// The first number from 1000 on that is neither a user's nor a group's nor `taken`.
    pub fn free_number(&self, taken: &BTreeSet<u32>) -> u32 {
        let used = |number_: u32| {
            taken.contains(&number_)
                || self.passwd.iter().any(|line| number(line, 2) == Some(number_))
                || self.group.iter().any(|line| number(line, 2) == Some(number_))
        };
        (1000..u32::MAX).find(|number| !used(*number)).unwrap_or(u32::MAX)
    }

    /// Takes a user out, of all groups too.
    pub fn remove_user(&mut self, name: &str) {
        self.passwd.retain(|line| field(line, 0) != name);
        self.shadow.retain(|line| field(line, 0) != name);
        for line in self.group.iter_mut().chain(&mut self.gshadow) {
            let Some((rest, members)) = line.rsplit_once(':') else { continue };
            if members.split(',').any(|member| member == name) {
                let kept: Vec<&str> = members.split(',').filter(|member| *member != name).collect();
                *line = format!("{rest}:{}", kept.join(","));
            }
        }
    }

    /// Takes a group out.
    pub fn remove_group(&mut self, name: &str) {
        self.group.retain(|line| field(line, 0) != name);
        self.gshadow.retain(|line| field(line, 0) != name);
    }

    /// Puts a user in. It has no password: nobody can log in with one.
    pub fn add_user(&mut self, name: &str, ids: Ids, comment: &str, home: &str, shell: &str) {
        self.passwd.push(format!("{name}:x:{}:{}:{comment}:{home}:{shell}", ids.uid, ids.gid));
        self.shadow.push(format!("{name}:*:::::::"));
    }

    /// A user's line of `shadow`.
    pub fn password_line(&self, name: &str) -> Option<&str> {
        self.shadow.iter().find(|line| field(line, 0) == name).map(String::as_str)
    }

    /// Gives a user that was put in the line of `shadow` that it had.
    pub fn keep_password(&mut self, name: &str, had: &str) {
        for line in self.shadow.iter_mut().filter(|line| field(line, 0) == name) {
            had.clone_into(line);
        }
    }

    /// Puts a group in.
    pub fn add_group(&mut self, name: &str, gid: u32) {
        self.group.push(format!("{name}:x:{gid}:"));
        self.gshadow.push(format!("{name}:!::"));
    }

    /// Makes a user a member of a group.
    pub fn add_member(&mut self, group: &str, user: &str) {
        for line in self.group.iter_mut().chain(&mut self.gshadow).filter(|line| field(line, 0) == group) {
            let members = line.rsplit(':').next().unwrap_or_default();
            if !members.split(',').any(|member| member == user) {
                let comma = if members.is_empty() { "" } else { "," };
                *line = format!("{line}{comma}{user}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Accounts {
            passwd: lines("root:x:0:0:root:/root:/bin/bash\nbin:x:1000:7::/:/usr/sbin/nologin"),
            group: lines("root:x:0:\ndocker:x:999:bin\nshadow:x:42:"),
            shadow: lines("root:*:19000:0:99999:7:::"),
            gshadow: lines("root:*::\ndocker:!::bin"),
        }
    }

    #[test]
    fn what_was_put_in_is_taken_out_without_a_trace() {
        let before = accounts();
        let mut all = before.clone();
        let uid = all.free_number(&[1001].into());
        assert_eq!(uid, 1002);
        all.add_group("ops", uid);
        all.add_user("ops", Ids { uid, gid: uid }, "Ops", "/home/ops", "/bin/bash");
        all.add_member("docker", "ops");
        all.add_member("docker", "ops");
        assert_eq!(all.user("ops"), Some(Ids { uid, gid: uid }));
        assert_eq!(all.group[1], "docker:x:999:bin,ops");
        assert_eq!(all.gshadow[1], "docker:!::bin,ops");
        assert_eq!(all.name_of(uid), Some("ops"));
        all.remove_user("ops");
        all.remove_group("ops");
        assert_eq!(all, before);
        assert_eq!((all.gid("shadow"), all.gid("none"), all.user("none")), (Some(42), None, None));
    }

    #[test]
    fn real_files_of_this_machine_are_kept_as_they_are() {
        let host = crate::host::RealHost::default();
        let Ok(before) = Accounts::read(&host) else {
            println!("skipped: the account files cannot be read");
            return;
        };
        let mut all = before.clone();
        all.add_user("zz-test", Ids { uid: 4711, gid: 4711 }, "", "/", "/bin/sh");
        all.add_group("zz-test", 4711);
        all.remove_user("zz-test");
        all.remove_group("zz-test");
        assert_eq!(all, before);
        assert_eq!(all.user("root"), Some(Ids::ROOT));
    }
}
