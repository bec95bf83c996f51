//! Media that are wrong in every way, through the real sources: the node names what is wrong, applies nothing of it, goes on
//! looking, and becomes what a good medium says.

use std::cell::Cell;

use super::*;
use crate::provider::tests::Directories;
use crate::provider::{Labelled, Media as Devices, NodeSources, Volume, VolumeError};

/// What is plugged in is taken out after a number of looks, and a good stick put in.
struct Exchanged {
    bad: Directories,
    good: Directories,
    looks: Cell<u32>,
    /// How often the bad one is gone as soon as it has been opened.
    gone: Cell<u32>,
}

/// Longer than it takes to say what is wrong, also where that is said after the wait for late media.
const LOOKS: u32 = 400;

impl Exchanged {
    fn present(&self) -> &Directories {
        if self.looks.get() < LOOKS { &self.bad } else { &self.good }
    }
}

impl Devices for Exchanged {
    fn labelled(&self, labels: &[&str]) -> Vec<Labelled> {
        self.looks.set(self.looks.get() + 1);
        self.present().labelled(labels)
    }

    fn open(&self, medium: &Labelled) -> Result<Volume, VolumeError> {
        let gone = self.gone.get();
        if gone > 0 && self.looks.get() < LOOKS {
            self.gone.set(gone - 1);
            // Its directory is removed when this returns; what was opened stays open.
            return Volume::open_directory(tempfile::tempdir().unwrap().path());
        }
        self.present().open(medium)
    }
}

/// A whole configuration for a manager of this name.
fn node_toml(name: &str) -> String {
    let text = stick("manager").documents.remove(0).bytes;
    String::from_utf8(text).unwrap().replace("hostname = \"n1\"", &format!("hostname = {name:?}"))
}

/// Plugs the bad media in, then the good one. Gives what was said, and where the node ended.
fn exchanged(bad: Directories) -> (Heard, SimulatedHost) {
    exchanged_after(bad, 0)
}

fn exchanged_after(bad: Directories, gone: u32) -> (Heard, SimulatedHost) {
    let good = Directories::default();
    good.add("INGOT", "/dev/sdc1", &[("node.toml", &node_toml("good"))]);
    let media = Exchanged { bad, good, looks: Cell::new(0), gone: Cell::new(gone) };
    let host = machine();
    let heard = Heard::default();
    Service::new(&host, &heard, &NodeSources::new(&host, &media)).run();
    assert!(media.looks.get() >= LOOKS, "the bad medium was enough");
    (heard, host)
}

/// A medium with one file, made by `make`.
fn one(make: impl FnOnce(&std::path::Path)) -> Directories {
    let media = Directories::default();
    media.add("INGOT", "/dev/sdb1", &[]);
    make(&media.path("/dev/sdb1").join("node.toml"));
    media
}

fn bytes(content: &[u8]) -> Directories {
    one(|path| std::fs::write(path, content).unwrap())
}

#[test]
fn nothing_of_a_bad_medium_is_applied_and_a_good_one_is_taken_at_once() {
    let good = node_toml("bad");
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(good.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let latin = good
        .replace("\"bad\"", "\"b\u{e4}d\"")
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect::<Vec<_>>();
    let sample = good.replace(SECRET, "replace-me: run `openssl rand -base64 32` and put its output here");
    let weak = good.replace(SECRET, "changeme-changeme-changeme-changeme");
    let invalid: [(&str, Directories, &str); 6] = [
        ("UTF-16", bytes(&utf16), "node.toml"),
        ("Latin-1", bytes(&latin), "UTF-8"),
        ("zeros", bytes(&[0; 4096]), "node.toml"),
        ("half a file", bytes(&good.as_bytes()[..good.len() - 20]), "node.toml:"),
        ("the sample's secret", bytes(sample.as_bytes()), "join.secret"),
        ("a secret that anybody guesses", bytes(weak.as_bytes()), "join.secret"),
    ];
    for (what, media, expected) in invalid {
        let (heard, host) = exchanged(media);
        assert!(heard.text(Code::ConfigInvalid).contains(expected), "{what}: {}", heard.text(Code::ConfigInvalid));
        assert_eq!((host.state().hostname.as_str(), heard.codes().last()), ("good", Some(&500)), "{what}");
        assert_eq!(
            heard.codes().iter().filter(|code| **code == 200).count(),
            1,
            "{what}: only the good one is applied"
        );
    }

    let unreadable: [(&str, Directories, u32, &str); 4] = [
        ("100 MB", one(|path| std::fs::File::create(path).unwrap().set_len(100 << 20).unwrap()), 0, "node.toml"),
        ("a link", one(|path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()), 0, "node.toml"),
        ("a directory", one(|path| std::fs::create_dir(path).unwrap()), 0, "node.toml"),
        ("a stick that breaks whenever it is read", bytes(good.as_bytes()), u32::MAX, "INGOT (/dev/sdb1)"),
    ];
    for (what, media, gone, expected) in unreadable {
        let (heard, host) = exchanged_after(media, gone);
        assert!(
            heard.text(Code::MediumUnreadable).contains(expected),
            "{what}: {}",
            heard.text(Code::MediumUnreadable)
        );
        assert_eq!((host.state().hostname.as_str(), heard.codes().last()), ("good", Some(&500)), "{what}");
    }
}

#[test]
fn two_sticks_that_contradict_each_other_are_both_named_and_neither_is_taken() {
    let media = Directories::default();
    media.add("INGOT", "/dev/sdb1", &[("node.toml", &node_toml("one"))]);
    media.add("ingot", "/dev/sdd1", &[("node.toml", &node_toml("two"))]);
    let (heard, host) = exchanged(media);
    let text = heard.text(Code::MediumUnreadable);
    assert!(text.contains("/dev/sdb1") && text.contains("/dev/sdd1"), "{text}");
    assert_eq!(host.state().hostname, "good");
    // Sources of two kinds: an error where the configuration is strict.
    let media = Directories::default();
    media.add("INGOT", "/dev/sdb1", &[("node.toml", &format!("strict = true\n{}", node_toml("one")))]);
    media.add(
        "cidata",
        "/dev/sr0",
        &[("meta-data", "instance-id: i\n"), ("user-data", "#cloud-config\nhostname: two\n")],
    );
    let (heard, host) = exchanged(media);
    let text = heard.text(Code::ConfigInvalid);
    assert!(text.contains("hostname") && text.contains("cidata") && text.contains("INGOT"), "{text}");
    assert_eq!(host.state().hostname, "good");
}

#[test]
fn a_stick_that_is_pulled_out_while_it_is_read_is_read_when_it_is_back() {
    let bad = Directories::default();
    bad.add("INGOT", "/dev/sdb1", &[("node.toml", &node_toml("n1"))]);
    // Seven times it is gone before it was read; a look tries more than once.
    let media = Exchanged { bad, good: Directories::default(), looks: Cell::new(0), gone: Cell::new(7) };
    let host = machine();
    let heard = Heard::default();
    Service::new(&host, &heard, &NodeSources::new(&host, &media)).run();
    assert!(heard.text(Code::MediumUnreadable).contains("INGOT (/dev/sdb1)"), "{:?}", heard.codes());
    assert_eq!((host.state().hostname.as_str(), heard.codes().last()), ("n1", Some(&500)));
    assert_eq!(media.gone.get(), 0);
}
