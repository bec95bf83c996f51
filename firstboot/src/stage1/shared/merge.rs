//! Puts what a node has changed in a file of its image onto that file of another image.
//!
//! Takes three texts: the image's file that the node began with, the node's, and the image's of now. Gives the node's
//! file for the image of now: what the image has is there, what the node added or changed is there too, and what the
//! image has changed meanwhile is as the image says, unless the node changed the very same field.
//!
//! The files of accounts (passwd(5), group(5), shadow(5), gshadow(5)) go by name and field and are taken together,
//! because a user stands in all of them. Everything else goes by lines.

use std::collections::{BTreeMap, BTreeSet};

/// Texts of files below `/etc` by their names.
pub type Texts = BTreeMap<&'static str, String>;

/// The files of accounts, in the order in which a reader between two writes finds no user without a group.
pub const ACCOUNTS: [&str; 4] = ["gshadow", "group", "shadow", "passwd"];
/// Other files that the image has and the node adds lines to.
pub const LINES: [&str; 5] = ["subuid", "subgid", "hosts", "environment", "crypttab"];

/// Whether a number is a user's or a group's; both stand in the third field.
const NUMBER: usize = 2;
/// The group of a user in `passwd`.
const PRIMARY: usize = 3;

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The node's files of now.
    pub texts: Texts,
    /// Accounts of the node that have to give way to one of the image, in words.
    pub left_out: Vec<String>,
}

/// Merges all files. A file that is missing counts as empty.
pub fn merge(base: &Texts, node: &Texts, image: &Texts) -> Merged {
    let of = |texts: &Texts, name: &str| texts.get(name).cloned().unwrap_or_default();
    let mut merged = Merged::default();
    for name in LINES {
        merged.texts.insert(name, lines(&of(base, name), &of(node, name), &of(image, name)));
    }
    let table = |texts: &Texts, name: &str| Table::read(&of(texts, name));
    let (users, groups) = (Three::of(base, node, image, "passwd"), Three::of(base, node, image, "group"));
    let left_groups = groups.displaced("group", &mut merged.left_out);
    let mut left_users = users.displaced("user", &mut merged.left_out);
    for name in users.taken() {
        merged.left_out.push(format!("user {name}: the image has a user of this name now"));
        left_users.insert(name.to_owned());
    }
    // A user whose own group's number is now that of the image's group would be a member of that.
    for (name, fields) in users.added() {
        let primary = fields.get(PRIMARY).and_then(|number| groups.newly_numbered(number));
        if let (Some(other), false) = (primary, left_users.contains(name)) {
            merged.left_out.push(format!("user {name}: its group's number is now that of the image's group {other}"));
            left_users.insert(name.to_owned());
        }
    }
    for name in ACCOUNTS {
        let group = matches!(name, "group" | "gshadow");
        let gone = if group { &left_groups } else { &left_users };
        let three = Three { base: table(base, name), node: table(node, name), image: table(image, name) };
        merged.texts.insert(name, three.merge(group, gone, &left_users));
    }
    merged
}

/// A file of accounts: names in order, each with its fields.
#[derive(Debug, Default)]
struct Table(Vec<(String, Vec<String>)>);

impl Table {
    fn read(text: &str) -> Self {
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            let name = fields.first().cloned().unwrap_or_default();
            // Of two lines with one name programs see the first.
            if !rows.iter().any(|(known, _)| *known == name) {
                rows.push((name, fields));
            }
        }
        Self(rows)
    }

    fn get(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, fields)| &fields[..])
    }
}

/// The three states of one file.
struct Three {
    base: Table,
    node: Table,
    image: Table,
}

impl Three {
    fn of(base: &Texts, node: &Texts, image: &Texts, name: &str) -> Self {
        let table = |texts: &Texts| Table::read(texts.get(name).map_or("", String::as_str));
        Self { base: table(base), node: table(node), image: table(image) }
    }

    /// The accounts that are the node's own.
    fn added(&self) -> impl Iterator<Item = (&str, &[String])> {
        let own = |name: &str| self.base.get(name).is_none() && self.image.get(name).is_none();
        self.node.0.iter().filter(move |(name, _)| own(name)).map(|(name, fields)| (name.as_str(), &fields[..]))
    }

    /// The names of accounts that were the node's own, and are the image's now.
    fn taken(&self) -> impl Iterator<Item = &str> {
        let taken = |name: &str| self.base.get(name).is_none() && self.image.get(name).is_some();
        self.node.0.iter().map(|(name, _)| name.as_str()).filter(move |name| taken(name))
    }

    /// The account of the image that has this number now and did not have it in the image before.
    fn newly_numbered(&self, number: &str) -> Option<&str> {
        let has = |fields: &[String]| fields.get(NUMBER).is_some_and(|own| own == number);
        let (name, _) = self.image.0.iter().find(|(_, fields)| has(fields))?;
        (!self.base.get(name).is_some_and(has)).then_some(name)
    }

    /// The node's own accounts whose number the image has given to another since.
    fn displaced(&self, what: &str, said: &mut Vec<String>) -> BTreeSet<String> {
        let mut gone = BTreeSet::new();
        for (name, fields) in self.added() {
            let number = fields.get(NUMBER).map_or("", String::as_str);
            if let Some(other) = self.newly_numbered(number) {
                said.push(format!("{what} {name}: its number {number} is now that of the image's {what} {other}"));
                gone.insert(name.to_owned());
            }
        }
        gone
    }

    /// The file. `gone` are accounts of the node that have to give way; `left_users` are members of no group any more
    /// that the node put them in.
    fn merge(&self, group: bool, gone: &BTreeSet<String>, left_users: &BTreeSet<String>) -> String {
        let own = |fields: &[String]| {
            let mut fields = fields.to_vec();
            if let (true, Some(members)) = (group, fields.last_mut()) {
                *members = without(&members_of(members), left_users).join(",");
            }
            fields
        };
        let now = self.image.0.iter().map(|(name, now)| match (self.base.get(name), self.node.get(name)) {
            (Some(before), Some(node)) => by_field(before, &own(node), now, group),
            // The node's own group of that name has become the image's, and its members stay in it.
            (None, Some(node)) if group => by_field(&[], &own(node), now, true),
            _ => now.clone(),
        });
        let added = self.added().filter(|(name, _)| !gone.contains(*name)).map(|(_, fields)| own(fields));
        now.chain(added).map(|fields| format!("{}\n", fields.join(":"))).collect()
    }
}

/// The image's fields with those that the node has changed. In a group's file the last field is a set.
fn by_field(before: &[String], node: &[String], now: &[String], group: bool) -> Vec<String> {
    let last = now.len().saturating_sub(1);
    let mut fields = Vec::with_capacity(now.len());
    for (index, now_field) in now.iter().enumerate() {
        let (old, own) = (before.get(index), node.get(index));
        fields.push(if group && index == last {
            let members = |field: Option<&String>| members_of(field.map_or("", String::as_str));
            let (old, own, mut now) = (members(old), members(own), members_of(now_field));
            let removed = without(&old, &own.iter().cloned().collect());
            now = without(&now, &removed.into_iter().collect());
            let added = without(&own, &old.iter().chain(&now).cloned().collect());
            [now, added].concat().join(",")
        } else {
            match (old, own) {
                (Some(old), Some(own)) if old != own => own.clone(),
                _ => now_field.clone(),
            }
        });
    }
    fields
}

fn members_of(field: &str) -> Vec<String> {
    field.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect()
}

fn without(members: &[String], gone: &BTreeSet<String>) -> Vec<String> {
    members.iter().filter(|member| !gone.contains(*member)).cloned().collect()
}

/// The image's lines of now without those that the node has taken out, then those that the node has added. A line that
/// stands there twice counts twice.
fn lines(base: &str, node: &str, image: &str) -> String {
    let count = |text: &str| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        text.lines().for_each(|line| *counts.entry(line.to_owned()).or_default() += 1);
        counts
    };
    let mut before = count(base);
    let mut added = Vec::new();
    for line in node.lines() {
        match before.get_mut(line) {
            Some(left) if *left > 0 => *left -= 1,
            _ => added.push(line),
        }
    }
    // What is left of it the node has taken out.
    let mut kept: Vec<&str> = Vec::new();
    for line in image.lines() {
        match before.get_mut(line) {
            Some(left) if *left > 0 => *left -= 1,
            _ => kept.push(line),
        }
    }
    kept.into_iter().chain(added).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nweb:x:998:998::/:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\ndocker:x:999:\nweb:x:998:\n";
    const SHADOW: &str = "root:*:19000:0:99999:7:::\nweb:!*:19000::::::\n";

    fn texts(passwd: &str, group: &str, shadow: &str) -> Texts {
        [("passwd", passwd), ("group", group), ("shadow", shadow)]
            .into_iter()
            .map(|(name, text)| (name, text.to_owned()))
            .collect()
    }

    fn old() -> Texts {
        texts(PASSWD, GROUP, SHADOW)
    }

    /// The node's: a user of its own in two groups, one of which it made; and a password for it that was set by hand.
    fn node() -> Texts {
        texts(
            &format!("{PASSWD}ops:x:1000:1000:Ops:/home/ops:/bin/bash\n"),
            "root:x:0:\ndocker:x:999:ops\nweb:x:998:\nops:x:1000:\ngpu:x:1001:ops\n",
            &format!("{SHADOW}ops:$y$hash:19100:0:99999:7:::\n"),
        )
    }

    #[test]
    fn a_new_image_brings_its_accounts_and_the_node_keeps_its_own() {
        // The new image has one service more, another without, and another number for docker.
        let new = texts(
            "root:x:0:0:root:/root:/bin/bash\nprom:x:997:997::/:/usr/sbin/nologin\n",
            "root:x:0:\ndocker:x:995:\nprom:x:997:\n",
            "root:*:19500:0:99999:7:::\nprom:!*:19500::::::\n",
        );
        let merged = merge(&old(), &node(), &new);
        assert_eq!(merged.left_out, Vec::<String>::new());
        assert_eq!(
            merged.texts["passwd"],
            "root:x:0:0:root:/root:/bin/bash\nprom:x:997:997::/:/usr/sbin/nologin\nops:x:1000:1000:Ops:/home/ops:/bin/bash\n"
        );
        assert_eq!(merged.texts["group"], "root:x:0:\ndocker:x:995:ops\nprom:x:997:\nops:x:1000:\ngpu:x:1001:ops\n");
        assert_eq!(
            merged.texts["shadow"],
            "root:*:19500:0:99999:7:::\nprom:!*:19500::::::\nops:$y$hash:19100:0:99999:7:::\n"
        );
        // The first image again: exactly what the node had.
        let back = merge(&new, &merged.texts, &old());
        assert_eq!(ACCOUNTS.map(|name| back.texts.get(name).cloned()), {
            let mut before = node();
            before.insert("gshadow", String::new());
            ACCOUNTS.map(|name| before.get(name).cloned())
        });
    }

    #[test]
    fn a_number_that_is_now_the_images_is_shared_with_nobody() {
        let new = texts(
            &format!("{PASSWD}agent:x:1000:1000::/:/bin/sh\n"),
            &format!("{GROUP}agent:x:1000:\n"),
            &format!("{SHADOW}agent:*:::::::\n"),
        );
        let merged = merge(&old(), &node(), &new);
        assert_eq!(
            merged.left_out,
            [
                "group ops: its number 1000 is now that of the image's group agent",
                "user ops: its number 1000 is now that of the image's user agent"
            ]
        );
        assert_eq!(merged.texts["passwd"], new["passwd"]);
        assert_eq!(merged.texts["shadow"], new["shadow"]);
        assert_eq!(merged.texts["group"], format!("{}gpu:x:1001:\n", new["group"]), "nor is it a member by name");
        // The number of its group alone is as bad: it would be in the image's group.
        let new = texts(PASSWD, &format!("{GROUP}agent:x:1000:\n"), SHADOW);
        let merged = merge(&old(), &node(), &new);
        assert!(!merged.texts["passwd"].contains("ops"), "{merged:?}");
        assert!(merged.left_out[1].contains("its group's number is now that of the image's group agent"), "{merged:?}");
    }

    #[test]
    fn a_name_that_is_now_the_images_is_the_images_with_its_lock() {
        let new = texts(
            &format!("{PASSWD}ops:x:990:990::/:/usr/sbin/nologin\n"),
            &format!("{GROUP}ops:x:990:\ngpu:x:991:\n"),
            &format!("{SHADOW}ops:!*:::::::\n"),
        );
        let merged = merge(&old(), &node(), &new);
        assert_eq!((&merged.texts["passwd"], &merged.texts["shadow"]), (&new["passwd"], &new["shadow"]));
        assert!(merged.texts["group"].ends_with("ops:x:990:\ngpu:x:991:\n"), "{:?}", merged.texts["group"]);
        assert_eq!(merged.left_out, ["user ops: the image has a user of this name now"]);
    }

    #[test]
    fn what_the_node_changed_of_an_account_of_the_image_stays() {
        let mut mine = old();
        mine.insert("passwd", PASSWD.replace("/bin/bash", "/bin/zsh"));
        mine.insert("shadow", SHADOW.replacen("root:*:19000", "root:$y$x:19100", 1));
        let mut new = old();
        new.insert("passwd", PASSWD.replace("root:/root", "Root:/root"));
        let merged = merge(&old(), &mine, &new);
        assert!(merged.texts["passwd"].starts_with("root:x:0:0:Root:/root:/bin/zsh\n"), "{merged:?}");
        assert!(merged.texts["shadow"].starts_with("root:$y$x:19100:"), "{merged:?}");
        // An account that the image needs comes back where somebody took it out.
        mine.insert("passwd", "root:x:0:0:root:/root:/bin/bash\n".to_owned());
        assert_eq!(merge(&old(), &mine, &old()).texts["passwd"], PASSWD);
    }

    #[test]
    fn lines_that_the_node_added_follow_those_of_the_image() {
        let base = "127.0.0.1 localhost\n::1 localhost\n\n";
        let node = "127.0.0.1 localhost\n\n10.0.0.9 registry\n# ingot: begin\n127.0.1.1 n1\n# ingot: end\n";
        let image = "127.0.0.1 localhost\n::1 localhost\nff02::1 all\n\n";
        assert_eq!(
            lines(base, node, image),
            "127.0.0.1 localhost\nff02::1 all\n\n10.0.0.9 registry\n# ingot: begin\n127.0.1.1 n1\n# ingot: end\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_texts_are_merged_and_nothing_is_done_twice(
            base in "([a-c]:x:[0-3]:[0-3]:[ab]?,?[c]?\n){0,4}",
            node in "([a-e]:x:[0-5]:[0-5]:[ab]?,?[c]?\n){0,5}",
            image in "([a-d]:x:[0-4]:[0-4]:[ab]?,?[c]?\n){0,5}",
            noise in ".{0,40}",
        ) {
            let all = |text: &str| -> Texts {
                let mut texts: Texts = ACCOUNTS.into_iter().chain(LINES).map(|name| (name, text.to_owned())).collect();
                texts.insert("shadow", format!("{text}{noise}"));
                texts
            };
            let (base, node, image) = (all(&base), all(&node), all(&image));
            let merged = merge(&base, &node, &image);
            // A node that changed nothing has the image's files.
            let unchanged = merge(&base, &base, &image);
            for name in ["passwd", "group"] {
                let names = |text: &str| text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<BTreeSet<_>>();
                proptest::prop_assert_eq!(names(&unchanged.texts[name]), names(&image[name]));
                proptest::prop_assert!(names(&merged.texts[name]).is_superset(&names(&image[name])));
            }
            for name in LINES {
                proptest::prop_assert_eq!(&unchanged.texts[name], &image[name]);
            }
            // Once more with the same image changes nothing.
            let again = merge(&image, &merged.texts, &image);
            proptest::prop_assert_eq!(&again.texts["hosts"], &merged.texts["hosts"]);
            proptest::prop_assert_eq!(&again.texts["passwd"], &merged.texts["passwd"]);
        }
    }
}
