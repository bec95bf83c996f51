//! A small HTTP server for tests, which can misbehave in every way that a mirror does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What a client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub path: String,
    /// Start of the range that was asked for.
    pub from: Option<usize>,
    /// How many requests came before this one.
    pub nth: usize,
}

/// What the server does.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Announces the whole body, sends so many bytes of it and closes.
    pub cut: Option<usize>,
    /// Sends the body in chunks, without saying how long it is.
    pub chunked: bool,
    /// Closes without a word.
    pub reset: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: vec![], cut: None, chunked: false, reset: false }
    }

    /// The content from where the client wants it.
    pub fn content(asked: &Asked, content: &[u8]) -> Self {
        let Some(from) = asked.from else { return Self { body: content.to_vec(), ..Self::status(200) } };
        if from >= content.len() {
            return Self::status(416);
        }
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        Self { body: content[from..].to_vec(), ..Self::status(206) }.header("Content-Range", &range)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut_at(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub fn reset() -> Self {
        Self { reset: true, ..Self::status(200) }
    }
}

/// A running server; it ends when dropped.
pub(crate) struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl Server {
    pub fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let (seen, end, reply) = (asked.clone(), over.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), seen, reply) = (stream, seen.clone(), reply.clone()) else { continue };
                std::thread::spawn(move || serve(stream, &seen, reply.as_ref()));
            }
        });
        Self { url: format!("http://{address}"), asked, over, address }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, reply: &dyn Fn(&Asked) -> Reply) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut from = None;
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
    }
    let asked = {
        let mut seen = seen.lock().unwrap();
        let asked = Asked { path, from, nth: seen.len() };
        seen.push(asked.clone());
        asked
    };
    let reply = reply(&asked);
    if reply.reset {
        return;
    }
    let length = format!("Content-Length: {}", reply.body.len());
    let length = if reply.chunked { "Transfer-Encoding: chunked" } else { &length };
    let mut head = format!("HTTP/1.1 {} X\r\n{length}\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    if reply.chunked {
        let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        let body: Vec<u8> = reply.body.chunks(10_000).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        return;
    }
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    // The client may hang up first; that is its right.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..end]));
}
