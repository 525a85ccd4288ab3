//! Tables of what a manifest may say, and what is said when it may not.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Manifest, TypedError> {
    let name = FunctionName::parse("thumbs").unwrap();
    Manifest::read(
        &name,
        Path::new("thumbs/function.toml"),
        Some(text),
        &Defaults::default(),
    )
}

fn refused(text: &str) -> String {
    match read(text) {
        Ok(manifest) => panic!("accepted: {text}\n{manifest:?}"),
        Err(error) => {
            assert!(error.render(false).starts_with("error: "));
            error.to_string()
        }
    }
}

fn untyped(all: bool) -> AsLambda {
    AsLambda {
        concurrency: all,
        body: all,
        stop_within: all,
    }
}

#[test]
fn h2c_makes_it_a_server() {
    use crate::catalog::guess::Kind;
    assert_eq!(read("").unwrap().h2c, H2c::Grpc);
    assert_eq!(read("contract = \"port\"\nh2c = false").unwrap().h2c, H2c::Never);
    let settled = |text: &str, contract| {
        let mut manifest = read(text).unwrap();
        let why = "it looks so".to_owned();
        manifest.settle(Guess { contract, why });
        manifest.contract
    };
    assert_eq!(settled("h2c = true", Kind::Port), Contract::Port(8080));
    assert_eq!(settled("h2c = true", Kind::Stdio), Contract::Http);
    assert_eq!(settled("h2c = false", Kind::Stdio), Contract::Stdio);
}

#[test]
fn lambda_functions_find_what_they_find_elsewhere() {
    let lambda = read("contract = \"lambda\"").unwrap();
    assert_eq!(lambda.contract, Contract::Lambda { invoke: false });
    assert_eq!((lambda.scale.concurrency, lambda.request.body), (1, 6 << 20));
    assert_eq!(lambda.health.stop_within, Duration::from_secs(2));
    assert!(
        !lambda.takes_one_connection(),
        "its connections end at funcd itself"
    );
    // Found out, it is the same, but for what was typed.
    let guess = || Guess {
        contract: crate::catalog::guess::Kind::Lambda,
        why: "it is called `bootstrap`".to_owned(),
    };
    let mut found = read("").unwrap();
    found.settle(guess());
    assert_eq!((found.contract, found.scale.concurrency), (lambda.contract, 1));
    assert_eq!(
        (found.request.body, found.health.stop_within),
        (6 << 20, Duration::from_secs(2))
    );
    let mut typed =
        read("[scale]\nconcurrency = 64\n[request]\nbody = \"16M\"\n[health]\nstop_within = \"10s\"")
            .unwrap();
    typed.settle(guess());
    assert_eq!((typed.scale.concurrency, typed.request.body), (64, 16 << 20));
    assert_eq!(typed.health.stop_within, Duration::from_secs(10));
    let own = "contract = \"lambda\"\ninvoke = true\n[scale]\nconcurrency = 16\n[request]\nbody = \"1M\"\n[health]\nstop_within = \"9s\"";
    let own = read(own).unwrap();
    assert_eq!(own.contract, Contract::Lambda { invoke: true });
    assert_eq!((own.scale.concurrency, own.request.body), (16, 1 << 20));
    assert_eq!(own.health.stop_within, Duration::from_secs(9));
    assert!(read("[scale]\nconcurrency = 1").unwrap().takes_one_connection());
}

#[test]
fn every_default() {
    let plain = read("").unwrap();
    let name = FunctionName::parse("thumbs").unwrap();
    let none = Manifest::read(&name, Path::new("x"), None, &Defaults::default()).unwrap();
    assert_eq!(plain, none);
    let expected = Manifest {
        exec: "thumbs".into(),
        args: vec![],
        env: vec![],
        secrets: vec![],
        contract: Contract::Http,
        found: Some(Guess::default()),
        as_lambda: untyped(true),
        h2c: H2c::Grpc,
        stdio: Stdio {
            mode: Mode::Classic,
            content_type: None,
            output: 4 << 20,
        },
        routes: vec![],
        scale: Scale {
            min: 0,
            max: 8,
            concurrency: 64,
            prewarm: 0,
            idle: Duration::from_secs(60),
            freeze: None,
        },
        limits: Limits {
            memory_bytes: 256 << 20,
            cpu_millis: 1000,
            cpu_idle: false,
            pids: 64,
            tmp_bytes: 64 << 20,
            files: 1024,
        },
        request: RequestBounds {
            timeout: Duration::from_secs(30),
            body: 16 << 20,
            priority: Class::Degraded,
            queue: Order::Adaptive,
            retry: Retry::Safe,
        },
        health: Health {
            path: None,
            warmup: vec![],
            period: None,
            ready_within: Duration::from_secs(10),
            stop_within: Duration::from_secs(10),
        },
        system: Scope::Auto,
        read: vec![],
        write: vec![],
        bindings: vec![],
        degraded: vec![],
    };
    assert_eq!(plain, expected);
}

#[test]
fn every_key() {
    let text = r#"
exec = "resize"
args = ["--fast", ""]
contract = "port"
port = 9000
env = { LOG = "info", A_1 = "" }
secrets = ["db.pem", "api-key", "db.pem"]
[[route]]
host = "Img.Example.com"
path = "/thumbs/"
limit = 2
[[route]]
host = "*.example.com"
[scale]
min = 1
max = 2
concurrency = 3
prewarm = 1
idle = "4s"
freeze = "1500ms"
[limits]
memory = "1.5G"
cpu = 1.5
pids = 7
tmp = 1048576
files = 99
[request]
timeout = "500ms"
body = 0
priority = "best-effort"
queue = "fifo"
retry = "idempotent"
[health]
path = "/healthz"
warmup = ["/", "/a"]
period = "10s"
ready_within = "2m"
stop_within = "0s"
[sandbox]
system = "full"
read = ["/usr/share/zoneinfo/", "/usr//share/./x"]
write = ["/srv/thumbs"]
degraded = ["P5", "cpu-limit", "memory-limit"]
"#;
    let expected = Manifest {
        exec: "resize".into(),
        args: vec!["--fast".into(), String::new()],
        env: vec![("A_1".into(), String::new()), ("LOG".into(), "info".into())],
        secrets: vec!["api-key".into(), "db.pem".into()],
        contract: Contract::Port(9000),
        found: None,
        as_lambda: untyped(false),
        h2c: H2c::Grpc,
        stdio: Stdio {
            mode: Mode::Classic,
            content_type: None,
            output: 4 << 20,
        },
        routes: vec![
            RoutePattern {
                host: Some("img.example.com".into()),
                path: "/thumbs".into(),
                limit: Some(2),
            },
            RoutePattern {
                host: Some("*.example.com".into()),
                path: "/".into(),
                limit: None,
            },
        ],
        scale: Scale {
            min: 1,
            max: 2,
            concurrency: 3,
            prewarm: 1,
            idle: Duration::from_secs(4),
            freeze: Some(Duration::from_millis(1500)),
        },
        limits: Limits {
            memory_bytes: 3 << 29,
            cpu_millis: 1500,
            cpu_idle: false,
            pids: 7,
            tmp_bytes: 1 << 20,
            files: 99,
        },
        request: RequestBounds {
            timeout: Duration::from_millis(500),
            body: 0,
            priority: Class::BestEffort,
            queue: Order::Fifo,
            retry: Retry::Idempotent,
        },
        health: Health {
            path: Some("/healthz".into()),
            warmup: vec!["/".into(), "/a".into()],
            period: Some(Duration::from_secs(10)),
            ready_within: Duration::from_secs(120),
            stop_within: Duration::ZERO,
        },
        system: Scope::Full,
        read: vec!["/usr/share/x".into(), "/usr/share/zoneinfo".into()],
        write: vec!["/srv/thumbs".into()],
        bindings: vec![],
        degraded: vec![Property::MemoryLimit, Property::CpuLimit],
    };
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn refusals_say_where_and_why() {
    let table = [
        ("exce = \"x\"", ":1:1: unknown key `exce`; did you mean `exec`?"),
        (
            "[limits]\nmemry = \"1M\"",
            ":2:1: unknown key `memry`; did you mean `memory`?",
        ),
        (
            "[health]\ngrace = \"1s\"",
            ":2:1: unknown key `grace`; the keys here are path, warmup, period, ready_within, stop_within",
        ),
        (
            "[[route]]\nhots = \"a\"",
            ":2:1: unknown key `hots`; did you mean `host`?",
        ),
        (
            "secrets = [\"a\", \"../b\"]",
            ":1:17: \"../b\" is not the name of a secret",
        ),
        ("[sandbox]\nsystem = \"some\"", ":2:10: unknown system \"some\""),
        (
            "env = { CREDENTIALS_DIRECTORY = \"/tmp\" }",
            "is reserved: funcd sets it",
        ),
        (
            "[rollout]\nstrategy = \"canary\"",
            "`rollout` is not supported by this version",
        ),
        ("[scale]\ntarget = 0.7", ":2:10: `scale.target` is not supported"),
        (
            "[request]\npriority = \"urgent\"",
            ":2:12: unknown priority \"urgent\"",
        ),
        ("[request]\nqueue = \"fif\"", "did you mean \"fifo\"?"),
        ("[request]\nretry = \"always\"", "use never, safe, idempotent"),
        (
            "contract = \"cgi\"\nh2c = true",
            ":2:7: `h2c` means nothing with contract = \"cgi\"",
        ),
        ("h2c = \"yes\"", ":1:7: "),
        (
            "contract = \"prot\"",
            ":1:12: unknown contract \"prot\"; did you mean \"port\"?",
        ),
        (
            "invoke = true",
            ":1:10: `invoke` means nothing with contract = \"auto\"",
        ),
        (
            "contract = \"lambda\"\nport = 8080",
            ":2:8: `port` means nothing with contract = \"lambda\"",
        ),
        (
            "env = { AWS_LAMBDA_RUNTIME_API = \"x\" }",
            "AWS_LAMBDA_RUNTIME_API",
        ),
        (
            "port = 8080",
            ":1:8: `port` means nothing with contract = \"auto\"",
        ),
        (
            "contract = \"port\"\nport = 80",
            ":2:8: 80 is out of range; from 1024 to 65535",
        ),
        (
            "[scale]\nmin = 9",
            ":2:7: scale.min is 9 and scale.max is 8: min is larger than max",
        ),
        (
            "[scale]\nmin = 3\nmax = 2",
            ":2:7: scale.min is 3 and scale.max is 2",
        ),
        (
            "[scale]\nfreeze = \"60s\"",
            ":2:10: scale.freeze does nothing: after scale.idle (60s) nothing is left to freeze",
        ),
        ("[scale]\nmax = 0", ":2:7: 0 is out of range; from 1 to 10000"),
        ("[scale]\nmin = -1", ":2:7: -1 is out of range"),
        ("[scale]\nconcurrency = 0", "0 is out of range; from 1 to 65535"),
        ("[scale]\nidle = \"0s\"", "\"0s\" is out of range; from 1ms to"),
        (
            "[scale]\nidle = 60",
            "invalid type: integer `60`, expected a length of time with its unit",
        ),
        (
            "[limits]\nmemory = \"3M\"",
            ":2:10: \"3M\" is out of range; from 4M to 64T",
        ),
        ("[limits]\nmemory = \"lots\"", ":2:10: \"lots\" is not a size"),
        ("[limits]\nmemory = -5", ":2:10: a size is not negative"),
        ("[limits]\ncpu = 0", "0 is not a share of CPU"),
        ("[limits]\ncpu = nan", "NaN is not a share of CPU"),
        ("[limits]\ncpu = \"1\"", "expected a number of cores"),
        ("[limits]\npids = 0", "0 is out of range"),
        ("[limits]\ntmp = 0", "0 is out of range; from 64K to"),
        ("[limits]\nfiles = 3", "3 is out of range"),
        ("[request]\ntimeout = \"0ms\"", "out of range; from 1ms to"),
        (
            "[health]\npath = \"healthz\"",
            "\"healthz\" is not a path: it begins with '/'",
        ),
        ("[health]\npath = \"/a b\"", "is not a path"),
        ("[health]\nperiod = \"10s\"", ":2:10: there is nothing to ask for"),
        ("[health]\nwarmup = [\"/\", \"a\"]", ":2:16: \"a\" is not a path"),
        ("[health]\npath = \"/a\\r\\nHost: x\"", "is not a path"),
        (
            "[[route]]\npath = \"a\"",
            ":2:8: \"a\" is not a path: it begins with '/'",
        ),
        ("[[route]]\npath = \"/a/../b\"", "no empty, '.' or '..' segment"),
        ("[[route]]\npath = \"/a?b\"", "no query"),
        ("[[route]]\nhost = \"http://x\"", "\"http://x\" is not a host"),
        ("[[route]]\nhost = \"x:80\"", "\"x:80\" is not a host"),
        ("[[route]]\nhost = \"*\"", "\"*\" is not a host"),
        ("[[route]]\nhost = \"a.*.b\"", "is not a host"),
        ("[[route]]\nhost = \"\"", "is not a host"),
        (
            "[[route]]\npath = \"/a\"\nlimit = 0",
            "0 requests of a route at once",
        ),
        ("[[route]]\npath = \"/a\"\nlimit = 65536", "it is 1 to 65535"),
        ("[[route]]\nlimit = 1", "a route needs `host`, `path` or both"),
        ("[[route]]\n", "a route needs `host`, `path` or both"),
        (
            "[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a/\"\nlimit = 3",
            ":4:8: this route is there twice",
        ),
        (
            "env = { LD_PRELOAD = \"/tmp/x.so\" }",
            ":1:9: environment variable \"LD_PRELOAD\" is refused",
        ),
        (
            "[env]\nLD_AUDIT = \"x\"",
            ":2:1: environment variable \"LD_AUDIT\" is refused",
        ),
        (
            "env = { LISTEN_FDS = \"1\" }",
            "\"LISTEN_FDS\" is reserved: funcd sets it",
        ),
        ("env = { PORT = \"1\" }", "\"PORT\" is reserved"),
        ("env = { FUNCD_SOCKET = \"1\" }", "\"FUNCD_SOCKET\" is reserved"),
        ("env = { \"A=B\" = \"1\" }", "has a bad name"),
        ("env = { \"\" = \"1\" }", "has a bad name"),
        ("env = { \"1A\" = \"1\" }", "has a bad name"),
        ("env = { \"A\\u0000\" = \"1\" }", "has a bad name"),
        (
            "env = { A = \"x\\u0000y\" }",
            ":1:13: a NUL character can't be in here",
        ),
        ("env = { A = 1 }", "invalid type: integer `1`, expected a string"),
        ("args = [\"a\\u0000\"]", ":1:9: a NUL character can't be in here"),
        ("exec = \"../x\"", ":1:8: `exec` is not a file name"),
        ("exec = \"bin/x\"", "`exec` is not a file name"),
        ("exec = \"..\"", "`exec` is not a file name"),
        ("exec = \"\"", "`exec` is not a file name"),
        ("exec = \"function.toml\"", "names the manifest itself"),
        (
            "[sandbox]\nread = [\"usr\"]",
            ":2:9: \"usr\" can't be granted: a grant is an absolute path",
        ),
        (
            "[sandbox]\nwrite = [\"/srv/../etc\"]",
            ":2:10: \"/srv/../etc\" can't be granted",
        ),
        ("[sandbox]\nwrite = [\"/\"]", "\"/\" can't be granted"),
        ("[sandbox]\nread = [\"/a\\u0000\"]", "a NUL character"),
        (
            "[sandbox]\ndegraded = [\"memory\"]",
            ":2:13: unknown property \"memory\"; the properties are files, network",
        ),
        (
            "[sandbox]\ndegraded = [\"memory-limits\"]",
            "did you mean \"memory-limit\"?",
        ),
        ("exec = \"a\"\nexec = \"b\"", ":2:1: duplicate key"),
        ("exec = ", ":1:8: "),
        ("exec = 'a", ":1:"),
        ("[scale]\nmax = 99999999999999999999", ":2:7: "),
    ];
    for (text, said) in table {
        let error = refused(text);
        assert!(error.starts_with("thumbs/function.toml:"), "{text}\n{error}");
        assert!(error.contains(said), "{text}\n{error}");
        assert!(!error.contains('\n') && !error.contains('\0'), "{error:?}");
    }
    let large = format!("args = [\"{}\"]", "x".repeat(33_000));
    assert!(refused(&large).contains("keep them below 32768"));
}

#[test]
fn an_unknown_key_as_people_see_it() {
    let error = read("exec = \"thumbs\"\n\n[limits]\nmemry = \"256M\"\n").unwrap_err();
    let rendered = "\
error: unknown key `memry`
 --> thumbs/function.toml:4:1
  |
4 | memry = \"256M\"
  | ^^^^^ did you mean `memory`?";
    assert_eq!(error.render(false), rendered);
}

#[test]
fn a_bad_value_as_people_see_it() {
    let error = read("[sandbox]\nwrite = [\"/srv/a\", \"srv/b\"]\n").unwrap_err();
    let rendered = "\
error: \"srv/b\" can't be granted: a grant is an absolute path without \"..\"
 --> thumbs/function.toml:2:20
  |
2 | write = [\"/srv/a\", \"srv/b\"]
  |                    ^^^^^^^";
    assert_eq!(error.render(false), rendered);
}

#[test]
fn defaults_lie_under_each_key() {
    let name = FunctionName::parse("thumbs").unwrap();
    let defaults = Defaults::parse(
        "env = { A = \"host\", B = \"host\" }\n[scale]\nmin = 5\nmax = 6\n[sandbox]\nread = [\"/usr/share\"]\n",
    )
    .unwrap();
    let read = |text: &str| Manifest::read(&name, Path::new("m"), Some(text), &defaults);
    let manifest = read("env = { B = \"own\" }\n[scale]\nmax = 7\n").unwrap();
    assert_eq!((manifest.scale.min, manifest.scale.max), (5, 7));
    assert_eq!(
        manifest.env,
        [("A".into(), "host".into()), ("B".into(), "own".into())] as [(String, String); 2]
    );
    assert_eq!(manifest.read, [PathBuf::from("/usr/share")]);
    assert!(read("[sandbox]\nread = []").unwrap().read.is_empty());
    // The stronger layer is blamed, also where the other one is named first.
    let error = read("[scale]\nmax = 2\n").unwrap_err().to_string();
    assert!(error.starts_with("m:2:7: scale.min is 5"), "{error}");
    let plain = Manifest::read(&name, Path::new("m"), None, &defaults).unwrap();
    assert_eq!(plain.scale.min, 5);
}

#[test]
fn bad_defaults_are_refused_as_such() {
    let error = Defaults::parse("[scale]\nmni = 1").unwrap_err().to_string();
    assert_eq!(error, "[defaults]:2:1: unknown key `mni`; did you mean `min`?");
    let error = Defaults::parse("[scale]\nmin = 9").unwrap_err().to_string();
    assert!(error.starts_with("[defaults]:2:7: scale.min is 9"), "{error}");
}

proptest! {
    #[test]
    fn a_manifest_never_panics(text in "\\PC{0,200}|[a-z\\[\\]{}=\"'\n.0-9 -]{0,200}") {
        if let Err(error) = read(&text) {
            prop_assert!(!error.to_string().contains('\n'));
            let _ = error.render(true);
        }
    }

    #[test]
    fn a_mutated_manifest_never_panics(at in 0_usize..300, with in "\\PC{0,4}") {
        let mut text = String::from(
            "exec = \"resize\"\nargs = [\"--fast\"]\ncontract = \"port\"\nport = 9000\nenv = { LOG = \"info\" }\n\
             [[route]]\nhost = \"img.example.com\"\npath = \"/thumbs\"\n[scale]\nmin = 1\nidle = \"60s\"\n\
             [limits]\nmemory = \"1.5G\"\ncpu = 1.5\n[sandbox]\nread = [\"/usr/share\"]\ndegraded = [\"P5\"]\n");
        let at = at.min(text.len());
        text.replace_range(at..(at + with.len()).min(text.len()), &with);
        match read(&text) {
            Ok(manifest) => {
                prop_assert!(manifest.scale.min <= manifest.scale.max);
                prop_assert!(manifest.env.iter().all(|(name, _)| !name.starts_with("LD_")));
            }
            Err(error) => { let _ = error.render(false); }
        }
    }
}
