//! funcd below a service manager: what it tells it, what it takes from it, and that nothing below it can do either.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::{Connection, Request};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::until;
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "service", [
        a_manager_is_told_of_start_reload_and_end,
        a_supervisor_that_hangs_is_replaced_before_the_watchdog_bites,
        nobody_below_can_speak_to_the_manager: &[Need::Root],
        sockets_that_the_manager_opened_are_used_and_stay,
        a_descriptor_that_is_of_no_use_is_named,
    ]);
}

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn bind(folder: &Path) -> Manager {
        let socket = UnixDatagram::bind(folder.join("notify")).expect("the folder is ours");
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).expect("a minute is no error");
        Manager(socket)
    }

    /// The next message that is no sign of life.
    fn next(&self) -> String {
        loop {
            let message = self.any();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    fn any(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a message within a minute");
        String::from_utf8(buffer[..length].to_vec()).expect("messages are text")
    }
}

fn managed(watchdog: Option<Duration>) -> (Manager, Host) {
    let plan = Plan::new();
    let manager = Manager::bind(plan.path());
    let socket = plan.path().join("notify");
    let mut plan = plan.variable("NOTIFY_SOCKET", socket.to_str().expect("it is text"));
    if let Some(watchdog) = watchdog {
        plan = plan.variable("WATCHDOG_USEC", &watchdog.as_micros().to_string());
    }
    (manager, plan.start())
}

fn a_manager_is_told_of_start_reload_and_end() {
    let (manager, host) = managed(None);
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving");
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    host.signal(Signal::SIGHUP);
    let reloading = manager.next();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving");
    host.get_ok("/one/");
    host.signal(Signal::SIGTERM);
    let stopping = manager.next();
    assert!(
        stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="),
        "{stopping}"
    );
    host.wait_ended();
}

fn a_supervisor_that_hangs_is_replaced_before_the_watchdog_bites() {
    let (manager, host) = managed(Some(Duration::from_secs(8)));
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving");
    host.deploy("kept", "hello", "");
    host.get_ok("/kept/");
    let (process, supervisor) = (host.instance("kept"), host.supervisor());
    assert_eq!(manager.any(), "WATCHDOG=1");

    supervisor.signal(Signal::SIGSTOP);
    // The launcher alone never says that all is well.
    let told = manager.next();
    assert!(told.starts_with("STATUS=the supervisor ended"), "{told}");
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving");
    until("the supervisor that hung to be gone", || !supervisor.is_there());
    assert!(host.log().contains("it does not answer"), "{}", host.log());
    assert_eq!(manager.any(), "WATCHDOG=1");
    host.get_ok("/kept/");
    assert_eq!(host.instance("kept"), process, "the function goes on");
}

fn nobody_below_can_speak_to_the_manager() {
    let (manager, host) = managed(Some(Duration::from_secs(60)));
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving");
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let names = |process: &Process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).expect("it runs");
        let text = String::from_utf8_lossy(&environment).into_owned();
        let ours = |variable: &&str| {
            ["NOTIFY_", "WATCHDOG_", "LISTEN_PID"]
                .iter()
                .any(|name| variable.starts_with(name))
        };
        let found: Vec<String> = text.split('\0').filter(ours).map(str::to_owned).collect();
        found
    };
    // The control: it is there to be inherited.
    assert_eq!(names(host.launcher()).len(), 2);
    for process in [host.supervisor(), host.instance("one")] {
        // What confines it names itself; in a pid namespace of its own it has a small number there.
        let own = ["1", "2", &process.pid.to_string()].map(|pid| format!("LISTEN_PID={pid}"));
        let found = names(&process);
        assert!(found.iter().all(|one| own.contains(one)), "{found:?}");
    }
}

fn sockets_that_the_manager_opened_are_used_and_stay() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let again = listener.try_clone().expect("a descriptor is left");
    // More workers than sockets: all of them accept from this one.
    let plan = Plan::new().arguments(&["--workers", "3", "--listen", "127.0.0.1:1"]);
    let host = plan.given(listener.into(), "http").start();
    assert_eq!(host.address(), address);
    host.deploy("one", "hello", "");
    for _ in 0..20 {
        assert_eq!(host.get_ok("/one/").text(), "Hello from funcd\n");
    }
    drop(host);
    // It is the manager's: who connects now waits for the next host.
    let mut waiting = Connection::tcp(address).expect("it still listens");
    waiting
        .send_head(&Request::get("/one/"))
        .expect("the queue takes it");
    let host = Plan::new().given(again.into(), "http").start();
    let answer = waiting.response("GET").expect("the next host answers");
    assert_eq!(answer.status(), 404, "{}", answer.text());
    drop(host);
}

fn a_descriptor_that_is_of_no_use_is_named() {
    let connected = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let output = Plan::new().given(connected.into(), "http").start_and_fail();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for words in [
        "descriptor 3 (\"http\")",
        "no stream socket",
        "pass listening stream sockets",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
