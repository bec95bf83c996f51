//! The manager's side of the rendezvous.
//!
//! One thread accepts and applies the limits; eight threads speak with the nodes. When all of them are busy and
//! the queue is full, a new connection is closed at once: the node tries again later. So a flood costs neither
//! threads nor memory.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{EXCHANGE_PATIENCE, Timed, fresh_nonce};
use super::limit::Limits;
use super::message::{Answer, Bytes32, FromManager, Hello, Refusal, Sealed, VERSION, receive, send, to_hex};
use super::proof::Transcript;
use super::{Asker, RendezvousError, Seat};
use crate::config::Secret;

const SPEAKERS: usize = 8;
const QUEUE: usize = 32;

/// There is no token for this node.
#[derive(Debug)]
pub struct TokenUnavailable {
    /// What the node is told.
    pub refusal: Refusal,
    /// Why, for the log.
    pub reason: String,
}

/// What nodes prove.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The cluster secret.
    pub all: Secret,
    /// What a node proves that wants a manager's seat; the cluster secret where there is none.
    pub managers: Option<Secret>,
}

impl Secrets {
    /// The one for a seat.
    fn of(&self, seat: Seat) -> &Secret {
        self.managers.as_ref().filter(|_| seat == Seat::Manager).unwrap_or(&self.all)
    }
}

/// Where the token comes from: asked anew for each node, so that a rotated token is given at once.
pub trait TokenSource: Send + Sync {
    /// The token for a node that proved the secret.
    ///
    /// # Errors
    /// [`TokenUnavailable`] where there is none now, or none for this node.
    fn token(&self, asker: &Asker) -> Result<Secret, TokenUnavailable>;
}

/// A manager's rendezvous.
pub struct Server<'a> {
    listener: TcpListener,
    secrets: Secrets,
    name: String,
    source: &'a dyn TokenSource,
    clock: &'a (dyn Fn() -> u64 + Sync),
    log: &'a (dyn Fn(&str) + Sync),
}

impl<'a> Server<'a> {
    /// Listens on `address`. `name` is the manager's host name; `clock` gives seconds since 1970; `log` takes lines
    /// about who got a token and who did not.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(
        address: SocketAddr,
        secrets: Secrets,
        name: &str,
        source: &'a dyn TokenSource,
        clock: &'a (dyn Fn() -> u64 + Sync),
        log: &'a (dyn Fn(&str) + Sync),
    ) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address)?, secrets, name: name.to_owned(), source, clock, log })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for as long as the program runs.
    pub fn serve(&self) {
        let limits = Mutex::new(Limits::new(Instant::now()));
        let (queue, waiting) = sync_channel::<(TcpStream, IpAddr)>(QUEUE);
        let waiting = Mutex::new(waiting);
        std::thread::scope(|scope| {
            for _ in 0..SPEAKERS {
                scope.spawn(|| self.speak(&waiting, &limits));
            }
            loop {
                let (stream, peer) = match self.listener.accept() {
                    Ok((stream, peer)) => (stream, peer.ip()),
                    Err(error) => {
                        // Out of file descriptors, most likely: waiting helps, spinning does not.
                        (self.log)(&format!("rendezvous: cannot accept: {error}"));
                        std::thread::sleep(Duration::from_millis(500));
                        continue;
                    }
                };
                let admitted = lock(&limits).admit(peer, Instant::now());
                if let Err(retry_after) = admitted {
                    send_away(&stream, retry_after);
                    continue;
                }
                match queue.try_send((stream, peer)) {
                    Ok(()) => {}
                    Err(TrySendError::Full((stream, _))) => {
                        let retry_after = lock(&limits).turned_away(peer, Instant::now());
                        send_away(&stream, retry_after);
                    }
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
        });
    }

    fn speak(&self, waiting: &Mutex<Receiver<(TcpStream, IpAddr)>>, limits: &Mutex<Limits>) {
        loop {
            let Ok((stream, peer)) = lock(waiting).recv() else { return };
            let exchanged = fresh_nonce()
                .map_err(RendezvousError::from)
                .and_then(|nonce| self.exchange(&mut Timed::new(&stream, EXCHANGE_PATIENCE), nonce, peer));
            lock(limits).ended(peer);
            match exchanged {
                Ok(who) => (self.log)(&format!("rendezvous: gave the token to {who} at {}", peer.to_canonical())),
                Err(error) => {
                    if matches!(error, RendezvousError::Refused(Refusal::WrongSecret)) {
                        lock(limits).failed(peer);
                        (self.log)(&format!("rendezvous: {} does not have the cluster secret", peer.to_canonical()));
                    }
                }
            }
        }
    }

    /// One exchange; gives who got the token.
    pub fn exchange(
        &self,
        stream: &mut (impl Read + Write),
        nonce: Bytes32,
        peer: IpAddr,
    ) -> Result<String, RendezvousError> {
        let hello: Hello = receive(stream)?;
        if hello.version != VERSION {
            return Self::refuse(stream, Refusal::Version);
        }
        if hello.identity.hostname.len() > 64 || hello.identity.id.len() > 128 {
            return Err(RendezvousError::Protocol("an identity is too long"));
        }
        let time = (self.clock)();
        let secret = self.secrets.of(hello.identity.seat);
        let transcript = Transcript::new(&hello, &nonce, &self.name, time);
        let proof = transcript.manager_proof(secret);
        send(stream, &FromManager::Challenge { nonce, name: self.name.clone(), time, proof })?;
        let answer: Answer = receive(stream)?;
        if !transcript.is_node_proof(secret, &answer.proof) {
            return Self::refuse(stream, Refusal::WrongSecret);
        }
        let clean = |text: &str| text.chars().filter(char::is_ascii_graphic).collect::<String>();
        let who = format!("{} ({})", clean(&hello.identity.hostname), clean(&hello.identity.id));
        let asker = Asker { identity: hello.identity, peer };
        let token = match self.source.token(&asker) {
            Ok(token) => token,
            Err(TokenUnavailable { refusal, reason }) => {
                (self.log)(&format!("rendezvous: no token for {who}: {reason}"));
                return Self::refuse(stream, refusal);
            }
        };
        let grant = serde_json::to_vec(&Sealed { token: token.expose().to_owned() })
            .map_err(|error| RendezvousError::Unreachable(error.into()))?;
        let sealed = transcript.seal(secret, &grant).ok_or(RendezvousError::Protocol("a grant is too large"))?;
        send(stream, &FromManager::Grant { sealed: to_hex(&sealed) })?;
        Ok(who)
    }

    fn refuse(stream: &mut impl Write, refusal: Refusal) -> Result<String, RendezvousError> {
        // A peer that hangs up before it hears the refusal was refused all the same, and is counted.
        let _ = send(stream, &FromManager::Refused(refusal));
        Err(RendezvousError::Refused(refusal))
    }
}

/// Tells a node when to come back. Nothing is waited for: what does not fit into the socket's buffer is lost.
fn send_away(stream: &TcpStream, retry_after: Duration) {
    let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    if stream.set_nonblocking(true).is_ok() {
        let _ = send(&mut &*stream, &FromManager::Busy { retry_after_ms });
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
