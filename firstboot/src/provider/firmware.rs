//! What the firmware's tables and the hypervisor hand to the node.
//!
//! Takes the SMBIOS table as the kernel shows it to everyone's programs, `/sys/firmware/dmi/tables/DMI`: no module is
//! needed for it, other than for `/sys/firmware/dmi/entries`, and it is there with every systemd. Format: DMTF
//! DSP0134, section 6.1 (structures) and 7.12 (type 11, OEM strings).

use std::time::Duration;

use crate::host::Host;

const TABLE: &str = "/sys/firmware/dmi/tables/DMI";
const MAXIMUM_TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// The type of the structure with the OEM strings.
const OEM_STRINGS: u8 = 11;
/// The type of the structure that ends the table.
const END: u8 = 127;

/// The names that `__dmi.NAME__` may have in an address (those of dmidecode, as in cloud-init), and the file below
/// `/sys/class/dmi/id`.
const FIELDS: [(&str, &str); 17] = [
    ("baseboard-asset-tag", "board_asset_tag"),
    ("baseboard-manufacturer", "board_vendor"),
    ("baseboard-product-name", "board_name"),
    ("baseboard-serial-number", "board_serial"),
    ("baseboard-version", "board_version"),
    ("bios-release-date", "bios_date"),
    ("bios-vendor", "bios_vendor"),
    ("bios-version", "bios_version"),
    ("chassis-asset-tag", "chassis_asset_tag"),
    ("chassis-manufacturer", "chassis_vendor"),
    ("chassis-serial-number", "chassis_serial"),
    ("chassis-version", "chassis_version"),
    ("system-manufacturer", "sys_vendor"),
    ("system-product-name", "product_name"),
    ("system-serial-number", "product_serial"),
    ("system-uuid", "product_uuid"),
    ("system-version", "product_version"),
];

/// One text of the firmware: `product_serial`.
pub fn field(host: &dyn Host, file: &str) -> Option<String> {
    let bytes = host.read(&format!("/sys/class/dmi/id/{file}"), 4096).ok()??;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|text| !text.is_empty())
}

/// Loads the module behind which QEMU's `fw_cfg` is. A systemd from 252 on has done that; udev comes to it late.
pub fn load_module(host: &dyn Host) {
    let here = host.exists("/sys/firmware/qemu_fw_cfg");
    if !here && field(host, "sys_vendor").as_deref() == Some("QEMU") {
        // A kernel without the module has no credentials there either.
        let _ = host.run("modprobe", &["--quiet", "qemu_fw_cfg"], Duration::from_secs(10));
    }
}

/// The OEM strings of the machine, in their order.
pub fn oem_strings(host: &dyn Host) -> Vec<String> {
    let table = host.read(TABLE, MAXIMUM_TABLE_BYTES).ok().flatten().unwrap_or_default();
    strings_of(&table, OEM_STRINGS)
}

/// The strings of all structures of one type. What is cut off or damaged ends the table.
fn strings_of(table: &[u8], wanted: u8) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = table;
    while let &[kind, length, ..] = rest
        && kind != END
        && length >= 4
        && let Some(mut strings) = rest.get(usize::from(length)..)
    {
        // The strings follow the formatted part, each ended by a zero; one more zero ends the structure.
        if strings.first() == Some(&0) {
            strings = &strings[1..];
        } else {
            while let Some(end) = strings.iter().position(|&byte| byte == 0).filter(|&end| end > 0) {
                if kind == wanted {
                    found.push(String::from_utf8_lossy(&strings[..end]).into_owned());
                }
                strings = &strings[end + 1..];
            }
        }
        let Some(after) = strings.get(1..) else { break };
        rest = after;
    }
    found
}

/// An address with every `__dmi.NAME__` replaced by the machine's own value, made safe for an address; and what is
/// wrong with the names in it.
pub fn substitute(host: &dyn Host, address: &str) -> (String, Vec<String>) {
    let (mut result, mut wrong) = (String::new(), Vec::new());
    let mut rest = address;
    while let Some((before, after)) = rest.split_once("__dmi.") {
        result.push_str(before);
        let Some((name, tail)) = after.split_once("__") else {
            result.push_str("__dmi.");
            rest = after;
            continue;
        };
        match FIELDS.iter().find(|(known, _)| *known == name) {
            None => {
                let names = FIELDS.map(|(known, _)| known).join(", ");
                wrong.push(format!("__dmi.{name}__ is no name of the firmware's tables; there are {names}"));
                result.push_str(&format!("__dmi.{name}__"));
            }
            Some((_, file)) => {
                let value = field(host, file);
                if value.is_none() {
                    wrong.push(format!("this machine's firmware has no {name} for __dmi.{name}__"));
                }
                result.push_str(&escaped(&value.unwrap_or_default()));
            }
        }
        rest = tail;
    }
    (result + rest, wrong)
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// No string may hold a zero, or come from nowhere.
#[cfg(any(test, fuzzing))]
pub fn fuzz(table: &[u8]) {
    for wanted in [0, 1, OEM_STRINGS] {
        let found = strings_of(table, wanted);
        assert!(found.iter().map(|string| string.chars().count()).sum::<usize>() <= table.len());
        assert!(found.iter().all(|string| !string.is_empty() && !string.contains('\0')));
    }
}

/// An SMBIOS table with these OEM strings, for tests.
#[cfg(test)]
pub fn table_with(strings: &[&str]) -> Vec<u8> {
    // A structure without strings before it, another one with strings, and the end.
    let mut table = vec![32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 1, 0, 1];
    table.extend(b"QEMU\0KVM\0\0");
    table.extend([OEM_STRINGS, 5, 2, 0, u8::try_from(strings.len()).unwrap()]);
    for text in strings {
        table.extend([text.as_bytes(), b"\0"].concat());
    }
    table.push(0);
    if strings.is_empty() {
        table.push(0);
    }
    table.extend([END, 4, 3, 0, 0, 0]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    #[test]
    fn oem_strings_are_found_among_other_structures() {
        let table = table_with(&["a=1", "io.systemd.credential:x=y"]);
        assert_eq!(strings_of(&table, OEM_STRINGS), ["a=1", "io.systemd.credential:x=y"]);
        assert_eq!(strings_of(&table, 1), ["QEMU", "KVM"]);
        assert!(strings_of(&table_with(&[]), OEM_STRINGS).is_empty());
        assert!(strings_of(&[], OEM_STRINGS).is_empty());
    }

    #[test]
    fn the_module_is_loaded_on_qemu_alone() {
        let commands = |vendor: &str| {
            let host = SimulatedHost::default();
            host.put("/sys/class/dmi/id/sys_vendor", vendor);
            load_module(&host);
            host.state().commands.clone()
        };
        assert_eq!(commands("QEMU\n"), ["modprobe --quiet qemu_fw_cfg"]);
        assert!(commands("Dell Inc.\n").is_empty());
    }

    #[test]
    fn this_machines_own_table_is_read() {
        // Not every machine lets a test read it; where it can be read, it has an end.
        let Ok(table) = std::fs::read(TABLE) else {
            println!("skipped: {TABLE} cannot be read here");
            return;
        };
        let strings: usize = (0..END).map(|kind| strings_of(&table, kind).len()).sum();
        assert!(strings > 0, "a machine has a manufacturer");
    }

    #[test]
    fn names_in_an_address_become_this_machines_values() {
        let host = SimulatedHost::default();
        host.put("/sys/class/dmi/id/product_serial", "SN 7/8\n");
        host.put("/sys/class/dmi/id/product_uuid", "ab-cd\n");
        let of = |address| substitute(&host, address);
        assert_eq!(
            of("http://h/__dmi.system-serial-number__/__dmi.system-uuid__/"),
            ("http://h/SN%207%2F8/ab-cd/".into(), Vec::new())
        );
        assert_eq!(of("http://h/a__b/"), ("http://h/a__b/".into(), Vec::new()));
        assert_eq!(of("http://h/__dmi.x").0, "http://h/__dmi.x");
        let (address, wrong) = of("http://h/__dmi.serial__/__dmi.bios-vendor__/");
        assert_eq!(address, "http://h/__dmi.serial__//");
        assert!(wrong.len() == 2 && wrong[0].contains("system-serial-number") && wrong[1].contains("no bios-vendor"));
    }

    proptest::proptest! {
        #[test]
        fn any_table_and_any_address_are_read_without_a_panic(
            bytes in proptest::collection::vec(0_u8.., 0..300),
            address in ".{0,60}",
        ) {
            let total: usize = strings_of(&bytes, bytes.first().copied().unwrap_or(0)).iter().map(String::len).sum();
            proptest::prop_assert!(total <= bytes.len() * 3);
            substitute(&SimulatedHost::default(), &address);
        }
    }
}
