//! QEMU's control channel: JSON over a Unix socket, one request and its answer at a time (the QMP specification).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thiserror::Error;

/// The longest message taken from QEMU.
const MAX_MESSAGE: u64 = 1024 * 1024;

/// How long QEMU may take to answer: it answers between two slices of the guest's time.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The name of the stick's device.
pub const STICK: &str = "stick0";

/// Talking to QEMU failed.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket failed, or QEMU closed it.
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    /// QEMU sent something that is not a message of the protocol.
    #[error("it said something unexpected: {0}")]
    Protocol(String),
    /// QEMU refused a command.
    #[error("{command} was refused: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// What QEMU said.
        reason: String,
    },
}

/// A connection to QEMU's control channel.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// How often a stick was put in.
    plugged: u32,
}

impl Qmp {
    /// Connects and agrees on the protocol; tries until `deadline` while QEMU has not made the socket yet.
    ///
    /// # Errors
    /// There is no socket by then, or what answers is not QEMU.
    pub fn connect(path: &Path, deadline: Instant, alive: &dyn Fn() -> bool) -> Result<Self, QmpError> {
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline || !alive() => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream), plugged: 0 };
        let greeting = qmp.message()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Protocol(greeting.to_string()));
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns; events that come before the answer are skipped.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut message = self.message()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            if message.get("event").is_none() {
                return Err(QmpError::Protocol(message.to_string()));
            }
        }
    }

    /// Whether the guest runs: `running`, `shutdown`, `paused`, `guest-panicked`.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn status(&mut self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", &json!({}))?;
        answer["status"].as_str().map(str::to_owned).ok_or_else(|| QmpError::Protocol(answer.to_string()))
    }

    /// The port on 127.0.0.1 that is forwarded to the guest's ssh, as the kernel gave it.
    ///
    /// # Errors
    /// See [`QmpError`]; also where nothing is forwarded.
    pub fn forwarded_port(&mut self) -> Result<u16, QmpError> {
        // There is no command of QMP proper that tells it.
        let answer = self.execute("human-monitor-command", &json!({ "command-line": "info usernet" }))?;
        let text = answer.as_str().unwrap_or_default();
        host_port(text).ok_or_else(|| QmpError::Protocol(format!("no forwarded port in {text:?}")))
    }

    /// Writes what the guest's screen shows to a file, as PNG. Guests without a display have no screen.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn screendump(&mut self, path: &Path) -> Result<(), QmpError> {
        self.execute("screendump", &json!({ "filename": path.display().to_string(), "format": "png" })).map(drop)
    }

    /// Puts the stick in: a USB device whose medium lies in this file.
    ///
    /// # Errors
    /// See [`QmpError`]; also where one is in already.
    pub fn plug_stick(&mut self, file: &Path, read_only: bool) -> Result<(), QmpError> {
        // Each time a node of its own: a guest that was reading when the stick was pulled keeps the old one busy for as long
        // as it likes.
        self.plugged += 1;
        let node = format!("stick{}", self.plugged);
        let file = json!({ "driver": "file", "filename": file.display().to_string(), "locking": "off" });
        let medium = json!({ "driver": "raw", "node-name": node, "read-only": read_only, "file": file });
        self.execute("blockdev-add", &medium)?;
        let device = json!({
            "driver": "usb-storage", "id": STICK, "bus": "xhci.0", "drive": node,
            "serial": "ingot-stick", "removable": true,
        });
        self.execute("device_add", &device).map(drop)
    }

    /// Pulls the stick out.
    ///
    /// # Errors
    /// See [`QmpError`]; also where it is not in.
    pub fn pull_stick(&mut self) -> Result<(), QmpError> {
        self.execute("device_del", &json!({ "id": STICK })).map(drop)
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn power_button(&mut self) -> Result<(), QmpError> {
        self.execute("system_powerdown", &json!({})).map(drop)
    }

    /// Ends QEMU.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub fn quit(&mut self) -> Result<(), QmpError> {
        self.execute("quit", &json!({})).map(drop)
    }

    fn message(&mut self) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        let count = (&mut self.stream).take(MAX_MESSAGE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Err(QmpError::Socket(std::io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|_| QmpError::Protocol(String::from_utf8_lossy(&line).trim().to_owned()))
    }
}

/// The host's port in a line of `info usernet`: `TCP[HOST_FORWARD]  13  127.0.0.1 42345  10.0.2.15 22  0 0`.
fn host_port(text: &str) -> Option<u16> {
    let line = text.lines().find(|line| line.contains("TCP[HOST_FORWARD]"))?;
    line.split_whitespace().nth(3)?.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn server(answers: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                writeln!(stream, "{answer}").unwrap();
                let mut request = String::new();
                // The client may be gone before the last one.
                let _ = reader.read_line(&mut request);
            }
        });
        (directory, path)
    }

    fn connect(path: &Path) -> Result<Qmp, QmpError> {
        Qmp::connect(path, Instant::now() + Duration::from_secs(5), &|| true)
    }

    #[test]
    fn events_are_skipped_and_refusals_told() {
        let (_directory, path) = server(&[
            r#"{"QMP": {"version": {}, "capabilities": []}}"#,
            r#"{"return": {}}"#,
            "{\"event\": \"RESET\"}\n{\"return\": {\"status\": \"running\"}}",
            r#"{"error": {"class": "GenericError", "desc": "no such thing"}}"#,
        ]);
        let mut qmp = connect(&path).unwrap();
        assert_eq!(qmp.status().unwrap(), "running");
        assert_eq!(qmp.quit().unwrap_err().to_string(), "quit was refused: no such thing");
    }

    #[test]
    fn a_stick_that_comes_back_is_a_node_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
            let mut asked = Vec::new();
            for _ in 0..6 {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let request: Value = serde_json::from_str(&line).unwrap();
                let arguments = &request["arguments"];
                let node = arguments.get("drive").or(arguments.get("node-name")).unwrap_or(&Value::Null);
                asked.push(format!("{} {node}", request["execute"]).replace('"', ""));
                writeln!(stream, r#"{{"return": {{}}}}"#).unwrap();
            }
            asked
        });
        let mut qmp = connect(&path).unwrap();
        qmp.plug_stick(Path::new("/s"), false).unwrap();
        qmp.pull_stick().unwrap();
        qmp.plug_stick(Path::new("/s"), false).unwrap();
        let expected = [
            "qmp_capabilities null",
            "blockdev-add stick1",
            "device_add stick1",
            "device_del null",
            "blockdev-add stick2",
            "device_add stick2",
        ];
        assert_eq!(server.join().unwrap(), expected);
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        let (_directory, path) = server(&["SSH-2.0-OpenSSH"]);
        assert!(matches!(connect(&path), Err(QmpError::Protocol(text)) if text == "SSH-2.0-OpenSSH"));
    }

    #[test]
    fn the_port_is_found() {
        let text = "VLAN -1 (ssh):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 42345       10.0.2.15    22     0     0\r\n";
        assert_eq!(host_port(text), Some(42345));
        assert_eq!(host_port("VLAN -1"), None);
    }
}
