//! What `[[disk]]` and `[swap]` do to a machine, without a machine.
//!
//! Files and commands come from the code that a node runs, for disks that nobody has seen: what only the machine can
//! say is a name in parentheses. Which disk is meant, and whether it is made or only used, is found out there, so that
//! is said and not guessed.

use uuid::Uuid;

use super::claim::{Action, Assignment, Purpose, Rule, luks_uuid};
use super::inventory::DiskInfo;
use super::make::{enroll_commands, first_key, format_command, key_path, luks_command, mapping};
use super::swap::SWAP_FILE;
use super::{describe, rules, units};
use crate::config::{Disk, Encryption, Swap, SwapSize};
use crate::plan::Planned;
use crate::step::{Content, Effect};

const UUID: &str = "(UUID)";
const LUKS_UUID: &str = "(LUKS-UUID)";

/// One entry for each rule, and one for swap space.
pub fn planned(disks: &[Disk], swap: Option<&Swap>) -> Vec<Planned> {
    let mut all: Vec<Planned> = Vec::new();
    for rule in rules(disks, swap) {
        let text = match rule.purpose {
            Purpose::Data(disk) => describe(std::slice::from_ref(disk), None),
            Purpose::Swap => describe(&[], swap),
        };
        all.push(entry(&text.concat(), of_rule(rule)));
    }
    if let Some(Swap::File(size)) = swap {
        all.push(entry(&describe(&[], swap).concat(), swap_file(*size)));
    }
    all
}

fn entry(line: &str, effects: Vec<Effect>) -> Planned {
    let (name, text) = line.split_once(": ").unwrap_or(("disk", line));
    Planned { name: name.to_owned(), text: text.to_owned(), effects }
}

fn of_rule(rule: Rule<'_>) -> Vec<Effect> {
    let assignment = |number: usize| Assignment {
        rule,
        number,
        disk: DiskInfo { name: format!("(disk {} {number})", rule.name), ..DiskInfo::default() },
        identity: String::new(),
        uuid: Uuid::nil(),
        action: Action::Make { destroy: false },
    };
    let assignments: Vec<Assignment<'_>> = (0..rule.count).map(assignment).collect();
    let mut effects = Vec::new();
    if let Purpose::Data(disk) = rule.purpose {
        let gates = units::gates(std::slice::from_ref(disk));
        effects.extend(gates.into_iter().map(|(path, text)| Effect::text(path, text)));
    }
    let matches = rule.matches;
    effects.push(Effect::depends(format!(
        "which {} disks match ({matches}); each UUID follows from the disk's own name; a blank one is made, one that \
         was made before is only mounted, any other is refused",
        rule.count
    )));
    for assignment in &assignments {
        effects.extend(made(assignment));
    }
    let hide = |text: String| hidden(text, &assignments);
    let files = units::unit_files(&assignments, None);
    effects.extend(files.into_iter().map(|(path, text)| Effect::text(hide(path), hide(text))));
    let lines = units::crypttab_lines(&assignments);
    if !lines.is_empty() {
        let path = units::CRYPTTAB.to_owned();
        effects.push(Effect::Block { path, text: hide(lines), otherwise: String::new() });
    }
    effects.push(Effect::run(["systemctl", "daemon-reload"]));
    for assignment in &assignments {
        let unit = match rule.purpose {
            Purpose::Data(disk) => units::escape_path(&disk.mount.of(assignment.number)) + ".mount",
            Purpose::Swap => hide(units::escape_path(&units::device(assignment)) + ".swap"),
        };
        if rule.is_encrypted() {
            let unlock = format!("systemd-cryptsetup@{}.service", units::escape_path(&mapping(assignment)));
            effects.push(Effect::run(["systemctl", "start", &unlock]));
        }
        effects.push(Effect::run(["systemctl", "start", &unit]));
    }
    effects
}

/// How a blank disk is made.
fn made(assignment: &Assignment<'_>) -> Vec<Effect> {
    let node = assignment.disk.node();
    let hide = |argv: Vec<String>| -> Effect {
        let all = std::slice::from_ref(assignment);
        Effect::Run { argv: argv.into_iter().map(|word| hidden(word, all)).collect() }
    };
    let Purpose::Data(disk) = assignment.rule.purpose else {
        return vec![hide(["mkswap", "-U", &assignment.uuid.to_string(), &node].map(str::to_owned).into())];
    };
    let Some(how) = disk.encrypt else { return vec![hide(format_command(assignment, disk, &node))] };
    let (key, name) = (first_key(assignment, how), mapping(assignment));
    let random = Content::Secret(crate::config::Secret::new(""));
    let luks = luks_uuid(assignment.rule.name, assignment.number, "").to_string();
    let open = ["cryptsetup", "open", "--type", "luks2", "--key-file", &key, &node, &name].map(str::to_owned);
    let mut effects = vec![
        Effect::File { path: key.clone(), mode: 0o600, content: random },
        hide(luks_command(&node, &luks, &key)),
        hide(open.into()),
        hide(format_command(assignment, disk, &format!("/dev/mapper/{name}"))),
        Effect::run(["cryptsetup", "close", &name]),
    ];
    if how == Encryption::Tpm2 {
        effects.extend(enroll_commands(&node, &key).map(hide));
        effects.push(Effect::Remove { path: key });
    } else {
        debug_assert_eq!(key, key_path(assignment));
    }
    effects
}

/// Puts names where the identifiers of disks would stand that nobody has seen.
fn hidden(mut text: String, assignments: &[Assignment<'_>]) -> String {
    for assignment in assignments {
        let luks = luks_uuid(assignment.rule.name, assignment.number, "").to_string();
        for (uuid, name) in [(assignment.uuid.to_string(), UUID), (luks, LUKS_UUID)] {
            text = text.replace(&uuid, name).replace(&units::escape_path(&uuid), name);
        }
    }
    text
}

fn swap_file(size: SwapSize) -> Vec<Effect> {
    let (length, mut effects) = match size {
        SwapSize::Bytes(crate::config::Bytes(bytes)) => ((bytes & !0xffff).to_string(), Vec::new()),
        SwapSize::Share(share) => {
            (format!("({share})"), vec![Effect::depends("its size follows from the memory".to_owned())])
        }
    };
    effects.push(Effect::run(["fallocate", "--length", &length, SWAP_FILE]));
    effects.push(Effect::run(["mkswap", SWAP_FILE]));
    effects.extend(units::unit_files(&[], Some(SWAP_FILE)).into_iter().map(|(path, text)| Effect::text(path, text)));
    effects.push(Effect::run(["systemctl", "daemon-reload"]));
    effects.push(Effect::run(["systemctl", "start", &format!("{}.swap", units::escape_path(SWAP_FILE))]));
    effects
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Document, Format, Machine, NodeConfig, load};

    fn config(text: &str) -> NodeConfig {
        let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
        load(&documents, &Machine::default()).unwrap().config
    }

    fn shown(planned: &[Planned]) -> String {
        planned.iter().flat_map(Planned::lines).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn files_units_and_commands_are_shown_before_any_disk_is_seen() {
        let config = config(
            "[[disk]]\nname = \"data\"\nmatch = { model = \"X*\" }\ncount = 2\nmount = \"/data/{n}\"\n\
             options = [\"noatime\"]\nrequired_by = [\"docker.service\"]\nencrypt = \"tpm2\"\nfilesystem = \"ext4\"\n\
             [swap]\nsize = \"8GiB\"\n",
        );
        let text = shown(&planned(&config.disks, config.swap.as_ref()));
        for expected in [
            "disk data: 2 with model X*: ext4, encrypted on /data/{n}",
            "on the machine: which 2 disks match (model X*)",
            "write /run/ingot/disk.key (mode 0600)\n        (secret)",
            "run cryptsetup luksFormat --batch-mode",
            "--uuid (LUKS-UUID) --key-file /run/ingot/disk.key /dev/(disk data 1)",
            "run mkfs.ext4 -q -F -U (UUID) -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 /dev/mapper/ingot-data-0",
            "run systemd-cryptenroll --unlock-key-file=/run/ingot/disk.key --tpm2-device=auto --tpm2-pcrs=7 /dev/(disk data 0)",
            "write /etc/systemd/system/data-1.mount (mode 0644)",
            "        What=/dev/disk/by-uuid/(UUID)\n        Where=/data/1\n        Type=ext4\n        Options=noatime",
            "write /etc/systemd/system/dev-disk-by\\x2duuid-(UUID).device.d/20-ingot.conf",
            "write /etc/systemd/system/docker.service.d/20-ingot-disks.conf",
            "        RequiresMountsFor=/data/0 /data/1",
            "write a block into /etc/crypttab\n        ingot-data-0 UUID=(LUKS-UUID) - luks,nofail",
            "run systemctl start systemd-cryptsetup@ingot\\x2ddata\\x2d1.service",
            "run systemctl start data-1.mount",
            "swap: a file of 8GiB",
            "run fallocate --length 8589934592 /var/lib/ingot/swapfile",
            "        What=/var/lib/ingot/swapfile",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("00000000-0000"), "{text}");
    }

    /// What is planned for a disk is what is done with one.
    #[test]
    fn a_node_writes_and_runs_what_was_planned() {
        let config = config(
            "[[disk]]\nname = \"data\"\nmatch = { serial = \"A1\" }\nmount = \"/data\"\nlabel = \"d\"\n\
             mkfs = [\"-i\", \"size=512\"]\nrequired_by = [\"docker.service\"]\n",
        );
        let host = crate::disk::tests::machine();
        crate::disk::hold_back(&host, &config.disks).unwrap();
        crate::disk::settle(&host, &config.disks, None, &Machine::default()).unwrap();
        let record = crate::disk::record::Record::load(&host).unwrap();
        let uuid = record.claims[0].uuid.to_string();
        let real = |text: &str| {
            let text = text.replace("/dev/(disk data 0)", "/dev/sdb");
            let escaped = text.contains(".device.d");
            text.replace(UUID, &if escaped { units::escape_path(&uuid) } else { uuid.clone() })
        };
        let mut paths = BTreeSet::new();
        for effect in planned(&config.disks, None).into_iter().flat_map(|planned| planned.effects) {
            match effect {
                Effect::File { path, content, .. } => {
                    assert_eq!(host.text(&real(&path)), real(&content.to_string()), "{path}");
                    paths.insert(real(&path));
                }
                Effect::Run { argv } => {
                    let command = real(&argv.join(" "));
                    assert!(
                        host.state().commands.contains(&command),
                        "{command} is not in {:#?}",
                        host.state().commands
                    );
                }
                Effect::Depends { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let written: BTreeSet<String> =
            host.disk().files.into_keys().filter(|path| path.starts_with(units::DIRECTORY)).collect();
        assert_eq!(paths, written, "nothing is written that was not planned");
    }
}
