//! Servers for tests: plain ones that say what they are told, and `openssl s_server` with certificates of its own.

#![allow(missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Answers one connection after the other with these bytes, the last ones for ever; gives its address without a path.
pub fn answering(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for turn in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let answer = answers[turn.min(answers.len() - 1)].clone();
            read_request(&mut stream);
            let _ = stream.write_all(&answer);
        }
    });
    url
}

/// A response with a length.
pub fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into()
}

/// Reads a request's head, and as much of a body as it announces.
pub fn read_request(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&request).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    let _ = stream.read_exact(&mut body);
    request.extend(body);
    String::from_utf8_lossy(&request).into_owned()
}

/// `openssl s_server -HTTP` for `localhost`: a file of its directory is a whole response.
pub struct TlsServer {
    process: Child,
    pub url: String,
    /// The authority that signed its certificate, in PEM.
    pub authority: String,
}

impl TlsServer {
    /// Starts one with a certificate that is valid between these times (`20000101000000Z`); `None` where there is no
    /// openssl.
    pub fn start(directory: &Path, valid: (&str, &str)) -> Option<Self> {
        let (from, until) = valid;
        let config = "[ca]\ndefault_ca = d\n[d]\ndatabase = index\nserial = serial\nnew_certs_dir = .\n\
                      default_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n[e]\nsubjectAltName = DNS:localhost\n";
        for (name, text) in [("ca.conf", config), ("index", ""), ("serial", "01\n")] {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let made =
            openssl(directory, &format!("req -x509 {key} -days 36500 -keyout ca.key -out ca.pem -subj /CN=site"))?
                && openssl(directory, &format!("req {key} -keyout key.pem -out request.pem -subj /CN=localhost"))?
                && openssl(
                    directory,
                    &format!(
                        "ca -batch -notext -config ca.conf -extensions e -cert ca.pem -keyfile ca.key -in request.pem \
                     -out cert.pem -startdate {from} -enddate {until}"
                    ),
                )?;
        assert!(made, "openssl makes certificates");
        #[allow(clippy::disallowed_methods)] // a peer of the test
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem", "-HTTP"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:").map(str::to_owned))
            .expect("openssl says where it listens");
        // It goes on talking, and must not run into a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let authority = std::fs::read_to_string(directory.join("ca.pem")).unwrap();
        Some(Self { process, url: format!("https://localhost:{port}"), authority })
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the command succeeded; `None` where there is no openssl.
fn openssl(directory: &Path, arguments: &str) -> Option<bool> {
    #[allow(clippy::disallowed_methods)] // a peer of the test
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().ok()?;
    Some(output.status.success())
}
