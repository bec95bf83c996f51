//! HTTP servers of a scenario: they serve files to guests, answer badly where they are told to, and keep what they were
//! asked, for steps to look at.
//!
//! A server listens on the host's loopback; guests reach it over the card that also carries ssh, where QEMU's user
//! network has the host at [`HOST_ADDRESS`]. One request per connection, HTTP/1.1. It is also what a proxy is: a request
//! with a whole address in its first line is answered by the path of that address. `CONNECT` is refused.
//!
//! Guests are not trusted to behave: heads, bodies and the number of kept requests are bounded, and every read has a limit
//! of time.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::scenario::Bad;
use super::{QemuError, at};

pub mod certificate;

use certificate::Identity;

/// The host, as guests see it: the second address of QEMU's user network.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// The longest head of a request that is read, in bytes.
const MAX_HEAD: u64 = 64 * 1024;
/// The longest body, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Requests that are kept; later ones are answered all the same.
const MAX_KEPT: usize = 10_000;
/// How long a guest may take to say what it wants: it may be a slow one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    identity: Option<Identity>,
}

impl Bound {
    /// Takes a free port; with `tls`, makes an identity of its own.
    ///
    /// # Errors
    /// There is no free port, or no randomness.
    pub fn new(tls: bool) -> Result<Self, QemuError> {
        let failed = |error| at("cannot listen for guests on", Path::new("127.0.0.1"))(error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let identity = if tls { Some(Identity::new(HOST_ADDRESS)?) } else { None };
        Ok(Self { listener, address, identity })
    }

    /// Its address for guests, without a path: `http://198.18.0.2:40123`.
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The same without the scheme: `198.18.0.2:40123`.
    pub fn authority(&self) -> String {
        format!("{HOST_ADDRESS}:{}", self.address.port())
    }

    /// The certificate that vouches for it, in PEM.
    pub fn certificate(&self) -> Option<String> {
        self.identity.as_ref().map(Identity::pem)
    }

    /// Begins to answer: `files` by path, the answers of `bad` before them.
    ///
    /// # Errors
    /// There is no thread.
    pub fn serve(self, files: BTreeMap<String, String>, bad: &[Bad]) -> Result<Server, QemuError> {
        let Self { listener, address, identity } = self;
        let tls = identity.map(Identity::server).transpose()?;
        let shared = Arc::new(Shared {
            files,
            bad: Mutex::new(bad.to_vec()),
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("server".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, tls.as_ref(), &shared)
        });
        let thread = thread.map_err(at("cannot start a thread for", Path::new("a server")))?;
        Ok(Server { address, shared, thread: Some(thread) })
    }
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// The first line without the version, the headers, an empty line, the body.
    pub text: String,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// What it was asked so far, in this order.
    pub fn requests(&self) -> Vec<Asked> {
        held(&self.shared.seen).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes it up; where that fails it is not waited for.
        if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

#[derive(Debug)]
struct Shared {
    files: BTreeMap<String, String>,
    /// What is still to be answered badly.
    bad: Mutex<Vec<Bad>>,
    seen: Mutex<Vec<Asked>>,
    stop: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, tls: Option<&Arc<rustls::ServerConfig>>, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (tls, shared) = (tls.cloned(), Arc::clone(shared));
        // A guest that is slow delays no other. Without a thread it asks again.
        drop(std::thread::Builder::new().spawn(move || converse(stream, tls, &shared)));
    }
}

fn converse(stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, shared: &Shared) {
    let limited = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
    if limited.is_err() {
        return;
    }
    // What breaks here is the guest's connection; it asks again.
    if let Some(config) = tls {
        let Ok(connection) = rustls::ServerConnection::new(config) else { return };
        let mut stream = rustls::StreamOwned::new(connection, stream);
        if answer(&mut stream, shared).is_ok() {
            stream.conn.send_close_notify();
            drop(stream.flush());
        }
        drop(stream.sock.shutdown(Shutdown::Write));
    } else {
        let mut stream = stream;
        drop(answer(&mut stream, shared));
        drop(stream.shutdown(Shutdown::Write));
    }
}

/// Reads one request and answers it.
fn answer(stream: &mut (impl Read + Write), shared: &Shared) -> std::io::Result<()> {
    let Some(request) = read(stream)? else { return Ok(()) };
    let (status, headers, body) = shared.answer(&request);
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in &headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let now = httpdate::fmt_http_date(now());
    head.push_str(&format!("Date: {now}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

#[allow(clippy::disallowed_methods)] // what a server says about itself, not what an image is made of
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

struct Request {
    method: String,
    target: String,
    /// All of it, as steps see it.
    text: String,
}

impl Request {
    /// The path of what is asked for, without a query.
    fn path(&self) -> &str {
        let target = match self.target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => &self.target,
        };
        target.split(['?', '#']).next().unwrap_or_default()
    }
}

/// Reads a request; `None` where the guest hung up, or it is none.
fn read(stream: &mut impl Read) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream.take(MAX_HEAD + MAX_BODY as u64));
    let mut head = String::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line);
        let whole = line.ends_with('\n');
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() && whole {
            break;
        }
        head.push_str(line);
        head.push('\n');
        if !whole || head.len() as u64 > MAX_HEAD {
            return Ok(None);
        }
    }
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let mut body = vec![0; lines.clone().find_map(length).unwrap_or(0).min(MAX_BODY)];
    reader.read_exact(&mut body)?;
    let headers: String = lines.map(|line| format!("{line}\n")).collect();
    let text = format!("{method} {target}\n{headers}\n{}", String::from_utf8_lossy(&body));
    Ok(Some(Request { method: method.to_owned(), target: target.to_owned(), text }))
}

impl Shared {
    fn answer(&self, request: &Request) -> (u16, BTreeMap<String, String>, String) {
        {
            let mut seen = held(&self.seen);
            if seen.len() < MAX_KEPT {
                seen.push(Asked { at: Instant::now(), text: request.text.clone() });
            }
        }
        let path = request.path();
        if let Some(bad) = held(&self.bad).iter_mut().find(|bad| bad.path == path && bad.count > 0) {
            bad.count -= 1;
            return (bad.status, bad.headers.clone(), String::new());
        }
        match (request.method.as_str(), self.files.get(path)) {
            ("GET" | "HEAD", Some(text)) => (200, BTreeMap::new(), text.clone()),
            ("GET" | "HEAD", None) => (404, BTreeMap::new(), String::new()),
            ("POST" | "PUT", _) => (204, BTreeMap::new(), String::new()),
            _ => (405, BTreeMap::new(), String::new()),
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "OK",
        300..=399 => "Elsewhere",
        400..=499 => "Not So",
        _ => "Not Now",
    }
}

#[cfg(test)]
mod tests;
