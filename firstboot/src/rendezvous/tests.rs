use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::rendezvous::client::exchange;
use crate::rendezvous::{Grant, NodeIdentity, request};

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn secrets() -> Secrets {
    Secrets { all: Secret::new(SECRET), managers: None }
}

struct Fixed(Option<&'static str>);

impl TokenSource for Fixed {
    fn token(&self, _: &Asker) -> Result<Secret, TokenUnavailable> {
        let unavailable = || TokenUnavailable { refusal: Refusal::NotReady, reason: "not yet".into() };
        let token = self.0.ok_or_else(unavailable)?;
        Ok(Secret::new(token))
    }
}

fn server(source: &'static Fixed) -> Server<'static> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::bind(any, secrets(), "m1", source, &|| 1_790_000_000, &|_| {}).unwrap()
}

fn identity() -> NodeIdentity {
    NodeIdentity { hostname: "w1".into(), id: "0123456789abcdef".into(), seat: Seat::Worker }
}

/// One exchange over a pair of sockets: what the node got, what the manager thinks.
fn pair(source: &'static Fixed, secret: &str) -> (Result<Grant, RendezvousError>, Result<String, RendezvousError>) {
    let (mut node, mut manager) = UnixStream::pair().unwrap();
    let secret = Secret::new(secret);
    let node = std::thread::spawn(move || {
        let nonce = fresh_nonce().unwrap();
        exchange(&mut node, nonce, &secret, &identity(), 5)
    });
    let manager = server(source).exchange(&mut manager, fresh_nonce().unwrap(), PEER);
    (node.join().unwrap(), manager)
}

/// Speaks to a server with raw messages and records what it says.
fn raw(server: &Server<'_>, speak: impl FnOnce(&mut UnixStream) + Send + 'static) -> Result<String, RendezvousError> {
    let (mut node, mut manager) = UnixStream::pair().unwrap();
    let node = std::thread::spawn(move || speak(&mut node));
    let result = server.exchange(&mut manager, fresh_nonce().unwrap(), PEER);
    drop(manager);
    node.join().unwrap();
    result
}

#[test]
fn the_same_secret_gives_the_token() {
    let (grant, who) = pair(&Fixed(Some("SWMTKN-1-x")), SECRET);
    let grant = grant.unwrap();
    assert_eq!(grant.token.expose(), "SWMTKN-1-x");
    assert_eq!(grant.time, 1_790_000_000);
    assert_eq!(who.unwrap(), "w1 (0123456789abcdef)");
}

#[test]
fn another_secret_ends_it_on_the_nodes_side_first() {
    let (grant, who) = pair(&Fixed(Some("t")), "another secret");
    assert!(matches!(grant, Err(RendezvousError::NotAManager)), "{grant:?}");
    assert!(matches!(who, Err(RendezvousError::Unreachable(_))), "{who:?}");
}

#[test]
fn without_a_token_the_manager_says_so_only_to_a_proven_node() {
    let (grant, _) = pair(&Fixed(None), SECRET);
    assert!(matches!(grant, Err(RendezvousError::Refused(Refusal::NotReady))), "{grant:?}");
}

#[test]
fn a_node_that_ignores_the_managers_proof_still_needs_the_secret() {
    let server = server(&Fixed(Some("t")));
    let result = raw(&server, |stream| {
        let hello = Hello { version: VERSION, nonce: Bytes32([1; 32]), identity: identity(), time: 0 };
        send(stream, &hello).unwrap();
        let _: FromManager = receive(stream).unwrap();
        send(stream, &Answer { proof: Bytes32([0; 32]) }).unwrap();
        assert!(matches!(receive(stream), Ok(FromManager::Refused(Refusal::WrongSecret))));
    });
    assert!(matches!(result, Err(RendezvousError::Refused(Refusal::WrongSecret))));
}

#[test]
fn reflecting_the_managers_proof_fails() {
    let server = server(&Fixed(Some("t")));
    let result = raw(&server, |stream| {
        let hello = Hello { version: VERSION, nonce: Bytes32([1; 32]), identity: identity(), time: 0 };
        send(stream, &hello).unwrap();
        let FromManager::Challenge { proof, .. } = receive(stream).unwrap() else { panic!() };
        send(stream, &Answer { proof }).unwrap();
    });
    assert!(matches!(result, Err(RendezvousError::Refused(Refusal::WrongSecret))), "{result:?}");
    // And towards the node: a false manager that only mirrors the node's nonce.
    let (mut node, mut mirror) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let hello: Hello = receive(&mut mirror).unwrap();
        let proof = Bytes32([0; 32]);
        let challenge = FromManager::Challenge { nonce: hello.nonce, name: "m".into(), time: 0, proof };
        send(&mut mirror, &challenge).unwrap();
    });
    let result = exchange(&mut node, Bytes32([9; 32]), &Secret::new(SECRET), &identity(), 0);
    thread.join().unwrap();
    assert!(matches!(result, Err(RendezvousError::NotAManager)));
}

#[test]
fn a_recorded_exchange_cannot_be_replayed_to_either_side() {
    // Record a good exchange: what the node sent, and what the manager sent.
    let (mut node, mut between_node) = UnixStream::pair().unwrap();
    let (mut between_manager, mut manager) = UnixStream::pair().unwrap();
    let node_thread =
        std::thread::spawn(move || exchange(&mut node, Bytes32([3; 32]), &Secret::new(SECRET), &identity(), 5));
    let relay = std::thread::spawn(move || {
        let hello: Hello = receive(&mut between_node).unwrap();
        send(&mut between_manager, &hello).unwrap();
        let challenge: FromManager = receive(&mut between_manager).unwrap();
        send(&mut between_node, &challenge).unwrap();
        let answer: Answer = receive(&mut between_node).unwrap();
        send(&mut between_manager, &answer).unwrap();
        let grant: FromManager = receive(&mut between_manager).unwrap();
        send(&mut between_node, &grant).unwrap();
        (hello, challenge, answer, grant)
    });
    let real = server(&Fixed(Some("t")));
    real.exchange(&mut manager, fresh_nonce().unwrap(), PEER).unwrap();
    node_thread.join().unwrap().unwrap();
    let (hello, challenge, answer, grant) = relay.join().unwrap();

    let result = raw(&real, move |stream| {
        send(stream, &hello).unwrap();
        let _: FromManager = receive(stream).unwrap();
        send(stream, &answer).unwrap();
        assert!(matches!(receive(stream), Ok(FromManager::Refused(Refusal::WrongSecret))));
    });
    assert!(matches!(result, Err(RendezvousError::Refused(Refusal::WrongSecret))));

    let (mut node, mut false_manager) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let _: Hello = receive(&mut false_manager).unwrap();
        send(&mut false_manager, &challenge).unwrap();
        let _ = send(&mut false_manager, &grant);
    });
    let result = exchange(&mut node, Bytes32([4; 32]), &Secret::new(SECRET), &identity(), 5);
    thread.join().unwrap();
    assert!(matches!(result, Err(RendezvousError::NotAManager)), "a fresh nonce makes the old proof wrong");
}

#[test]
fn cut_off_oversized_and_foreign_messages_end_the_exchange() {
    let server = server(&Fixed(Some("t")));
    for bytes in [&b""[..], b"\x00", b"\x00\x05{", b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x02{}", b"\x00\x00"] {
        let result = raw(&server, move |stream| stream.write_all(bytes).unwrap());
        assert!(
            matches!(result, Err(RendezvousError::Unreachable(_) | RendezvousError::Protocol(_))),
            "{bytes:?}: {result:?}"
        );
    }
    let result = raw(&server, |stream| {
        let hello = Hello { version: 9, nonce: Bytes32([1; 32]), identity: identity(), time: 0 };
        send(stream, &hello).unwrap();
    });
    assert!(matches!(result, Err(RendezvousError::Refused(Refusal::Version))));
    let result = raw(&server, |stream| {
        let identity = NodeIdentity { hostname: "x".repeat(65), id: String::new(), seat: Seat::Worker };
        send(stream, &Hello { version: VERSION, nonce: Bytes32([1; 32]), identity, time: 0 }).unwrap();
    });
    assert!(matches!(result, Err(RendezvousError::Protocol(_))));
}

#[test]
fn a_changed_byte_anywhere_gives_no_token() {
    // A relay that flips one bit of the challenge's time or name, of the proof, or of the sealed grant.
    for change in 0..4 {
        let (mut node, mut between_node) = UnixStream::pair().unwrap();
        let (mut between_manager, mut manager) = UnixStream::pair().unwrap();
        let relay = std::thread::spawn(move || -> Option<()> {
            let hello: Hello = receive(&mut between_node).ok()?;
            send(&mut between_manager, &hello).ok()?;
            let mut challenge: FromManager = receive(&mut between_manager).ok()?;
            if let FromManager::Challenge { time, name, proof, .. } = &mut challenge {
                match change {
                    0 => *time += 1,
                    1 => name.push('x'),
                    2 => proof.0[31] ^= 1,
                    _ => {}
                }
            }
            send(&mut between_node, &challenge).ok()?;
            let answer: Answer = receive(&mut between_node).ok()?;
            send(&mut between_manager, &answer).ok()?;
            let mut grant: FromManager = receive(&mut between_manager).ok()?;
            if let FromManager::Grant { sealed } = &mut grant {
                let flipped = if sealed.starts_with('0') { "1" } else { "0" };
                sealed.replace_range(..1, flipped);
            }
            send(&mut between_node, &grant).ok()
        });
        let manager = std::thread::spawn(move || {
            server(&Fixed(Some("t"))).exchange(&mut manager, Bytes32([8; 32]), PEER).is_ok()
        });
        let result = exchange(&mut node, Bytes32([3; 32]), &Secret::new(SECRET), &identity(), 5);
        drop(node);
        relay.join().unwrap();
        manager.join().unwrap();
        assert!(result.is_err(), "change {change}");
    }
}

#[test]
fn over_tcp_a_fleet_is_served_and_a_flood_is_not() {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    struct Counting;
    impl TokenSource for Counting {
        fn token(&self, _: &Asker) -> Result<Secret, TokenUnavailable> {
            SERVED.fetch_add(1, Ordering::SeqCst);
            Ok(Secret::new("t"))
        }
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(any, secrets(), "m1", &Counting, &|| 7, &|_| {}).unwrap();
    let address = server.address().unwrap();
    std::thread::spawn(move || server.serve());
    let secret = Secret::new(SECRET);
    let mut given = 0;
    for _ in 0..4 {
        // The server may not have counted out the connection before.
        let answer = request(address, &secret, &identity(), 0);
        assert!(matches!(answer, Ok(_) | Err(RendezvousError::Busy(_))), "{answer:?}");
        given += usize::from(answer.is_ok());
    }
    // Connections that say nothing do not keep others out while there are speakers, and the flood is cut.
    let silent = TcpStream::connect(address).unwrap();
    // A peer has two connections at most, and the server may not have counted out the one before: a node asks again.
    let granted = (0..200).any(|_| {
        let granted = request(address, &secret, &identity(), 0).is_ok();
        if !granted {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        granted
    });
    assert!(granted, "a silent connection keeps its peer out");
    let flood = (0..100).filter(|_| request(address, &secret, &identity(), 0).is_ok()).count();
    assert!(flood + given <= 9, "{flood} of a flood from one peer got through");
    assert_eq!(SERVED.load(Ordering::SeqCst), given + 1 + flood);
    drop(silent);
}

#[test]
fn a_managers_seat_has_a_secret_of_its_own() {
    const MANAGERS: &str = "Zk9vT2mQxW7sYb4Hc1LpRr8uDa6eJd3fG5jNt0oMiB2=";
    let source: &'static Fixed = &Fixed(Some("t"));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let both = Secrets { managers: Some(Secret::new(MANAGERS)), ..secrets() };
    let server = Server::bind(any, both, "m1", source, &|| 7, &|_| {}).unwrap();
    for (secret, seat, good) in [
        (SECRET, Seat::Worker, true),
        (SECRET, Seat::Manager, false),
        (MANAGERS, Seat::Manager, true),
        (MANAGERS, Seat::Worker, false),
    ] {
        let (mut node, mut manager) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let identity = NodeIdentity { seat, ..identity() };
            exchange(&mut node, Bytes32([3; 32]), &Secret::new(secret), &identity, 5).is_ok()
        });
        assert_eq!(server.exchange(&mut manager, Bytes32([8; 32]), PEER).is_ok(), good);
        drop(manager);
        assert_eq!(thread.join().unwrap(), good);
    }
}

#[test]
fn a_busy_manager_says_when_to_come_back() {
    let server = server(&Fixed(Some("t")));
    let address = server.address().unwrap();
    std::thread::spawn(move || server.serve());
    let secret = Secret::new(SECRET);
    // One peer asks again and again: its own turn comes every two seconds, and it is told so.
    let answers: Vec<_> = (0..40).map(|_| request(address, &secret, &identity(), 0)).collect();
    let told = answers.iter().filter_map(|answer| match answer {
        Err(RendezvousError::Busy(after)) => Some(*after),
        _ => None,
    });
    let told: Vec<Duration> = told.collect();
    assert!(!told.is_empty() && told.iter().all(|after| (1..=120).contains(&after.as_secs())), "{told:?}");
}

#[test]
fn a_grant_that_took_its_time_is_still_sent_and_nothing_more_is_read() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut node = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut over = Timed::new(&stream, Duration::ZERO);
    send(&mut over, &Answer { proof: Bytes32([7; 32]) }).unwrap();
    assert!(receive::<Answer>(&mut node).is_ok());
    send(&mut node, &Answer { proof: Bytes32([7; 32]) }).unwrap();
    assert!(matches!(receive::<Answer>(&mut over), Err(RendezvousError::Unreachable(_))));
}
