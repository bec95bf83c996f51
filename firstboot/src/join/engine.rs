//! The container engine's API, spoken over its socket: HTTP/1.1 as far as Docker's Engine API needs it.
//!
//! Takes one [`Request`], opens one connection, gives one [`Response`]. The API is used instead of the `docker`
//! command because join tokens would otherwise stand in the process list. Answers are bounded: 64 KiB of headers,
//! 16 MiB of body.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

/// Where Docker listens.
pub const DOCKER_SOCKET: &str = "/run/docker.sock";

const MAXIMUM_HEADER_BYTES: u64 = 64 * 1024;
const MAXIMUM_BODY_BYTES: u64 = 16 * 1024 * 1024;

/// The engine could not be asked, or gave no proper answer.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The socket.
    #[error("the container engine does not answer at {DOCKER_SOCKET}: {0}")]
    Socket(#[from] io::Error),
    /// What was to be sent.
    #[error("cannot read {path}: {source}")]
    Archive {
        /// The archive.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer is not HTTP, or larger than any real one.
    #[error("the container engine's answer cannot be understood: {0}")]
    Answer(&'static str),
    /// The engine refused.
    #[error("the container engine refused {what}: {message} (HTTP {status})")]
    Refused {
        /// What was asked.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its reason.
        message: String,
    },
}

/// What is sent with a request.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// JSON; may hold secrets.
    Json(&'a [u8]),
    /// A tar archive, streamed from its file.
    Archive(&'a Path),
}

/// One request. It may hold a token, so it cannot be printed.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// Path and query.
    pub path: &'a str,
    /// What is sent.
    pub body: Body<'a>,
    /// How long each read may take. Swarm's join answers after 20 s at most, loading takes as long as the disk.
    pub patience: Duration,
}

impl<'a> Request<'a> {
    /// Asks for something.
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, body: Body::Empty, patience: Duration::from_mins(1) }
    }

    /// Tells it to do something.
    pub fn post(path: &'a str, body: Body<'a>) -> Self {
        let seconds = if matches!(body, Body::Archive(_)) { 1800 } else { 120 };
        Self { method: "POST", path, body, patience: Duration::from_secs(seconds) }
    }
    /// Removes something.
    pub fn delete(path: &'a str) -> Self {
        Self { method: "DELETE", path, body: Body::Empty, patience: Duration::from_mins(1) }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The answer itself where the status says success.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the engine's own message.
    pub fn accepted(self, what: &str) -> Result<Self, EngineError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        Err(EngineError::Refused { what: what.to_owned(), status: self.status, message: self.message() })
    }

    /// The engine's message: its `message` field, or the body's beginning.
    pub fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        serde_json::from_slice::<Message>(&self.body).map_or_else(
            |_| String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).trim().to_owned(),
            |message| message.message,
        )
    }
}

/// Sends a request to the engine at `socket` and reads its answer.
///
/// # Errors
/// All of [`EngineError`] but [`EngineError::Refused`]: an HTTP error status is an answer.
pub fn exchange(socket: &Path, request: &Request<'_>) -> Result<Response, EngineError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(request.patience))?;
    stream.set_write_timeout(Some(request.patience))?;
    let sent = send(&stream, request);
    if sent.is_err() {
        // What was announced will not come: without this the engine waits for it, and this waits for the engine.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    // The engine may refuse a large body before it was read: then its answer says more than the broken pipe.
    if let Err(error @ EngineError::Archive { .. }) = sent {
        return Err(error);
    }
    match (sent, read_response(&mut BufReader::new(&stream))) {
        (_, Ok(response)) => Ok(response),
        (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
    }
}

fn send(mut stream: &UnixStream, request: &Request<'_>) -> Result<(), EngineError> {
    let in_archive = |path: &Path| {
        let path = path.display().to_string();
        move |source| EngineError::Archive { path, source }
    };
    let head = format!("{} {} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n", request.method, request.path);
    match request.body {
        Body::Empty => stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes())?,
        Body::Json(json) => {
            let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", json.len());
            stream.write_all(format!("{head}{fields}").as_bytes())?;
            stream.write_all(json)?;
        }
        Body::Archive(path) => {
            let mut file = File::open(path).map_err(in_archive(path))?;
            let length = file.metadata().map_err(in_archive(path))?.len();
            let fields = format!("Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(format!("{head}{fields}").as_bytes())?;
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let count = file.read(&mut buffer).map_err(in_archive(path))?;
                if count == 0 {
                    break;
                }
                stream.write_all(&buffer[..count])?;
            }
        }
    }
    Ok(())
}

/// Reads one HTTP/1.1 answer.
///
/// # Errors
/// [`EngineError::Answer`] and [`EngineError::Socket`].
pub fn read_response(reader: &mut impl BufRead) -> Result<Response, EngineError> {
    let mut budget = MAXIMUM_HEADER_BYTES;
    let status_line = read_line(reader, &mut budget)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .filter(|status| status.len() == 3)
        .and_then(|status| status.parse().ok())
        .ok_or(EngineError::Answer("it does not begin with a status"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let line = read_line(reader, &mut budget)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(EngineError::Answer("a header has no colon"))?;
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<u64>().map_err(|_| EngineError::Answer("a bad length"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let mut body = Vec::new();
    if chunked {
        read_chunks(reader, &mut body, &mut budget)?;
    } else if status != 204 && status != 304 {
        let expected = length.unwrap_or(MAXIMUM_BODY_BYTES + 1);
        if length.is_some_and(|length| length > MAXIMUM_BODY_BYTES) {
            return Err(EngineError::Answer("it is larger than 16 MiB"));
        }
        reader.take(expected).read_to_end(&mut body)?;
        let got = body.len() as u64;
        if got > MAXIMUM_BODY_BYTES || length.is_some_and(|length| got < length) {
            return Err(EngineError::Answer("it is cut off or larger than 16 MiB"));
        }
    }
    Ok(Response { status, body })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>, budget: &mut u64) -> Result<(), EngineError> {
    loop {
        // Every chunk may bring its own line; only the trailer draws on the headers' budget.
        let mut line_budget = 1024;
        let line = read_line(reader, &mut line_budget)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| EngineError::Answer("a bad chunk size"))?;
        if size == 0 {
            while !read_line(reader, budget)?.is_empty() {}
            return Ok(());
        }
        if size > MAXIMUM_BODY_BYTES - body.len() as u64 {
            return Err(EngineError::Answer("it is larger than 16 MiB"));
        }
        let before = body.len() as u64;
        reader.by_ref().take(size).read_to_end(body)?;
        if body.len() as u64 - before < size || !read_line(reader, &mut line_budget)?.is_empty() {
            return Err(EngineError::Answer("a chunk is cut off"));
        }
    }
}

fn read_line(reader: &mut impl BufRead, budget: &mut u64) -> Result<String, EngineError> {
    let mut line = Vec::new();
    reader.by_ref().take(*budget).read_until(b'\n', &mut line)?;
    *budget -= line.len() as u64;
    if line.pop() != Some(b'\n') {
        return Err(EngineError::Answer("its headers are cut off or too long"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| EngineError::Answer("its headers are not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Response, EngineError> {
        read_response(&mut BufReader::with_capacity(3, text.as_bytes()))
    }

    #[test]
    fn answers_with_length_chunks_and_neither() {
        let body = |text| read(text).map(|r| (r.status, String::from_utf8(r.body).unwrap())).unwrap();
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokXX"), (200, "ok".into()));
        assert_eq!(
            body(
                "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n"
            ),
            (201, "abcde".into())
        );
        assert_eq!(body("HTTP/1.0 500 Oops\r\n\r\nwhy"), (500, "why".into()));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n"), (204, String::new()));
    }

    #[test]
    fn bad_answers_are_refused() {
        for bad in [
            "",
            "SSH-2.0\r\n",
            "HTTP/1.1 200",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(&format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000))).is_err());
    }

    #[test]
    fn a_refusal_carries_the_engines_message() {
        let response = Response { status: 406, body: b"{\"message\":\"already part of a swarm\"}".to_vec() };
        let error = response.accepted("to join").unwrap_err().to_string();
        assert_eq!(error, "the container engine refused to join: already part of a swarm (HTTP 406)");
    }

    #[test]
    fn an_archive_is_streamed_and_an_early_refusal_is_heard() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let archive = directory.path().join("a.tar");
        std::fs::write(&archive, vec![7_u8; 3_000_000]).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = vec![0; 3_000_000 + 200];
            let mut total = 0;
            while total < 3_000_000 {
                total += stream.read(&mut received[total..]).unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            let head = String::from_utf8_lossy(&received[..200]).into_owned();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut received[..100]).unwrap();
            stream.write_all(b"HTTP/1.1 507 Full\r\nContent-Length: 4\r\n\r\nfull").unwrap();
            head
        });
        let request = Request::post("/images/load?quiet=1", Body::Archive(&archive));
        assert_eq!(exchange(&socket, &request).unwrap().status, 200);
        let refusal = exchange(&socket, &request);
        assert!(server.join().unwrap().starts_with("POST /images/load?quiet=1 HTTP/1.1\r\n"));
        // With much unread data the kernel may reset the connection before the answer is read.
        assert!(matches!(refusal, Ok(Response { status: 507, .. }) | Err(EngineError::Socket(_))), "{refusal:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(text in "(HTTP/1\\.1 200 OK\r\n)?(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,3}\r\n)?(\r\n)?[0-9a-f\r\n;:]{0,40}") {
            let _ = read(&text);
        }

        #[test]
        fn a_chunked_body_reads_back(chunks in proptest::collection::vec(proptest::collection::vec(0_u8.., 1..50), 0..8)) {
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let response = read_response(&mut BufReader::with_capacity(5, &wire[..])).unwrap();
            proptest::prop_assert_eq!(response.body, chunks.concat());
        }
    }
}
