use std::path::Path;

use super::super::super::binding::{Binding, Host, Target};
use super::super::super::manifest::{Defaults, Manifest};
use crate::name::FunctionName;

fn read(text: &str) -> Result<Vec<Binding>, String> {
    let name = FunctionName::parse("hello").unwrap();
    let manifest = Manifest::read(
        &name,
        Path::new("function.toml"),
        Some(text),
        &Defaults::default(),
    );
    manifest
        .map(|manifest| manifest.bindings)
        .map_err(|error| error.to_string())
}

fn variables(text: &str) -> Vec<String> {
    let bindings = read(text).unwrap();
    let all = bindings.iter().flat_map(Binding::variables);
    all.map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn each_binding_is_found_by_its_variable_in_the_order_of_names() {
    let text = r#"
        [bindings.user-db]
        tcp = "10.0.0.5:5432"
        [bindings.cache]
        tcp = "tls://cache.internal:6379"
        port = 6379
        timeout = "500ms"
        concurrency = 3
        [bindings.apple]
        tcp = "[2001:db8::1]:1"
    "#;
    assert_eq!(
        variables(text),
        [
            "APPLE_ADDR=127.0.0.1:19001",
            "CACHE_ADDR=127.0.0.1:6379",
            "USER_DB_ADDR=127.0.0.1:19002"
        ]
    );
    let bindings = read(text).unwrap();
    let cache = &bindings[1];
    assert_eq!((cache.timeout.as_millis(), cache.concurrency), (500, 3));
    assert_eq!(cache.to.to_string(), "tls://cache.internal:6379");
    assert_eq!(bindings[2].to.to_string(), "tcp://10.0.0.5:5432");
    assert_eq!((bindings[2].timeout.as_secs(), bindings[2].concurrency), (5, 64));
    let Target::Tcp(endpoint) = &bindings[0].to else {
        panic!("{:?}", bindings[0])
    };
    assert_eq!(endpoint.host, Host::Address("2001:db8::1".parse().unwrap()));
}

#[test]
fn ports_of_others_are_left_alone() {
    let port = "contract = \"port\"\nport = 19001\n[bindings.a]\ntcp = \"a:1\"";
    assert_eq!(variables(port), ["A_ADDR=127.0.0.1:19002"]);
    for (contract, port, taken) in [
        ("http", 8080, false),
        ("auto", 8080, true),
        ("auto", 9001, true),
        ("lambda", 9001, true),
        ("lambda", 8080, false),
    ] {
        let text = format!("contract = \"{contract}\"\n[bindings.a]\ntcp = \"a:1\"\nport = {port}");
        assert_eq!(read(&text).is_err(), taken, "{text}");
    }
    let twice = read("[bindings.a]\ntcp = \"a:1\"\nport = 5\n[bindings.b]\ntcp = \"b:1\"\nport = 5");
    assert!(
        twice
            .unwrap_err()
            .starts_with("function.toml:6:8: port 5 is another's")
    );
}

#[test]
fn what_is_no_binding_is_refused_where_it_stands() {
    for (text, expected) in [
        (
            "[bindings.DB]\ntcp = \"a:1\"",
            ":1:11: \"DB\" is not the name of a binding",
        ),
        ("[bindings.1a]\ntcp = \"a:1\"", ":1:11: \"1a\" is not the name"),
        ("[bindings.ld-x]\ntcp = \"a:1\"", "LD_X_ADDR is refused"),
        ("[bindings.funcd]\ntcp = \"a:1\"", "FUNCD_ADDR is reserved"),
        // Who calls a `cgi` function sets these.
        (
            "[bindings.http]\ntcp = \"a:1\"",
            "HTTP_ADDR is one that requests set",
        ),
        (
            "[bindings.remote]\ntcp = \"a:1\"",
            "REMOTE_ADDR is one that requests set",
        ),
        (
            "[bindings.request]\ntcp = \"a:1\"",
            "REQUEST_URL is one that requests set",
        ),
        (
            "[bindings.header-x]\ntcp = \"a:1\"",
            "HEADER_X_ADDR is one that requests set",
        ),
        ("[bindings.db]", ":1:1: the binding \"db\" leads nowhere"),
        (
            "[bindings.db]\ntcp = \"a:1\"\nhttp = \"http://b\"",
            ":3:8: the binding \"db\" leads to two places",
        ),
        (
            "[bindings.db]\ntpc = \"a:1\"",
            ":2:1: unknown key `tpc`; did you mean `tcp`?",
        ),
        (
            "[bindings.db]\ntcp = \"a\"",
            ":2:7: \"a\" is not a place to connect to: the port is missing",
        ),
        ("[bindings.db]\ntcp = \"a:0\"", "\"0\" is not a port"),
        ("[bindings.db]\ntcp = \"a:65536\"", "\"65536\" is not a port"),
        ("[bindings.db]\ntcp = \"a:1:2\"", "\"1:2\" is not a port"),
        ("[bindings.db]\ntcp = \"::1:5\"", "is not a place to connect to"),
        ("[bindings.db]\ntcp = \"[::1]5\"", "behind the ']'"),
        (
            "[bindings.db]\ntcp = \"10.1:5\"",
            "neither an address nor the name of a host",
        ),
        (
            "[bindings.db]\ntcp = \"0x7f000001:5\"",
            "neither an address nor the name of a host",
        ),
        (
            "[bindings.db]\ntcp = \"2130706433:5\"",
            "neither an address nor the name of a host",
        ),
        ("[bindings.db]\ntcp = \"*.a:5\"", "is not a place to connect to"),
        ("[bindings.db]\ntcp = \"a b:5\"", "is not a place to connect to"),
        (
            "[bindings.db]\ntcp = \"a:1\"\nretry = \"safe\"",
            ":3:9: `retry` is for `http` and `function`",
        ),
        (
            "[bindings.db]\ntcp = \"a:1\"\nconcurrency = 0",
            ":3:15: 0 is out of range",
        ),
        (
            "[bindings.db]\ntcp = \"a:1\"\ntimeout = \"2h\"",
            ":3:11: \"2h\" is out of range",
        ),
        (
            "env = { DB_ADDR = \"x\" }\n[bindings.db]\ntcp = \"a:1\"",
            "sets DB_ADDR, and so does `env`",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
    }
    let many: String = (0..17)
        .map(|i| format!("[bindings.b{i}]\ntcp = \"a:1\"\n"))
        .collect();
    assert!(read(&many).unwrap_err().contains("more than 16 bindings"));
}
