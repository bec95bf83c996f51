//! Both sides of an exchange with someone who sends any bytes.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::OnceLock;

use super::client::exchange;
use super::message::{Answer, Bytes32, FromManager, Hello, Sealed, receive, send};
use super::{Asker, NodeIdentity, Seat, Secrets, Server, TokenSource, TokenUnavailable};
use crate::config::Secret;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

/// A connection on which these bytes come, whatever is sent.
struct Script<'a>(&'a [u8]);

impl Read for Script<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Script<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Token;

impl TokenSource for Token {
    fn token(&self, _: &Asker) -> Result<Secret, TokenUnavailable> {
        Ok(Secret::new("the token"))
    }
}

/// Whoever cannot prove the secret gets no token and is not believed, whatever it sends.
pub fn fuzz(bytes: &[u8]) {
    static SERVER: OnceLock<Option<Server<'static>>> = OnceLock::new();
    let bind = || {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::bind(
            any,
            Secrets { all: Secret::new(SECRET), managers: None },
            "m1",
            &Token,
            &|| 1_790_000_000,
            &|_| {},
        )
        .ok()
    };
    if let Some(server) = SERVER.get_or_init(bind) {
        assert!(server.exchange(&mut Script(bytes), Bytes32([1; 32]), [192, 0, 2, 1].into()).is_err());
    }
    let identity = NodeIdentity { hostname: "w1".into(), id: "0123456789abcdef".into(), seat: Seat::Worker };
    assert!(exchange(&mut Script(bytes), Bytes32([2; 32]), &Secret::new(SECRET), &identity, 5).is_err());
    reads_back::<Hello>(bytes);
    reads_back::<Answer>(bytes);
    reads_back::<FromManager>(bytes);
    reads_back::<Sealed>(bytes);
}

/// A message that can be read can be sent, unless escaping makes it too long, and is the same at the other end.
fn reads_back<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = receive::<T>(&mut &*bytes) else { return };
    let mut sent = Vec::new();
    if send(&mut sent, &message).is_ok() {
        let mut again = Vec::new();
        let read = receive::<T>(&mut &*sent).map(|message| send(&mut again, &message));
        assert!(matches!(read, Ok(Ok(()))) && again == sent);
    }
}
