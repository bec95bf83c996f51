//! The status codes: what a node says about where it is, from the initrd to the joined cluster.
//!
//! Takes nothing; gives one table, [`Code`], with a number that never changes its meaning, a name, a cause and a
//! remedy, and the one form of a status line:
//!
//! ```text
//! ingot: FB-500 joined: docker-swarm worker, node k3j1..., manager 10.77.0.10
//! ```
//!
//! A line never spans several lines and never holds control characters, so that a test, a log collector or a
//! person at a serial console can read it with one pattern. Numbers from 900 on are failures: the node says what
//! is wrong and keeps trying where trying can help.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How serious a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A step of the normal course.
    Progress,
    /// Nothing more can happen until something outside the node changes, and that may be quite right.
    Waiting,
    /// The goal is reached.
    Success,
    /// Something is wrong.
    Failure,
}

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $severity:ident, $cause:literal, $remedy:literal;)+) => {
        /// A state of a node on its way from power-on to a joined cluster.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`FB-", stringify!($number), " ", $name, "`: ", $cause)] $variant,)+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The number: `100` of `FB-100`.
            pub const fn number(self) -> u16 {
                match self { $(Code::$variant => $number,)+ }
            }

            /// The name: `config-found`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// How serious it is.
            pub const fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity,)+ }
            }

            /// What the state means, or what brought it about.
            pub const fn cause(self) -> &'static str {
                match self { $(Code::$variant => $cause,)+ }
            }

            /// What a person can do; empty where there is nothing to do.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)+ }
            }
        }
    };
}

codes! {
    // The initrd.
    Stage1Started = 10, "stage1-started", Progress, "the initrd's init runs", "";
    DiskFound = 20, "disk-found", Progress, "the disk with the image's root was found", "";
    RootVerified = 30, "root-verified", Progress, "the root's dm-verity device is set up and its root hash is the one of the boot entry", "";
    VarReady = 40, "var-ready", Progress, "the state partition is made, grown or checked, and mounted", "";
    SwitchingRoot = 50, "switching-root", Progress, "the system's own init takes over", "";
    // Configuration.
    ConfigFound = 100, "config-found", Progress, "valid configuration was read; the text names the sources", "";
    WaitingForConfig = 110, "waiting-for-config", Waiting,
        "there is no configuration yet and the role cannot do without, or a source that is named does not answer; the text says which and why",
        "plug in a volume labelled INGOT with node.toml, or one labelled CIDATA; it is read as soon as it appears";
    ConfigReplaced = 120, "config-replaced", Progress,
        "a sealed node has taken a signed configuration from a medium in the place of its own", "";
    MediumIgnored = 121, "medium-ignored", Progress,
        "a medium with configuration was plugged into a sealed node and is ignored; the text names it and why",
        "sign it with a site key, or lift the seal with `firstboot unseal`; if nobody meant to plug it in, find out who did";
    // The clock.
    ClockSet = 130, "clock-set", Progress, "the clock was wrong and has been set; the text says from what it knows the time", "";
    // Applying it.
    Applying = 200, "applying", Progress, "the plan's steps are being carried out", "";
    DisksReady = 205, "disks-ready", Progress, "the data disks are there and mounted; the text names each", "";
    NetworkUp = 210, "network-up", Progress, "the node has the addresses that it was told, or one by DHCP", "";
    TuningPartial = 220, "tuning-partial", Progress,
        "the kernel did not take some settings of [tuning] as they were asked for; the node goes on",
        "/run/ingot/tuning.json has requested and effective value of each; leave out what this machine does not have";
    Preflight = 300, "preflight", Progress, "what the join needs is being started and checked", "";
    WaitingForGate = 305, "waiting-for-gate", Waiting,
        "something that join.after names is not up yet; the text says what, why and since when",
        "bring up what the text names; it is looked at again and again";
    ImagesLoaded = 310, "images-loaded", Progress, "the container images that came with the image are in the engine", "";
    // Joining.
    Joining = 400, "joining", Progress, "the node joins, or founds, its cluster", "";
    WaitingForManager = 410, "waiting-for-manager", Waiting,
        "no manager answers yet, or it has not founded the cluster yet",
        "start the manager; check the addresses under join.managers and that TCP port 7390 reaches it";
    ClusterBusy = 415, "cluster-busy", Waiting,
        "the cluster has too much to do at the moment and said when to ask again",
        "nothing: the node comes back by itself";
    Joined = 500, "joined", Success, "the node is an active member of its cluster", "";
    ReadyNoJoin = 510, "ready-no-join", Success, "everything is applied, and the role joins nothing", "";
    Left = 520, "left", Waiting,
        "the node has left its cluster, by command",
        "plug in a medium with another configuration, say `firstboot unseal` to let it join again, flash the image again, or remove the machine";
    // Failures.
    NoDisk = 901, "no-disk", Failure,
        "no disk holds a root that matches the root hash of the boot entry",
        "flash the whole image to the disk that the firmware boots; if the disk is there, its controller may need a module that the profile does not put into the initrd";
    RootCorrupt = 902, "root-corrupt", Failure,
        "the root's content does not match its hash: the disk is failing or was tampered with",
        "boot the other slot, or flash the image again; replace the disk if it happens again";
    VarFailed = 903, "var-failed", Failure,
        "the state partition could not be made, grown, checked or mounted",
        "read the line above it; a disk that is too small or failing has to be replaced";
    SwitchFailed = 904, "switch-failed", Failure,
        "the verified root could not be entered: /etc could not be laid over it, or its init is missing",
        "read the line above it; flash the image again if it persists";
    Stage1Failed = 905, "stage1-failed", Failure,
        "the initrd itself is wrong: a module, a kernel interface or its own settings are missing",
        "rebuild the image; report it if it persists";
    ConfigInvalid = 910, "config-invalid", Failure,
        "the configuration has errors; the text names file, line, column and key",
        "correct it (`ingot config check FILE` finds the same errors) and plug the medium in again; it is read again as soon as it changes";
    MediumUnreadable = 911, "medium-unreadable", Failure,
        "a medium with the right label, or another source, is there but cannot be read, or two media with one label differ",
        "use a FAT, ISO 9660 or ext4 volume without symbolic links; try another stick; leave one of two media with the same label";
    SignatureRefused = 912, "signature-refused", Failure,
        "the role asks for signed configuration, and a document has no signature, or none that counts",
        "sign every file with the site key (`minisign -S -m node.toml`) and put the .minisig files beside them";
    NetworkFailed = 920, "network-failed", Failure,
        "the node has not got its addresses in time",
        "check the cable, the match of each [[network]] and the DHCP server; the node keeps trying";
    NetworkFallback = 921, "network-fallback", Failure,
        "the configured network gave no addresses though a cable is in; the last one that worked, or DHCP on every wired interface, is in use meanwhile",
        "correct [[network]] and plug the medium in: it is read at once; the configured network is tried again when a cable changes, and now and then";
    PreflightFailed = 930, "preflight-failed", Failure,
        "something that the join needs does not work; the text says what",
        "on the node: `journalctl -u docker`; the node keeps trying";
    StepFailed = 931, "step-failed", Failure,
        "a step of the plan failed; the text says which and why",
        "correct what the text names; the node keeps trying";
    ImagesFailed = 932, "images-failed", Failure,
        "a container image that came with the image could not be loaded",
        "check the free space of /var; rebuild the image if the archive itself is bad";
    DisksFailed = 933, "disks-failed", Failure,
        "the disks are not what [[disk]] or [swap] says; the text names rule, disks and reason",
        "put in the missing disk, correct the rule, or list the serial number of a disk whose content may go under wipe; what a disk of this node itself held is given up with `firstboot release-disk`";
    CommandFailed = 934, "command-failed", Failure,
        "a command of [run] failed, or the power failed while it ran; the text says which",
        "on the node: `journalctl -u` with the unit that the text names; a command of run.first is not run again unless run.repeat is true";
    JoinFailed = 940, "join-failed", Failure,
        "the cluster refused the node, or the node's cluster state contradicts its configuration",
        "read the text; the node keeps trying";
    RendezvousRefused = 941, "rendezvous-refused", Failure,
        "manager and node do not have the same cluster secret, or something in between is not a manager",
        "use the same join.secret on all nodes of one cluster";
    TokenRefused = 942, "token-refused", Failure,
        "the cluster does not accept the token: it has expired, was revoked, or is another cluster's",
        "make a new token and give the node a medium with it, or use join.secret, which needs no token";
    ClusterAuthorityWrong = 943, "cluster-authority-wrong", Failure,
        "what answers at the cluster's address is not the cluster that the configuration pins",
        "check the address and the pin; if both are right, something in between pretends to be the cluster";
    DuplicateName = 944, "duplicate-name", Failure,
        "another living machine in the cluster has this node's host name",
        "give one of the two another hostname; a machine that was flashed again waits until its old self has been down for some minutes";
    ClockWrong = 950, "clock-wrong", Failure,
        "the clock is wrong and nothing that could tell the time has answered, or the kernel does not let it be set",
        "set the firmware's clock or replace its battery; give `ntp` or `time.https` in node.toml; the node goes on and keeps trying";
    Internal = 990, "internal", Failure,
        "the service cannot write its own state",
        "check that /var is mounted and has free space";
    VarFull = 991, "var-full", Failure,
        "the state partition has no free space, so that nothing can be recorded or set",
        "free space on /var (`du -xhd2 /var` shows what takes it), or give the node a larger disk; the node goes on as soon as there is space";
    VarReadOnly = 992, "var-read-only", Failure,
        "the state partition cannot be written: the kernel has made it read-only, as it does after errors of the disk",
        "read `dmesg`; cut the power and switch on again, so that it is checked; replace the disk if it happens again";
}

impl Code {
    /// The code with this number.
    pub fn from_number(number: u16) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// True for the codes of failures.
    pub fn is_failure(self) -> bool {
        self.severity() == Severity::Failure
    }

    /// The status line for this state, without a line end. Control characters of the text become spaces and the
    /// line ends after 1,000 bytes, whatever the text holds.
    pub fn line(self, text: &str) -> String {
        let mut line = format!("ingot: {self} {}: ", self.name());
        for character in text.trim().chars() {
            if line.len() >= 1000 {
                line.push_str("...");
                break;
            }
            line.push(if character.is_control() { ' ' } else { character });
        }
        line
    }

    /// Reads a status line back: the code and its text. Anything may stand before `ingot: ` (time stamps, a login
    /// prompt).
    pub fn parse_line(line: &str) -> Option<(Code, &str)> {
        let (_, rest) = line.split_once("ingot: FB-")?;
        let (number, rest) = rest.split_once(' ')?;
        let code = (number.len() == 3).then(|| number.parse().ok()).flatten().and_then(Code::from_number)?;
        let text = rest.strip_prefix(code.name())?.strip_prefix(':')?;
        Some((code, text.trim()))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FB-{:03}", self.number())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("FB-")
            .and_then(|number| number.parse().ok())
            .and_then(Code::from_number)
            .ok_or_else(|| serde::de::Error::custom(format!("{text} is not a status code")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_failures_are_from_900() {
        let mut numbers: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted(), "the table is in order");
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.is_failure(), code.number() >= 900, "{code}");
            assert!(!code.cause().is_empty(), "{code}");
            assert!(!code.is_failure() || !code.remedy().is_empty(), "{code} needs a remedy");
        }
    }

    #[test]
    fn a_line_has_the_one_form_and_reads_back() {
        let line = Code::Stage1Started.line("kernel 6.12");
        assert_eq!(line, "ingot: FB-010 stage1-started: kernel 6.12");
        assert_eq!(Code::parse_line(&line), Some((Code::Stage1Started, "kernel 6.12")));
        let noisy = format!("[    3.1] w1 login: {line}\r");
        assert_eq!(Code::parse_line(&noisy), Some((Code::Stage1Started, "kernel 6.12")));
        assert_eq!(Code::parse_line("ingot: FB-011 no-such: x"), None);
        assert_eq!(Code::parse_line("ingot: FB-10 stage1-started: x"), None);
    }

    #[test]
    fn a_text_cannot_forge_a_second_line() {
        let line = Code::ConfigInvalid.line("a\ningot: FB-500 joined: b\u{1b}[2J");
        assert!(!line.contains('\n') && !line.contains('\u{1b}'));
        assert!(line.starts_with("ingot: FB-910 config-invalid: a "));
        assert!(Code::Joined.line(&"x".repeat(5000)).len() < 1100);
    }

    #[test]
    fn codes_round_trip_through_json() {
        for code in Code::ALL {
            let text = serde_json::to_string(code).unwrap();
            assert_eq!(serde_json::from_str::<Code>(&text).unwrap(), *code);
        }
    }

    #[test]
    fn the_documents_table_is_this_one() {
        let page = include_str!("../../docs/status-codes.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| FB-")).collect();
        let wanted: Vec<String> = Code::ALL
            .iter()
            .map(|code| {
                let severity = format!("{:?}", code.severity()).to_lowercase();
                let remedy = if code.remedy().is_empty() { "-" } else { code.remedy() };
                format!("| {code} | `{}` | {severity} | {} | {remedy} |", code.name(), code.cause())
            })
            .collect();
        assert_eq!(rows, wanted, "docs/status-codes.md follows firstboot/src/status.rs");
    }

    proptest::proptest! {
        #[test]
        fn any_line_parses_without_a_panic(line in ".*") {
            let _ = Code::parse_line(&line);
        }
    }
}
