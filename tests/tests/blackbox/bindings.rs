//! Bindings: what a function reaches by them, and that it reaches nothing else: not what is one port or one address away.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use funcd_tests::artifacts::{example, example_file};
use funcd_tests::host::{Host, Plan};
use funcd_tests::http::Request;
use funcd_tests::names::NameServer;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

use crate::programs::bash;

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: &[Need] = &[Need::Property("network")];
    const BASH: &[Need] = &[Need::Property("network"), Need::Program("/bin/bash")];
    const PYTHON: &[Need] = &[Need::Property("network"), Need::Program("/usr/bin/python3")];
    const OPENSSL: &[Need] = &[Need::Property("network"), Need::Program("openssl")];
    funcd_tests::tests!(suite, "bindings", [
        a_function_reaches_what_is_bound_and_nothing_else: NETWORK,
        the_host_itself_is_reached_only_where_the_operator_allows_it: NETWORK,
        a_name_that_is_pointed_at_the_host_leads_nowhere: NETWORK,
        a_name_that_moves_is_followed: NETWORK,
        the_last_answer_outlives_the_name_servers: NETWORK,
        an_address_that_is_dead_is_passed_over: NETWORK,
        tls_is_spoken_for_the_function: OPENSSL,
        who_is_not_who_it_should_be_is_not_spoken_with: OPENSSL,
        a_new_supervisor_serves_the_bindings_of_the_old_one: NETWORK,
        each_revision_has_its_own: NETWORK,
        a_connection_ends_with_its_instance: PYTHON,
        a_process_of_one_request_has_its_own: BASH,
        a_lambda_function_has_its_api_and_its_bindings: PYTHON,
        one_that_listens_itself_has_them_beside_its_port: PYTHON,
        the_sandbox_is_explained_with_them: NETWORK,
        what_is_wrong_with_one_is_shown: NETWORK,
    ]);
}

/// A server on a loopback address that answers with its name and what it heard, once the other side has said all.
fn echo(name: &'static str, at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut heard = String::new();
                let _ = stream.read_to_string(&mut heard);
                let _ = write!(stream, "{name}: {heard}");
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

/// A host whose bindings may lead to these.
fn allowing(allowed: &str) -> Plan {
    Plan::new().variable("FUNCD_EGRESS_ALLOW", allowed)
}

fn asking(names: &NameServer, allowed: &str) -> Host {
    allowing(allowed)
        .variable("FUNCD_EGRESS_NAMESERVERS", &names.address().to_string())
        .start()
}

fn db(place: impl std::fmt::Display) -> String {
    format!("[bindings.db]\ntcp = \"{place}\"\n")
}

/// What comes of an attempt of a function.
fn attempt(host: &Host, function: &str, verb: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.replace(' ', "%20"))
        .collect();
    let target = format!("/{function}/{verb}?{}", arguments.join("&"));
    let answer = host.ask(&Request::post(&target, "x"));
    assert_eq!(answer.status(), 200, "{}\n{}", answer.text(), host.log_tail());
    answer.text().trim_end().to_owned()
}

/// What the place behind the first binding answers to "hello".
fn talk(host: &Host, function: &str) -> String {
    attempt(host, function, "talk", &["127.0.0.1:19001", "hello"])
}

/// The same attempt by a process that nothing confines.
fn outside(verb: &str, arguments: &[&str]) -> String {
    let output = Command::new(example("attack"))
        .args(["try", verb])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// An address of this machine that is not on its loopback interface, if there is one. Sends nothing.
fn lan() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect("203.0.113.7:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback())
}

fn a_function_reaches_what_is_bound_and_nothing_else() {
    let bound = echo("bound", "127.0.0.1:0");
    let same_port = format!("127.0.0.2:{}", bound.port());
    let next_address = echo("next address", &same_port).to_string();
    // One port away, or the nearest that is free.
    let mut ports = bound.port() + 1..;
    let next_port = ports
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .unwrap();
    let next_port = next_port.local_addr().unwrap().to_string();
    let listening = TcpListener::bind(&next_port);
    let host = allowing("127.0.0.0/8").start();
    host.deploy("attack", "attack", &db(bound));
    host.deploy("other", "attack", "");
    assert_eq!(talk(&host, "attack"), "heard bound: hello");

    let heard = UdpSocket::bind("127.0.0.1:0").unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let datagrams = heard.local_addr().unwrap().to_string();
    let mut host_itself = vec![
        bound.to_string(),
        next_address,
        next_port,
        host.address().to_string(),
        host.admin_address().to_string(),
    ];
    let own = lan().map(|ip| TcpListener::bind((ip, 0)).unwrap());
    let own = own
        .as_ref()
        .map(|listener| listener.local_addr().unwrap().to_string());
    for address in &host_itself {
        // The control: outside of the sandbox each of them can be connected to.
        assert_eq!(outside("tcp", &[address]), "ok", "{address}");
        assert_eq!(
            attempt(&host, "attack", "tcp", &[address]),
            "ECONNREFUSED",
            "{address}"
        );
    }
    host_itself.extend(own.clone());
    for address in own.iter() {
        assert_eq!(outside("tcp", &[address]), "ok", "{address}");
        assert_eq!(
            attempt(&host, "attack", "tcp", &[address]),
            "ENETUNREACH",
            "{address}"
        );
    }
    // Beside the binding, on either side of it; the binding itself is the control.
    assert_eq!(attempt(&host, "attack", "tcp", &["127.0.0.1:19001"]), "ok");
    for address in [
        "127.0.0.1:19000",
        "127.0.0.1:19002",
        "127.0.0.2:19001",
        "127.0.0.1:53",
        "127.0.0.1:9001",
    ] {
        assert_eq!(
            attempt(&host, "attack", "tcp", &[address]),
            "ECONNREFUSED",
            "{address}"
        );
    }
    for address in ["169.254.169.254:80", "1.1.1.1:53", "10.0.0.1:80"] {
        assert_eq!(
            attempt(&host, "attack", "tcp", &[address]),
            "ENETUNREACH",
            "{address}"
        );
        assert_eq!(
            attempt(&host, "attack", "udp", &[address]),
            "ENETUNREACH",
            "{address}"
        );
    }
    // A datagram to an address of its own loopback interface is sent, and nobody gets it.
    attempt(&host, "attack", "udp", &[&datagrams]);
    assert!(
        heard.recv(&mut [0; 8]).is_err(),
        "what a function sends by UDP stays where it is"
    );
    assert_eq!(outside("udp", &[&datagrams]), "ok");
    assert_eq!(heard.recv(&mut [0; 8]).unwrap(), 1, "the control: it listens");
    // A function without bindings has not even a loopback interface.
    assert_eq!(
        attempt(&host, "other", "tcp", &["127.0.0.1:19001"]),
        "ENETUNREACH"
    );
    drop(listening);
}

fn the_host_itself_is_reached_only_where_the_operator_allows_it() {
    let bound = echo("bound", "127.0.0.1:0");
    let own = lan().map(|ip| echo("own", &format!("{ip}:0")));
    let host = Host::start();
    host.deploy("refused", "attack", &db(bound));
    assert_eq!(talk(&host, "refused"), "ECONNRESET");
    until("the log to say why", || host.log().contains("this host itself"));
    assert!(host.log().contains("egress.allow"), "{}", host.log_tail());
    if let Some(own) = own {
        host.deploy("own", "attack", &db(own));
        assert_eq!(talk(&host, "own"), "ECONNRESET", "an address of the host's");
    }
    let one = allowing(&bound.to_string()).start();
    one.deploy("allowed", "attack", &db(bound));
    assert_eq!(talk(&one, "allowed"), "heard bound: hello", "the control");
    let next = echo("next", "127.0.0.1:0");
    one.deploy("next", "attack", &db(next));
    assert_eq!(talk(&one, "next"), "ECONNRESET", "that port alone");
}

fn a_name_that_is_pointed_at_the_host_leads_nowhere() {
    let names = NameServer::start();
    let bound = echo("bound", "127.0.0.1:0");
    names.set("db.test", &["127.0.0.1"], 0);
    names.set("cloud.test", &["169.254.169.254"], 0);
    let strict = asking(&names, "");
    let place = format!("db.test:{}", bound.port());
    strict.deploy("rebound", "attack", &db(&place));
    assert_eq!(talk(&strict, "rebound"), "ECONNRESET");
    until("the log to say why", || {
        strict.log().contains("db.test is 127.0.0.1") && strict.log().contains("this host itself")
    });
    strict.deploy("cloud", "attack", &db("cloud.test:80"));
    assert_eq!(talk(&strict, "cloud"), "ECONNRESET");
    until("the log to say why", || {
        strict.log().contains("where clouds hand out credentials")
    });
    let lenient = asking(&names, "127.0.0.1");
    lenient.deploy("allowed", "attack", &db(&place));
    assert_eq!(talk(&lenient, "allowed"), "heard bound: hello", "the control");
}

fn a_name_that_moves_is_followed() {
    let names = NameServer::start();
    let first = echo("first", "127.0.0.1:0");
    echo("second", &format!("127.0.0.2:{}", first.port()));
    names.set("db.test", &["127.0.0.1"], 1);
    let host = asking(&names, "127.0.0.0/8");
    host.deploy("follows", "attack", &db(format!("db.test:{}", first.port())));
    assert_eq!(talk(&host, "follows"), "heard first: hello");
    names.set("db.test", &["127.0.0.2"], 3600);
    eventually("it to be followed", || {
        let said = talk(&host, "follows");
        (said == "heard second: hello").then_some(()).ok_or(said)
    });
    let asked = names.asked("db.test");
    for _ in 0..20 {
        talk(&host, "follows");
    }
    assert!(names.asked("db.test") <= asked + 2, "not with each connection");
}

fn the_last_answer_outlives_the_name_servers() {
    let names = NameServer::start();
    let bound = echo("bound", "127.0.0.1:0");
    names.set("db.test", &["127.0.0.1"], 1);
    let host = asking(&names, "127.0.0.0/8");
    host.deploy("lasts", "attack", &db(format!("db.test:{}", bound.port())));
    assert_eq!(talk(&host, "lasts"), "heard bound: hello");
    names.be_silent(true);
    let asked = names.asked("db.test");
    until("it to be asked for in vain", || {
        assert_eq!(talk(&host, "lasts"), "heard bound: hello");
        names.asked("db.test") > asked
    });
    host.deploy("never", "attack", &db("unknown.test:1"));
    names.be_silent(false);
    assert_eq!(talk(&host, "never"), "ECONNRESET");
    until("the log to say why", || {
        host.log().contains("can't look up unknown.test")
    });
}

fn an_address_that_is_dead_is_passed_over() {
    let names = NameServer::start();
    let alive = echo("alive", "127.0.0.7:0");
    names.set("db.test", &["127.0.0.5", "127.0.0.6", "127.0.0.7"], 60);
    let host = asking(&names, "127.0.0.0/8");
    host.deploy("passes", "attack", &db(format!("db.test:{}", alive.port())));
    for _ in 0..3 {
        assert_eq!(talk(&host, "passes"), "heard alive: hello");
    }
    names.set("dead.test", &["127.0.0.5", "127.0.0.6"], 60);
    host.deploy("dead", "attack", &db(format!("dead.test:{}", alive.port())));
    assert_eq!(talk(&host, "dead"), "ECONNRESET");
    until("the log to say why", || {
        host.log().contains("dead.test at 127.0.0.")
    });
}

/// An authority of its own, and a server's certificate from it.
fn certificates(folder: &Path, server: &str) {
    let openssl = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = Command::new("openssl")
            .current_dir(folder)
            .args(words)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -addext keyUsage=keyCertSign"
    ));
    openssl(&format!(
        "req -x509 {key} -keyout key.pem -out cert.pem -subj /CN=server -CA ca.pem -CAkey ca.key -addext subjectAltName=DNS:{server} -addext basicConstraints=critical,CA:FALSE"
    ));
}

/// `openssl s_server`, which answers with each line reversed.
struct TlsServer(Child, u16);

impl TlsServer {
    fn start(folder: &Path) -> TlsServer {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("openssl");
        command.args([
            "s_server", "-cert", "cert.pem", "-key", "key.pem", "-rev", "-quiet", "-accept",
        ]);
        let command = command.arg(free.to_string()).current_dir(folder);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("openssl to listen", || std::net::TcpStream::connect(free).is_ok());
        TlsServer(child, free.port())
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says a line and tells the line that comes back.
const LINE: &str = "exec 3<>/dev/tcp/${DB_ADDR/://}; echo hello >&3; read -r line <&3; echo \"heard $line\"";

fn tls_is_spoken_for_the_function() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), "db.test");
    let server = TlsServer::start(folder.path());
    let names = NameServer::start();
    names.set("db.test", &["127.0.0.1"], 60);
    let roots = readable(folder.path());
    let host = allowing("127.0.0.1")
        .variable("FUNCD_EGRESS_NAMESERVERS", &names.address().to_string())
        .variable("FUNCD_EGRESS_ROOTS", &roots)
        .start();
    bash(
        &host,
        "secure",
        LINE,
        &format!(
            "contract = \"stdio\"\n{}",
            db(format!("tls://db.test:{}", server.1))
        ),
    );
    assert_eq!(host.get_ok("/secure/").text(), "heard olleh\n");
    // The control: without TLS the same server says nothing of the kind.
    bash(
        &host,
        "plain",
        LINE,
        &format!("contract = \"stdio\"\n{}", db(format!("db.test:{}", server.1))),
    );
    assert_ne!(host.get("/plain/").text(), "heard olleh\n");
}

/// The authority's certificate, where whoever the supervisor runs as may read it.
fn readable(folder: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.join("ca.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_string_lossy().into_owned()
}

fn who_is_not_who_it_should_be_is_not_spoken_with() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), "db.test");
    let server = TlsServer::start(folder.path());
    let names = NameServer::start();
    names.set("db.test", &["127.0.0.1"], 60);
    names.set("other.test", &["127.0.0.1"], 60);
    let host = |roots: &str| {
        let plan = allowing("127.0.0.1").variable("FUNCD_EGRESS_NAMESERVERS", &names.address().to_string());
        plan.variable("FUNCD_EGRESS_ROOTS", roots).start()
    };
    let believing = host(&readable(folder.path()));
    believing.deploy("wrong", "attack", &db(format!("tls://other.test:{}", server.1)));
    assert_eq!(talk(&believing, "wrong"), "ECONNRESET");
    until("the log to say why", || {
        believing.log().contains("not valid for name")
    });
    let unbelieving = host("");
    unbelieving.deploy("unknown", "attack", &db(format!("tls://db.test:{}", server.1)));
    assert_eq!(talk(&unbelieving, "unknown"), "ECONNRESET");
    until("the log to say why", || {
        let log = unbelieving.log();
        log.contains("name that in `egress.roots`") || log.contains("no certificates to check it by")
    });
    let missing = host("/nonexistent/roots.pem");
    missing.deploy("missing", "attack", &db(format!("tls://db.test:{}", server.1)));
    assert_eq!(talk(&missing, "missing"), "ECONNRESET");
    until("the log to say why", || {
        missing.log().contains("/nonexistent/roots.pem")
    });
}

fn a_new_supervisor_serves_the_bindings_of_the_old_one() {
    let bound = echo("bound", "127.0.0.1:0");
    let host = allowing("127.0.0.0/8").start();
    host.deploy("stays", "attack", &db(bound));
    assert_eq!(talk(&host, "stays"), "heard bound: hello");
    let before = host.instance("stays").pid;
    for _ in 0..2 {
        let crashed = host.supervisor();
        crashed.signal(Signal::SIGKILL);
        until("it to be gone", || !crashed.is_there());
        host.wait_for("/stays/talk?127.0.0.1:19001&hello", "the binding", |answer| {
            answer.status() == 200
        });
        assert_eq!(talk(&host, "stays"), "heard bound: hello");
        assert_eq!(host.instance("stays").pid, before, "the same process");
    }
}

fn each_revision_has_its_own() {
    let (first, second) = (echo("first", "127.0.0.1:0"), echo("second", "127.0.0.1:0"));
    let host = allowing("127.0.0.0/8").start();
    host.deploy("changes", "attack", &db(first));
    assert_eq!(talk(&host, "changes"), "heard first: hello");
    host.deploy("changes", "attack", &db(second));
    eventually("the new revision", || {
        let said = talk(&host, "changes");
        (said == "heard second: hello").then_some(()).ok_or(said)
    });
    host.deploy("changes", "attack", "contract = \"http\"\n");
    eventually("one without", || {
        let said = talk(&host, "changes");
        (said == "ENETUNREACH").then_some(()).ok_or(said)
    });
}

/// Connects to its binding, and keeps that open.
const KEEPS: &str = r#"#!/usr/bin/python3
import http.server, os, socket
host, port = os.environ["DB_ADDR"].split(":")
held = socket.create_connection((host, int(port)))
held.sendall(b"held")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = repr(held.getsockname()) if self.path != "/exit" else os._exit(3)
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())
http.server.HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn keeps(host: &Host, name: &str, place: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, KEEPS).unwrap();
    host.drop_folder(name, &path, &format!("contract = \"port\"\n{}", db(place)));
    host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
}

fn a_connection_ends_with_its_instance() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = allowing("127.0.0.0/8").start();
    keeps(&host, "keeps", listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"held");
    host.instance("keeps").signal(Signal::SIGKILL);
    // Its end, or an error: whatever it is, it is the last of it.
    let end = stream.read(&mut heard);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.raw_os_error() == Some(nix::libc::ECONNRESET)));
}

fn one_that_listens_itself_has_them_beside_its_port() {
    let bound = echo("bound", "127.0.0.1:0");
    let host = allowing("127.0.0.0/8").start();
    keeps(&host, "both", bound);
    assert!(host.get_ok("/both/").text().contains("127.0.0.1"));
}

fn a_process_of_one_request_has_its_own() {
    let bound = echo("bound", "127.0.0.1:0");
    let host = allowing("127.0.0.0/8").start();
    let hears = "exec 3<>/dev/tcp/${DB_ADDR/://}; printf 'GET' >&3; head -c 5 <&3";
    // It is not told that nothing more comes: the server answers at its end alone.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut heard = [0; 3];
            let _ = stream.read_exact(&mut heard);
            let _ = stream.write_all(b"TAKEN");
        }
    });
    bash(
        &host,
        "single",
        hears,
        &format!("contract = \"stdio\"\n{}", db(at)),
    );
    for _ in 0..5 {
        assert_eq!(host.get_ok("/single/").text(), "TAKEN");
    }
    // One header of a caller's can't say where it leads.
    let env = "echo \"$DB_ADDR\"";
    bash(
        &host,
        "told",
        env,
        &format!("contract = \"stdio\"\n{}", db(bound)),
    );
    let told = host.ask(
        &Request::get("/told/")
            .header("DB_ADDR", "203.0.113.7:1")
            .header("db-addr", "203.0.113.7:1"),
    );
    assert_eq!(told.text(), "127.0.0.1:19001\n");
}

fn a_lambda_function_has_its_api_and_its_bindings() {
    let bound = echo("bound", "127.0.0.1:0");
    let host = allowing("127.0.0.0/8").start();
    let bootstrap = fs::read_to_string(example_file("lambda-py/bootstrap")).unwrap();
    let asks = r#"def handle(event):
    import socket
    place, port = os.environ["DB_ADDR"].split(":")
    with socket.create_connection((place, int(port))) as talk:
        talk.sendall(b"hello")
        talk.shutdown(socket.SHUT_WR)
        heard = talk.makefile().read()
    return {"statusCode": 200, "headers": {"content-type": "text/plain"}, "body": heard}


def call("#;
    let bootstrap = bootstrap.replacen("def call(", asks, 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap");
    fs::write(&path, bootstrap).unwrap();
    let manifest = fs::read_to_string(example_file("lambda-py/function.toml")).unwrap();
    host.drop_folder("aws", &path, &format!("{manifest}\n{}", db(bound)));
    let answer = host.wait_for("/aws/", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), "bound: hello");
    let crashed = host.supervisor();
    crashed.signal(Signal::SIGKILL);
    until("it to be gone", || !crashed.is_there());
    let answer = host.wait_for("/aws/", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), "bound: hello", "by the next supervisor too");
}

fn the_sandbox_is_explained_with_them() {
    let host = Host::start();
    host.deploy("explained", "attack", &db("10.0.0.5:5432"));
    let document = host.json(&["explain-sandbox", "explained"]).unwrap();
    let items = document["items"].as_array().unwrap();
    let named = |name: &str| {
        let item = items
            .iter()
            .find(|item| item["section"] == "network" && item["name"] == name);
        item.map(|item| {
            (
                item["value"].as_str().unwrap().to_owned(),
                item["from"].as_str().unwrap().to_owned(),
            )
        })
    };
    let (value, from) = named("binding db").unwrap();
    assert_eq!(
        value,
        "127.0.0.1:19001 leads to tcp://10.0.0.5:5432, and nowhere else"
    );
    assert_eq!(from, "function.toml line 2");
    assert_eq!(
        named("reachable").unwrap().0,
        "its bindings, and itself, over 127.0.0.1"
    );
    assert!(
        items
            .iter()
            .any(|item| item["section"] == "environment" && item["name"] == "DB_ADDR")
    );
}

fn what_is_wrong_with_one_is_shown() {
    let host = Host::start();
    host.drop_folder("wrong", &example("attack"), "[bindings.db]\ntcp = \"nowhere\"\n");
    let refused = eventually("it to be refused", || {
        let entry = host.entry("wrong").ok_or("no entry")?;
        (entry.status == "refused")
            .then_some(entry.reason)
            .ok_or(entry.status)
    });
    assert!(
        refused.contains(":3:7: \"nowhere\" is not a place to connect to: the port is missing"),
        "{refused}"
    );
}
