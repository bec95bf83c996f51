//! All providers together: which of them wins, and where a value says it is from.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use super::*;
use crate::config::load;
use crate::host::simulated::SimulatedHost;
use crate::http::HttpResponse;

/// Media that are directories.
#[derive(Default)]
pub struct Directories {
    media: RefCell<Vec<(Labelled, tempfile::TempDir)>>,
    /// How many more times a medium breaks while it is read.
    pub breaks: Cell<u32>,
}

impl Directories {
    pub fn add(&self, label: &str, device: &str, files: &[(&str, &str)]) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.media.borrow_mut().push((Labelled { label: label.into(), device: device.into() }, directory));
    }

    pub fn remove(&self, device: &str) {
        self.media.borrow_mut().retain(|(medium, _)| medium.device != device);
    }

    pub fn path(&self, device: &str) -> PathBuf {
        let media = self.media.borrow();
        media.iter().find(|(medium, _)| medium.device == device).unwrap().1.path().to_owned()
    }
}

impl Media for Directories {
    fn labelled(&self, labels: &[&str]) -> Vec<Labelled> {
        let media = self.media.borrow();
        let known = |label: &str| labels.iter().any(|known| known.eq_ignore_ascii_case(label));
        media.iter().map(|(medium, _)| medium.clone()).filter(|medium| known(&medium.label)).collect()
    }

    fn open(&self, medium: &Labelled) -> Result<Volume, VolumeError> {
        let path = self.path(&medium.device);
        let broken = path.join("broken");
        if self.breaks.get() > 0 {
            self.breaks.set(self.breaks.get() - 1);
            std::fs::write(broken, "").unwrap();
        } else {
            let _ = std::fs::remove_file(broken);
        }
        Volume::open_directory(&path)
    }
}

/// Looks with one provider, without media.
pub fn look_with(host: &SimulatedHost, look: Provider) -> Found {
    let (media, machine) = (Directories::default(), Machine::default());
    let mut found = Found::default();
    look(&NodeSources::new(host, &media).surroundings(&machine), &mut found);
    found
}

/// Serves a document; every other address is 404.
pub fn answers(host: &SimulatedHost, url: &str, body: &str) {
    let answer = |status, body: &str| Ok(HttpResponse { status, headers: Vec::new(), body: body.as_bytes().to_vec() });
    let mut state = host.state();
    state.answers.insert(url.into(), vec![answer(200, body)]);
    state.answers.insert(String::new(), vec![answer(404, "")]);
}

/// A place where a configuration can be, lowest precedence first; each writes a host name there, and gives what its
/// origin begins with.
type Place = fn(&SimulatedHost, &Directories, &str) -> &'static str;

fn toml(name: &str) -> String {
    format!("version = 1\nhostname = \"{name}\"\n")
}

fn cloud(name: &str) -> String {
    format!("#cloud-config\nhostname: {name}\n")
}

fn append_to_command_line(host: &SimulatedHost, parameter: &str) {
    let line = format!("{} {parameter}", host.text("/proc/cmdline"));
    host.put("/proc/cmdline", &line);
}

const PLACES: [(&str, Place); 16] = [
    ("the role", |host, _, name| {
        host.put(ROLE_DEFAULTS, &format!("hostname = \"{name}\"\n"));
        ROLE_DEFAULTS
    }),
    ("a credential", |host, _, name| {
        let text = format!("io.systemd.credential:ingot.node.toml={}", toml(name));
        host.put_bytes("/sys/firmware/dmi/tables/DMI", &firmware::table_with(&[&text]));
        "credential:ingot.node.toml:2:12"
    }),
    ("a URL", |host, _, name| {
        append_to_command_line(host, "ingot.config=http://h/node.toml");
        answers(host, "http://h/node.toml", &toml(name));
        "ingot.config:http://h/node.toml:2:12"
    }),
    ("a seed directory, its meta-data", |host, _, name| {
        host.put("/var/lib/cloud/seed/nocloud/meta-data", &format!("local-hostname: {name}\n"));
        "seed:/var/lib/cloud/seed/nocloud/meta-data:1:17"
    }),
    ("a seed directory, its user-data", |host, _, name| {
        host.put("/var/lib/cloud/seed/nocloud/user-data", &cloud(name));
        "seed:/var/lib/cloud/seed/nocloud/user-data:2:11"
    }),
    ("the serial number itself", |host, _, name| {
        host.put("/sys/class/dmi/id/product_serial", &format!("SN1 ds=nocloud;s=http://serial/;h={name}"));
        answers(host, "http://serial/vendor-data", "#cloud-config\n");
        "smbios:ds=nocloud:1:17"
    }),
    ("a seed of the serial number", |host, _, name| {
        if !host.text("/sys/class/dmi/id/product_serial").contains("serial/") {
            host.put("/sys/class/dmi/id/product_serial", "SN1 ds=nocloud;s=http://serial/");
        }
        answers(host, "http://serial/user-data", &cloud(name));
        "smbios:http://serial/user-data:2:11"
    }),
    ("the command line itself", |host, _, name| {
        append_to_command_line(host, &format!("\"ds=nocloud;s=http://line/;h={name}\""));
        answers(host, "http://line/vendor-data", "#cloud-config\n");
        "command-line:ds=nocloud:1:17"
    }),
    ("a seed of the command line", |host, _, name| {
        if !host.text("/proc/cmdline").contains("http://line/") {
            append_to_command_line(host, "\"ds=nocloud;s=http://line/\"");
        }
        answers(host, "http://line/user-data", &cloud(name));
        "command-line:http://line/user-data:2:11"
    }),
    ("CIDATA, its vendor-data", |_, media, name| {
        put(media, "cidata", "/dev/sdb", "vendor-data", &cloud(name));
        "cidata:vendor-data:2:11"
    }),
    ("CIDATA, its user-data", |_, media, name| {
        put(media, "cidata", "/dev/sdb", "user-data", &cloud(name));
        "cidata:user-data:2:11"
    }),
    ("CIDATA, its node.toml", |_, media, name| {
        put(media, "cidata", "/dev/sdb", "node.toml", &toml(name));
        "cidata:node.toml:2:12"
    }),
    ("a ConfigDrive, its vendor data", |_, media, name| {
        let json = serde_json::json!({ "cloud-init": cloud(name) }).to_string();
        put(media, "config-2", "/dev/sr0", "openstack/latest/vendor_data.json", &json);
        "config-2:openstack/latest/vendor_data.json:2:11"
    }),
    ("a ConfigDrive, its user data", |_, media, name| {
        put(media, "config-2", "/dev/sr0", "openstack/latest/user_data", &cloud(name));
        "config-2:openstack/latest/user_data:2:11"
    }),
    ("INGOT", |_, media, name| {
        put(media, "INGOT", "/dev/sdc1", "node.toml", &toml(name));
        "INGOT:node.toml:2:12"
    }),
    ("INGOT, the machine's own file", |_, media, name| {
        put(media, "INGOT", "/dev/sdc1", "52-54-00-00-00-01.toml", &toml(name));
        "INGOT:52-54-00-00-00-01.toml:2:12"
    }),
];

fn put(media: &Directories, label: &str, device: &str, name: &str, text: &str) {
    if !media.media.borrow().iter().any(|(medium, _)| medium.device == device) {
        media.add(label, device, &[]);
    }
    let path = media.path(device).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn hostname_with(places: &[usize]) -> (String, String, Vec<String>) {
    let (host, media) = (SimulatedHost::default(), Directories::default());
    for &place in places {
        PLACES[place].1(&host, &media, &format!("host{place}"));
    }
    let machine = host.machine();
    let found = NodeSources::new(&host, &media).look(&machine);
    assert!(found.pending.is_empty() && found.unreadable.is_empty(), "{places:?}: {found:?}");
    let documents: Vec<_> = role_defaults(&host).unwrap().into_iter().chain(found.documents).collect();
    let loaded = load(&documents, &machine).unwrap();
    let origin = loaded.origins.iter().find(|value| value.key == "hostname").unwrap().origin.to_string();
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    (loaded.config.hostname.unwrap().to_string(), origin, warnings)
}

#[test]
fn of_every_pair_of_places_the_higher_one_wins_and_is_named() {
    let mut pairs = 0;
    let begins = |place: Place| place(&SimulatedHost::default(), &Directories::default(), "x");
    for (lower, (lower_name, lower_place)) in PLACES.into_iter().enumerate() {
        for (higher, (higher_name, higher_place)) in PLACES.into_iter().enumerate().skip(lower + 1) {
            let (expected, below) = (begins(higher_place), begins(lower_place));
            let shown = format!("{lower_name} and {higher_name}");
            // In whatever order they come to be there.
            for places in [[lower, higher], [higher, lower]] {
                let (name, origin, warnings) = hostname_with(&places);
                assert_eq!(name, format!("host{higher}"), "{shown}");
                assert!(origin.starts_with(expected), "{shown}: {origin} is not {expected}");
                // Two kinds of sources contradict each other; both are named.
                let kind = |origin: &str| origin.split_once(':').map(|(kind, _)| kind.to_owned());
                let contradict = lower > 0 && kind(expected) != kind(below);
                let said = warnings.iter().any(|warning| warning.starts_with(expected) && warning.contains(below));
                assert_eq!(said, contradict, "{shown}: {warnings:?}");
            }
            pairs += 1;
        }
    }
    assert_eq!(pairs, PLACES.len() * (PLACES.len() - 1) / 2);
}

#[test]
fn all_places_at_once_have_one_order() {
    for count in 1..=PLACES.len() {
        let places: Vec<usize> = (0..count).collect();
        assert_eq!(hostname_with(&places).0, format!("host{}", count - 1), "{}", PLACES[count - 1].0);
    }
}

#[test]
fn wrong_encodings_are_named_with_their_file() {
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain("version = 1\n".bytes().flat_map(|byte| [byte, 0])).collect();
    for (bytes, expected) in [
        (utf16.as_slice(), "INGOT:node.toml: is in UTF-16 (save it as UTF-8)"),
        (b"version = 1\nhostname = \"m\xfcnchen\"\n", "INGOT:node.toml:2:14: is not UTF-8 from here on"),
        (b"\xef\xbb\xbfversion = 1\nhostnme = \"a\"\n", "INGOT:node.toml:2:1: hostnme: unknown key"),
    ] {
        let (host, media) = (SimulatedHost::default(), Directories::default());
        put(&media, "INGOT", "/dev/sdc1", "node.toml", "");
        std::fs::write(media.path("/dev/sdc1").join("node.toml"), bytes).unwrap();
        let found = NodeSources::new(&host, &media).look(&host.machine());
        let error = load(&found.documents, &host.machine()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_sealed_node_looks_at_media_alone() {
    let (host, media) = (SimulatedHost::default(), Directories::default());
    for (_, place) in PLACES {
        place(&host, &media, "x");
    }
    let found = NodeSources::new(&host, &media).look_at_media(&host.machine());
    let kinds: std::collections::BTreeSet<_> =
        found.documents.iter().map(|document| document.name.split(':').next().unwrap()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["INGOT", "cidata", "config-2"]);
    assert!(host.state().requests.is_empty());
}

#[test]
fn signatures_are_fetched_where_the_role_asks_for_them() {
    let (host, media) = (SimulatedHost::default(), Directories::default());
    host.put("/proc/cmdline", "ingot.config=http://h/node.toml?x=1");
    answers(&host, "http://h/node.toml?x=1", "version = 1\n");
    answers(&host, "http://h/node.toml.minisig?x=1", "signature");
    let look = || NodeSources::new(&host, &media).look(&host.machine());
    assert!(look().signatures.is_empty());
    host.put(ROLE_DEFAULTS, "[seal]\nrequire_signed = true\n");
    assert_eq!(look().signatures["ingot.config:http://h/node.toml?..."], b"signature");
    host.put(ROLE_DEFAULTS, "[seal]\nrequire_signed = \"yes\"\n");
    assert_eq!(look().signatures.len(), 1, "a role that is wrong asks for no less");
}
