//! Header fields in, header fields out. No connection is made.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.iter().map(field).collect()
}

fn fields(headers: &HeaderMap) -> Vec<String> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    fields.sort();
    fields
}

#[test]
fn what_ends_here_and_what_only_trusted_peers_say() {
    let given = [
        ("accept", "*/*"),
        ("authorization", "secret"),
        ("connection", "close, x-private, authorization, idempotency-key"),
        ("idempotency-key", "7"),
        ("forwarded", "for=1.2.3.4"),
        ("http2-settings", "x"),
        ("keep-alive", "1"),
        ("proxy", "http://evil"),
        ("proxy-authorization", "x"),
        ("te", "trailers, deflate"),
        ("trailer", "x-sum"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-anything", "1"),
        ("x-appengine-cron", "true"),
        ("x-cloudtasks-taskname", "1"),
        ("x-goog-authenticated-user-email", "a:b@example.com"),
        ("x_forwarded_for", "1.2.3.4"),
        ("content_length", "7"),
        ("x_harmless", "1"),
        ("x-funcd-brownout", "99"),
        ("x-private", "1"),
        ("x-real-ip", "1.2.3.4"),
    ];
    let mut headers = map(&given);
    let asked = strip_request(&mut headers, Version::HTTP_11, false);
    assert!(asked.trailers && asked.upgrade.is_none());
    let kept = [
        "accept: */*",
        "authorization: secret",
        "idempotency-key: 7",
        "trailer: x-sum",
        "x_harmless: 1",
    ];
    assert_eq!(fields(&headers), kept);
    let mut headers = map(&given);
    strip_request(&mut headers, Version::HTTP_11, true);
    for kept in ["forwarded", "x-forwarded-for", "x-real-ip"] {
        assert!(headers.contains_key(kept), "{kept}");
    }
    assert!(
        !headers.contains_key(X_FUNCD_BROWNOUT),
        "not even a trusted peer knows that"
    );
    assert!(!headers.contains_key("x_forwarded_for") && !headers.contains_key("proxy"));
}

#[test]
fn an_upgrade_needs_both_fields_and_is_never_h2c() {
    let table = [
        ("upgrade", "websocket", Version::HTTP_11, true),
        ("keep-alive, Upgrade", "websocket", Version::HTTP_11, true),
        ("keep-alive", "websocket", Version::HTTP_11, false),
        ("upgrade", "websocket", Version::HTTP_10, false),
        ("upgrade, http2-settings", "h2c", Version::HTTP_11, false),
        ("upgrade", "websocket, H2C", Version::HTTP_11, false),
    ];
    for (connection, protocol, version, expected) in table {
        let mut headers = map(&[("connection", connection), ("upgrade", protocol)]);
        let asked = strip_request(&mut headers, version, false);
        assert_eq!(asked.upgrade.is_some(), expected, "{connection} {protocol}");
        assert!(headers.is_empty());
    }
}

#[test]
fn the_function_is_told_who_called() {
    let mut chance = SmallRng::seed_from_u64(1);
    let id = RequestId(HeaderValue::from_static("id-1"));
    let asked = Asked {
        upgrade: None,
        trailers: true,
    };
    let prefix = HeaderValue::from_static("/hello");
    let said = || Said {
        prefix: Some(&prefix),
        id: &id,
        asked: &asked,
    };
    let host = HeaderValue::from_static("example.com:8080");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut peer = Peer::new("2001:db8::1".parse().unwrap(), false);
    let mut headers = map(&[
        ("traceparent", parent),
        ("tracestate", "a=b"),
        ("host", "replaced"),
    ]);
    add_request(&mut headers, &mut peer, Some(host.clone()), said(), &mut chance);
    let expected = [
        "forwarded: for=\"[2001:db8::1]\";host=\"example.com:8080\";proto=http",
        "host: example.com:8080",
        "te: trailers",
        &format!("traceparent: {parent}"),
        "tracestate: a=b",
        "x-forwarded-for: 2001:db8::1",
        "x-forwarded-host: example.com:8080",
        "x-forwarded-prefix: /hello",
        "x-forwarded-proto: http",
        "x-request-id: id-1",
    ];
    assert_eq!(fields(&headers), expected);

    let mut peer = Peer::new("10.0.0.1".parse().unwrap(), true);
    let given = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outer"),
        ("x-forwarded-prefix", "/outer"),
        ("traceparent", "rubbish"),
        ("tracestate", "a=b"),
    ];
    let mut headers = map(&given);
    add_request(&mut headers, &mut peer, Some(host), said(), &mut chance);
    let said = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(said("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 10.0.0.1"]);
    assert_eq!(
        said("forwarded"),
        ["for=1.1.1.1, for=10.0.0.1;host=\"example.com:8080\";proto=http"]
    );
    assert_eq!(said("x-forwarded-proto"), ["https"]);
    assert_eq!(said("x-forwarded-host"), ["outer"]);
    assert_eq!(said("x-forwarded-prefix"), ["/outer/hello"]);
    assert!(said("tracestate").is_empty());
    assert!(is_traceparent(said("traceparent")[0].as_bytes()));
}

#[test]
fn targets() {
    for (target, strip, expected) in [
        ("/hello", 6, "/"),
        ("/hello?a=/b", 6, "/?a=/b"),
        ("/hello/a%2f..//b?c", 6, "/a%2f..//b?c"),
        ("/keep/me", 0, "/keep/me"),
        ("http://h/hello/x", 6, "/x"),
        ("http://h", 0, "/"),
    ] {
        assert_eq!(
            rewrite_target(&target.parse().unwrap(), strip).to_string(),
            expected,
            "{target}"
        );
    }
}

#[test]
fn hosts() {
    for (host, bare) in [
        ("a", "a"),
        ("a:1", "a"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
    ] {
        assert!(is_host(host.as_bytes()));
        assert_eq!(without_port(host), bare);
    }
    for bad in ["", "a/b", "a b", "user@a", "a\"b", "a\\b", "é"] {
        assert!(!is_host(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_response_loses_what_ends_here() {
    let given = [
        ("connection", "x-private"),
        ("content-length", "5"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("x-private", "1"),
        ("x-own", "1"),
    ];
    let mut headers = map(&given);
    strip_response(&mut headers, false);
    assert_eq!(fields(&headers), ["x-own: 1"]);
    let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    strip_response(&mut headers, true);
    assert_eq!(fields(&headers), ["connection: upgrade", "upgrade: websocket"]);
}

/// Found by the fuzz target `response`: hyper does not look at the length of a response that has no body by its status.
#[test]
fn a_response_says_one_good_length_or_none() {
    let table: [(&[&str], &[&str]); 7] = [
        (&["3"], &["content-length: 3"]),
        (&["003"], &["content-length: 003"]),
        (&["3", "3"], &["content-length: 3"]),
        (&["3", "4"], &[]),
        (&["1pkrdd/1.1 200 OK"], &[]),
        (&["+3"], &[]),
        (&["3, 3"], &[]),
    ];
    for (lengths, expected) in table {
        let given: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
        let mut headers = map(&given);
        strip_response(&mut headers, false);
        assert_eq!(fields(&headers), expected, "{lengths:?}");
    }
    let mut headers = map(&[
        ("connection", "upgrade"),
        ("upgrade", "x"),
        ("content-length", "3"),
    ]);
    strip_response(&mut headers, true);
    assert_eq!(fields(&headers), ["connection: upgrade", "upgrade: x"]);
}
