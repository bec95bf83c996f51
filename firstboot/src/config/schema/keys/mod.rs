//! The keys, in the order in which people meet them.

mod accounts;
mod hardware;
mod joins;
mod network;

use super::{Form, Key, Kind};

const HOSTNAME: Form = Form { name: "a host name", pattern: "^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$" };
const TIMEZONE: Form = Form { name: "a time zone", pattern: "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z][A-Za-z0-9_+-]*)*$" };
const HOST: Form = Form { name: "an address or a host name", pattern: "^[0-9A-Za-z:.-]+$" };
const ADVERTISE: Form = Form { name: "an address or an interface", pattern: "^[0-9A-Za-z:._-]+$" };
const MAC: Form = Form { name: "a MAC address", pattern: "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$" };
const INTERFACE: Form = Form { name: "an interface or a pattern", pattern: "^[A-Za-z0-9._*?\\[\\]-]{1,32}$" };
const CIDR: Form = Form { name: "an address with its prefix length", pattern: "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" };
const IP: Form = Form { name: "an IP address", pattern: "^[0-9A-Fa-f:.]+$" };
const SSH_KEY: Form = Form { name: "a line of a .pub file", pattern: "^\\s*(ssh-|ecdsa-|sk-)\\S+\\s+\\S+" };
const SITE_KEY: Form = Form { name: "a public key of minisign", pattern: "^\\s*RW[A-Za-z0-9+/=]+\\s*$" };
pub const URL: Form = Form { name: "a URL", pattern: "^https?://" };
const TEXT: Form = Form { name: "a text", pattern: "" };

/// All keys: a list for each group.
pub const KEYS: &[&[Key]] = &[NODE, accounts::KEYS, network::KEYS, hardware::KEYS, joins::KEYS, SEAL, REPORT, MACHINE];

const NODE: &[Key] = &[
    Key::new("version", Kind::Integer(1, 1), "1", "The version of the format.").required(),
    Key::new("hostname", Kind::Text(HOSTNAME), "\"w1\"", "A host name by RFC 1123, at most 64 characters.")
        .default("`ingot-` and the lowest MAC address"),
    Key::new("timezone", Kind::Text(TIMEZONE), "\"Europe/Berlin\"", "A name of the IANA database.")
        .default("the image's"),
    Key::new("ntp", Kind::Texts(HOST), "[\"10.77.0.1\"]", "Time servers, addresses or names.").default("the image's"),
    Key::new("strict", Kind::Boolean, "true", "Make every warning an error, such as an unsupported key of cloud-init.")
        .default("`false`"),
];

const SEAL: &[Key] = &[
    Key::new("seal", Kind::Table, "", "What the node accepts once it has joined."),
    Key::new(
        "seal.site_keys",
        Kind::Texts(SITE_KEY),
        "[\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]",
        "The keys whose signatures a sealed node accepts.",
    )
    .default("`[]`"),
    Key::new(
        "seal.require_signed",
        Kind::Boolean,
        "true",
        "Refuse unsigned configuration from the first boot on; only the role's defaults may say so.",
    )
    .default("`false`"),
    Key::new("seal.block_usb", Kind::Boolean, "true", "Block USB storage once the node has joined.").default("`false`"),
];

const PEM: Form = Form { name: "the text of a PEM file", pattern: "-----BEGIN CERTIFICATE-----" };
const CERTIFICATE: &str = include_str!("certificate.toml");
const REPORT: &[Key] = &[
    Key::new("report", Kind::Table, "", "Where the node's states are sent."),
    Key::new("report.url", Kind::Text(URL), "\"https://status.site/nodes\"", "The address that takes a POST of JSON.")
        .required(),
    Key::new(
        "report.headers",
        Kind::Map,
        "{ Authorization = \"Bearer token\" }",
        "Headers that go along; only over `https`.",
    )
    .secret(),
    Key::new("report.ca", Kind::Text(PEM), CERTIFICATE, "The authorities that may vouch for the server, in PEM.")
        .default("the image's"),
    Key::new("time", Kind::Table, "", "Whom the node asks for the time while no time server has set its clock."),
    Key::new(
        "time.https",
        Kind::Texts(URL),
        "[\"https://gateway.site\"]",
        "`https` addresses whose `Date` is taken; eight at most.",
    )
    .default("`[]`"),
    Key::new("time.ca", Kind::Text(PEM), CERTIFICATE, "The authorities that may vouch for them, in PEM.")
        .default("the image's"),
    Key::new("power", Kind::Table, "", "What becomes of the machine once it is at its goal; without it, it runs on."),
    Key::new("power.mode", Kind::Choice(&["poweroff", "reboot", "halt"]), "\"reboot\"", "What happens, once.")
        .required(),
    Key::new("power.delay", Kind::Integer(0, 10_080), "5", "How long after that, in minutes; half a minute at least.")
        .default("`0`"),
    Key::new("write_back", Kind::Boolean, "false", "Write the result to the stick that the configuration came from.")
        .default("`true`"),
    Key::new(
        "media_wait",
        Kind::Integer(0, 3600),
        "20",
        "How many seconds a late or broken source is waited for; only the role's defaults may say so.",
    )
    .default("`60`"),
];

const MACHINE: &[Key] = &[
    Key::new(
        "machine",
        Kind::Tables,
        "",
        "What holds for one machine only: `match`, and any other key of the document but `version`.",
    ),
    Key::new("machine[].match", Kind::Table, "", "Which machine: all that is given must be the machine's.").required(),
    Key::new("machine[].match.mac", Kind::Text(MAC), "\"52:54:00:12:34:10\"", "A hardware address of the machine."),
    Key::new("machine[].match.serial", Kind::Text(TEXT), "\"ABC1234\"", "The serial number in the firmware's tables."),
    Key::new(
        "machine[].match.uuid",
        Kind::Text(TEXT),
        "\"4c4c4544-0042-3510-8051-b4c04f4e3132\"",
        "The UUID in the firmware's tables.",
    ),
];
