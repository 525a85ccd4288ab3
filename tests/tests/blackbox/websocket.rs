//! WebSockets: a server that uses axum, a caller that uses tokio-tungstenite, funcd between them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use funcd_tests::artifacts::example;
use funcd_tests::host::Host;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::until;
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "websocket", [
        text_bytes_pings_and_closing_pass,
        an_unmodified_server_on_port: &[Need::Property("network")],
        an_open_socket_holds_its_place,
        silence_is_no_reason_to_cut_it,
        what_is_open_outlives_a_new_revision_for_a_while,
        an_instance_that_ends_cuts_its_sockets,
        who_asks_wrongly_is_told_by_the_function,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("websocket", |host| host.deploy("talk", "websocket", ""))
}

/// An open socket.
pub(super) struct Socket {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Socket {
    /// The client, and what it says of the answer to its head.
    fn ask(host: &Host, target: &str) -> (Socket, String) {
        let url = format!("ws://{}{target}", host.address());
        let mut client = Command::new(example("websocket-client"))
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        let mut socket = Socket {
            client,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let answer = socket.line();
        (socket, answer)
    }

    #[track_caller]
    pub(super) fn open(host: &Host, target: &str) -> Socket {
        let (socket, answer) = Socket::ask(host, target);
        assert_eq!(answer, "open 101", "{}", host.log_tail());
        socket
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What comes of a command.
    pub(super) fn say(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        self.line()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn converse(host: &Host) {
    let mut socket = Socket::open(host, "/talk/ws");
    assert_eq!(socket.say("text hello"), "text hello");
    assert_eq!(socket.say("binary 5"), "same 5");
    assert_eq!(socket.say("binary 1048576"), "same 1048576");
    assert_eq!(socket.say("ping there"), "pong there");
    assert_eq!(socket.say("text again"), "text again");
    // The function's code and reason, and then the caller's.
    assert_eq!(socket.say("text close"), "close 4000 as asked");
    assert_eq!(socket.say("next"), "end");
    let mut socket = Socket::open(host, "/talk/ws");
    assert_eq!(socket.say("close 4001"), "close 4001 bye");
    assert_eq!(socket.say("next"), "end");
}

fn text_bytes_pings_and_closing_pass() {
    converse(&host());
}

fn an_unmodified_server_on_port() {
    let host = Host::start();
    host.deploy("talk", "websocket", "contract = \"port\"\n");
    converse(&host);
}

fn an_open_socket_holds_its_place() {
    let host = Host::start();
    let manifest = "[scale]\nmax = 1\nconcurrency = 2\nidle = \"300ms\"\n[request]\ntimeout = \"500ms\"\n";
    host.deploy("talk", "websocket", manifest);
    let mut first = Socket::open(&host, "/talk/ws");
    let second = Socket::open(&host, "/talk/ws");
    let pid = host.instance("talk").pid;
    // Both places are taken: nobody else gets in, by a WebSocket or otherwise.
    let refused = host.get("/talk/open");
    assert!(matches!(refused.status(), 503 | 504), "{refused:?}");
    let (_, answer) = Socket::ask(&host, "/talk/ws");
    assert!(answer == "refused 503" || answer == "refused 504", "{answer}");
    drop(second);
    host.wait_for("/talk/open", "200", |answer| answer.status() == 200);
    // It is neither idle nor too late, long after `idle` and `timeout`.
    assert_eq!(first.say("text still"), "text still");
    assert_eq!(host.instance("talk").pid, pid);
    drop(first);
    host.wait_idle("talk");
}

fn silence_is_no_reason_to_cut_it() {
    let host = Host::start();
    // Far below what the test waits for otherwise; the host's own bounds of callers, too.
    host.deploy(
        "talk",
        "websocket",
        "[request]\ntimeout = \"200ms\"\n[scale]\nidle = \"200ms\"\n",
    );
    host.deploy("other", "slow", "[scale]\nidle = \"200ms\"\n");
    let mut socket = Socket::open(&host, "/talk/ws");
    // Another function comes to rest meanwhile: as long as an idle one lives, twice.
    for _ in 0..2 {
        host.get_ok("/other/");
        host.wait_idle("other");
    }
    assert_eq!(socket.say("text hello"), "text hello");
}

fn what_is_open_outlives_a_new_revision_for_a_while() {
    let host = Host::start();
    host.deploy(
        "talk",
        "websocket",
        "[request]\ntimeout = \"3s\"\n[health]\nstop_within = \"1s\"\n",
    );
    let mut old = Socket::open(&host, "/talk/ws");
    let pid = host.instance("talk").pid;
    host.deploy(
        "talk",
        "websocket",
        "[request]\ntimeout = \"4s\"\n[health]\nstop_within = \"1s\"\n",
    );
    // New sockets are those of the new revision.
    until("the new revision to have the traffic", || {
        let mut new = Socket::open(&host, "/talk/ws");
        new.say("text open") == "text 1"
    });
    // The old one goes on, and then its process is told to end: it has had as long as a request may take.
    assert_eq!(old.say("text still"), "text still");
    let end = old.say("next");
    assert!(end.starts_with("cut") || end == "end", "{end}");
    until("the old process to be gone", || {
        host.instances("talk").iter().all(|one| one.pid != Some(pid))
    });
}

fn an_instance_that_ends_cuts_its_sockets() {
    let host = Host::start();
    host.deploy("talk", "websocket", "[scale]\nmax = 1\n");
    let mut socket = Socket::open(&host, "/talk/ws");
    assert_eq!(socket.say("text hello"), "text hello");
    host.instance("talk").signal(Signal::SIGKILL);
    let end = socket.say("next");
    assert!(end.starts_with("cut") || end == "end", "{end}");
    until("its place to be free again", || {
        let (mut socket, answer) = Socket::ask(&host, "/talk/ws");
        answer == "open 101" && socket.say("text open") == "text 1"
    });
}

fn who_asks_wrongly_is_told_by_the_function() {
    let host = host();
    let (_, answer) = Socket::ask(&host, "/talk/nowhere");
    assert_eq!(answer, "refused 404");
    // No upgrade: axum says what it wants.
    let answer = host.get("/talk/ws");
    assert!(answer.head.status >= 400, "{answer:?}");
    assert_eq!(answer.header("x-funcd-shed"), None);
}
