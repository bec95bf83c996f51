//! Who may log in, and what a configuration brings to the node: accounts, files, authorities, commands.

use super::{Form, Key, Kind, PEM, SSH_KEY, TEXT};

const ACCOUNT: Form = Form { name: "the name of an account", pattern: "^[a-z_][a-z0-9_-]{0,31}$" };
const RULE: Form = Form { name: "a rule of sudoers", pattern: "\\S" };
const PATH: Form = Form { name: "an absolute path", pattern: "^/" };
const BASE64: Form = Form { name: "bytes in base64", pattern: "^[A-Za-z0-9+/=\\s]*$" };
const MODE: Form = Form { name: "octal digits", pattern: "^[0-7]{3,4}$" };
const OWNER: Form = Form { name: "`user` or `user:group`", pattern: "^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$" };
const PRIVATE: Form =
    Form { name: "a private key as ssh-keygen writes it", pattern: "-----BEGIN [A-Z ]*PRIVATE KEY-----" };
const HOST_CERTIFICATE: Form = Form { name: "the line of a -cert.pub file", pattern: "-cert-v01@openssh\\.com " };

const KEY: &str = "[\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB ops@site\"]";
const EMPTY_KEY: &str = "\"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaA==\\n-----END OPENSSH PRIVATE KEY-----\\n\"";
const ED25519: &str = "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB host\"";
const WITH_ED25519: &str = "[ssh.host_keys]\ned25519_private = \"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaA==\\n-----END OPENSSH PRIVATE KEY-----\\n\"";
const WITH_ECDSA: &str = "[ssh.host_keys]\necdsa_private = \"-----BEGIN EC PRIVATE KEY-----\\nb3BlbnNzaA==\\n-----END EC PRIVATE KEY-----\\n\"";
const WITH_RSA: &str = "[ssh.host_keys]\nrsa_private = \"-----BEGIN RSA PRIVATE KEY-----\\nb3BlbnNzaA==\\n-----END RSA PRIVATE KEY-----\\n\"";
const ECDSA: &str = "\"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBIshB5UKYiNOrRG1bxsiVJBkzNUj4Ix5bx/H+7R8ZumKM1W6+wcgWIjzM/gL9SeWfSr7iJm16yKS8Nb9t/fUO7U= host\"";
const RSA: &str = "\"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC0Tk8nYEm3kNkTsNst3FIGada+b9swxN3FWO0epy7QjN4Cg+2HlnP9kp4OzCJk6SLUub/h5UpDX75jkKnPAr3SFCoV7ouRNgMP9Afj8ZiuKkJXA1P9ENSr5FcrLo2i8/krzX+h2+4bgMIAZUl08bL8blSRD6x3Yc0alYt+TAUhXw== host\"";
const CERTIFIED_ED25519: &str = "\"ssh-ed25519-cert-v01@openssh.com AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA host\"";
const CERTIFIED_ECDSA: &str = "\"ecdsa-sha2-nistp256-cert-v01@openssh.com AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA host\"";
const CERTIFIED_RSA: &str = "\"ssh-rsa-cert-v01@openssh.com AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA host\"";
const CERTIFICATES: &str = concat!("[", include_str!("certificate.toml"), "]");
const CERTIFICATES_BESIDE: &str = concat!("[ca]\ncertificates = [", include_str!("certificate.toml"), "]");
const USER: &str = "user = [{ name = \"ada\" }]";
const FILE: &str = "file = [{ path = \"/etc/motd\", content = \"x\" }]";
const ALLOWED: &str = "run = { allow_commands = true }";

/// The keys, tables before what is in them.
pub const KEYS: &[Key] = &[
    Key::new("ssh", Kind::Table, "", "Who may log in as root, and the node's own SSH identity."),
    Key::new(
        "ssh.authorized_keys",
        Kind::Texts(SSH_KEY),
        KEY,
        "Lines of `.pub` files, without options; these may log in as root. Passwords do not work.",
    )
    .default("`[]`"),
    Key::new("ssh.root_login", Kind::Boolean, "false", "Whether root may log in with its keys.").default("`true`"),
    Key::new(
        "ssh.host_keys",
        Kind::Table,
        "",
        "Host keys that are brought; without them every node makes one of its own.",
    ),
    Key::new("ssh.host_keys.ed25519_private", Kind::Text(PRIVATE), EMPTY_KEY, "The private key, without a passphrase.")
        .secret(),
    Key::new("ssh.host_keys.ed25519_public", Kind::Text(SSH_KEY), ED25519, "The line of its `.pub` file.")
        .beside(WITH_ED25519),
    Key::new(
        "ssh.host_keys.ed25519_certificate",
        Kind::Text(HOST_CERTIFICATE),
        CERTIFIED_ED25519,
        "The line of its `-cert.pub` file.",
    )
    .beside(WITH_ED25519),
    Key::new("ssh.host_keys.ecdsa_private", Kind::Text(PRIVATE), EMPTY_KEY, "The private key, without a passphrase.")
        .secret(),
    Key::new("ssh.host_keys.ecdsa_public", Kind::Text(SSH_KEY), ECDSA, "The line of its `.pub` file.")
        .beside(WITH_ECDSA),
    Key::new(
        "ssh.host_keys.ecdsa_certificate",
        Kind::Text(HOST_CERTIFICATE),
        CERTIFIED_ECDSA,
        "The line of its `-cert.pub` file.",
    )
    .beside(WITH_ECDSA),
    Key::new("ssh.host_keys.rsa_private", Kind::Text(PRIVATE), EMPTY_KEY, "The private key, without a passphrase.")
        .secret(),
    Key::new("ssh.host_keys.rsa_public", Kind::Text(SSH_KEY), RSA, "The line of its `.pub` file.").beside(WITH_RSA),
    Key::new(
        "ssh.host_keys.rsa_certificate",
        Kind::Text(HOST_CERTIFICATE),
        CERTIFIED_RSA,
        "The line of its `-cert.pub` file.",
    )
    .beside(WITH_RSA),
    Key::new(
        "user",
        Kind::Tables,
        "",
        "Accounts of people beside root. They log in with keys; there are no passwords.",
    ),
    Key::new("user[].name", Kind::Text(ACCOUNT), "\"ada\"", "Small letters, digits, `_` and `-`, at most 32.")
        .required(),
    Key::new("user[].comment", Kind::Text(TEXT), "\"Ada\"", "Whose account it is.").beside(USER),
    Key::new("user[].uid", Kind::Integer(1000, 59999), "1042", "Its number.")
        .default("the first free one")
        .beside(USER),
    Key::new("user[].groups", Kind::Texts(ACCOUNT), "[\"video\"]", "Groups besides its own; missing ones are made.")
        .default("`[]`")
        .beside(USER),
    Key::new("user[].sudo", Kind::BooleanOrTexts(RULE), "true", "`true` for everything, or rules of sudoers.")
        .default("`false`")
        .beside(USER),
    Key::new("user[].shell", Kind::Text(PATH), "\"/bin/sh\"", "A program of the image.")
        .default("`/bin/bash`, or `/bin/sh`")
        .beside(USER),
    Key::new("user[].home", Kind::Text(PATH), "\"/home/ada\"", "Its home directory, made with mode 0750.")
        .default("`/home/NAME`")
        .beside(USER),
    Key::new("user[].authorized_keys", Kind::Texts(SSH_KEY), KEY, "Keys that may log in.").default("`[]`").beside(USER),
    Key::new("file", Kind::Tables, "", "Files that the configuration brings; one of `content` and `content_base64`."),
    Key::new("file[].path", Kind::Text(PATH), "\"/etc/motd\"", "An absolute path without `.` and `..`.")
        .required()
        .beside(FILE),
    Key::new("file[].content", Kind::Text(TEXT), "\"x\"", "The text of the file.")
        .secret()
        .beside("file = [{ path = \"/etc/motd\" }]"),
    Key::new("file[].content_base64", Kind::Text(BASE64), "\"eA==\"", "The bytes, at most 1 MiB.")
        .secret()
        .beside("file = [{ path = \"/etc/motd\" }]"),
    Key::new("file[].mode", Kind::Text(MODE), "\"0600\"", "The permissions; no set-user-id.")
        .default("`\"0644\"`")
        .beside(FILE),
    Key::new("file[].owner", Kind::Text(OWNER), "\"root:root\"", "Whose it is, by name.")
        .default("`root`")
        .beside(FILE),
    Key::new("file[].append", Kind::Boolean, "true", "Add to what the file has without this configuration.")
        .default("`false`")
        .beside(FILE),
    Key::new("ca", Kind::Table, "", "Certificate authorities that the node trusts."),
    Key::new("ca.certificates", Kind::Texts(PEM), CERTIFICATES, "Texts in PEM, each with one certificate or several.")
        .default("`[]`"),
    Key::new("ca.only", Kind::Boolean, "true", "Trust none of the image's.")
        .default("`false`")
        .beside(CERTIFICATES_BESIDE),
    Key::new("run", Kind::Table, "", "Commands, where the role allows them."),
    Key::new("run.boot", Kind::Commands, "[\"true\"]", "Commands at each start, after the settings are applied.")
        .secret()
        .default("`[]`")
        .beside(ALLOWED),
    Key::new(
        "run.first",
        Kind::Commands,
        "[[\"echo\", \"x\"]]",
        "Commands once in the life of the node, before it joins.",
    )
    .secret()
    .default("`[]`")
    .beside(ALLOWED),
    Key::new("run.repeat", Kind::Boolean, "true", "Run what failed or was cut off of `first` again until it succeeds.")
        .default("`false`"),
    Key::new("run.allow_commands", Kind::Boolean, "true", "Allow commands; counts in the role's defaults only.")
        .default("`false`"),
];
