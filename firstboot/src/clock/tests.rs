use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;

const BUILD: u64 = 1_780_000_000;
const NOW: u64 = 1_790_000_000;
const YEAR: u64 = 31_556_952;

fn config() -> NodeConfig {
    let text =
        "version = 1\n[time]\nhttps = [\"https://a.site\", \"https://b.site\"]\n[report]\nurl = \"https://c.site/n\"\n";
    let document = Document { name: "f".into(), format: Format::NodeToml, bytes: text.into() };
    load(&[document], &Machine::default()).unwrap().config
}

fn machine(clock: u64, rtc: Option<u64>) -> SimulatedHost {
    let host = SimulatedHost::default();
    host.state().clock = clock;
    host.state().time.rtc = rtc;
    host
}

fn date(date: u64) -> ServerDate {
    ServerDate { date, valid: (NOW - YEAR, NOW + YEAR) }
}

#[test]
fn a_clock_in_1970_or_2080_is_brought_into_the_plausible_time() {
    for clock in [7, BUILD - 1, BUILD + 21 * YEAR, 3_471_292_800] {
        let host = machine(clock, Some(clock));
        let change = bound(&host, BUILD).unwrap().unwrap();
        assert_eq!((change.from, change.to, host.now()), (clock, BUILD, BUILD));
        assert_eq!(host.rtc(), Some(clock), "the build's time is not the time; the chip keeps what it has");
        // The chip is right where only the kernel did not take it over.
        let host = machine(clock, Some(NOW));
        let change = bound(&host, BUILD).unwrap().unwrap();
        assert_eq!((change.to, host.now()), (NOW, NOW));
        assert!(change.to_string().contains("chip says 2026-09-21 14:13:20 UTC"), "{change}");
    }
    for clock in [BUILD, NOW, BUILD + 19 * YEAR] {
        assert_eq!(bound(&machine(clock, None), BUILD).unwrap(), None);
    }
    assert_eq!(bound(&machine(7, None), 0).unwrap(), None, "an image that does not know its build bounds nothing");
}

#[test]
fn the_first_server_that_answers_sets_clock_and_chip() {
    let host = machine(BUILD, None);
    host.state().time.dates =
        vec![("https://a.site".into(), Err("no route".into())), ("https://b.site".into(), Ok(date(NOW)))];
    let config = config();
    let Asked::Set(change) = ask(&host, &endpoints(&config), BUILD, true).unwrap() else { panic!() };
    assert_eq!((change.by.as_str(), host.now(), host.rtc()), ("https://b.site", NOW, Some(NOW)));
    assert_eq!(ask(&host, &endpoints(&config), BUILD, true).unwrap(), Asked::Kept);
}

#[test]
fn every_https_server_of_a_configuration_can_be_asked() {
    let of = |text: &str| {
        let document =
            Document { name: "f".into(), format: Format::NodeToml, bytes: format!("version = 1\n{text}").into() };
        endpoints(&load(&[document], &Machine::default()).unwrap().config)
            .into_iter()
            .map(|endpoint| (endpoint.url.to_string(), endpoint.vouch))
            .collect::<Vec<_>>()
    };
    let names = |text: &str| of(text).into_iter().map(|(url, _)| url).collect::<Vec<_>>();
    assert_eq!(of("[report]\nurl = \"http://c.site/n\"\n"), []);
    let join = "[join]\nafter = [{ http = \"https://gate.site:8443/ready\" }, { http = \"http://plain/x\" }]\n";
    assert_eq!(
        names(&format!(
            "{join}driver = \"aiware\"\nmodes = [\"engine\"]\ncontroller = \"https://10.77.0.10:9000/edge/v1\"\n"
        )),
        ["https://gate.site:8443/ready", "https://10.77.0.10:9000/edge/v1"]
    );
    let secret = "secret = \"kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=\"\n";
    assert_eq!(
        of(&format!("[join]\ndriver = \"k3s\"\nrole = \"agent\"\nservers = [\"10.77.0.10\", \"fd00::1\"]\n{secret}")),
        [
            ("https://10.77.0.10:6443/version".to_owned(), Vouch::Nobody),
            ("https://[fd00::1]:6443/version".to_owned(), Vouch::Nobody)
        ]
    );
    assert_eq!(
        of(&format!("[join]\ndriver = \"kubeadm\"\nrole = \"worker\"\nendpoint = \"api.lan:6443\"\n{secret}")),
        [("https://api.lan:6443/version".to_owned(), Vouch::Nobody)]
    );
}

#[test]
fn a_server_for_which_nobody_vouches_moves_a_wrong_clock_forward_and_no_more() {
    let endpoint = |host: &str, vouch| Endpoint { url: format!("https://{host}").parse().unwrap(), vouch };
    let all = [endpoint("unknown", Vouch::Nobody), endpoint("known", Vouch::Image)];
    let asked = |host: &SimulatedHost, doubtful| ask(host, &all, BUILD, doubtful).unwrap();
    let says = |clock, unknown, known: Option<u64>| {
        let host = machine(clock, None);
        let known = known.map_or_else(|| Err("no route".to_owned()), |known| Ok(date(known)));
        host.state().time.dates = vec![("https://unknown".into(), Ok(unknown)), ("https://known".into(), known)];
        host
    };
    // Who is vouched for is asked first, and the other then not at all.
    let host = says(BUILD, date(NOW + 5), Some(NOW));
    assert!(matches!(asked(&host, true), Asked::Set(Change { to: NOW, .. })));
    let host = says(BUILD, date(NOW), None);
    assert!(matches!(asked(&host, false), Asked::Nobody(_)), "a clock that may be right is left alone");
    assert_eq!(host.now(), BUILD);
    assert!(matches!(asked(&host, true), Asked::Moved(Change { to: NOW, .. })));
    assert_eq!((host.now(), host.rtc()), (NOW, None), "the chip does not learn it");
    // Neither backward, nor beyond the twenty years.
    for (clock, said) in [(NOW, BUILD + 10), (BUILD, BUILD + 21 * YEAR), (BUILD, BUILD - 1)] {
        let host = says(clock, ServerDate { date: said, valid: (said - 5, said + 5) }, None);
        assert!(matches!(asked(&host, true), Asked::Nobody(_)), "{clock} {said}");
        assert_eq!(host.now(), clock);
    }
}

#[test]
fn nobody_answers() {
    let host = machine(BUILD, None);
    let Asked::Nobody(why) = ask(&host, &endpoints(&config()), BUILD, true).unwrap() else { panic!() };
    assert!(why.contains("https://a.site") && why.contains("https://c.site/n"), "{why}");
    assert_eq!(host.now(), BUILD);
}

#[test]
fn what_a_date_may_change() {
    let window = plausible(BUILD);
    let answer = |date, valid| ServerDate { date, valid };
    let valid = (NOW - YEAR, NOW + YEAR);
    // Forward, up to the certificate's end.
    assert_eq!(judge(BUILD, &window, answer(NOW, valid)), Some(NOW));
    assert_eq!(judge(BUILD, &window, answer(NOW + 2 * YEAR, valid)), None);
    // Backward only where the clock says that a trusted certificate does not hold.
    assert_eq!(judge(NOW + 60, &window, answer(NOW, valid)), None);
    assert_eq!(judge(NOW + 5 * YEAR, &window, answer(NOW, valid)), Some(NOW));
    // Never before the image, nor 20 years after it, whatever the certificate.
    let forever = (0, u64::MAX);
    assert_eq!(judge(BUILD + YEAR, &window, answer(BUILD - 100, forever)), None);
    assert_eq!(judge(NOW, &window, answer(BUILD + 21 * YEAR, forever)), None);
    // A stolen certificate that has expired.
    assert_eq!(judge(NOW, &window, answer(BUILD + 5, (BUILD, BUILD + 10))), Some(BUILD + 5));
    assert_eq!(judge(NOW, &window, answer(BUILD + 11, (BUILD, BUILD + 10))), None);
    // Nearly right is right.
    assert_eq!(judge(NOW, &window, answer(NOW + 29, valid)), None);
}
