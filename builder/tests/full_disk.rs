//! A disk that is full says so, names itself, and is no trouble once there is room.

use crate::context::archive::{Archive, Package};
use crate::context::{TestContext, finish, is_root};

/// Builds with a cache of so many MiB, then makes room and builds again.
fn with_room(mib: u32) -> Option<()> {
    let archive = Archive::new([Package::kernel("kernel", "1.0")]);
    let context = TestContext::bare(&archive, &[])?;
    context.lock().succeeded();
    let downloads = context.path("downloads");
    std::fs::rename(context.cache(), &downloads).unwrap();
    std::fs::create_dir(context.cache()).unwrap();
    // In a mount namespace of its own; `$1` is the command.
    let script = format!(
        "mount -t tmpfs -o size={mib}m tmpfs cache && mkdir cache/store || exit 99\n\
         for d in objects partial releases; do ln -s \"$PWD/downloads/store/$d\" cache/store/$d; done\n\
         \"$1\" build site/node && exit 98\n\
         echo code $? >&2\n\
         mount -o remount,size=4g cache && exec \"$1\" build site/node"
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "-"];
    let outcome = finish(context.command_by(&wrapper, &[""; 0]).spawn().unwrap());
    let (first, _) = outcome.stderr.split_once("code 1\n").unwrap_or_else(|| panic!("no failure:\n{}", outcome.stderr));
    let message = first.split_once("error: ").map_or("", |(_, message)| message);
    println!("{message}");
    let cache = context.cache().display().to_string();
    for words in [cache.as_str(), "full", "--cache"] {
        assert!(message.contains(words), "with {mib} MiB the error should say `{words}`, but is:\n{message}");
    }
    assert!(outcome.succeeded().stdout.starts_with("built"));
    Some(())
}

#[test]
fn a_cache_that_fills_up_is_named() {
    if !is_root() {
        return;
    }
    // Full at different steps: while packages are unpacked, installed, and the root is written.
    for mib in [60, 200, 290] {
        if with_room(mib).is_none() {
            return;
        }
    }
}

#[test]
fn a_directory_for_images_that_fills_up_is_named() {
    if !is_root() {
        return;
    }
    let archive = Archive::new([Package::kernel("kernel", "1.0")]);
    let Some(context) = TestContext::bare(&archive, &[]) else { return };
    context.lock().succeeded();
    std::fs::create_dir(context.path("out")).unwrap();
    let script = "mount -t tmpfs -o size=8m tmpfs out || exit 99\n\
                  \"$1\" build site/node && exit 98\n\
                  echo code $? >&2; ls -A out >&2; echo listed >&2\n\
                  mount -o remount,size=1g out && exec \"$1\" build site/node";
    let outcome =
        finish(context.command_by(&["unshare", "--mount", "sh", "-c", script, "-"], &[""; 0]).spawn().unwrap());
    let (first, rest) = outcome.stderr.split_once("code 1\n").unwrap();
    let message = first.split_once("error: ").map_or("", |(_, message)| message);
    for words in ["out/site-node.raw", "full", "--out"] {
        assert!(message.contains(words), "the error should say `{words}`, but is:\n{message}");
    }
    assert_eq!(rest.split("listed").next().unwrap().trim(), ".site-node.lock", "rubbish is left");
    outcome.succeeded();
}
