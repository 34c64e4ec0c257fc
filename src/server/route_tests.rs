use super::*;
use proptest::prelude::*;

fn action(method: &str, target: &str) -> Action {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    match parse(method, path, query) {
        Ok(Route::Do(action)) => action,
        other => panic!("{method} {target}: {other:?}"),
    }
}

fn kind(method: &str, target: &str) -> Kind {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    parse(method, path, query).unwrap_err().error.kind()
}

fn put(key: &[u8], value: &[u8]) -> Action {
    Action::Put { key: key.to_vec(), style: Style::Classic, value: Some(value.to_vec()), ttl: None }
}

fn get(key: &[u8], style: Style) -> Action {
    Action::Get { key: key.to_vec(), style, stale: false }
}

#[test]
fn classic_paths() {
    assert_eq!(action("GET", "/put/A/happy"), put(b"A", b"happy"));
    assert_eq!(action("POST", "/put/a%2Fb/x/y/"), put(b"a/b", b"x/y/"));
    assert_eq!(action("PUT", "/put/A/"), put(b"A", b""));
    assert_eq!(action("GET", "/put/A/%00%ff%25"), put(b"A", b"\x00\xff%"));
    assert_eq!(action("GET", "/get/A/"), get(b"A", Style::Classic));
    assert_eq!(action("HEAD", "/get/%F0%9F%90%88"), get("🐈".as_bytes(), Style::Classic));
    assert_eq!(action("DELETE", "/delete/A"), Action::Delete { key: b"A".to_vec(), style: Style::Classic });
    assert_eq!(
        action("GET", "/put_file/B/cat.jpg"),
        Action::PutFile { key: b"B".to_vec(), path: b"cat.jpg".to_vec() }
    );
    assert_eq!(action("GET", "/clear/0/"), Action::Clear(0));
    assert_eq!(action("GET", "/close"), Action::Close(None));
    assert_eq!(action("GET", "/close/"), Action::Close(None));
    assert_eq!(action("POST", "/close/3"), Action::Close(Some(3)));
    assert_eq!(action("GET", "/master/"), Action::Master);
    assert_eq!(action("GET", "/worker"), Action::Worker(None));
    assert_eq!(action("GET", "/worker/7"), Action::Worker(Some(7)));
    assert_eq!(action("POST", "/verify/7"), Action::Verify(7));
    assert_eq!(action("GET", "/verify/7/"), Action::Verification(7));
    assert!(!action("GET", "/verify/7").changes() && action("POST", "/verify/7").changes());
    assert_eq!(kind("GET", "/verify"), Kind::BadRequest);
    assert_eq!(kind("DELETE", "/verify/7"), Kind::MethodNotAllowed);
}

#[test]
fn the_resource() {
    assert_eq!(action("GET", "/kv/a/b%2Fc/"), get(b"a/b/c/", Style::Resource));
    assert_eq!(
        action("GET", "/kv/a?consistency=stale"),
        Action::Get { key: b"a".to_vec(), style: Style::Resource, stale: true }
    );
    assert_eq!(
        action("PUT", "/kv/a?ttl=5m"),
        Action::Put { key: b"a".to_vec(), style: Style::Resource, value: None, ttl: Some(300_000) }
    );
    assert_eq!(
        action("GET", "/kv?prefix=a%20&after=a%20b&limit=5&values=true"),
        Action::List {
            query: ListQuery { prefix: b"a ".to_vec(), after: Some(b"a b".to_vec()), limit: 5, values: true },
            stale: false
        }
    );
    assert_eq!(
        action("GET", "/kv?consistency=stale&limit=1"),
        Action::List {
            query: ListQuery { prefix: Vec::new(), after: None, limit: 1, values: false },
            stale: true
        }
    );
    assert_eq!(
        action("GET", "/internal/list?group=3&after=%00&consistency=stale"),
        Action::ListGroup {
            group: 3,
            query: ListQuery { prefix: Vec::new(), after: Some(vec![0]), limit: 1000, values: false },
            stale: true
        }
    );
    assert_eq!(action("POST", "/batch"), Action::Batch);
    assert_eq!(action("POST", "/internal/register"), Action::Register);
    assert_eq!(action("GET", "/internal/facts"), Action::Facts);
    assert_eq!(action("POST", "/internal/recovered"), Action::Recovered);
}

#[test]
fn what_is_wrong_has_its_own_word() {
    let table = [
        ("GET", "/", Kind::NotFound),
        ("GET", "/nothing", Kind::NotFound),
        ("GET", "/master/x", Kind::NotFound),
        ("GET", "/internal/other", Kind::NotFound),
        ("GET", "/internal/list", Kind::BadRequest),
        ("GET", "/internal/list?group=-1", Kind::BadRequest),
        ("GET", "/kv?group=1", Kind::BadRequest),
        ("GET", "/get/%zz", Kind::BadRequest),
        ("GET", "/get/a%4", Kind::BadRequest),
        ("GET", "/get/a/b", Kind::BadRequest),
        ("GET", "/get/", Kind::KeyEmpty),
        ("GET", "/kv/", Kind::KeyEmpty),
        ("GET", "/put//x", Kind::KeyEmpty),
        ("GET", "/put/A", Kind::BadRequest),
        ("GET", "/put/A/b?", Kind::BadRequest),
        ("GET", "/put/A/b?c=d", Kind::BadRequest),
        ("GET", "/get/A?x=1", Kind::BadRequest),
        ("GET", "/kv?limit=0", Kind::BadRequest),
        ("GET", "/kv?limit=10001", Kind::BadRequest),
        ("GET", "/kv?values=yes", Kind::BadRequest),
        ("PUT", "/kv/a?ttl=0", Kind::BadRequest),
        ("GET", "/clear/x", Kind::BadRequest),
        ("GET", "/clear", Kind::BadRequest),
        ("GET", "/close/-1", Kind::BadRequest),
        ("GET", "/worker/99999999999", Kind::BadRequest),
        ("HEAD", "/put/A/x", Kind::MethodNotAllowed),
        ("HEAD", "/delete/A", Kind::MethodNotAllowed),
        ("HEAD", "/master", Kind::MethodNotAllowed),
        ("POST", "/get/A", Kind::MethodNotAllowed),
        ("GET", "/batch", Kind::MethodNotAllowed),
        ("BREW", "/kv/a", Kind::MethodNotAllowed),
    ];
    for (method, target, expected) in table {
        assert_eq!(kind(method, target), expected, "{method} {target}");
    }
    assert_eq!(action("GET", &format!("/kv/{}", "k".repeat(4096))), get(&[b'k'; 4096], Style::Resource));
    assert_eq!(kind("GET", &format!("/kv/{}", "k".repeat(4097))), Kind::KeyTooLong);
    assert_eq!(parse("BREW", "/batch", None).unwrap_err().allow, Some("POST, OPTIONS"));
}

#[test]
fn options_and_head_change_nothing() {
    assert_eq!(parse("OPTIONS", "*", None).unwrap(), Route::Options("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
    for path in [
        "/put/A/x",
        "/put_file/A/x",
        "/delete/A",
        "/clear/0",
        "/close/0",
        "/close",
        "/master",
        "/worker/0",
        "/batch",
    ] {
        assert!(matches!(parse("OPTIONS", path, None), Ok(Route::Options(_))), "{path}");
        assert!(parse("HEAD", path, None).is_err(), "{path}");
        if path != "/batch" {
            assert!(action("GET", path).changes(), "{path}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic(method in "[A-Z]{0,8}", path: String, query: Option<String>) {
        let _ = parse(&method, &path, query.as_deref());
    }

    #[test]
    fn plausible_requests_never_panic(
        method in "GET|PUT|POST|DELETE|HEAD|OPTIONS",
        path in "/(put|get|kv|delete|clear|put_file|close|worker|internal)?/[a%0-9F/]{0,8}",
        query in proptest::option::of("(ttl|limit|prefix|consistency)?=?[0-9a-z%]{0,6}"),
    ) {
        let _ = parse(&method, &path, query.as_deref());
    }

    #[test]
    fn any_key_can_be_asked_for(key in proptest::collection::vec(any::<u8>(), 1..60)) {
        prop_assert_eq!(action("GET", &format!("/get/{}", percent::encode(&key))), get(&key, Style::Classic));
        prop_assert_eq!(action("GET", &format!("/kv/{}", percent::encode(&key))), get(&key, Style::Resource));
    }
}
