use super::*;
use crate::config::Secret;
use crate::host::simulated::SimulatedHost;
use crate::http::{HttpReason, HttpResponse};
use crate::report::{Node, Settings};

const URL: &str = "https://status.site/nodes?token=t0ken";

fn snapshot(code: Code, text: &str) -> Snapshot {
    let status = Status {
        code,
        name: code.name().into(),
        text: text.into(),
        since: 7,
        history: Vec::new(),
        next_try_uptime_ms: None,
        delivered: [("stick".to_owned(), "x".to_owned())].into(),
        node: Node { hostname: "w1".into(), ..Node::default() },
    };
    let headers = vec![("Authorization".to_owned(), Secret::new("Bearer s3cret"))];
    let report = Some(ReportTo { url: URL.parse().unwrap(), headers, ca: None });
    let settings = Settings { medium: false, write_back: true, report };
    Snapshot { number: 1, status: Some(status), settings, closed: false, abandoned: false }
}

fn answer(status: u16, headers: &[(&str, &str)]) -> HttpResponse {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpResponse { status, headers, body: Vec::new() }
}

fn server(answers: Vec<Result<HttpResponse, HttpReason>>) -> SimulatedHost {
    let host = SimulatedHost::default();
    host.state().answers.insert(URL.into(), answers);
    host
}

#[test]
fn success_and_failure_are_reported_once_each() {
    let host = server(vec![Ok(answer(204, &[]))]);
    let mut sender = Sender::default();
    for (code, text) in [(Code::NetworkFailed, "no cable"), (Code::Joined, "worker")] {
        let Step::Said(said) = sender.step(&snapshot(code, text), &host, 0) else { panic!("{code}") };
        assert_eq!(said, format!("{code} is reported to https://status.site/nodes?..."));
        assert_eq!(sender.step(&snapshot(code, text), &host, 1), Step::Idle);
    }
    let requests = host.state().requests.clone();
    assert_eq!(requests.len(), 2);
    let body: serde_json::Value = serde_json::from_slice(&requests[1].2).unwrap();
    assert_eq!((body["code"].as_str(), body["node"]["hostname"].as_str()), (Some("FB-500"), Some("w1")));
    assert_eq!(body["delivered"], serde_json::json!({}));
    assert_eq!(sender.step(&Snapshot { closed: true, ..snapshot(Code::Joined, "worker") }, &host, 2), Step::Over);
}

#[test]
fn states_on_the_way_are_gathered() {
    let host = server(vec![Ok(answer(200, &[]))]);
    let mut sender = Sender::default();
    assert_eq!(sender.step(&snapshot(Code::ConfigFound, ""), &host, 0), Step::Later(1000));
    assert_eq!(sender.step(&snapshot(Code::Applying, ""), &host, 10), Step::Later(1000));
    assert!(matches!(sender.step(&snapshot(Code::Applying, ""), &host, 1010), Step::Said(_)));
    assert_eq!(host.state().requests.len(), 1, "only the last of them is sent");
}

#[test]
fn what_passes_is_tried_again_as_late_as_the_server_wants() {
    let host = server(vec![
        Err(HttpReason::Connection("refused".into())),
        Ok(answer(503, &[("retry-after", "90")])),
        Ok(answer(429, &[])),
        Ok(answer(200, &[])),
    ]);
    let mut sender = Sender::default();
    let state = snapshot(Code::Joined, "");
    let mut now = 0;
    let mut waits = Vec::new();
    for said in ["no connection: refused", "it answers 503", "it answers 429"] {
        assert!(matches!(sender.step(&state, &host, now), Step::Said(text) if text.contains(said)));
        let Step::Later(wait) = sender.step(&state, &host, now) else { panic!() };
        waits.push(wait);
        now += wait;
    }
    // Half of each window is what the simulated chance gives.
    assert_eq!(waits, [500, 90_000 + 1000, 2000]);
    assert!(matches!(sender.step(&state, &host, now), Step::Said(text) if text.contains("is reported")));
}

#[test]
fn what_is_refused_is_not_repeated_and_the_next_state_is_sent() {
    let host = server(vec![Ok(answer(403, &[])), Ok(answer(200, &[]))]);
    let mut sender = Sender::default();
    assert!(matches!(sender.step(&snapshot(Code::NetworkFailed, ""), &host, 0), Step::Said(s) if s.contains("403")));
    assert_eq!(sender.step(&snapshot(Code::NetworkFailed, ""), &host, 1), Step::Idle);
    assert!(matches!(sender.step(&snapshot(Code::Joined, ""), &host, 2), Step::Said(s) if s.contains("is reported")));
}

#[test]
fn the_report_of_success_outlives_a_refusal() {
    let host = server(vec![Ok(answer(404, &[])), Ok(answer(401, &[])), Ok(answer(200, &[]))]);
    let mut sender = Sender::default();
    let state = Snapshot { closed: true, ..snapshot(Code::Joined, "worker") };
    let mut now = 0;
    for status in ["404", "401"] {
        let said =
            format!("is not reported to https://status.site/nodes?... yet: it refuses reports with status {status}");
        assert!(matches!(sender.step(&state, &host, now), Step::Said(text) if text.contains(&said)));
        let Step::Later(wait) = sender.step(&state, &host, now) else { panic!() };
        assert!((600_000..700_000).contains(&wait), "{wait}");
        now += wait;
    }
    assert!(matches!(sender.step(&state, &host, now), Step::Said(text) if text.contains("is reported")));
    assert_eq!(sender.step(&state, &host, now), Step::Over);
    // One that always refuses ends with the day.
    let host = server(vec![Ok(answer(404, &[]))]);
    let (mut sender, mut now, mut tries) = (Sender::default(), 0, 0);
    while tries < 1000 {
        match sender.step(&state, &host, now) {
            Step::Later(wait) => now += wait,
            Step::Said(_) => tries += 1,
            _ => break,
        }
    }
    assert!((100..150).contains(&tries), "{tries}");
}

#[test]
fn a_server_that_never_answers_ends_with_the_day() {
    let host = SimulatedHost::default();
    let mut sender = Sender::default();
    let closed = Snapshot { closed: true, ..snapshot(Code::Joined, "") };
    let (mut now, mut tries) = (0, 0);
    loop {
        match sender.step(&closed, &host, now) {
            Step::Later(wait) => now += wait,
            Step::Said(_) => tries += 1,
            Step::Over => break,
            Step::Idle => panic!(),
        }
    }
    assert!(now >= PATIENCE_MS && (2000..4000).contains(&tries), "{tries}");
}

#[test]
fn nothing_is_sent_without_an_address() {
    let host = server(vec![Ok(answer(200, &[]))]);
    let mut state = snapshot(Code::Joined, "");
    state.settings.report = None;
    assert_eq!(Sender::default().step(&state, &host, 0), Step::Idle);
    assert!(host.state().requests.is_empty());
}
