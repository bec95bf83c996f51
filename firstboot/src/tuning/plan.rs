//! What `[tuning]` does to a machine, without a machine.
//!
//! Files come from the code that a node runs. A share of the memory, the frequency policies, the nodes of the memory, and
//! which disks and interfaces there are, only the machine can say: they stand in parentheses, or as a pattern.

use super::settings::{self, Setting};
use super::{describe, files};
use crate::config::{Amount, Channels, PageCount, Tuning, Unit};
use crate::plan::Planned;
use crate::step::Effect;

/// The entry for all of it; `None` where nothing is tuned.
pub fn planned(tuning: &Tuning) -> Option<Planned> {
    let words: Vec<String> =
        describe(tuning).iter().map(|line| line.trim_start_matches("tuning: ").to_owned()).collect();
    if words.is_empty() {
        return None;
    }
    let settings = settings(tuning);
    let mut effects = files::effects(tuning, &settings);
    effects.push(Effect::depends(
        "what is in parentheses and what a * stands for; each setting is read back, and what the kernel made of it is in \
         /run/ingot/tuning.json",
    ));
    effects.extend(settings.iter().map(|setting| Effect::setting(setting.path.clone(), setting.value.clone())));
    for rule in &tuning.disks {
        let queue = |(key, value): &(String, String)| {
            Effect::setting(format!("/sys/block/(disks with {})/queue/{key}", rule.matches), value.clone())
        };
        effects.extend(rule.settings.iter().map(queue));
    }
    for rule in &tuning.interfaces {
        let count = |number: Option<u32>| number.map(|number| number.to_string());
        let combined = rule.combined.map(|channels| match channels {
            Channels::Count(count) => count.to_string(),
            Channels::Cores => "(the number of physical cores)".to_owned(),
        });
        let values = [
            ("rx ring", count(rule.rx_ring)),
            ("tx ring", count(rule.tx_ring)),
            ("rx channels", count(rule.rx_channels)),
            ("tx channels", count(rule.tx_channels)),
            ("combined channels", combined),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        effects.extend(given.map(|(name, value)| {
            Effect::setting(format!("{name} of interfaces with {} (ethtool)", rule.matches), value)
        }));
    }
    Some(Planned { name: "tuning".to_owned(), text: words.join("; "), effects })
}

/// The settings as far as they are known, in the order of [`settings::of`].
fn settings(tuning: &Tuning) -> Vec<Setting> {
    let setting =
        |name: String, path: String, value: String| Setting { name, path, value, is_choice: false, absent: "" };
    let mut all = Vec::new();
    for (size, count) in tuning.hugepages.iter().rev() {
        let value = match count {
            PageCount::Count(count) => format!("({count} over all nodes)"),
            PageCount::Share(share) => format!("({share} in pages of {} MiB, over all nodes)", size >> 20),
        };
        let path = format!("{}/node*/hugepages/hugepages-{}kB/nr_hugepages", settings::NODES, size >> 10);
        all.push(setting(format!("huge pages of {} MiB", size >> 20), path, value));
    }
    if let Some(mode) = &tuning.transparent_hugepages {
        all.push(setting("transparent huge pages".into(), settings::TRANSPARENT.into(), mode.clone()));
    }
    for (name, amounts) in &tuning.sysctl {
        let one = |amount: &Amount| match amount {
            Amount::Plain(text) => text.clone(),
            Amount::Share(share, Unit::Bytes) => format!("({share}, in bytes)"),
            Amount::Share(share, Unit::Kibibytes) => format!("({share}, in KiB)"),
            Amount::Share(share, Unit::Pages) => format!("({share}, in pages of 4 KiB)"),
        };
        let value = amounts.iter().map(one).collect::<Vec<_>>().join(" ");
        all.push(setting(format!("sysctl {name}"), settings::sysctl_path(name), value));
    }
    if let Some(governor) = &tuning.governor {
        let path = format!("{}/policy*/scaling_governor", settings::GOVERNORS);
        all.push(setting("governor".into(), path, governor.clone()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};
    use crate::host::simulated::SimulatedHost;

    fn tuning(text: &str) -> Tuning {
        let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
        load(&documents, &Machine::default()).unwrap().config.tuning
    }

    #[test]
    fn files_and_settings_are_shown_and_what_the_machine_says_is_named() {
        let tuning = tuning(
            "[tuning]\ngovernor = \"performance\"\nhugepages = { 1G = \"50% of RAM\" }\nlimits = { nofile = 65536 }\n\
             sysctl = { \"vm.swappiness\" = 10, \"vm.min_free_kbytes\" = \"1% of RAM, at most 8GiB\" }\n\
             [[tuning.disk]]\nmatch = { rotational = true }\nscheduler = \"mq-deadline\"\n\
             [[tuning.interface]]\nmatch = { driver = \"mlx5_core\" }\ncombined = \"cores\"\nrx_ring = 4096\n",
        );
        let text: String = planned(&tuning).unwrap().lines().iter().map(|line| format!("{line}\n")).collect();
        for expected in [
            "write /etc/sysctl.d/95-ingot-node.conf (mode 0644)",
            "        vm.swappiness = 10\n",
            "        vm.min_free_kbytes = (1% of RAM, at most 8GiB, in KiB)\n",
            "write /etc/udev/rules.d/95-ingot-node.rules",
            "ATTR{queue/rotational}==\"1\", ATTR{queue/scheduler}=\"mq-deadline\"",
            "run udevadm control --reload",
            "        DefaultLimitNOFILE=65536\n",
            "set /sys/devices/system/cpu/cpufreq/policy*/scaling_governor = performance",
            "set /sys/block/(disks with rotational)/queue/scheduler = mq-deadline",
            "set rx ring of interfaces with driver mlx5_core (ethtool) = 4096",
            "set combined channels of interfaces with driver mlx5_core (ethtool) = (the number of physical cores)",
            "on the machine: what is in parentheses",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert_eq!(planned(&Tuning::default()), None);
    }

    /// Where nothing depends on the machine, a node writes to the byte what was planned.
    #[test]
    fn a_node_writes_what_was_planned() {
        let tuning = tuning(
            "[tuning]\ntransparent_hugepages = \"madvise\"\nlimits = { nofile = \"1024:1048576\" }\n\
             sysctl = { \"vm.swappiness\" = 10, \"net.ipv4.tcp_rmem\" = [4096, 87380, 6291456] }\n\
             [[tuning.disk]]\nmatch = { name = \"nvme*\" }\nnr_requests = 1024\n",
        );
        let host = SimulatedHost::default();
        files::write(&host, &tuning, &super::settings::of(&host, &tuning).unwrap()).unwrap();
        let mut written = 0;
        for effect in planned(&tuning).unwrap().effects {
            match effect {
                Effect::File { path, content, .. } => {
                    assert_eq!(host.text(&path), content.to_string(), "{path}");
                    written += 1;
                }
                Effect::Run { argv } => assert!(host.state().commands.contains(&argv.join(" ")), "{argv:?}"),
                _ => {}
            }
        }
        assert_eq!((written, host.disk().files.len()), (4, 4));
    }
}
