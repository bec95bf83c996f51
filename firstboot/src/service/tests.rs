mod bad_media;
mod power;
mod secrets;

mod joins;
mod managers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::*;
use crate::config::Format;
use crate::host::InterfaceAddress;
use crate::host::simulated::{Disk, Killed, SimulatedHost};
use crate::journal::JOURNAL;
use crate::provider::Found;
use crate::rendezvous::Refusal;

pub const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

/// Media that change: each look takes the next, the last one stays.
pub struct Media(pub Mutex<Vec<Found>>);

impl Sources for Media {
    fn look(&self, _: &Machine) -> Found {
        let mut media = self.0.lock().unwrap();
        if media.len() > 1 { media.remove(0) } else { media.first().cloned().unwrap_or_default() }
    }
}

#[derive(Default)]
pub struct Heard(Mutex<Vec<(Code, String)>>);

impl Report for Heard {
    fn report(&self, code: Code, text: &str) {
        self.0.lock().unwrap().push((code, text.to_owned()));
    }
    fn note(&self, _: &str) {}
}

impl Heard {
    pub fn codes(&self) -> Vec<u16> {
        self.0.lock().unwrap().iter().map(|(code, _)| code.number()).collect()
    }
    pub fn text(&self, code: Code) -> String {
        self.0
            .lock()
            .unwrap()
            .iter()
            .find(|(heard, _)| *heard == code)
            .map(|(_, text)| text.clone())
            .unwrap_or_default()
    }
}

pub fn medium(text: &str) -> Found {
    let document =
        Document { name: "INGOT:node.toml".into(), format: Format::NodeToml, bytes: text.as_bytes().to_vec() };
    Found { documents: vec![document], media: vec!["INGOT (/dev/sdb1)".into()], ..Found::default() }
}

pub fn stick(role: &str) -> Found {
    medium(&format!(
        "version = 1\nhostname = \"n1\"\ntimezone = \"UTC\"\nntp = [\"10.77.0.1\"]\n[ssh]\nauthorized_keys = []\n\
         [[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"10.77.0.11/24\"]\n\
         [join]\ndriver = \"docker-swarm\"\nrole = \"{role}\"\nmanagers = [\"{}\"]\nsecret = \"{SECRET}\"\n",
        if role == "manager" { "10.77.0.11" } else { "10.77.0.10" },
    ))
}

pub fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    {
        let mut state = host.state();
        state.clock = 1_790_000_000;
        state.addresses = vec![InterfaceAddress { interface: "enp1s0".into(), address: "10.77.0.11".parse().unwrap() }];
        state.rendezvous = vec![Ok(("SWMTKN-1-w", 1_790_000_000))];
    }
    host.put("/usr/share/ingot/containers/demo.tar", "archive");
    host.put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    host
}

pub fn run(host: &SimulatedHost, media: Vec<Found>) -> Heard {
    let heard = Heard::default();
    let result = catch_unwind(AssertUnwindSafe(|| Service::new(host, &heard, &Media(Mutex::new(media))).run()));
    if let Err(payload) = result {
        if !payload.is::<Killed>() {
            println!("heard last: {:?}", heard.0.lock().unwrap().last());
        }
        std::panic::resume_unwind(payload);
    }
    heard
}

/// Runs until the plug is pulled (true) or the node has arrived.
fn killed(host: &SimulatedHost, media: Vec<Found>) -> bool {
    match catch_unwind(AssertUnwindSafe(|| run(host, media))) {
        Ok(_) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// The disk without what may differ between two ways to the same goal.
fn outcome(host: &SimulatedHost) -> Disk {
    let mut disk = host.disk();
    disk.files.remove(JOURNAL);
    disk.loads = 0;
    disk
}

#[test]
fn a_manager_founds_its_cluster_and_says_so_step_by_step() {
    let host = machine();
    let heard = run(&host, vec![stick("manager")]);
    assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 500]);
    assert_eq!(heard.text(Code::ConfigFound), "INGOT (/dev/sdb1)");
    assert_eq!(heard.text(Code::NetworkUp), "enp1s0 10.77.0.11");
    assert!(heard.text(Code::Joined).starts_with("docker-swarm manager, node node1, address 10.77.0.11"));
    let state = host.state();
    assert_eq!((state.disk.founded, state.disk.joined, state.hostname.as_str()), (1, 0, "n1"));
    assert_eq!(state.disk.files["/var/lib/ingot/config.json"].1, 0o600);
    assert!(!heard.0.lock().unwrap().iter().any(|(_, text)| text.contains(SECRET)));
}

#[test]
fn a_second_boot_changes_nothing() {
    for role in ["manager", "worker"] {
        let host = machine();
        run(&host, vec![stick(role)]);
        let (before, points) = (host.disk(), host.points());
        host.reboot();
        // The medium is gone, or another one is there: the configuration is sealed.
        for media in [Found::default(), stick(role), medium("version = 1\nhostname = \"evil\"\n")] {
            let heard = run(&host, vec![media]);
            let codes = heard.codes();
            let ignored = usize::from(heard.text(Code::MediumIgnored).contains("INGOT (/dev/sdb1)"));
            assert_eq!(ignored, usize::from(codes[0] == 121), "{role}");
            assert_eq!(codes[ignored..], [100, 200, 210, 300, 310, 500], "{role}");
            assert!(heard.text(Code::ConfigFound).starts_with("sealed"));
            assert_eq!(host.disk(), before);
        }
        assert_eq!(host.points() - points, 9, "only the engine is started, three times");
    }
}

#[test]
fn the_plug_is_pulled_at_every_point_and_the_next_boot_continues() {
    for role in ["manager", "worker"] {
        let reference = machine();
        run(&reference, vec![stick(role)]);
        let mut point = 0;
        loop {
            let host = machine();
            host.state().plug = Some(point);
            if !killed(&host, vec![stick(role)]) {
                break;
            }
            host.reboot();
            // Whether the stick is still plugged in depends on whether its content was read already.
            let had_config = host.exists(obtain::KEPT);
            let media = if had_config && point % 2 == 0 { Found::default() } else { stick(role) };
            let heard = run(&host, vec![media]);
            assert_eq!(heard.codes().last(), Some(&500), "{role}, point {point}");
            assert_eq!(outcome(&host), outcome(&reference), "{role}, point {point}");
            let disk = &host.disk();
            assert_eq!(disk.founded + disk.joined, 1, "{role}, point {point}: joined exactly once");
            assert_eq!(disk.left, 0);
            point += 1;
        }
        assert!(point > 60, "{role}: only {point} points");
    }
}

proptest::proptest! {
    #[test]
    fn the_plug_is_pulled_again_and_again(points in proptest::collection::vec(0_u64..90, 1..12), worker: bool) {
        let role = if worker { "worker" } else { "manager" };
        let reference = machine();
        run(&reference, vec![stick(role)]);
        let host = machine();
        for point in points {
            let now = host.points();
            host.state().plug = Some(now + point);
            killed(&host, vec![stick(role)]);
            host.reboot();
        }
        run(&host, vec![stick(role)]);
        proptest::prop_assert_eq!(outcome(&host), outcome(&reference));
        let disk = &host.disk();
        proptest::prop_assert_eq!(disk.founded + disk.joined, 1);
    }
}

#[test]
fn a_changed_input_repeats_only_its_step() {
    let host = machine();
    host.state().power.plug_at = Some("systemctl start docker.service");
    assert!(killed(&host, vec![stick("worker")]));
    host.reboot();
    host.state().commands.clear();
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap().replace("\"n1\"", "\"n2\"");
    run(&host, vec![medium(&text)]);
    assert_eq!(host.state().hostname, "n2");
    assert!(host.text("/etc/hosts").contains("127.0.1.1 n2") && !host.text("/etc/hosts").contains("n1"));
    let commands = host.state().commands.clone();
    assert!(!commands.iter().any(|command| command.contains("timesyncd")), "{commands:?}");
}

#[test]
fn a_worker_waits_for_its_manager_and_takes_its_time() {
    let host = machine();
    host.state().clock = 1_600_000_000;
    host.state().rendezvous =
        vec![Err(Refusal::NotReady), Err(Refusal::Busy), Err(Refusal::WrongSecret), Ok(("SWMTKN-1-w", 1_790_000_000))];
    let heard = run(&host, vec![stick("worker")]);
    assert_eq!(heard.codes(), [100, 200, 210, 300, 310, 400, 410, 410, 941, 500]);
    assert!(heard.text(Code::WaitingForManager).contains("10.77.0.10: the manager refused: it has no token yet"));
    assert_eq!(host.state().clock, 1_790_000_000, "the proven clock of the manager is taken over");
}

#[test]
fn a_time_server_knows_better_than_the_manager() {
    let host = machine();
    host.put("/run/systemd/timesync/synchronized", "");
    host.state().rendezvous = vec![Ok(("SWMTKN-1-w", 1_000))];
    run(&host, vec![stick("worker")]);
    assert_eq!(host.state().clock, 1_790_000_000);
}

#[test]
fn the_clock_is_never_before_the_image() {
    let host = machine();
    host.state().clock = 7;
    host.put("/usr/lib/ingot/image.json", "{\"role\":\"x\",\"build_time\":1780000000,\"more\":1}");
    run(&host, vec![stick("manager")]);
    assert_eq!(host.state().clock, 1_780_000_000);
}

#[test]
fn a_join_that_hangs_is_given_up_and_tried_anew_but_membership_is_kept() {
    let host = machine();
    host.state().join_leads_to = Some("pending");
    host.state().pending_sleeps = 10;
    let heard = run(&host, vec![stick("worker")]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!((host.disk().joined, host.disk().left), (1, 0));

    let host = machine();
    host.state().disk.swarm = "error".into();
    run(&host, vec![stick("worker")]);
    assert_eq!((host.disk().joined, host.disk().left), (1, 1), "what never came to be is left");

    // The same state of a node that has been a member: it waits for its manager.
    host.reboot();
    host.state().disk.swarm = "pending".into();
    host.state().pending_sleeps = 200;
    let heard = run(&host, vec![Found::default()]);
    assert!(heard.codes().contains(&410) && heard.codes().last() == Some(&500), "{:?}", heard.codes());
    assert_eq!((host.disk().joined, host.disk().left), (1, 1));
}

#[test]
fn two_managers_with_one_configuration_do_not_become_two_clusters() {
    let host = machine();
    host.state().addresses[0].address = "10.77.0.12".parse().unwrap();
    let text = String::from_utf8(stick("manager").documents[0].bytes.clone()).unwrap();
    let media = vec![medium(&text.replace("10.77.0.11/24", "10.77.0.12/24"))];
    let result = catch_unwind(AssertUnwindSafe(|| run(&host, media)));
    assert!(result.is_err(), "it waits for ever");
    assert_eq!(host.disk().founded, 0);
}

#[test]
fn without_a_medium_it_waits_then_takes_what_comes() {
    let host = machine();
    let mut media = vec![Found::default(); 200];
    let unreadable = Found { unreadable: vec!["INGOT (/dev/sdb1): broken".into()], ..Found::default() };
    media.push(unreadable);
    media.push(medium("version = 1\nhostnme = \"x\"\n[join]\ndriver = \"docker-swam\"\n"));
    media.push(stick("worker"));
    let heard = run(&host, media);
    assert_eq!(&heard.codes()[..6], [110, 110, 110, 911, 910, 910]);
    assert_eq!(heard.codes().last(), Some(&500));
    assert!(heard.text(Code::ConfigInvalid).contains("INGOT:node.toml:2:1: hostnme: unknown key"));
    assert!(heard.text(Code::WaitingForConfig).contains("labelled INGOT"));
}

#[test]
fn a_role_that_needs_nothing_goes_on_alone_and_one_that_lacks_something_says_what() {
    let host = machine();
    host.put("/usr/lib/ingot/role.toml", "hostname = \"alone\"\n");
    let heard = run(&host, vec![Found::default()]);
    assert_eq!(heard.codes(), [100, 200, 210, 310, 510]);
    assert!(host.slept() >= Duration::from_mins(1) && host.slept() < Duration::from_secs(70));
    host.reboot();
    let before = host.slept();
    run(&host, vec![Found::default()]);
    assert_eq!(host.slept(), before, "a sealed node waits for nothing");

    let host = machine();
    host.put("/usr/lib/ingot/role.toml", "[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n");
    let mut media = vec![Found::default(); 70];
    media.push(medium(&format!("version = 1\n[join]\nmanagers = [\"10.77.0.10\"]\nsecret = \"{SECRET}\"\n")));
    let heard = run(&host, media);
    assert!(heard.text(Code::WaitingForConfig).contains("the role itself lacks join.managers, join.secret"));
    assert_eq!(heard.codes().last(), Some(&500));
    assert_eq!(host.state().hostname, "ingot-525400000001");
}

#[test]
fn a_static_address_may_be_link_local() {
    let local = [("fe80::7", "fe80::7/64"), ("169.254.7.7", "169.254.7.7/16")];
    for (address, cidr) in local {
        let host = machine();
        let text = format!("version = 1\n[[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"{cidr}\"]\n");
        let have = |address: &str| InterfaceAddress { interface: "enp1s0".into(), address: address.parse().unwrap() };
        host.state().addresses = vec![have(address)];
        let heard = run(&host, vec![medium(&text)]);
        assert_eq!(heard.codes(), [100, 200, 210, 310, 510]);
        assert_eq!(heard.text(Code::NetworkUp), format!("enp1s0 {address}"));
        // Without being told of it, an address of the link alone is no network.
        let host = machine();
        host.state().addresses = vec![have(address)];
        assert!(run(&host, vec![medium("version = 1\n")]).codes().contains(&920));
    }
}

#[test]
fn failing_steps_are_named_and_tried_again() {
    let host = machine();
    host.state().failing = vec!["systemctl restart systemd-networkd"];
    let result = catch_unwind(AssertUnwindSafe(|| run(&host, vec![stick("worker")])));
    assert!(result.is_err(), "it tries for ever");
    assert_eq!(host.disk().joined, 0);
    host.state().failing.clear();
    host.state().slept = Duration::ZERO;
    assert_eq!(run(&host, vec![stick("worker")]).codes().last(), Some(&500));
}

#[test]
fn disks_come_before_all_that_could_write_to_them_and_a_missing_one_stops_no_member() {
    let with_disk = |host: &SimulatedHost| {
        host.plug_in("sdb", 1 << 40, "A1", "ST4000");
        host.put("/usr/sbin/mkfs.xfs", "");
    };
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap()
        + "[[disk]]\nname = \"data\"\nmatch = { serial = \"A1\" }\nmount = \"/data\"\nrequired_by = [\"docker.service\"]\n[tuning]\ngovernor = \"performance\"\n";
    let media = || vec![medium(&text)];
    let host = machine();
    with_disk(&host);
    let heard = run(&host, media());
    assert_eq!(heard.codes(), [100, 200, 220, 205, 210, 300, 310, 400, 500]);
    let commands = host.state().commands.clone();
    let place = |start: &str| commands.iter().position(|command| command.starts_with(start)).unwrap();
    assert!(place("systemctl start data.mount") < place("systemctl start --no-block multi-user.target"));
    host.reboot();
    host.pull_out("sdb");
    let heard = run(&host, vec![Found::default()]);
    assert_eq!(heard.codes(), [100, 200, 220, 933, 210, 300, 310, 500]);
    assert!(heard.text(Code::DisksFailed).contains("0 disks match (serial A1), and it must be 1; seen: none"));

    // A node that has not joined does not join without its disk and starts nothing that needs it, but can be reached.
    let host = machine();
    assert!(catch_unwind(AssertUnwindSafe(|| run(&host, media()))).is_err(), "it tries for ever");
    assert_eq!(host.disk().joined, 0);
    let commands = host.state().commands.join("\n");
    assert!(commands.contains("restart systemd-networkd") && !commands.contains("multi-user.target"), "{commands}");
    let gate = host.text("/etc/systemd/system/docker.service.d/21-ingot-disks-settled.conf");
    assert!(gate.contains("ConditionPathExists=/var/lib/ingot/disks-settled\n"), "{gate}");
    assert!(!host.exists("/var/lib/ingot/disks-settled"));
    with_disk(&host);
    host.state().slept = Duration::ZERO;
    assert_eq!(run(&host, media()).codes().last(), Some(&500));
    assert!(host.exists("/var/lib/ingot/disks-settled"));

    for point in 0.. {
        let host = machine();
        with_disk(&host);
        host.state().plug = Some(point);
        if !killed(&host, media()) {
            assert!(point > 90, "only {point} points");
            break;
        }
        host.reboot();
        assert_eq!(run(&host, media()).codes().last(), Some(&500), "point {point}");
        assert_eq!(host.disk().joined, 1, "point {point}");
    }
}

#[test]
fn first_attempts_of_a_site_are_spread() {
    let window = SPLAY_PER_MACHINE.saturating_mul(100);
    let moments: std::collections::BTreeSet<_> = (0..100).map(|id| splay(&format!("node{id}"), window)).collect();
    assert!(moments.len() > 90 && moments.iter().all(|moment| *moment < window));
    assert_eq!(splay("x", Duration::ZERO), Duration::ZERO);
}

/// Addresses as the files of networkd give them: DHCP gives one where nothing else is said.
fn follows_the_files(disk: &Disk) -> Vec<InterfaceAddress> {
    let address = |text: &str| InterfaceAddress { interface: "enp1s0".into(), address: text.parse().unwrap() };
    let files: Vec<String> = disk
        .files
        .iter()
        .filter(|(path, _)| path.starts_with("/etc/systemd/network/10-ingot-"))
        .map(|(_, (bytes, _))| String::from_utf8_lossy(bytes).into_owned())
        .collect();
    match files.iter().any(|text| text.contains("Address=10.77.0.11/24")) {
        true => vec![address("10.77.0.11")],
        false if files.is_empty() => vec![address("192.0.2.50")],
        false => vec![],
    }
}

pub fn cabled() -> SimulatedHost {
    let host = machine();
    host.state().network = Some(follows_the_files);
    let mac = "52:54:00:00:00:01".parse().ok();
    let name = "enp1s0".into();
    let link = crate::host::Link { name, mac, permanent: mac, physical: true, carrier: true, ..Default::default() };
    host.state().links = vec![link];
    host
}

/// The stick with a typing error in its address.
fn wrong_stick() -> Found {
    let text = String::from_utf8(stick("worker").documents[0].bytes.clone()).unwrap();
    medium(&text.replace("10.77.0.11/24", "10.77.0.111/24"))
}

#[test]
fn a_wrong_network_falls_back_to_dhcp_and_a_corrected_stick_is_read() {
    let host = cabled();
    // Looks: one to begin with, one every five seconds of waiting, then one each second.
    let mut media = vec![wrong_stick(); 40];
    media.push(stick("worker"));
    let heard = run(&host, media);
    assert_eq!(heard.codes(), [100, 200, 921, 920, 100, 200, 210, 300, 310, 400, 500]);
    let text = heard.text(Code::NetworkFallback);
    assert!(
        text.contains("no interface has 10.77.0.111")
            && text.contains("DHCP on every wired interface: enp1s0 192.0.2.50"),
        "{text}"
    );
    assert_eq!(host.disk().joined, 1);
    assert!(host.text("/var/lib/ingot/network/good.json").contains("10.77.0.11/24"), "what works is kept");
}

#[test]
fn an_interface_that_nothing_has_brought_up_may_have_a_cable() {
    let host = cabled();
    host.state().links[0].carrier = false;
    host.state().links[0].idle = true;
    let mut media = vec![wrong_stick(); 40];
    media.push(stick("worker"));
    let heard = run(&host, media);
    assert_eq!(heard.codes(), [100, 200, 921, 920, 100, 200, 210, 300, 310, 400, 500]);
}

#[test]
fn what_worked_last_is_the_first_to_fall_back_to() {
    let host = cabled();
    // The right network comes up, but no container engine does; then a stick with a wrong one is put in.
    host.state().failing = vec!["systemctl start docker.service"];
    let mut media = vec![stick("worker"); 3];
    media.extend(vec![wrong_stick(); 60]);
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&host, media)));
    assert!(outcome.is_err(), "it tries for ever");
    let host2 = cabled();
    host2.state().disk = host.disk();
    host2.state().slept = Duration::ZERO;
    let heard = Heard::default();
    let media = Media(Mutex::new(vec![wrong_stick(); 3]));
    let outcome = catch_unwind(AssertUnwindSafe(|| Service::new(&host2, &heard, &media).run().driver.is_some()));
    assert!(outcome.is_err());
    let text = heard.text(Code::NetworkFallback);
    assert!(text.contains("the network that worked last: enp1s0 10.77.0.11"), "{text}");
    assert_eq!(host2.disk().joined, 0, "nothing is joined over a network that is not the configured one");
}

#[test]
fn without_a_cable_nothing_is_changed() {
    let host = cabled();
    host.state().links[0].carrier = false;
    let heard = Heard::default();
    let media = Media(Mutex::new(vec![wrong_stick()]));
    assert!(catch_unwind(AssertUnwindSafe(|| Service::new(&host, &heard, &media).run().driver.is_some())).is_err());
    assert!(heard.codes().contains(&920) && !heard.codes().contains(&921), "{:?}", heard.codes());
    assert!(host.disk().files.keys().any(|path| path.starts_with("/etc/systemd/network/10-ingot-")));
}

#[test]
fn the_plug_is_pulled_while_falling_back() {
    let reference = cabled();
    run(&reference, vec![stick("worker")]);
    let mut point = 0;
    loop {
        let host = cabled();
        host.state().plug = Some(point);
        let mut media = vec![wrong_stick(); 40];
        media.push(stick("worker"));
        if !killed(&host, media) {
            break;
        }
        host.reboot();
        let heard = run(&host, vec![stick("worker")]);
        assert_eq!(heard.codes().last(), Some(&500), "point {point}");
        assert_eq!(outcome(&host), outcome(&reference), "point {point}");
        point += 1;
    }
    assert!(point > 80, "only {point} points");
}

fn with_time(found: &Found) -> Found {
    let text = String::from_utf8(found.documents[0].bytes.clone()).unwrap();
    medium(&format!("{text}[time]\nhttps = [\"https://gw.site\"]\n"))
}

#[test]
fn a_dead_battery_does_not_keep_a_node_out() {
    for clock in [7, 3_471_292_800] {
        let host = machine();
        host.put("/usr/lib/ingot/image.json", "{\"build_time\":1780000000}");
        {
            let mut state = host.state();
            state.clock = clock;
            let answer = crate::clock::https::ServerDate { date: 1_789_999_000, valid: (1_770_000_000, 1_800_000_000) };
            state.time.dates = vec![("https://gw.site".into(), Ok(answer))];
        }
        let heard = run(&host, vec![with_time(&stick("manager"))]);
        assert_eq!(heard.codes(), [130, 100, 200, 210, 130, 300, 310, 400, 500]);
        assert!(heard.text(Code::ClockSet).contains("the image's build says 2026-05-28"));
        assert_eq!((host.now(), host.rtc(), host.state().time.asked), (1_789_999_000, Some(1_789_999_000), 1));
    }
}

#[test]
fn nobody_is_asked_for_the_time_without_need_and_nobody_is_waited_for() {
    let host = machine();
    run(&host, vec![with_time(&stick("manager"))]);
    assert_eq!(host.state().time.asked, 0, "the clock is plausible and nothing failed");

    let host = machine();
    host.state().clock = 7;
    host.put("/usr/lib/ingot/image.json", "{\"build_time\":1780000000}");
    let heard = run(&host, vec![with_time(&stick("manager"))]);
    assert_eq!(heard.codes(), [130, 100, 200, 210, 950, 300, 310, 400, 500]);
    assert!(heard.text(Code::ClockWrong).contains("https://gw.site: there is no such server"));

    // A time server has set it meanwhile.
    let host = machine();
    host.state().clock = 7;
    host.put("/usr/lib/ingot/image.json", "{\"build_time\":1780000000}");
    host.put("/run/systemd/timesync/synchronized", "");
    run(&host, vec![with_time(&stick("manager"))]);
    assert_eq!(host.state().time.asked, 0);
}

#[test]
fn a_role_that_joins_nothing_is_not_sealed_with_a_network_that_does_not_work() {
    let stick = |address: &str| {
        medium(&format!("version = 1\n[[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"{address}/24\"]\n"))
    };
    let host = cabled();
    let mut media = vec![stick("10.77.0.111"); 30];
    media.push(stick("10.77.0.11"));
    let heard = run(&host, media);
    assert_eq!(heard.codes(), [100, 200, 921, 920, 100, 200, 210, 310, 510]);
    // Without a cable it works as it is: nothing can be found out.
    let host = cabled();
    host.state().links[0].carrier = false;
    let heard = run(&host, vec![stick("10.77.0.111")]);
    assert_eq!(heard.codes(), [100, 200, 920, 310, 510]);
}
#[path = "commands_tests.rs"]
mod commands;
#[path = "power_tests.rs"]
mod power_state;
