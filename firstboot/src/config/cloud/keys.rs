//! Every key of cloud-config, and what becomes of it.
//!
//! Takes nothing; gives one table, [`KEYS`], that the reader goes by and that `docs/cloud-init.md` repeats. Sub-keys
//! stand there for the keys that are applied: `ntp.servers`; those of a list's items as `users[].name`. The names are
//! those of cloud-init's published schema, `schema-cloud-config-v1.json`.

use crate::config::problem::{Findings, nearest};
use crate::config::tree::{Node, Origin, Value};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is carried over.
    Applied,
    /// There is nothing to do; the node says so once.
    NoOp,
    /// It has no effect: a warning, or an error with `strict = true`.
    Refused,
    /// The document is refused: leaving it out would be dangerous.
    Error,
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its name with the names of what it stands in.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// Values of a key without effect that ask for what holds anyway.
    pub same: &'static [&'static str],
    /// What it becomes, or why it has no effect.
    pub note: &'static str,
}

macro_rules! keys {
    ($($name:literal $treatment:ident $([$($same:literal),+])? $note:literal;)+) => {
        /// Every key, sorted by name.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name,
            treatment: Treatment::$treatment,
            same: &[$($($same),+)?],
            note: $note,
        },)+];
    };
}

keys! {
    "allow_public_ssh_keys" Refused ["true"] "keys of meta-data are always taken";
    "ansible" Refused "the image is immutable: what Ansible would install belongs into the role's profile";
    "apk_repos" Refused "the image is immutable: packages belong into the role's profile";
    "apt" Refused "the image is immutable: packages and repositories belong into the role's profile";
    "apt_pipelining" NoOp "nothing is installed on a node";
    "apt_reboot_if_required" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "apt_update" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "apt_upgrade" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "authkey_hash" NoOp "fingerprints of keys are not printed";
    "autoinstall" Refused "the image is flashed, not installed";
    "bootcmd" Applied "`run.boot`, where the role's profile has `allow_commands = true`; otherwise an error";
    "byobu_by_default" Refused "the image has no byobu";
    "ca-certs" Applied "as `ca_certs`";
    "ca_certs" Applied "`[ca]`";
    "ca_certs.remove-defaults" Applied "as `remove_defaults`";
    "ca_certs.remove_defaults" Applied "`ca.only`";
    "ca_certs.trusted" Applied "`ca.certificates`";
    "chef" Refused "the image is immutable: configuration belongs into the role's profile and node.toml";
    "chpasswd" Error "an appliance has no passwords; give SSH keys";
    "cloud_config_modules" NoOp "which modules cloud-init would run is of no meaning here";
    "cloud_final_modules" NoOp "which modules cloud-init would run is of no meaning here";
    "cloud_init_modules" NoOp "which modules cloud-init would run is of no meaning here";
    "create_hostname_file" Refused ["true"] "the host name is always kept";
    "datasource" NoOp "where configuration comes from is fixed: docs/node-config.md";
    "datasource_list" NoOp "where configuration comes from is fixed: docs/node-config.md";
    "debug" NoOp "cloud-init's own log is of no meaning here";
    "device_aliases" Refused "name disks by what they are: `[[disk]]` of node.toml";
    "disable_ec2_metadata" NoOp "no metadata service is asked";
    "disable_root" Applied "`ssh.root_login`, the other way round; where it is absent root may log in with its keys";
    "disable_root_opts" Refused "keys of root have no options";
    "disk_setup" Applied "`layout: false` needs nothing; anything else is an error: disks are not divided into partitions";
    "drivers" Refused "drivers belong into the role's profile (`parts/nvidia`)";
    "fan" Refused "the image has no Ubuntu fan";
    "final_message" NoOp "the status line `FB-500 joined` says it";
    "fqdn" Applied "`hostname`; wins over the short name, but for `prefer_fqdn_over_hostname: false`";
    "fs_setup" Applied "`[[disk]]`, with its entry under `mounts`";
    "fs_setup[].cmd" Error "the filesystem is made in one way only";
    "fs_setup[].device" Applied "`disk.match`: a link below /dev/disk/by-id or by-path";
    "fs_setup[].extra_opts" Applied "`disk.mkfs`";
    "fs_setup[].filesystem" Applied "`disk.filesystem`: xfs or ext4";
    "fs_setup[].label" Applied "`disk.label`";
    "fs_setup[].overwrite" Error ["false"] "what is on a disk is destroyed only where its serial number stands under `disk.wipe`";
    "fs_setup[].partition" Applied "`none` only: whole disks are used";
    "fs_setup[].replace_fs" Error ["false"] "what is on a disk is destroyed only where its serial number stands under `disk.wipe`";
    "groups" Applied "members that `users` defines get the group; a group of none of them has no effect";
    "growpart" NoOp "the state partition grows with its disk by itself";
    "grub-dpkg" NoOp "the image boots without GRUB";
    "grub_dpkg" NoOp "the image boots without GRUB";
    "hostname" Applied "`hostname`";
    "keyboard" Refused "consoles have the image's keyboard layout";
    "landscape" Refused "the image has no Landscape client";
    "launch-index" Refused ["0"] "all of a document is for the node that reads it; what differs stands in [[machine]]";
    "locale" Refused ["\"C.UTF-8\"", "\"C\"", "\"POSIX\"", "false"] "an image has the locale C.UTF-8 only";
    "locale_configfile" Refused "an image has the locale C.UTF-8 only";
    "lxd" Refused "the image is immutable: LXD belongs into the role's profile";
    "manage_etc_hosts" NoOp "the node's own name always stands in /etc/hosts";
    "manage_resolv_conf" Refused ["false"] "name servers belong into the network's configuration";
    "mcollective" Refused "the image is immutable: configuration belongs into the role's profile and node.toml";
    "merge_how" Error "parts are merged in one way only: a key of a later part replaces it";
    "merge_type" Error "parts are merged in one way only: a key of a later part replaces it";
    "migrate" NoOp "there is no state of an older cloud-init";
    "mount_default_fields" Refused "write `[[disk]]` in node.toml";
    "mounts" Applied "`disk.mount` and `disk.options` of a filesystem of `fs_setup`; anything else is an error";
    "network" Refused "user-data cannot set the network, not in cloud-init either; write network-config";
    "no_ssh_fingerprints" NoOp "fingerprints of keys are not printed";
    "ntp" Applied "`ntp`";
    "ntp.allow" Refused "a node serves no time";
    "ntp.config" Refused "the image's time service has its own configuration";
    "ntp.enabled" Refused ["true"] "a node always keeps its clock right: TLS and the join depend on it";
    "ntp.ntp_client" Refused ["\"auto\"", "\"systemd-timesyncd\""] "the time service is the image's";
    "ntp.peers" Refused "a node serves no time";
    "ntp.pools" Applied "`ntp`, after the servers";
    "ntp.servers" Applied "`ntp`";
    "output" NoOp "cloud-init's own log is of no meaning here";
    "package_reboot_if_required" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "package_update" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "package_upgrade" Refused ["false"] "nothing is installed on a node; another image is the way to upgrade it";
    "packages" Refused "the image is immutable: packages belong into the role's profile";
    "password" Error "an appliance has no passwords; give SSH keys";
    "phone_home" Applied "`[report]`";
    "phone_home.post" NoOp "the node sends its state as JSON, failures too: docs/status-codes.md";
    "phone_home.tries" NoOp "a report is tried again until it is taken";
    "phone_home.url" Applied "`report.url`; without `$INSTANCE_ID`, because the report itself says whose it is";
    "power_state" Applied "`[power]`: after the join, once";
    "power_state.condition" Applied "`false` leaves it out; a command is an error";
    "power_state.delay" Applied "`power.delay`: `now`, or minutes";
    "power_state.message" NoOp "the journal says it";
    "power_state.mode" Applied "`power.mode`";
    "power_state.timeout" NoOp "it is not done before the node has joined and sent its results";
    "prefer_fqdn_over_hostname" Applied "`false` makes `hostname` win over `fqdn`";
    "preserve_hostname" Applied "`true` leaves `hostname` and `fqdn` of the document out";
    "puppet" Refused "the image is immutable: configuration belongs into the role's profile and node.toml";
    "random_seed" Refused "the kernel has its own sources of randomness";
    "reporting" Refused "the node reports its state by itself";
    "resize_rootfs" NoOp "the root is read-only; the state partition grows with its disk by itself";
    "resolv_conf" Refused "name servers belong into the network's configuration";
    "rh_subscription" Refused "the image is not Red Hat's";
    "rpi" Refused "the image is not for this board";
    "rsyslog" Refused "the image is immutable: log shipping belongs into the role's profile";
    "runcmd" Applied "`run.first`, where the role's profile has `allow_commands = true`; otherwise an error";
    "salt_minion" Refused "the image is immutable: configuration belongs into the role's profile and node.toml";
    "seed_random" Refused "the kernel has its own sources of randomness";
    "snap" Refused "the image is immutable: packages belong into the role's profile";
    "spacewalk" Refused "the image is not Red Hat's";
    "ssh" NoOp "keys are not printed to the console";
    "ssh_authorized_keys" Applied "`ssh.authorized_keys`: keys of root, and of the user that `user` names";
    "ssh_deletekeys" NoOp "an image has no host keys; every node makes its own";
    "ssh_fp_console_blacklist" NoOp "fingerprints of keys are not printed";
    "ssh_genkeytypes" NoOp "a node makes an ed25519 host key; `ssh_keys` gives it others";
    "ssh_import_id" Refused "keys are not fetched from the Internet; write them out";
    "ssh_key_console_blacklist" NoOp "keys are not printed to the console";
    "ssh_keys" Applied "`ssh.host_keys`";
    "ssh_keys.ecdsa_certificate" Applied "`ssh.host_keys.ecdsa_certificate`";
    "ssh_keys.ecdsa_private" Applied "`ssh.host_keys.ecdsa_private`";
    "ssh_keys.ecdsa_public" Applied "`ssh.host_keys.ecdsa_public`";
    "ssh_keys.ed25519_certificate" Applied "`ssh.host_keys.ed25519_certificate`";
    "ssh_keys.ed25519_private" Applied "`ssh.host_keys.ed25519_private`";
    "ssh_keys.ed25519_public" Applied "`ssh.host_keys.ed25519_public`";
    "ssh_keys.rsa_certificate" Applied "`ssh.host_keys.rsa_certificate`";
    "ssh_keys.rsa_private" Applied "`ssh.host_keys.rsa_private`";
    "ssh_keys.rsa_public" Applied "`ssh.host_keys.rsa_public`";
    "ssh_publish_hostkeys" NoOp "there is no cloud to publish host keys to";
    "ssh_pwauth" Refused ["false", "\"no\"", "\"unchanged\""] "an appliance has no passwords; give SSH keys";
    "ssh_quiet_keygen" NoOp "making the host key prints nothing";
    "swap" Applied "`[swap]`";
    "swap.filename" Refused "the file's place is Ingot's own";
    "swap.maxsize" Error "give `size`";
    "swap.size" Applied "`swap.size`; `auto` is an error";
    "system_info" NoOp "what cloud-init's build of a distribution assumes is of no meaning here";
    "timezone" Applied "`timezone`";
    "ubuntu_advantage" Refused "the image is immutable: Ubuntu Pro belongs into the role's profile";
    "ubuntu_pro" Refused "the image is immutable: Ubuntu Pro belongs into the role's profile";
    "updates" NoOp "the network is configured once";
    "user" Applied "`[[user]]`; it gets `ssh_authorized_keys` too";
    "users" Applied "`[[user]]`; `default` and `root` are root";
    "users[].create-groups" Refused ["true"] "groups of a user are always made where they are missing";
    "users[].create_groups" Refused ["true"] "groups of a user are always made where they are missing";
    "users[].doas" Refused "the image has sudo, where it has anything";
    "users[].expiredate" Refused "accounts do not expire; another configuration removes them";
    "users[].gecos" Applied "`user.comment`";
    "users[].groups" Applied "`user.groups`";
    "users[].hashed-passwd" Refused "an appliance has no passwords; the account stays without one";
    "users[].hashed_passwd" Refused "an appliance has no passwords; the account stays without one";
    "users[].homedir" Applied "`user.home`";
    "users[].inactive" Refused "accounts do not expire; another configuration removes them";
    "users[].lock-passwd" Refused ["true"] "an appliance has no passwords; the account stays without one";
    "users[].lock_passwd" Refused ["true"] "an appliance has no passwords; the account stays without one";
    "users[].name" Applied "`user.name`";
    "users[].no-create-home" Refused ["false"] "every user has a home directory";
    "users[].no-log-init" NoOp "there is no lastlog to begin";
    "users[].no-user-group" Refused ["false"] "every user has a group of its own";
    "users[].no_create_home" Refused ["false"] "every user has a home directory";
    "users[].no_log_init" NoOp "there is no lastlog to begin";
    "users[].no_user_group" Refused ["false"] "every user has a group of its own";
    "users[].passwd" Refused "an appliance has no passwords; the account stays without one";
    "users[].plain-text-passwd" Error "an appliance has no passwords, and no medium should hold one; give SSH keys";
    "users[].plain_text_passwd" Error "an appliance has no passwords, and no medium should hold one; give SSH keys";
    "users[].primary-group" Refused "every user has a group of its own; write the other under groups";
    "users[].primary_group" Refused "every user has a group of its own; write the other under groups";
    "users[].selinux-user" Refused "the image has no SELinux";
    "users[].selinux_user" Refused "the image has no SELinux";
    "users[].shell" Applied "`user.shell`";
    "users[].snapuser" Refused "the image has no snap";
    "users[].ssh-authorized-keys" Applied "as `ssh_authorized_keys`";
    "users[].ssh-import-id" Refused "keys are not fetched from the Internet; write them out";
    "users[].ssh-redirect-user" Refused ["false"] "leave out keys that may not log in";
    "users[].ssh_authorized_keys" Applied "`user.authorized_keys`";
    "users[].ssh_import_id" Refused "keys are not fetched from the Internet; write them out";
    "users[].ssh_redirect_user" Refused ["false"] "leave out keys that may not log in";
    "users[].sudo" Applied "`user.sudo`";
    "users[].system" Refused ["false"] "users of services belong into the role's profile";
    "users[].uid" Applied "`user.uid`";
    "vendor_data" Refused "vendor-data is always below user-data, and may do no more than that";
    "version" NoOp "there is one version of cloud-config";
    "wireguard" Refused "the image is immutable: WireGuard belongs into the role's profile";
    "write_files" Applied "`[[file]]`";
    "write_files[].append" Applied "`file.append`";
    "write_files[].content" Applied "`file.content_base64`";
    "write_files[].defer" NoOp "files are written when all users are there";
    "write_files[].encoding" Applied "text, base64, gzip (in base64), all names of cloud-init";
    "write_files[].owner" Applied "`file.owner`";
    "write_files[].path" Applied "`file.path`; only where a node can write";
    "write_files[].permissions" Applied "`file.mode`";
    "write_files[].source" Refused "nothing is fetched; write the content";
    "yum_repo_dir" Refused "the image is not Red Hat's";
    "yum_repos" Refused "the image is not Red Hat's";
    "zypper" Refused "the image is not SUSE's";
}

/// True where a key is to be carried over; otherwise what becomes of it was added to `findings`. `parent` is empty,
/// or what the key stands in with its dot: `ntp.`.
pub fn applies(parent: &str, key: &str, place: &Origin, node: &Node, findings: &mut Findings) -> bool {
    let name = format!("{parent}{key}");
    let Some(known) = KEYS.iter().find(|known| known.name == name) else {
        let siblings =
            KEYS.iter().filter_map(|known| known.name.strip_prefix(parent)).filter(|rest| !rest.contains('.'));
        let help = match nearest(key, siblings) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "write it as node.toml, or leave it out".to_owned(),
        };
        findings.warning(place, &name, "is no key of cloud-config and has no effect", help);
        return false;
    };
    match known.treatment {
        Treatment::Applied => return true,
        Treatment::NoOp => findings.note(place, &name, "needs nothing", known.note),
        Treatment::Error | Treatment::Refused if known.same.contains(&shown(&node.value).as_str()) => {}
        Treatment::Error => findings.error(place, &name, "is refused", known.note),
        Treatment::Refused => findings.warning(place, &name, "has no effect", known.note),
    }
    false
}

fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
