//! What outlives what: the supervisor may die, the launcher may die, two hosts may live side by side.

use std::net::TcpListener;
use std::process::ExitStatus;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::{Connection, Request};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "launcher", [
        functions_outlive_the_supervisor,
        the_supervisor_may_die_again_and_again,
        a_takeover_starts_nothing_that_runs_already,
        what_happened_meanwhile_is_found_out,
        the_supervisor_holds_no_privilege: &[Need::Root],
        nothing_outlives_the_launcher,
        sigterm_lets_requests_finish,
        sigterm_twice_does_not_hang,
        two_hosts_live_side_by_side,
        a_taken_port_is_named,
        a_log_that_can_not_be_written_stops_nothing,
    ]);
}

fn functions_outlive_the_supervisor() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    host.deploy("two", "crash", "");
    host.get_ok("/one/");
    host.get_ok("/two/");
    let (one, two, supervisor) = (host.instance("one"), host.instance("two"), host.supervisor());

    // The launcher is held still, so that there certainly is no supervisor when the caller connects.
    host.signal(Signal::SIGSTOP);
    supervisor.signal(Signal::SIGKILL);
    until("the supervisor to be dead", || !supervisor.is_alive());
    let mut caller = Connection::tcp(host.address()).expect("the socket still listens");
    caller.send_head(&Request::get("/one/")).unwrap();
    host.signal(Signal::SIGCONT);

    let answer = caller
        .response("GET")
        .unwrap_or_else(|error| panic!("{error}\n{}", host.log_tail()));
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (200, "Hello from funcd\n")
    );
    assert_ne!(host.supervisor(), supervisor);
    host.get_ok("/two/");
    assert_eq!(
        (host.instance("one"), host.instance("two")),
        (one, two),
        "the functions' processes are the same"
    );
}

fn the_supervisor_may_die_again_and_again() {
    let host = Host::start();
    host.deploy("lasting", "hello", "");
    host.get_ok("/lasting/");
    let process = host.instance("lasting");
    for _ in 0..3 {
        let supervisor = host.supervisor();
        supervisor.signal(Signal::SIGKILL);
        until("the supervisor to be gone", || !supervisor.is_there());
        let answer = host.wait_for("/lasting/", "200", |answer| answer.status() == 200);
        assert_eq!(answer.text(), "Hello from funcd\n");
    }
    eventually("ps to show the same process", || {
        match host.try_ps()?.as_slice() {
            [row] if row.pid == Some(process.pid) => Ok(()),
            others => Err(format!("{others:?}")),
        }
    });
    assert!(process.is_alive());
}

fn a_takeover_starts_nothing_that_runs_already() {
    let host = Host::start();
    host.deploy("kept", "hello", "[scale]\nmin = 1\nmax = 3\n");
    let (process, supervisor) = (host.instance("kept"), host.supervisor());
    supervisor.signal(Signal::SIGKILL);
    until("the supervisor to be gone", || !supervisor.is_there());
    host.wait_for("/kept/", "200", |answer| answer.status() == 200);
    let pids: Vec<_> = host.ps().into_iter().map(|row| row.pid).collect();
    assert_eq!(pids, [Some(process.pid)], "the minimum was running already");
}

fn what_happened_meanwhile_is_found_out() {
    let host = Host::start();
    host.deploy("going", "hello", "");
    host.deploy("staying", "hello", "");
    host.get_ok("/going/");
    host.get_ok("/staying/");
    let (going, supervisor) = (host.instance("going"), host.supervisor());
    host.signal(Signal::SIGSTOP);
    supervisor.signal(Signal::SIGKILL);
    until("the supervisor to be dead", || !supervisor.is_alive());
    host.remove("going");
    host.drop_in("coming", &funcd_tests::artifacts::example("hello"));
    host.signal(Signal::SIGCONT);
    host.wait_for("/coming/", "200", |answer| answer.status() == 200);
    host.wait_for("/going/", "404", |answer| answer.status() == 404);
    until("the instance of what was removed to stop", || !going.is_there());
    host.get_ok("/staying/");
}

fn the_supervisor_holds_no_privilege() {
    let host = Host::start();
    let supervisor = host.supervisor();
    let uid = supervisor.uid().expect("it runs");
    assert_ne!(uid, 0, "the supervisor is not root");
    let status = std::fs::read_to_string(format!("/proc/{}/status", supervisor.pid)).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
            .to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert!(host.log().contains("withstood the self-check"), "{}", host.log());
}

fn nothing_outlives_the_launcher() {
    let host = Host::start();
    host.deploy("hello", "hello", "");
    host.deploy("deaf", "deaf", "");
    host.get_ok("/hello/");
    host.get_ok("/deaf/");
    let processes = [host.instance("hello"), host.instance("deaf"), host.supervisor()];
    let belongings = host.belongings();
    host.signal(Signal::SIGKILL);
    host.wait_ended();
    until("functions and supervisor to be gone", || {
        processes.iter().all(|process| !process.is_there())
    });
    let host = host.start_again();
    host.wait_for("/hello/", "200", |answer| answer.status() == 200);
    // The next start took over the cgroups' names; when that one ends, nothing of both may be left.
    drop(host);
    assert_eq!(belongings.left(), [""; 0]);
}

/// Stops a host while it answers a request, which it finishes; how that ended which had started it.
pub(crate) fn stopped(host: &Host, stop: impl FnOnce()) -> ExitStatus {
    host.deploy("slow", "slow", "");
    let mut caller = host.connect();
    caller
        .send_head(&Request::get("/slow/stream?ms=100&n=10"))
        .unwrap();
    assert_eq!(caller.head().unwrap().status, 200);
    stop();
    let mut pieces = 0;
    let mut next = || {
        caller
            .chunk()
            .unwrap_or_else(|error| panic!("{error}\n{}", host.log_tail()))
    };
    while !next().is_empty() {
        pieces += 1;
    }
    assert_eq!(pieces, 10, "{}", host.log_tail());
    host.wait_ended()
}

fn sigterm_lets_requests_finish() {
    let host = Host::start();
    let status = stopped(&host, || host.signal(Signal::SIGTERM));
    assert_eq!(status.code(), Some(0), "{}", host.log_tail());
}

fn sigterm_twice_does_not_hang() {
    let host = Host::start();
    host.deploy("deaf", "deaf", "[health]\nstop_within = \"1s\"\n");
    host.get_ok("/deaf/");
    let process = host.instance("deaf");
    host.signal(Signal::SIGTERM);
    host.signal(Signal::SIGTERM);
    host.wait_ended();
    assert!(!process.is_there());
}

fn two_hosts_live_side_by_side() {
    let (one, two) = (Host::start(), Host::start());
    one.deploy("same", "hello", "");
    two.deploy("same", "crash", "");
    assert_eq!(one.get_ok("/same/").text(), "Hello from funcd\n");
    assert_ne!(two.get_ok("/same/").text(), "Hello from funcd\n");
    let (here, there) = (one.instance("same"), two.instance("same"));
    assert_ne!(here, there);
    drop(two);
    assert!(!there.is_there() && here.is_alive());
    assert_eq!(one.get_ok("/same/").text(), "Hello from funcd\n");
}

fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Plan::new().arguments(&["--listen", &address]).start_and_fail();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

fn a_log_that_can_not_be_written_stops_nothing() {
    let host = Plan::new().log_to("/dev/full").start();
    host.deploy("unheard", "hello", "");
    host.get_ok("/unheard/");
    // What it would have to say makes no difference: it is the first supervisor still.
    let supervisor = host.supervisor();
    host.remove("unheard");
    assert_eq!(host.supervisor(), supervisor);
}
