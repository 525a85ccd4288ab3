//! What a function of Cloud Run, App Engine, Kubeless or of-watchdog's `http` mode finds, and what is done when it is late or
//! never listens. The guides have their real runtimes.

use std::fs;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

use crate::programs::{problem, said};

pub(crate) fn register(suite: &mut Suite) {
    const PYTHON: &[Need] = &[Need::Program("/usr/bin/python3")];
    funcd_tests::tests!(suite, "port", [
        a_function_finds_what_its_host_would_say: PYTHON,
        what_strangers_say_of_themselves_does_not_reach_it: PYTHON,
        a_late_answer_is_504_and_the_instance_is_kept: PYTHON,
        a_caller_may_only_shorten: PYTHON,
        a_stop_is_sigterm_and_sigkill_after_stop_within: PYTHON,
        a_revision_that_never_listens_gets_no_traffic: PYTHON,
        processes_of_a_function_share_memory_and_semaphores: &[Need::Program("/usr/bin/python3"), Need::MountNamespaces],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("port", |_| {})
}

/// Answers what it found. Its stdin is read to the end before it listens.
const SHOWS: &str = r#"#!/usr/bin/python3
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

stdin = sys.stdin.read()


def stop(*_):
    print("asked to stop", flush=True)
    if os.environ.get("STUBBORN") is None:
        os._exit(0)


signal.signal(signal.SIGTERM, stop)


class Show(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/late":
            time.sleep(1000)
        found = {"env": dict(os.environ), "headers": {k.lower(): v for k, v in self.headers.items()}, "stdin": stdin}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return self.client_address[0]


ThreadingHTTPServer(("", int(os.environ["PORT"])), Show).serve_forever()
"#;
const PATIENT: &str = "[request]\ntimeout = \"60s\"\n[health]\nready_within = \"60s\"\n";

/// Deploys a script under a name of its own.
fn deploy(host: &Host, name: &str, text: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.py");
    fs::write(&path, text).unwrap();
    host.drop_folder(name, &path, manifest);
    host.wait_live(name);
}

fn a_function_finds_what_its_host_would_say() {
    let host = host();
    deploy(
        &host,
        "shows",
        SHOWS,
        &format!(
            "port = 9000\ncontract = \"port\"\n[env]\nGAE_ENV = \"standard\"\nGOOGLE_CLOUD_PROJECT = \"acme\"\n\
             FUNC_HANDLER = \"go\"\n[limits]\nmemory = \"128M\"\n{PATIENT}"
        ),
    );
    let found = host.get_ok("/shows/").json();
    assert_eq!(found["stdin"], "", "it is at its end, not a terminal or a pipe");
    for (name, value) in [
        ("PORT", "9000"),
        ("K_SERVICE", "shows"),
        ("K_CONFIGURATION", "shows"),
        ("FUNC_PORT", "9000"),
        ("FUNC_TIMEOUT", "60"),
        ("FUNC_MEMORY_LIMIT", "128Mi"),
        ("FUNC_HANDLER", "go"),
        ("GAE_ENV", "standard"),
        ("GAE_SERVICE", "shows"),
        ("GAE_APPLICATION", "s~acme"),
        ("GAE_MEMORY_MB", "128"),
    ] {
        assert_eq!(found["env"][name], value, "{name}");
    }
    let revision = host.entry("shows").unwrap().revision.unwrap();
    let named = found["env"]["K_REVISION"].as_str().unwrap();
    let named = named.strip_prefix("shows-").unwrap();
    assert!(revision.starts_with(named), "{named} is of {revision}");
    // Who does not say so is not taken for App Engine's; and nobody needs to say which contract it is.
    deploy(&host, "plain", SHOWS, PATIENT);
    let found = host.get_ok("/plain/").json();
    assert_eq!(
        (&found["env"]["PORT"], &found["env"]["GAE_SERVICE"]),
        (&"8080".into(), &().into())
    );
    let listed = said(&host, &["ls"]);
    assert!(
        listed.contains("plain: contract port, as it mentions"),
        "{listed}"
    );
}

fn what_strangers_say_of_themselves_does_not_reach_it() {
    let host = host();
    deploy(&host, "believes", SHOWS, PATIENT);
    let asked = Request::get("/believes/")
        .header("X-Appengine-Cron", "true")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Mine", "kept");
    let headers = host.ask(&asked).json()["headers"].take();
    assert_eq!(headers["x-mine"], "kept", "the control");
    assert_eq!(headers["x-appengine-cron"], serde_json::Value::Null);
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    let forwarded = headers["forwarded"].as_str().unwrap();
    assert!(forwarded.starts_with("for=127.0.0.1;"), "{forwarded}");
}

fn a_late_answer_is_504_and_the_instance_is_kept() {
    let host = host();
    deploy(&host, "late", SHOWS, PATIENT);
    host.get_ok("/late/");
    let process = host.instance("late");
    for header in ["X-Request-Timeout-Ms", "X-Timeout"] {
        let asked =
            Request::get("/late/late").header(header, if header == "X-Timeout" { "200ms" } else { "200" });
        problem(&host.ask(&asked), 504, "response-timeout");
        host.get_ok("/late/");
        assert_eq!(host.instance("late"), process, "{header}");
    }
    // And where it is the manifest that says how long.
    deploy(
        &host,
        "late-too",
        SHOWS,
        "[request]\ntimeout = \"3s\"\n[health]\npath = \"/\"\nready_within = \"60s\"\n[scale]\nmin = 1\n",
    );
    host.wait_for("/late-too/", "200", |answer| answer.status() == 200);
    let process = host.instance("late-too");
    problem(&host.get("/late-too/late"), 504, "response-timeout");
    host.get_ok("/late-too/");
    assert_eq!(host.instance("late-too"), process);
}

fn a_caller_may_only_shorten() {
    let host = host();
    deploy(&host, "longer", SHOWS, PATIENT);
    let left = |said: &str| {
        let found = host
            .ask(&Request::get("/longer/").header("X-Timeout", said))
            .json();
        let left = found["headers"]["x-request-timeout-ms"].as_str().unwrap();
        left.parse::<u64>().unwrap()
    };
    assert!(left("2h") <= 60_000);
    let shorter = left("50s");
    assert!((1..=50_000).contains(&shorter), "{shorter}");
    assert!(left("50") > 50_000, "no unit: it says nothing");
}

fn a_stop_is_sigterm_and_sigkill_after_stop_within() {
    let host = host();
    let stop = |name: &str, more: &str| {
        deploy(
            &host,
            name,
            SHOWS,
            &format!("{more}{PATIENT}stop_within = \"200ms\"\n"),
        );
        host.get_ok(&format!("/{name}/"));
        let process = host.instance(name);
        host.remove(name);
        funcd_tests::until("it to be gone", || !process.is_there());
        process
    };
    stop("obeys", "");
    stop("stubborn", "env = { STUBBORN = \"1\" }\n");
    let ended = |name: &str| {
        eventually("its end to be told", || {
            let log = host.log();
            let mut lines = log
                .lines()
                .filter(|line| line.contains(&format!("function={name} ")));
            let line = lines.find(|line| line.contains(" ended "));
            line.map(str::to_owned).ok_or(log.clone())
        })
    };
    let (obeys, stubborn) = (ended("obeys"), ended("stubborn"));
    assert!(obeys.contains("reason=\"stopped\""), "{obeys}");
    assert!(stubborn.contains("killed"), "{stubborn}");
}

fn a_revision_that_never_listens_gets_no_traffic() {
    let host = host();
    deploy(&host, "replaced", SHOWS, PATIENT);
    host.get_ok("/replaced/");
    let before = host.entry("replaced").unwrap().revision;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.py");
    fs::write(
        &path,
        "#!/usr/bin/python3\nimport time\nprint('up', flush=True)\ntime.sleep(1000)\n",
    )
    .unwrap();
    host.drop_folder(
        "replaced",
        &path,
        "contract = \"port\"\n[health]\nready_within = \"500ms\"\n",
    );
    eventually("it to be refused", || {
        let entry = host.entry("replaced").ok_or("no such entry".to_owned())?;
        match entry.reason.contains("ready") {
            true => Ok(()),
            false => Err(format!("{entry:?}")),
        }
    });
    assert_eq!(host.entry("replaced").unwrap().revision, before);
    assert_eq!(host.get_ok("/replaced/").json()["env"]["K_SERVICE"], "replaced");
}

/// As Kubeless's runtime for Python does for each call, and every user of its multiprocessing module.
fn processes_of_a_function_share_memory_and_semaphores() {
    let host = host();
    let shares = SHOWS.replace("import json", "import multiprocessing, json").replace(
        "        found = ",
        "        context = multiprocessing.get_context(\"fork\")\n        results = context.Queue()\n        \
         context.Process(target=lambda: results.put(os.getpid())).start()\n        other = results.get()\n        \
         assert other != os.getpid()\n        found = ",
    );
    deploy(&host, "shares", &shares, PATIENT);
    host.get_ok("/shares/");
}
