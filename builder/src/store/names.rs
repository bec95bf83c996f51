//! Names of servers, looked up once and remembered for a minute.
//!
//! ureq asks for the address before every request, also where a connection is at hand. A build fetches hundreds of files
//! from one server, many at a time; a name server that drops one of so many questions costs glibc's five seconds of
//! waiting each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer holds. Short, so that a server that moves is found again while a long build runs.
const HOLDS: Duration = Duration::from_mins(1);

/// The answer for one server, and when it came. Locked while the question is open, so that many who want the same
/// name ask once.
type Answer = Arc<Mutex<Option<(Instant, Vec<SocketAddr>)>>>;

/// Asks as the host does, by [`DefaultResolver`], and remembers what was found; what was not found is asked again.
#[derive(Debug, Default)]
pub(super) struct Names<R = DefaultResolver> {
    inner: R,
    answers: Mutex<BTreeMap<String, Answer>>,
}

impl<R: Resolver> Resolver for Names<R> {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!("{}://{}", uri.scheme_str().unwrap_or_default(), server(uri));
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, addresses)) = answer.as_ref()
            && at.elapsed() < HOLDS
        {
            let mut known = self.empty();
            for address in addresses {
                known.push(*address);
            }
            return Ok(known);
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        *answer = Some((Instant::now(), found.to_vec()));
        Ok(found)
    }
}

/// Host and port, without the user and the password that an address may have.
fn server(uri: &Uri) -> &str {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    authority.rsplit_once('@').map_or(authority, |(_, server)| server)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts the questions; the first one of each is not answered.
    #[derive(Debug, Default)]
    struct Counting {
        asked: AtomicUsize,
    }

    impl Resolver for Counting {
        fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
            if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(ureq::Error::HostNotFound);
            }
            std::thread::sleep(Duration::from_millis(20));
            let mut found = self.empty();
            found.push(([127, 0, 0, 1], uri.port_u16().unwrap_or(80)).into());
            Ok(found)
        }
    }

    #[test]
    fn many_who_want_one_name_ask_once_and_a_failure_is_not_remembered() {
        let names = Names { inner: Counting::default(), answers: Mutex::default() };
        let ask = |uri: &'static str| {
            names
                .resolve(&Uri::from_static(uri), &Config::default(), NextTimeout::default())
                .map(|found| found.to_vec())
        };
        assert!(matches!(ask("http://mirror.example/a"), Err(ureq::Error::HostNotFound)));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(ask("http://mirror.example/b").unwrap(), [([127, 0, 0, 1], 80).into()]));
            }
        });
        assert_eq!(names.inner.asked.load(Ordering::SeqCst), 2);
        // A user's name does not make it another server, a port does.
        ask("http://me:secret@mirror.example/c").unwrap();
        assert_eq!(names.inner.asked.load(Ordering::SeqCst), 2);
        assert_eq!(ask("http://mirror.example:8080/c").unwrap(), [([127, 0, 0, 1], 8080).into()]);
        assert!(!format!("{names:?}").contains("secret"));
    }
}
