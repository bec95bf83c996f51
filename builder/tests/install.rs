//! Maintainer scripts: what they see of the host, and what is said when one fails. And roots that must not become images.

use std::fs;

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};

fn archive(more: impl IntoIterator<Item = Package>) -> Archive {
    Archive::new([Package::kernel("kernel", "1.0")].into_iter().chain(more))
}

/// A script that writes down all it can see.
const PROBE: &str = r#"
set -u
to=/usr/share/probe
mkdir -p $to
env | sort >$to/environment
tr '\0' '\n' </proc/1/environ >$to/first-environment
uname -n >$to/host-name
umask >$to/umask
ls -A / >$to/top
ls /dev >$to/devices
ls /proc | grep -x '[0-9]*' >$to/processes
tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' >$to/interfaces
grep -E '^(CapEff|NoNewPrivs)' /proc/self/status >$to/rights
ls -l /proc/self/fd >$to/descriptors
for host in HOST_FILES; do [ ! -e "$host" ] || echo "$host"; done >$to/host-files
if bash -c 'exec 3<>/dev/tcp/127.0.0.1/HOST_PORT' 2>/dev/null; then echo reached; else echo nothing; fi >$to/network
echo 1 2>/dev/null >/proc/sys/kernel/sysrq && echo written >$to/kernel || echo refused >$to/kernel
"#;

#[test]
fn maintainer_scripts_see_nothing_of_the_host() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let here = std::env::current_exe().unwrap().display().to_string();
    let script = PROBE
        .replace("HOST_FILES", &format!("{here} /sys/kernel /home/* /root/.cargo /root/.cache"))
        .replace("HOST_PORT", &port);
    let archive = archive([Package::new("probe", "1").script("postinst", &script)]);
    let Some(context) = TestContext::bare(&archive, &["probe"]) else { return };
    let context = context.with_environment("A_SECRET", "hunter2");
    context.lock().succeeded();
    context.build(&[]).succeeded();
    let seen = context.extract_root().join("usr/share/probe");
    let read = |name: &str| fs::read_to_string(seen.join(name)).unwrap();
    // The date is that of the archive, which the test makes.
    let environment: Vec<String> = read("environment")
        .lines()
        .map(|line| if line.starts_with("SOURCE_DATE_EPOCH=") { "SOURCE_DATE_EPOCH=[DATE]" } else { line }.to_owned())
        .collect();
    insta::assert_snapshot!("environment", context.filtered(&environment.join("\n")));
    assert_eq!(read("first-environment"), "", "process 1 has our environment for everyone to read");
    assert_eq!(read("host-name"), "localhost\n");
    assert_eq!(read("umask"), "0022\n");
    assert_eq!(read("interfaces"), "lo\n");
    assert_eq!(read("network"), "nothing\n");
    assert_eq!(read("host-files"), "");
    assert_eq!(read("kernel"), "refused\n");
    let open: Vec<String> =
        read("descriptors").lines().filter_map(|line| Some(line.split_once(" -> ")?.1.to_owned())).collect();
    assert!(
        open.iter().all(|file| ["pipe:", "/dev/null", "/usr/share/probe/", "/proc/"]
            .iter()
            .any(|known| file.starts_with(known))),
        "{open:?}"
    );
    assert!(read("processes").lines().count() < 12, "{}", read("processes"));
    assert!(read("rights").contains("NoNewPrivs:\t1"), "{}", read("rights"));
    insta::assert_snapshot!("devices", read("devices"));
    insta::assert_snapshot!("top", read("top"));
}

#[test]
fn a_failing_script_is_shown_with_its_package_and_its_last_lines() {
    let script = "for i in $(seq 1 50); do echo \"line $i\"; done; exit 7";
    let archive = archive([Package::new("broken", "1").script("postinst", script)]);
    let Some(context) = TestContext::bare(&archive, &["broken"]) else { return };
    context.lock().succeeded();
    let outcome =
        context.build(&[]).failed(1, &["package broken", "line 50\n", "exit status 7", "the tree is kept in "]);
    let message = outcome.error();
    assert!(!message.contains("line 5\n"), "only the end is shown:\n{message}");
    let shown = message.lines().filter(|line| line.starts_with("line ")).count();
    assert!(shown >= 20, "{shown} lines are too few:\n{message}");
    let kept = message.split("the tree is kept in ").nth(1).unwrap().lines().next().unwrap();
    assert!(std::path::Path::new(kept).join("var/lib/dpkg/info/broken.postinst").exists(), "{kept} is not the tree");
    // The same again: what was kept is not in the way.
    context.build(&[]).failed(1, &["package broken"]);
}

#[test]
fn a_script_that_fails_before_unpacking_is_shown_too() {
    let archive = archive([Package::new("early", "1").script("preinst", "echo no room for me >&2; exit 1")]);
    let Some(context) = TestContext::bare(&archive, &["early"]) else { return };
    context.lock().succeeded();
    context.build(&[]).failed(1, &["package early", "no room for me", "the tree is kept in "]);
}

#[test]
fn a_secret_in_an_overlay_is_refused_and_listed() {
    let archive = archive([]);
    let Some(context) = TestContext::bare(&archive, &[]) else { return };
    let role = context.read("profiles/site/node.toml");
    context.write("profiles/site/node.toml", role.replacen('\n', "\noverlays = [\"site\"]\n", 1));
    context.write("overlays/site/etc/ssl/private/site.key", "-----BEGIN PRIVATE KEY-----\nMIIE\n");
    context.write("overlays/site/root/.ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    context.lock().succeeded();
    context.build(&[]).failed(
        1,
        &[
            "must never be in an image",
            "/etc/ssl/private/site.key: a private key",
            "/root/.ssh/id_ed25519: a private key",
        ],
    );
    assert!(!context.path("out/site-node.raw").exists());
    fs::remove_dir_all(context.path("overlays/site/etc")).unwrap();
    fs::remove_dir_all(context.path("overlays/site/root")).unwrap();
    context.build(&[]).succeeded();
}

#[test]
fn an_image_has_one_kernel() {
    let archive = archive([Package::kernel("other-kernel", "2.0"), Package::new("empty", "1")]);
    let Some(context) = TestContext::bare(&archive, &["other-kernel"]) else { return };
    context.lock().succeeded();
    context.build(&[]).failed(1, &["1.0", "2.0", "one kernel"]);
    let role = context.read("profiles/site/node.toml").replace("[\"other-kernel\"]", "[]");
    context.write("profiles/site/node.toml", role.replace("package = \"kernel\"", "package = \"empty\""));
    context.lock().succeeded();
    context.build(&[]).failed(1, &["no kernel is installed", "kernel.package"]);
}
