//! A virtual Ethernet among the guests of one network, in our own process: no root, bridge or multicast.
//!
//! Each port is a pair of Unix datagram sockets, one frame per datagram: ours, and QEMU's (`-netdev dgram`). The
//! switch learns which hardware address is behind which port; frames to groups and to unknown addresses go to
//! all other ports. Buffers are bounded: a guest that does not read loses frames, as on a real switch.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{QemuError, at};

/// The largest frame that is carried: more than any guest sends without offloads, which `dgram` has none of.
const MAX_FRAME: usize = 72 * 1024;

/// The shortest thing that has a destination and a source.
const MIN_FRAME: usize = 14;

/// Frames waiting for a guest that does not read.
const MAX_QUEUE: usize = 1024;

/// Bytes waiting for a guest that does not read.
const MAX_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Hardware addresses remembered; past that, frames to new ones go to all ports.
const MAX_ADDRESSES: usize = 4096;

/// Frames taken from one port before the next has its turn.
const BURST: usize = 64;

/// The two ends of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The socket that QEMU binds (`local.path`).
    pub guest: PathBuf,
    /// The socket of the switch (`remote.path`).
    pub switch: PathBuf,
}

/// What passed through.
#[derive(Debug, Default)]
struct Counters {
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

/// A running switch. Dropping it stops it.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Port>,
    counters: Arc<Counters>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch with `count` ports; its sockets are in `directory` and begin with `name`.
    ///
    /// # Errors
    /// The sockets cannot be made (their paths may have 107 bytes at most).
    pub fn start(directory: &Path, name: &str, count: usize) -> Result<Self, QemuError> {
        let ports: Vec<Port> = (0..count)
            .map(|index| Port {
                guest: directory.join(format!("{name}-{index}.guest")),
                switch: directory.join(format!("{name}-{index}.switch")),
            })
            .collect();
        let mut sides = Vec::new();
        for port in &ports {
            sides.push(Side::new(port).map_err(at("cannot make socket", &port.switch))?);
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| at("cannot make an event descriptor for", directory)(error.into()))?;
        let stop = Arc::new(stop);
        let counters = Arc::new(Counters::default());
        let thread = std::thread::Builder::new().name(format!("switch {name}")).spawn({
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            move || forward(sides, &stop, &counters)
        });
        let thread = thread.map_err(at("cannot start a thread for", directory))?;
        Ok(Self { ports, counters, stop, thread: Some(thread) })
    }

    /// The ports, one per guest.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Frames delivered so far, counted once per port that they were delivered to.
    pub fn forwarded(&self) -> u64 {
        self.counters.forwarded.load(Ordering::Relaxed)
    }

    /// Frames lost so far because a guest did not read or was not there.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // A write of 1 to a fresh event counter cannot block; if it failed the thread would not be joined below.
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| told) {
            // It does not panic; if it did, there is nothing left to stop.
            drop(thread.join());
        }
        for port in &self.ports {
            drop(std::fs::remove_file(&port.switch));
        }
    }
}

/// Our side of a port.
///
/// It has two sockets. A connected one is needed for sending: only then does poll tell whether the peer has room.
/// But a connected socket takes datagrams from that very peer only, and would refuse a guest that was started again.
struct Side {
    receive: UnixDatagram,
    send: UnixDatagram,
    peer: PathBuf,
    connected: bool,
    queue: VecDeque<Arc<[u8]>>,
    queued_bytes: usize,
}

impl Side {
    fn new(port: &Port) -> std::io::Result<Self> {
        let receive = UnixDatagram::bind(&port.switch)?;
        receive.set_nonblocking(true)?;
        let send = UnixDatagram::unbound()?;
        send.set_nonblocking(true)?;
        let queue = VecDeque::new();
        Ok(Self { receive, send, peer: port.guest.clone(), connected: false, queue, queued_bytes: 0 })
    }

    /// Puts a frame into the queue; false when it had to be dropped.
    fn push(&mut self, frame: &Arc<[u8]>) -> bool {
        if self.queue.len() >= MAX_QUEUE || self.queued_bytes + frame.len() > MAX_QUEUE_BYTES {
            return false;
        }
        self.queued_bytes += frame.len();
        self.queue.push_back(Arc::clone(frame));
        true
    }

    fn clear(&mut self) -> u64 {
        let lost = self.queue.len() as u64;
        self.queue.clear();
        self.queued_bytes = 0;
        lost
    }

    /// Sends what the guest has room for: how many frames went, how many were lost.
    fn flush(&mut self) -> (u64, u64) {
        let (mut sent, mut fresh) = (0, false);
        while let Some(frame) = self.queue.front() {
            if !self.connected {
                // The guest may not have started yet, or be between two starts.
                if self.send.connect(&self.peer).is_err() {
                    return (sent, self.clear());
                }
                (self.connected, fresh) = (true, true);
            }
            match self.send.send(frame) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // ENOBUFS too means no room, but only POLLOUT tells when there is; both end this turn.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (sent, 0),
                Err(_) => {
                    self.connected = false;
                    if fresh {
                        return (sent, self.clear());
                    }
                    // The guest was started again: its new socket has the same path.
                    continue;
                }
            }
            self.queued_bytes -= frame.len();
            self.queue.pop_front();
        }
        (sent, 0)
    }
}

fn forward(mut sides: Vec<Side>, stop: &OwnedFd, counters: &Counters) {
    let mut table: BTreeMap<[u8; 6], usize> = BTreeMap::new();
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let ready: Vec<PollFlags> = {
            let mut waiting = vec![PollFd::new(stop, PollFlags::IN)];
            waiting.extend(sides.iter().map(|side| PollFd::from_borrowed_fd(side.receive.as_fd(), PollFlags::IN)));
            let blocked = sides.iter().filter(|side| !side.queue.is_empty());
            waiting.extend(blocked.map(|side| PollFd::from_borrowed_fd(side.send.as_fd(), PollFlags::OUT)));
            match poll(&mut waiting, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => waiting.iter().map(PollFd::revents).collect(),
            }
        };
        if !ready[0].is_empty() {
            return;
        }
        for from in 0..sides.len() {
            if !ready[from + 1].is_empty() {
                receive(&mut sides, from, &mut table, &mut buffer, counters);
            }
        }
        for side in &mut sides {
            let (sent, lost) = side.flush();
            counters.forwarded.fetch_add(sent, Ordering::Relaxed);
            counters.dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// Takes what one guest sent and queues it for the others.
fn receive(
    sides: &mut [Side],
    from: usize,
    table: &mut BTreeMap<[u8; 6], usize>,
    buffer: &mut [u8],
    counters: &Counters,
) {
    for _ in 0..BURST {
        let frame: Arc<[u8]> = match sides[from].receive.recv(buffer) {
            // A datagram that fills the buffer was cut off: no frame is that long.
            Ok(length) if length < MIN_FRAME || length == buffer.len() => continue,
            Ok(length) => Arc::from(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // Nothing that the guest can cause on a socket that is not connected; the next turn tries again.
            Err(_) => return,
        };
        let (to, source) = addresses(&frame);
        if !is_group(source) && (table.contains_key(&source) || table.len() < MAX_ADDRESSES) {
            table.insert(source, from);
        }
        let known = if is_group(to) { None } else { table.get(&to).copied() };
        for (index, side) in sides.iter_mut().enumerate() {
            if index != from && known.is_none_or(|port| port == index) && !side.push(&frame) {
                counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Destination and source of a frame of at least [`MIN_FRAME`] bytes.
fn addresses(frame: &[u8]) -> ([u8; 6], [u8; 6]) {
    let mut both = ([0; 6], [0; 6]);
    both.0.copy_from_slice(&frame[..6]);
    both.1.copy_from_slice(&frame[6..12]);
    both
}

/// Whether the address is a broadcast or multicast one.
fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Guest(UnixDatagram, PathBuf);

    impl Guest {
        fn new(port: &Port) -> Self {
            let socket = UnixDatagram::bind(&port.guest).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            Self(socket, port.switch.clone())
        }
        fn send(&self, to: u8, from: u8, text: &[u8]) {
            let mut frame = vec![0, 0, 0, 0, 0, to, 0, 0, 0, 0, 0, from, 0x88, 0xb5];
            if to == 0xff {
                frame[..6].fill(0xff);
            }
            frame.extend_from_slice(text);
            self.0.send_to(&frame, &self.1).unwrap();
        }
        fn receive(&self) -> Vec<u8> {
            let mut buffer = vec![0; MAX_FRAME];
            let length = self.0.recv(&mut buffer).unwrap();
            buffer[14..length].to_vec()
        }
        fn silent(&self) -> bool {
            self.0.set_nonblocking(true).unwrap();
            let silent = self.0.recv(&mut [0; 64]).is_err();
            self.0.set_nonblocking(false).unwrap();
            silent
        }
    }

    #[test]
    fn it_floods_then_learns() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(directory.path(), "n", 3).unwrap();
        let guests: Vec<Guest> = switch.ports().iter().map(Guest::new).collect();
        guests[0].send(0xff, 1, b"who is there");
        assert_eq!(guests[1].receive(), b"who is there");
        assert_eq!(guests[2].receive(), b"who is there");
        assert!(guests[0].silent());
        guests[1].send(1, 2, b"me");
        assert_eq!(guests[0].receive(), b"me");
        guests[0].send(2, 1, b"good");
        assert_eq!(guests[1].receive(), b"good");
        assert!(guests[2].silent(), "a frame to a known address went to another port");
    }

    #[test]
    fn frames_that_are_none_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(directory.path(), "n", 2).unwrap();
        let guests: Vec<Guest> = switch.ports().iter().map(Guest::new).collect();
        guests[0].0.send_to(b"short", &guests[0].1).unwrap();
        guests[0].0.send_to(b"", &guests[0].1).unwrap();
        guests[0].send(2, 1, &[7; 9000]);
        assert_eq!(guests[1].receive(), [7; 9000]);
    }

    #[test]
    fn a_guest_that_does_not_read_delays_no_one_and_loses_only_the_overflow() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(directory.path(), "n", 3).unwrap();
        let guests: Vec<Guest> = switch.ports().iter().map(Guest::new).collect();
        for count in 0..2000_u32 {
            guests[0].send(0xff, 1, &count.to_be_bytes());
            assert_eq!(guests[1].receive(), count.to_be_bytes());
        }
        assert!(switch.dropped() > 0);
        for count in 0..1024_u32 {
            assert_eq!(guests[2].receive(), count.to_be_bytes(), "order or content");
        }
    }

    #[test]
    fn a_guest_that_starts_again_is_reached_again() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(directory.path(), "n", 2).unwrap();
        let first = Guest::new(&switch.ports()[0]);
        first.send(0xff, 1, b"nobody hears this");
        while switch.dropped() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let second = Guest::new(&switch.ports()[1]);
        first.send(0xff, 1, b"one");
        assert_eq!(second.receive(), b"one");
        drop(second);
        std::fs::remove_file(&switch.ports()[1].guest).unwrap();
        let second = Guest::new(&switch.ports()[1]);
        second.send(1, 2, b"back");
        assert_eq!(first.receive(), b"back");
        // This frame finds the old connection dead.
        first.send(0xff, 1, b"two");
        assert_eq!(second.receive(), b"two");
    }

    #[test]
    fn it_stops_and_leaves_no_socket() {
        let directory = tempfile::tempdir().unwrap();
        drop(Switch::start(directory.path(), "n", 2).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
