//! Fetching over the network, for as long as it takes.
//!
//! A server that does not answer, or not well, is asked again and again: pauses have full jitter and grow to a minute,
//! a longer `Retry-After` is kept to, and there is no last attempt. What was fetched is kept, and asked for again after
//! a minute or two for as long as somebody looks, so that a correction on the server reaches a node that waits for it.
//!
//! A node without a configuration has no network. Where something has to be fetched, and only then, its network
//! service is started, which asks for addresses by DHCP on every wired interface.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Found;
use crate::config::MAXIMUM_DOCUMENT_BYTES;
use crate::host::{Host, HostError};
use crate::http::{HttpError, HttpRequest};
use crate::join::{Backoff, Retry};

/// One answer may take so long; media are looked at in between.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a look has spent more than this on the network, what else is to be fetched waits for the next one: a stick that
/// is plugged in meanwhile is not kept waiting by every dead server in turn.
const LOOK: Duration = Duration::from_secs(2);
/// What was fetched is good for this long, and a random part of it more.
const FRESH_SECONDS: u64 = 60;
/// The network service of an unconfigured node has a condition on this file.
pub const FETCHING: &str = "/run/ingot/fetching";

/// A fetch failed for now.
#[derive(Debug)]
pub struct Failed {
    text: String,
    /// What the server asked for.
    pause: Option<Duration>,
    /// The address whose certificate does not fit the node's clock.
    out_of_time: Option<String>,
}

impl From<HttpError> for Failed {
    fn from(error: HttpError) -> Self {
        Self { text: error.to_string(), pause: None, out_of_time: None }
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self { text, pause: None, out_of_time: None }
    }
}

/// Fetches a document of at most 1 MiB; `None` where the server says that there is none.
pub fn fetch(host: &dyn Host, url: &str) -> Result<Option<Vec<u8>>, Failed> {
    let request = HttpRequest { timeout: PATIENCE, ..HttpRequest::get(url, MAXIMUM_DOCUMENT_BYTES as u64) };
    let answer = host.http(&request).map_err(|error| {
        let out_of_time = error.is_certificate_time().then(|| url.to_owned());
        Failed { out_of_time, ..Failed::from(error) }
    })?;
    match answer.status {
        200 => Ok(Some(answer.body)),
        404 | 410 => Ok(None),
        status => Err(Failed {
            text: format!("{}: the server answers {status}", crate::http::shown(url)),
            pause: answer.retry_after(),
            out_of_time: None,
        }),
    }
}

#[derive(Default)]
struct Entry {
    backoff: Backoff,
    /// When to ask again, on the machine's uptime.
    again: Duration,
    fetched: Option<Found>,
    problem: String,
}

#[derive(Default)]
struct State {
    network: bool,
    /// When the present look began, on the machine's uptime.
    began: Duration,
    entries: BTreeMap<String, Entry>,
}

/// What was fetched so far, and when to ask again.
#[derive(Default)]
pub struct Fetcher {
    state: Mutex<State>,
}

impl Fetcher {
    /// A look at all sources begins.
    pub fn begin_look(&self, host: &dyn Host) {
        self.state().began = host.uptime();
    }

    /// What a source says: fetched now, or kept from before. Where there is nothing yet, [`Found::pending`] says why
    /// and when it is tried again.
    pub fn keep(&self, host: &dyn Host, source: &str, fetch: impl Fn() -> Result<Found, Failed>) -> Found {
        let now = host.uptime();
        let due = {
            let state = self.state();
            let in_time = now.saturating_sub(state.began) <= LOOK;
            in_time && state.entries.get(source).is_none_or(|entry| entry.again <= now)
        };
        if due {
            let ready = self.network(host).map_err(|error| Failed::from(error.to_string()));
            let mut result = ready.and_then(|()| fetch());
            // A dead battery is no reason not to get a configuration: the server itself knows the time.
            let out_of_time = result.as_ref().err().and_then(|failed| failed.out_of_time.clone());
            if let Some(change) = out_of_time.and_then(|url| crate::clock::learn_from(host, &url)) {
                result = fetch().map(|mut found| {
                    found.notes.push(format!("the clock was wrong: {change}"));
                    found
                });
            }
            let now = host.uptime();
            let mut state = self.state();
            let entry = state.entries.entry(source.to_owned()).or_default();
            match result {
                Ok(found) => {
                    entry.backoff.reset();
                    entry.again = now + Duration::from_secs(FRESH_SECONDS + host.random_below(FRESH_SECONDS));
                    entry.fetched = Some(found);
                }
                Err(failed) => {
                    let jitter = entry.backoff.next(host, false, Retry::Unsaid);
                    entry.again = now + failed.pause.map_or(jitter, |pause| pause + jitter);
                    entry.problem = failed.text;
                }
            }
        }
        let now = host.uptime();
        let mut state = self.state();
        let entry = state.entries.entry(source.to_owned()).or_default();
        entry.fetched.clone().unwrap_or_else(|| {
            let problem = if entry.problem.is_empty() { "not asked yet" } else { &entry.problem };
            let left = entry.again.saturating_sub(now).as_secs_f64().ceil();
            Found { pending: vec![format!("{source}: {problem}; next attempt in {left} s")], ..Found::default() }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the network service, once.
    fn network(&self, host: &dyn Host) -> Result<(), HostError> {
        if self.state().network {
            return Ok(());
        }
        host.write(FETCHING, b"", 0o644)?;
        host.run("systemctl", &["start", "systemd-networkd.service"], Duration::from_secs(30))?;
        self.state().network = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;
    use crate::http::{HttpReason, HttpResponse};

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HttpResponse { status, headers, body: body.as_bytes().to_vec() }
    }

    fn look(host: &SimulatedHost, fetcher: &Fetcher) -> Found {
        fetcher.begin_look(host);
        fetcher.keep(host, "http://h/x", || {
            let text =
                fetch(host, "http://h/x")?.ok_or_else(|| Failed::from("http://h/x: there is nothing".to_owned()))?;
            Ok(Found { notes: vec![String::from_utf8_lossy(&text).into_owned()], ..Found::default() })
        })
    }

    #[test]
    fn it_is_tried_again_without_end_and_not_before_its_time() {
        let host = SimulatedHost::default();
        let fetcher = Fetcher::default();
        let mut asked = Vec::new();
        for _ in 0..2000 {
            let before = host.state().requests.len();
            let found = look(&host, &fetcher);
            assert!(found.pending[0].starts_with("http://h/x: http://h/x: no connection: "), "{:?}", found.pending);
            if host.state().requests.len() > before {
                asked.push(host.uptime());
            }
            host.sleep(Duration::from_secs(1));
        }
        assert!(asked.len() > 2000 / 61 && asked.len() < 90, "{}", asked.len());
        assert_eq!(host.state().commands, ["systemctl start systemd-networkd.service"]);
        host.state()
            .answers
            .insert("http://h/x".into(), vec![Ok(answer(200, &[], "one")), Ok(answer(200, &[], "two"))]);
        host.sleep(Duration::from_mins(1));
        assert_eq!(look(&host, &fetcher).notes, ["one"]);
        host.sleep(Duration::from_secs(30));
        assert_eq!(look(&host, &fetcher).notes, ["one"], "it is kept");
        host.sleep(Duration::from_mins(2));
        assert_eq!(look(&host, &fetcher).notes, ["two"], "and read again");
        let gone = vec![Err(HttpReason::Connection("gone".into()))];
        host.state().answers.insert("http://h/x".into(), gone);
        host.sleep(Duration::from_mins(2));
        assert_eq!(look(&host, &fetcher).notes, ["two"], "what was fetched stays when the server goes");
    }

    #[test]
    fn a_look_waits_for_one_dead_server_and_not_for_all() {
        let (host, fetcher) = (SimulatedHost::default(), Fetcher::default());
        let asked = std::cell::RefCell::new(Vec::new());
        let look = || {
            fetcher.begin_look(&host);
            ["a", "b"].map(|source| {
                fetcher.keep(&host, source, || {
                    asked.borrow_mut().push(source);
                    host.sleep(PATIENCE);
                    Err(Failed::from("dead".to_owned()))
                })
            })
        };
        let [_, second] = look();
        assert_eq!(*asked.borrow(), ["a"], "the media are looked at before the next");
        assert_eq!(second.pending, ["b: not asked yet; next attempt in 0 s"]);
        // The first one has its pause now, so the second has its turn.
        look();
        assert_eq!(asked.borrow()[1], "b");
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is() {
        let host = SimulatedHost::default();
        let fetcher = Fetcher::default();
        let busy = answer(503, &[("retry-after", "300")], "");
        host.state().answers.insert("http://h/x".into(), vec![Ok(busy), Ok(answer(200, &[], "x"))]);
        let found = look(&host, &fetcher);
        assert!(found.pending[0].contains("the server answers 503; next attempt in 30"), "{:?}", found.pending);
        host.sleep(Duration::from_secs(299));
        assert!(!look(&host, &fetcher).pending.is_empty());
        assert_eq!(host.state().requests.len(), 1);
        host.sleep(Duration::from_secs(5));
        assert_eq!(look(&host, &fetcher).notes, ["x"]);
    }

    #[test]
    fn a_clock_that_no_certificate_fits_is_set_by_the_server_itself() {
        use crate::clock::https::ServerDate;
        const BUILD: u64 = 1_780_000_000;
        const NOW: u64 = 1_790_000_000;
        let url = "https://h/node.toml?token=x";
        let out_of_time = || Err(HttpReason::CertificateTime("it is not valid yet".into()));
        let machine = |clock| {
            let host = SimulatedHost::default();
            host.put(crate::clock::IMAGE_FACTS, &format!("{{\"build_time\": {BUILD}}}"));
            host.state().clock = clock;
            host.state().answers.insert(url.into(), vec![out_of_time(), Ok(answer(200, &[], "one"))]);
            let date = ServerDate { date: NOW, valid: (NOW - 1000, NOW + 1000) };
            host.state().time.dates = vec![("https://h/node.toml?...".into(), Ok(date))];
            host
        };
        let look = |host: &SimulatedHost| {
            Fetcher::default().keep(host, "ingot.config:x", || {
                let bytes = fetch(host, url)?.ok_or_else(|| Failed::from("nothing".to_owned()))?;
                Ok(Found { notes: vec![String::from_utf8_lossy(&bytes).into_owned()], ..Found::default() })
            })
        };
        let host = machine(BUILD);
        let found = look(&host);
        assert_eq!((found.notes[0].as_str(), host.now(), host.rtc()), ("one", NOW, Some(NOW)), "{found:?}");
        assert!(found.notes[1].contains("https://h/node.toml?... says 2026-09-21"), "{found:?}");
        assert!(!format!("{found:?}").contains("token"));
        // A clock that lies within the certificate's time is not what is wrong, and the server is not believed.
        let host = machine(NOW + 500);
        assert!(look(&host).pending[0].contains("it is not valid yet"), "{:?}", look(&host));
        assert_eq!((host.now(), host.state().time.asked), (NOW + 500, 1));
    }

    #[test]
    fn a_document_of_a_hundred_megabytes_is_not_read() {
        let host = SimulatedHost::default();
        let large = HttpResponse { status: 200, headers: Vec::new(), body: vec![b'#'; 100 << 20] };
        host.state().answers.insert("http://h/x".into(), vec![Ok(large)]);
        let found = look(&host, &Fetcher::default());
        assert!(found.pending[0].contains("larger than 1048576 bytes"), "{:?}", found.pending);
    }
}
