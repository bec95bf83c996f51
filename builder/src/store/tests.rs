use std::time::Duration;

use super::http::{Client, Retries};
use super::test_server::{Asked, Reply, Server};
use super::*;
use crate::progress::Silent;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let retries = Retries {
        attempts: 3,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(4),
        patience: Duration::from_millis(50),
    };
    let store = Store::open(directory.path()).unwrap().with_client(Client::with(retries, Duration::from_secs(5)));
    (directory, store)
}

fn content() -> Vec<u8> {
    (0..300_000u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

fn fetch(content: &[u8], urls: Vec<String>) -> Fetch {
    Fetch { sha256: hex(&Sha256::digest(content)), size: content.len() as u64, urls, name: "thing 1".into() }
}

/// Fetches the content from a server that behaves as told.
fn from(
    reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> (Store, Result<(), StoreError>, Vec<Asked>, tempfile::TempDir) {
    let (directory, store) = store();
    let server = Server::start(reply);
    let result = store.ensure(&[fetch(&content(), vec![server.url("/a")])], 2, false, &Silent);
    (store, result, server.asked(), directory)
}

fn message(result: Result<(), StoreError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_file_is_fetched_once_and_found_afterwards() {
    let (store, result, asked, _dir) = from(|a| Reply::content(a, &content()));
    result.unwrap();
    assert_eq!(asked.len(), 1);
    let wanted = fetch(&content(), vec![]);
    assert_eq!(std::fs::read(store.path(&wanted.sha256)).unwrap(), content());
    store.ensure(std::slice::from_ref(&wanted), 2, true, &Silent).unwrap();
    store.verify(&wanted.sha256).unwrap();
    assert_eq!(std::fs::read_dir(store.root().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_broken_transfer_is_resumed_where_it_stopped() {
    let (_, result, asked, _dir) = from(|a| match a.nth {
        0 => Reply::content(a, &content()).cut_at(100_000),
        1 => Reply::reset(),
        _ => Reply::content(a, &content()),
    });
    result.unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked[1].from.is_some_and(|f| f > 0 && f <= 100_000), "{asked:?}");
    assert_eq!(asked[1].from, asked[2].from);
}

#[test]
fn a_partial_file_of_an_earlier_run_is_taken_up_even_if_it_is_wrong() {
    for (left, ranges_work) in
        [(content()[..50_000].to_vec(), true), (vec![1; 50_000], true), (content()[..50_000].to_vec(), false)]
    {
        let (_dir, store) = store();
        let server = Server::start(move |a| {
            let whole = Asked { from: None, ..a.clone() };
            Reply::content(if ranges_work { a } else { &whole }, &content())
        });
        let wanted = fetch(&content(), vec![server.url("/a")]);
        std::fs::write(store.root().join("partial").join(&wanted.sha256), left).unwrap();
        store.ensure(std::slice::from_ref(&wanted), 1, false, &Silent).unwrap();
        store.verify(&wanted.sha256).unwrap();
        assert_eq!(server.asked()[0].from, Some(50_000));
    }
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let (_, result, asked, _dir) =
        from(|a| if a.nth < 2 { Reply::status(503).header("Retry-After", "0") } else { Reply::content(a, &content()) });
    result.unwrap();
    assert_eq!(asked.len(), 3);
    let (_, result, asked, _dir) = from(|_| Reply::status(500));
    assert!(message(result).contains("500 Internal Server Error (3 attempts)"));
    assert_eq!(asked.len(), 3);
    let (_, result, asked, _dir) = from(|_| Reply::status(404));
    assert!(message(result).contains("404 Not Found"));
    assert_eq!(asked.len(), 1);
}

#[test]
fn wrong_content_never_gets_a_name() {
    let mut wrong = content();
    wrong[1000] ^= 1;
    let (store, result, asked, _dir) = from(move |a| Reply::content(a, &wrong));
    assert!(message(result).contains("its SHA-256 is"));
    assert_eq!(asked.len(), 1);
    assert!(!store.has(&fetch(&content(), vec![]).sha256, None));
    for size in [299_999, 300_001] {
        let (store, result, _, _dir) = from(move |_| Reply { body: vec![3; size], ..Reply::status(200) });
        assert!(message(result).contains("instead of 300000"));
        assert!(!store.has(&fetch(&content(), vec![]).sha256, None));
    }
}

#[test]
fn a_body_of_unknown_length_is_taken_but_not_beyond_the_size_expected() {
    let (_, result, _, _dir) = from(|_| Reply { body: content(), chunked: true, ..Reply::status(200) });
    result.unwrap();
    let (store, result, _, _dir) = from(|_| Reply { body: content().repeat(9), chunked: true, ..Reply::status(200) });
    assert!(message(result).contains("larger than the 300000 bytes expected"));
    let left = std::fs::read_dir(store.root().join("partial")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert_eq!(left.max(), Some(0));
}

#[test]
fn the_next_url_is_tried_and_redirects_have_an_end() {
    let (_dir, store) = store();
    let server = Server::start(|a| match a.path.as_str() {
        "/loop" => Reply::status(302).header("Location", "/loop"),
        "/moved" => Reply::status(301).header("Location", "/good"),
        "/good" => Reply::content(a, &content()),
        _ => Reply::status(404),
    });
    let wanted = fetch(&content(), vec![server.url("/loop"), server.url("/none")]);
    let text = message(store.ensure(&[wanted], 1, false, &Silent));
    assert!(text.contains("redirects more than 5 times") && text.contains("404"), "{text}");
    let wanted = fetch(&content(), vec![server.url("/none"), server.url("/moved")]);
    store.ensure(&[wanted], 1, false, &Silent).unwrap();
}

#[test]
fn another_host_may_answer_but_not_with_something_else() {
    let mut wrong = content();
    wrong[5] ^= 1;
    let other = Server::start(move |a| match a.path.as_str() {
        "/right" => Reply::content(a, &content()),
        _ => Reply::content(a, &wrong),
    });
    // By another name it is another host, as for a mirror that hands over to its nearest neighbour.
    let there = other.url("").replace("127.0.0.1", "localhost");
    let server = Server::start(move |a| Reply::status(302).header("Location", &format!("{there}{}", a.path)));
    let (_dir, store) = store();
    let wanted = |path: &str| [fetch(&content(), vec![server.url(path)])];
    let text = message(store.ensure(&wanted("/wrong"), 1, false, &Silent));
    assert!(text.contains("its SHA-256 is") && text.contains("the mirror is out of step"), "{text}");
    store.ensure(&wanted("/right"), 1, false, &Silent).unwrap();
    assert_eq!(other.asked().len(), 2);
}

#[test]
fn many_threads_and_two_stores_in_one_place_fetch_each_file_once() {
    let files: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 40_000 + usize::from(n)]).collect();
    let copies = files.clone();
    let server = Server::start(move |a| {
        std::thread::sleep(Duration::from_millis(10));
        let n: usize = a.path.trim_start_matches('/').parse().unwrap();
        Reply::content(a, &copies[n])
    });
    let (_dir, store) = store();
    let wanted: Vec<Fetch> =
        files.iter().enumerate().map(|(n, c)| fetch(c, vec![server.url(&format!("/{n}"))])).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (root, wanted) = (store.root(), &wanted);
            scope.spawn(move || Store::open(root).unwrap().ensure(wanted, 4, false, &Silent).unwrap());
        }
    });
    assert_eq!(server.asked().len(), 20);
    for file in &wanted {
        store.verify(&file.sha256).unwrap();
    }
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    let (_dir, store) = store();
    let absent = fetch(&content(), vec!["http://127.0.0.1:9/x".into()]);
    let text = message(store.ensure(std::slice::from_ref(&absent), 1, true, &Silent));
    assert_eq!(text, "thing 1 is not in the store, and --offline forbids fetching");
    let text = message(store.ensure(&[Fetch { urls: vec![], ..absent.clone() }], 1, false, &Silent));
    assert_eq!(text, "cannot fetch thing 1: no URL is known for it");
    let text = message(store.ensure(&[Fetch { sha256: "../../x".into(), ..absent.clone() }], 1, false, &Silent));
    assert!(text.contains("is no SHA-256"));
    let text = message(store.ensure(&[Fetch { size: 1 << 60, ..absent }], 1, false, &Silent));
    assert!(text.contains("is full: at least") && text.contains("MiB free"), "{text}");
}

#[test]
fn a_disk_that_fills_up_is_named_and_nothing_is_lost() {
    let (_dir, store) = store();
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let error = store.write_error(full, Path::new("x"), 3 << 20).to_string();
    assert!(error.contains("at least 3 MiB more needed"), "{error}");
}

#[test]
fn damage_is_found_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, store) = store();
    let sha256 = store.put(&mut &b"content"[..]).unwrap();
    let path = store.path(&sha256);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&path, b"another").unwrap();
    assert!(matches!(store.verify(&sha256), Err(StoreError::Damaged { .. })));
    assert!(!path.exists());
}
