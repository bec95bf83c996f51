//! The values of `[[disk]]`, each a type that can only hold a valid one.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

macro_rules! text_types {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        })+
    };
}

text_types! {
    /// The name of a disk rule: 1 to 16 small letters, digits and inner hyphens, a letter first.
    DiskName;
    /// A disk's serial number, as the disk says it.
    Serial;
    /// A disk's world wide name: hexadecimal digits in small letters, without `0x`, `naa.`, `eui.`, or as NVMe says it.
    Wwn;
    /// A pattern (`*`, `?`, `[...]`) of links below `/dev/disk`, such as those by path.
    DiskPath;
    /// A pattern (`*`, `?`, `[...]`) of models or names.
    Pattern;
    /// Where a disk is mounted: an absolute path, `{n}` for the disk's number.
    MountPoint;
    /// A mount option.
    MountOption;
    /// The name of a systemd service, target or mount.
    UnitName;
}

impl FromStr for DiskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=16).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(plain);
        if text == "swap" {
            return Err("is the name of [swap]; choose another".into());
        }
        if good { Ok(Self(text.into())) } else { Err("use 1 to 16 of a-z, 0-9 and -, a letter first".into()) }
    }
}

impl FromStr for Serial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.len() > 64 || !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err("is no serial number; `lsblk -o NAME,SERIAL` shows them".into());
        }
        if text.contains(['*', '?']) {
            return Err("a serial number is one disk's, not a pattern; use model or size".into());
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Wwn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let small = text.trim().to_ascii_lowercase();
        let bare = ["0x", "naa.", "eui.", "wwn-0x"].iter().find_map(|prefix| small.strip_prefix(prefix));
        let bare = bare.unwrap_or(&small);
        let hex = bare.len() >= 16 && bare.len() <= 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let nvme = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if hex || bare.strip_prefix("nvme.").is_some_and(|rest| rest.len() >= 8 && nvme(rest)) {
            return Ok(Self(bare.to_owned()));
        }
        if bare.len() >= 8 && bare.strip_prefix("uuid.").is_some_and(nvme) {
            return Ok(Self(bare.to_owned()));
        }
        Err("is no world wide name, such as 0x5000c500a1b2c3d4; `lsblk -o NAME,WWN` shows them".into())
    }
}

impl FromStr for DiskPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix("/dev/disk/by-") else {
            let kernel = text.starts_with("/dev/");
            return Err(if kernel {
                "the kernel gives this name anew at every boot; use a link below /dev/disk/by-path".into()
            } else {
                "must be a link below /dev/disk/by-path".into()
            });
        };
        if ["label/", "uuid/", "partuuid/", "partlabel/"].iter().any(|kind| rest.starts_with(kind)) {
            return Err("names a content, not a disk; use by-path or by-id".into());
        }
        let good = rest.contains('/') && !rest.ends_with('/') && !text.contains("..") && text.len() < 256;
        let plain = text.chars().all(|c| c.is_ascii_graphic());
        if good && plain { Ok(Self(text.into())) } else { Err("is no path of a disk".into()) }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.len() > 128 || text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
            return Err("is no pattern".into());
        }
        if text.chars().all(|c| c == '*') {
            return Err("matches everything; say what is meant".into());
        }
        Ok(Self(text.into()))
    }
}

/// Directories that belong to the system: nothing may be laid over them.
const SYSTEM_DIRECTORIES: [&str; 16] = [
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin",
    "/sys", "/tmp", "/usr",
];

impl MountPoint {
    /// Whether it has the disk's number in it.
    pub fn is_numbered(&self) -> bool {
        self.0.contains("{n}")
    }

    /// The path for one disk.
    pub fn of(&self, number: usize) -> String {
        self.0.replace("{n}", &number.to_string())
    }
}

impl FromStr for MountPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('/').filter(|shorter| !shorter.is_empty()).unwrap_or(text);
        let Some(rest) = text.strip_prefix('/') else { return Err("must be an absolute path".into()) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '@' | ':');
        let good = |part: &str| {
            let part = part.replace("{n}", "0");
            !part.is_empty() && part != "." && part != ".." && part.chars().all(plain)
        };
        if rest.is_empty() || text.len() > 200 || !rest.split('/').all(good) {
            return Err(
                "is no path for a disk; use letters, digits and - _ . + @ : between slashes, {n} for the number".into(),
            );
        }
        let inside = |directory: &&&str| text == **directory || text.starts_with(&format!("{directory}/"));
        if let Some(directory) = SYSTEM_DIRECTORIES.iter().find(inside) {
            return Err(format!("{directory} belongs to the system; use /data, /srv, /mnt or a path below /var"));
        }
        if matches!(text, "/var" | "/var/lib" | "/var/log" | "/home") || text.starts_with("/var/lib/ingot") {
            return Err("would hide the node's own state; use a directory below it".into());
        }
        Ok(Self(text.into()))
    }
}

impl MountOption {
    /// The part before `=`.
    pub fn name(&self) -> &str {
        self.0.split('=').next().unwrap_or_default()
    }
}

impl FromStr for MountOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=' | '.' | ':' | '+' | '/' | '@');
        if text.is_empty() || text.len() > 100 || !text.chars().all(plain) {
            return Err("is no mount option; write one in each text of the list".into());
        }
        let name = text.split('=').next().unwrap_or_default();
        if name.starts_with("x-")
            || matches!(name, "noauto" | "user" | "users" | "owner" | "group" | "_netdev" | "comment")
        {
            return Err("is for fstab and not for the kernel; a data disk is mounted at every boot without it".into());
        }
        if matches!(name, "remount" | "bind" | "rbind" | "move" | "loop" | "ro" | "norecovery" | "noload") {
            return Err("does not fit a data disk".into());
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for UnitName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '.' | '\\' | '-' | '@');
        let kind = text.rsplit_once('.').map(|(name, kind)| (!name.is_empty(), kind));
        if text.len() < 200
            && text.chars().all(plain)
            && matches!(kind, Some((true, "service" | "target" | "mount" | "socket")))
        {
            return Ok(Self(text.into()));
        }
        Err("is no unit, such as docker.service".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = String>>(texts: &[&str]) {
        for text in texts {
            assert!(T::from_str(text).is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn wwns_are_one_whatever_their_form() {
        for text in ["0x5000C500A1B2C3D4", "naa.5000c500a1b2c3d4", "wwn-0x5000c500a1b2c3d4", "5000c500a1b2c3d4"] {
            assert_eq!(text.parse::<Wwn>().unwrap().as_str(), "5000c500a1b2c3d4");
        }
        assert!("eui.0025385b21404b5e".parse::<Wwn>().is_ok());
        assert!("nvme.1af4-6465616462656566-51454d55-00000001".parse::<Wwn>().is_ok());
        refused::<Wwn>(&["", "0x", "0x12", "5000c500a1b2c3dz", "sda"]);
    }

    #[test]
    fn mount_points_hide_nothing_of_the_system() {
        assert_eq!("/data/{n}/".parse::<MountPoint>().unwrap().of(7), "/data/7");
        assert!("/var/lib/docker".parse::<MountPoint>().is_ok() && "/ais/disk-{n}".parse::<MountPoint>().is_ok());
        refused::<MountPoint>(&["", "/", "data", "/data//x", "/data/../etc", "/etc", "/usr/local", "/var", "/var/"]);
        refused::<MountPoint>(&["/data/{x}", "/a b", "/var/lib/ingot/x", "/run/x", "/data\n", "/dev/shm", "/data/."]);
    }

    #[test]
    fn names_paths_options_units() {
        assert!("data-1".parse::<DiskName>().is_ok());
        refused::<DiskName>(&["", "Data", "1a", "a-", "swap", "averyveryverylongname", "a_b"]);
        assert!("/dev/disk/by-path/pci-0000:00:1f.2-ata-?".parse::<DiskPath>().is_ok());
        refused::<DiskPath>(&[
            "/dev/sdb",
            "by-path/x",
            "/dev/disk/by-label/x",
            "/dev/disk/by-path/",
            "/dev/disk/by-path/../x",
        ]);
        assert!("logbsize=256k".parse::<MountOption>().is_ok() && "nofail".parse::<MountOption>().is_ok());
        refused::<MountOption>(&["", "a,b", "x-systemd.automount", "noauto", "ro", "bind", "a b"]);
        assert!("docker.service".parse::<UnitName>().is_ok() && "a@b.service".parse::<UnitName>().is_ok());
        refused::<UnitName>(&["docker", ".service", "a/b.service", "x.timer", "a b.service"]);
        refused::<Serial>(&["", "*", "a\nb", "WD?"]);
        refused::<Pattern>(&["", "*", "**", "a\"b", "a\\b"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_shown_reads_back(text in "(/dev/disk/by-path/|/|0x|naa\\.)?.{0,40}") {
            macro_rules! round_trip { ($($t:ty),+) => { $(if let Ok(value) = text.parse::<$t>() {
                proptest::prop_assert_eq!(value.to_string().parse::<$t>().ok(), Some(value));
            })+ } }
            round_trip!(DiskName, Serial, Wwn, DiskPath, Pattern, MountPoint, MountOption, UnitName);
        }
    }
}
