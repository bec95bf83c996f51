//! The node's side of the rendezvous.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::message::{Answer, Bytes32, FromManager, Hello, Sealed, VERSION, from_hex, receive, send};
use super::proof::Transcript;
use super::{Grant, NodeIdentity, RendezvousError};
use crate::config::Secret;

/// How long a connection may take to be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to prove itself, as the manager sees it.
pub const EXCHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a node waits for all of it. Some clusters take their time to make a token.
const GRANT_PATIENCE: Duration = Duration::from_mins(1);
/// How long one message may take to be sent, however long its making took.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// A connection on which reading ends at a fixed moment, however slowly the other side sends.
pub struct Timed<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl<'a> Timed<'a> {
    /// Limits the connection from now on.
    pub fn new(stream: &'a TcpStream, patience: Duration) -> Self {
        Self { stream, until: Instant::now() + patience }
    }

    fn remaining(&self) -> io::Result<Duration> {
        self.until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the exchange took too long"))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // What the manager sends last may come after the node's time for its proof; it is one bounded message.
        let left = self.remaining().unwrap_or_default().max(SEND_PATIENCE);
        self.stream.set_write_timeout(Some(left))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// 32 random bytes of the kernel.
pub fn fresh_nonce() -> io::Result<Bytes32> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Bytes32(bytes))
}

/// Asks the rendezvous at `manager` for a join token. `now` is the node's clock in seconds since 1970.
///
/// # Errors
/// All of [`RendezvousError`].
pub fn request(
    manager: SocketAddr,
    secret: &Secret,
    identity: &NodeIdentity,
    now: u64,
) -> Result<Grant, RendezvousError> {
    let stream = TcpStream::connect_timeout(&manager, CONNECT_PATIENCE)?;
    exchange(&mut Timed::new(&stream, GRANT_PATIENCE), fresh_nonce()?, secret, identity, now)
}

/// The exchange itself, over any connection.
pub fn exchange(
    stream: &mut (impl Read + Write),
    nonce: Bytes32,
    secret: &Secret,
    identity: &NodeIdentity,
    now: u64,
) -> Result<Grant, RendezvousError> {
    let hello = Hello { version: VERSION, nonce, identity: identity.clone(), time: now };
    // A busy manager says so at once and hangs up; what it said can be read even where the hello was not taken.
    let sent = send(stream, &hello);
    let first = match (receive(stream), sent) {
        (Ok(message), _) => message,
        (Err(_), Err(error)) => return Err(error.into()),
        (Err(error), Ok(())) => return Err(error),
    };
    let (manager_nonce, name, time, proof) = match first {
        FromManager::Challenge { nonce, name, time, proof } => (nonce, name, time, proof),
        FromManager::Refused(refusal) => return Err(RendezvousError::Refused(refusal)),
        FromManager::Busy { retry_after_ms } => return Err(busy(retry_after_ms)),
        FromManager::Grant { .. } => return Err(RendezvousError::Protocol("a grant before any proof")),
    };
    if manager_nonce == hello.nonce {
        return Err(RendezvousError::NotAManager);
    }
    let transcript = Transcript::new(&hello, &manager_nonce, &name, time);
    if !transcript.is_manager_proof(secret, &proof) {
        return Err(RendezvousError::NotAManager);
    }
    send(stream, &Answer { proof: transcript.node_proof(secret) })?;
    let sealed = match receive(stream)? {
        FromManager::Grant { sealed } => sealed,
        FromManager::Refused(refusal) => return Err(RendezvousError::Refused(refusal)),
        FromManager::Busy { retry_after_ms } => return Err(busy(retry_after_ms)),
        FromManager::Challenge { .. } => return Err(RendezvousError::Protocol("a second challenge")),
    };
    let plain = from_hex(&sealed)
        .and_then(|sealed| transcript.open(secret, &sealed))
        .ok_or(RendezvousError::Protocol("the grant cannot be opened"))?;
    let grant: Sealed = serde_json::from_slice(&plain).map_err(|_| RendezvousError::Protocol("an unknown grant"))?;
    Ok(Grant { token: Secret::new(grant.token), time })
}

fn busy(milliseconds: u32) -> RendezvousError {
    RendezvousError::Busy(Duration::from_millis(milliseconds.into()))
}
