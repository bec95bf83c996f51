//! NoCloud's forms that are no medium: a seed directory, and `ds=nocloud` in the serial number or on the kernel
//! command line.
//!
//! `ds=nocloud;s=ADDRESS;h=NAME;i=ID` (or `nocloud-net`) is what cloud-init takes in the serial number of SMBIOS type 1 or
//! on the command line. The address is a directory: `http`, `https`, `file`, or a path. A slash at its end may be
//! missing; a `%s` in it becomes the file's name; `__dmi.NAME__` becomes the machine's own value. As with cloud-init,
//! `h` wins over the `local-hostname` of the meta-data, and a `hostname` of the user-data wins over both.

use super::fetch::{Failed, fetch};
use super::firmware::{field, substitute};
use super::{Found, SIGNATURE, Surroundings};
use crate::config::{Document, Format, MAXIMUM_DOCUMENT_BYTES, SourceKind};
use crate::http::shown;

/// The directories that cloud-init knows; the later wins.
const DIRECTORIES: [&str; 2] = ["/var/lib/cloud/seed/nocloud-net", "/var/lib/cloud/seed/nocloud"];

/// The files of a seed, lowest precedence first.
pub const FILES: [(&str, Format); 5] = [
    ("vendor-data", Format::VendorData),
    ("meta-data", Format::MetaData),
    ("network-config", Format::NetworkConfig),
    ("user-data", Format::UserData),
    ("node.toml", Format::NodeToml),
];

/// cloud-init's tools put empty ones there as a matter of form.
pub fn says_nothing(document: &Document) -> bool {
    matches!(document.format, Format::VendorData | Format::NetworkConfig) && document.bytes.trim_ascii().is_empty()
}

/// What `ds=nocloud;...` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seed {
    from: Option<String>,
    hostname: Option<String>,
    instance: Option<String>,
    unknown: Vec<String>,
}

impl Seed {
    /// Reads what stands behind `ds=`; `None` where it is for another data source.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        if !matches!(parts.next(), Some("nocloud" | "nocloud-net")) {
            return None;
        }
        let mut seed = Self::default();
        for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "s" | "seedfrom" => seed.from = Some(value.to_owned()),
                "h" | "local-hostname" => seed.hostname = Some(value.to_owned()),
                "i" | "instance-id" => seed.instance = Some(value.to_owned()),
                other => seed.unknown.push(other.to_owned()),
            }
        }
        Some(seed)
    }

    /// What it says itself, as a meta-data.
    fn meta_data(&self, provider: &str) -> Option<Document> {
        // A text in JSON's quotes is one in YAML's too.
        let line = |key: &str, value: &String| format!("{key}: {}\n", serde_json::Value::from(value.as_str()));
        let text: String = self
            .hostname
            .iter()
            .map(|value| line("local-hostname", value))
            .chain(self.instance.iter().map(|value| line("instance-id", value)))
            .collect();
        let name = format!("{provider}:ds=nocloud");
        (!text.is_empty()).then(|| Document { name, format: Format::MetaData, bytes: text.into_bytes() })
    }
}

/// Reads the seed directories.
pub fn look_at_directories(surroundings: &Surroundings<'_>, found: &mut Found) {
    for directory in DIRECTORIES {
        found.absorb(directory_seed(surroundings, "seed", directory));
    }
}

/// Reads what the serial number says.
pub fn look_at_serial(surroundings: &Surroundings<'_>, found: &mut Found) {
    let Some(serial) = field(surroundings.host, "product_serial") else { return };
    let mut words = serial.split_whitespace().filter_map(|word| word.strip_prefix("ds="));
    if let Some(seed) = words.find_map(Seed::parse) {
        look_at_seed(surroundings, "smbios", &seed, found);
    }
}

/// Reads what the kernel command line says.
pub fn look_at_command_line(surroundings: &Surroundings<'_>, found: &mut Found) {
    if let Some(seed) = surroundings.parameter("ds").and_then(Seed::parse) {
        look_at_seed(surroundings, "command-line", &seed, found);
    }
}

fn look_at_seed(surroundings: &Surroundings<'_>, provider: &str, seed: &Seed, found: &mut Found) {
    let unknown = seed.unknown.iter().map(|key| format!("{provider}:ds=nocloud: {key:?} is none of s, h and i"));
    found.notes.extend(unknown);
    let mut own = Found::default();
    if let Some(from) = &seed.from {
        let (address, wrong) = substitute(surroundings.host, from);
        own.notes.extend(wrong.iter().map(|wrong| format!("{provider}:{}: {wrong}", shown(&address))));
        if address.starts_with("http://") || address.starts_with("https://") {
            let key = format!("{provider}:{}", shown(&address));
            own.absorb(
                surroundings.fetcher.keep(surroundings.host, &key, || fetch_seed(surroundings, provider, &address)),
            );
        } else if let Some(path) =
            address.strip_prefix("file://").or(Some(&*address)).filter(|path| path.starts_with('/'))
        {
            own.absorb(directory_seed(surroundings, provider, path.trim_end_matches('/')));
            if own.documents.is_empty() {
                own.pending.push(format!("{provider}:{path}: there is no user-data, meta-data or node.toml"));
            }
        } else {
            let why = format!("{provider}:{}: only http, https and file are supported", shown(&address));
            own.is_broken(kind_of(provider), why);
        }
    }
    let document = seed.meta_data(provider);
    if document.is_some() && surroundings.signed {
        own.notes.push(format!(
            "{provider}:ds=nocloud: h and i are left out: the role asks for signatures, and they have none"
        ));
    } else if let Some(document) = document {
        // Over what the seed's meta-data says, below its user-data.
        let weaker = |document: &Document| matches!(document.format, Format::VendorData | Format::MetaData);
        let place = own.documents.iter().take_while(|document| weaker(document)).count();
        own.documents.insert(place, document);
        if own.media.is_empty() {
            own.media.push(format!("{provider}:ds=nocloud"));
        }
    }
    found.absorb(own);
}

fn kind_of(provider: &str) -> SourceKind {
    SourceKind::of_source(provider).unwrap_or(SourceKind::SeedDirectory)
}

fn file_of(base: &str, file: &str) -> String {
    if base.contains("%s") {
        return base.replace("%s", file);
    }
    format!("{base}{}{file}", if base.ends_with('/') { "" } else { "/" })
}

fn fetch_seed(surroundings: &Surroundings<'_>, provider: &str, base: &str) -> Result<Found, Failed> {
    let mut fetched = Found { media: vec![format!("{provider}:{}", shown(base))], ..Found::default() };
    // One that fails makes the whole wait: half a configuration would be another one.
    for (file, format) in FILES {
        let url = file_of(base, file);
        let Some(bytes) = fetch(surroundings.host, &url)? else { continue };
        // The file may be a part of the query, which is not shown; each document has a name of its own all the same.
        let mut name = format!("{provider}:{}", shown(&url));
        if !name.ends_with(&format!("/{file}")) {
            name.push_str(&format!("/{file}"));
        }
        let document = Document { name, format, bytes };
        if says_nothing(&document) {
            continue;
        }
        if surroundings.signed {
            let signature = fetch(surroundings.host, &file_of(base, &format!("{file}{SIGNATURE}")))?;
            fetched.signatures.extend(signature.map(|signature| (document.name.clone(), signature)));
        }
        fetched.documents.push(document);
    }
    if fetched.documents.is_empty() {
        return Err(Failed::from(format!("{}: there is no user-data, meta-data or node.toml", shown(base))));
    }
    if base.starts_with("http://") && !surroundings.signed {
        let name = &fetched.media[0];
        fetched.notes.push(format!("{name}: it came over plain http, and anybody on the way could have changed it"));
    }
    Ok(fetched)
}

fn directory_seed(surroundings: &Surroundings<'_>, provider: &str, directory: &str) -> Found {
    let mut found = Found::default();
    for (file, format) in FILES {
        let path = format!("{directory}/{file}");
        let name = format!("{provider}:{path}");
        match surroundings.host.read(&path, MAXIMUM_DOCUMENT_BYTES as u64) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                let document = Document { name: name.clone(), format, bytes };
                if says_nothing(&document) {
                    continue;
                }
                found.documents.push(document);
                if let Ok(Some(signature)) = surroundings.host.read(&format!("{path}{SIGNATURE}"), 4096) {
                    found.signatures.insert(name, signature);
                }
            }
            Err(error) => found.is_broken(kind_of(provider), format!("{name}: {error}")),
        }
    }
    if !found.documents.is_empty() {
        found.media.push(format!("{provider}:{directory}"));
    }
    found
}

/// Whatever stands in a serial number, it becomes a meta-data that can be read, or a name that cannot be one.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let Some(seed) = Seed::parse(&String::from_utf8_lossy(bytes)) else { return };
    let Some(document) = seed.meta_data("serial") else { return };
    if let Err(error) = crate::config::load(&[document], &crate::config::Machine::default()) {
        assert!(seed.hostname.is_some() && error.to_string().contains("hostname"), "{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answers, look_with};
    use super::*;
    use crate::host::simulated::SimulatedHost;
    use crate::http::HttpReason;

    fn names(found: &Found) -> Vec<&str> {
        found.documents.iter().map(|document| document.name.as_str()).collect()
    }

    #[test]
    fn what_stands_behind_ds_is_read_as_cloud_init_does() {
        let seed = Seed::parse("nocloud;s=http://h/x/;h=n1;i=id;z").unwrap();
        assert_eq!((seed.from.as_deref(), seed.hostname.as_deref()), (Some("http://h/x/"), Some("n1")));
        assert_eq!((seed.instance.as_deref(), seed.unknown.as_slice()), (Some("id"), ["z".to_owned()].as_slice()));
        assert_eq!(Seed::parse("nocloud-net;seedfrom=/a").unwrap().from.as_deref(), Some("/a"));
        assert_eq!(Seed::parse("nocloud").unwrap(), Seed::default());
        assert_eq!((Seed::parse("nocloudy;s=x"), Seed::parse("ec2")), (None, None));
        // An address has `=` of its own.
        assert_eq!(Seed::parse("nocloud;s=http://h/?a=b&f=%s").unwrap().from.as_deref(), Some("http://h/?a=b&f=%s"));
        assert_eq!(file_of("http://h/?a=b&f=%s", "user-data"), "http://h/?a=b&f=user-data");
        assert_eq!((file_of("http://h", "x"), file_of("http://h/", "x")), ("http://h/x".into(), "http://h/x".into()));
    }

    #[test]
    fn a_seed_in_the_serial_number_is_fetched_whole() {
        let host = SimulatedHost::default();
        host.put("/sys/class/dmi/id/product_serial", "SN1 ds=nocloud;s=http://h/__dmi.chassis-serial-number__/;h=n1\n");
        host.put("/sys/class/dmi/id/chassis_serial", "C 7\n");
        answers(&host, "http://h/C%207/user-data", "#cloud-config\n");
        answers(&host, "http://h/C%207/network-config", "\n");
        answers(&host, "http://h/C%207/meta-data", "instance-id: i\n");
        // What is not there is 404; what fails makes all of it wait.
        host.state().answers.insert("http://h/C%207/vendor-data".into(), vec![Err(HttpReason::Connection("x".into()))]);
        let found = look_with(&host, look_at_serial);
        assert_eq!(names(&found), ["smbios:ds=nocloud"], "what the serial number itself says is there");
        assert_eq!(found.pending.len(), 1);
        answers(&host, "http://h/C%207/vendor-data", "#cloud-config\n");
        let url = "smbios:http://h/C%207";
        let expected = [
            format!("{url}/vendor-data"),
            format!("{url}/meta-data"),
            "smbios:ds=nocloud".into(),
            format!("{url}/user-data"),
        ];
        let found = look_with(&host, look_at_serial);
        assert_eq!(names(&found), expected);
        assert!(found.pending.is_empty() && found.notes[0].contains("plain http"));
    }

    #[test]
    fn the_command_line_names_addresses_and_directories() {
        let host = SimulatedHost::default();
        host.put("/proc/cmdline", "quiet \"ds=nocloud;s=/opt/seed/;h=n1\" ro");
        host.put("/opt/seed/user-data", "#cloud-config\n");
        assert_eq!(
            names(&look_with(&host, look_at_command_line)),
            ["command-line:ds=nocloud", "command-line:/opt/seed/user-data"]
        );
        host.put("/proc/cmdline", "ds=nocloud;s=file:///nothing/");
        assert!(look_with(&host, look_at_command_line).pending[0].contains("/nothing"));
        host.put("/proc/cmdline", "ds=nocloud;s=ftp://h/");
        assert!(look_with(&host, look_at_command_line).unreadable[0].contains("only http, https and file"));
        host.put("/proc/cmdline", "ds=nocloud-net;s=https://h/empty");
        let found = look_with(&host, look_at_command_line);
        assert!(found.pending[0].starts_with("command-line:https://h/empty: "), "{found:?}");
        assert_eq!(host.state().requests.len(), 1, "nothing answers, so the rest is not asked for");
    }

    #[test]
    fn a_role_that_asks_for_signatures_takes_seeds_of_every_form() {
        use super::super::keep_signed;
        use super::super::test_keys::TestKey;
        let key = TestKey::new();
        let sign = |file: &str, text: &str| {
            String::from_utf8(key.sign(text.as_bytes(), &format!("timestamp:100\tfile:{file}\thashed"))).unwrap()
        };
        for (base, form) in [
            ("http://h/?token=x&file=%s", "http://h/?token=x&file={}"),
            ("http://h/a/%s?token=x", "http://h/a/{}?token=x"),
            ("http://h/a/", "http://h/a/{}"),
        ] {
            let host = SimulatedHost::default();
            host.put(super::super::ROLE_DEFAULTS, "[seal]\nrequire_signed = true\n");
            host.put("/sys/class/dmi/id/product_serial", &format!("SN1 ds=nocloud;s={base};h=n1;i=2"));
            for (file, text) in [("user-data", "#cloud-config\nhostname: a\n"), ("meta-data", "instance-id: i\n")] {
                answers(&host, &form.replace("{}", file), text);
                answers(&host, &form.replace("{}", &format!("{file}.minisig")), &sign(file, text));
            }
            let found = look_with(&host, look_at_serial);
            assert!(found.notes.iter().any(|note| note.contains("h and i are left out")), "{base}: {found:?}");
            let signed = keep_signed(&found, &[key.public()], 0, &|_| false);
            assert_eq!((signed.documents.len(), signed.refused), (2, Vec::new()), "{base}");
        }
    }

    #[test]
    fn seed_directories_are_read() {
        let host = SimulatedHost::default();
        host.put("/var/lib/cloud/seed/nocloud/meta-data", "instance-id: i\n");
        host.put("/var/lib/cloud/seed/nocloud-net/user-data", "#cloud-config\n");
        let found = look_with(&host, look_at_directories);
        assert_eq!(
            names(&found),
            ["seed:/var/lib/cloud/seed/nocloud-net/user-data", "seed:/var/lib/cloud/seed/nocloud/meta-data"]
        );
        assert_eq!(found.media.len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn anything_behind_ds_is_read_without_a_panic(text in ".{0,80}") {
            let seed = Seed::parse(&format!("nocloud;{text}")).unwrap();
            if let Some(document) = seed.meta_data("p") {
                proptest::prop_assert!(!document.bytes.is_empty());
            }
        }
    }
}
