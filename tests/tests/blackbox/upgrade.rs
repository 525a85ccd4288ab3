//! Another program is put in place while callers call: nothing is lost, no function is restarted, and one that is not fit changes
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use funcd_tests::host::{Host, Plan, put_program};
use funcd_tests::http::Request;
use funcd_tests::load::{Load, Tally};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{artifacts, eventually, until};
use nix::sys::signal::Signal;

use super::bindings_http::deploy_asker;
use super::programs::bash;
use super::websocket::Socket;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "upgrade", [
        upgrades_under_load_lose_nothing,
        sighup_upgrades_too,
        the_launcher_weighs_as_much_as_the_supervisor_afterwards: &[Need::Property("cpu-limit")],
        a_program_that_is_not_fit_changes_nothing,
        a_configuration_with_errors_changes_nothing,
        what_can_not_change_while_it_runs_is_named,
        other_settings_are_read_again,
        a_supervisor_that_does_not_come_up_leaves_the_one_before,
        a_supervisor_that_is_never_ready_leaves_the_one_before,
        the_way_back_reads_no_configuration,
        while_the_one_before_drains_the_host_is_ready_and_who_asks_is_answered,
        what_is_under_way_is_finished_by_the_one_before,
        what_is_cold_is_started_meanwhile,
        what_was_dropped_just_before_is_served,
        a_websocket_lives_on_until_the_drain_ends,
        ends_are_seen_and_output_is_kept_afterwards,
        a_lambda_function_is_asked_on: &[Need::Property("network")],
        calls_that_the_one_before_took_are_answered: &[Need::Property("network"), Need::Program("/usr/bin/python3")],
        what_only_the_one_before_has_calls_on: &[Need::Property("network"), Need::Program("/bin/bash")],
        bindings_go_on: &[Need::Property("network"), Need::Program("/usr/bin/python3")],
        prepared_processes_serve_afterwards: &[Need::Standby, Need::Program("/bin/bash")],
        sigterm_in_the_middle_ends_everything,
        nothing_outlives_a_launcher_that_took_over,
        nothing_outlives_a_launcher_in_the_middle,
        who_may_not_use_the_admin_socket_may_not_upgrade: &[Need::Root],
    ]);
}

/// What `funcd upgrade` came to.
fn upgrade(host: &Host) -> Output {
    host.funcd(&["upgrade"]).output().expect("funcd was built")
}

#[track_caller]
fn upgrade_ok(host: &Host) {
    let output = upgrade(host);
    assert!(output.status.success(), "{output:?}\n{}", host.log_tail());
}

/// The reason of an upgrade that did not happen.
#[track_caller]
fn refused(host: &Host) -> String {
    let output = upgrade(host);
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", host.log_tail());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn supervisors(host: &Host) -> Vec<Process> {
    host.launcher().children_with_argument("supervisor")
}

#[track_caller]
fn none_failed(tally: &Tally, host: &Host) {
    assert_eq!(
        tally.failures,
        [""; 0],
        "of {}\n{}",
        tally.answered,
        host.log_tail()
    );
}

/// The one supervisor, once there is no other.
#[track_caller]
fn the_supervisor(host: &Host) -> Process {
    eventually("one supervisor", || match supervisors(host).as_slice() {
        [one] => Ok(one.clone()),
        others => Err(format!("{others:?}\n{}", host.log_tail())),
    })
}

/// Puts the program in place so often, with so many answers of each load before, between and after; what became of all of them.
#[track_caller]
fn upgrades_under<const N: usize>(host: &Host, loads: [Load; N], times: usize, answers: usize) -> [Tally; N] {
    for _ in 0..times {
        loads.iter().for_each(|load| load.wait_for_more(answers));
        put_program(host.path(), &artifacts::funcd());
        upgrade_ok(host);
    }
    loads.iter().for_each(|load| load.wait_for_more(answers));
    loads.map(|load| {
        let tally = load.stop();
        none_failed(&tally, host);
        tally
    })
}

fn upgrades_under_load_lose_nothing() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.deploy("two", "echo", "[scale]\nmin = 1\nmax = 1\n");
    host.get_ok("/one/");
    host.get_ok("/two/");
    let (one, two) = (host.instance("one"), host.instance("two"));
    let before = the_supervisor(&host);
    let safe = Load::start(host.address(), "/one/", 3);
    let unsafe_ones = Load::posts(host.address(), "/two/", 3);
    upgrades_under(&host, [safe, unsafe_ones], 5, 50);
    assert_ne!(the_supervisor(&host), before);
    assert_eq!(
        (host.instance("one"), host.instance("two")),
        (one, two),
        "none was restarted"
    );
    assert!(host.launcher().is_alive(), "the launcher has the same pid");
}

fn what_was_dropped_just_before_is_served() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    put_program(host.path(), &artifacts::funcd());
    for late in ["two", "three", "four"] {
        host.drop_in(late, &artifacts::example("hello"));
        upgrade_ok(&host);
        // At once: nobody saw the new supervisor without it.
        host.get_ok(&format!("/{late}/"));
    }
}

/// What the scheduler gives to a process's cgroup, in thousandths of the usual.
fn weight(process: &Process) -> Option<u64> {
    let folders = process.cgroup_folders();
    let read = |file: &str, usual: u64| {
        let told = folders
            .iter()
            .find_map(|dir| fs::read_to_string(dir.join(file)).ok())?;
        Some(told.trim().parse::<u64>().ok()? * 1000 / usual)
    };
    read("cpu.weight", 100).or_else(|| read("cpu.shares", 1024))
}

fn the_launcher_weighs_as_much_as_the_supervisor_afterwards() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let weights = || [host.launcher(), &host.supervisor(), &host.instance("one")].map(weight);
    let all = [Some(10_000), Some(10_000), Some(1000)];
    assert_eq!(weights(), all);
    upgrade_ok(&host);
    assert_eq!(weights(), all);
}

fn sighup_upgrades_too() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    // `systemctl reload`, of a program that a package manager replaced.
    put_program(host.path(), &artifacts::funcd());
    host.signal(Signal::SIGHUP);
    until("another supervisor", || {
        supervisors(&host).iter().all(|it| *it != before)
    });
    host.get_ok("/one/");
    assert_eq!(host.instance("one"), one);
    let program = fs::read_link(format!("/proc/{}/exe", host.launcher().pid)).unwrap();
    assert_eq!(
        program,
        host.path().join("funcd"),
        "it is the new file, not one that was deleted"
    );
}

fn a_program_that_is_not_fit_changes_nothing() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let put = |text: &str, mode: u32| {
        let staged = host.path().join("staged");
        fs::write(&staged, text).unwrap();
        fs::set_permissions(&staged, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&staged, host.path().join("funcd")).unwrap();
    };
    let mut reasons = BTreeSet::new();
    let mut expect = |what: &str| {
        let said = refused(&host);
        assert!(said.contains(what), "{what:?}: {said}");
        assert!(reasons.insert(said), "each reason is another");
        assert_eq!(the_supervisor(&host), before);
        host.get_ok("/one/");
    };
    put("#!/bin/sh\nexit 1\n", 0o755);
    expect("is no ELF executable");
    put("\x7fELF and nothing", 0o755);
    expect("can't be executed: ");
    put("\x7fELF", 0o644);
    expect("is not executable");
    put("\x7fELF", 0o757);
    expect("may be written by everybody");
    put_program(host.path(), Path::new("/bin/false"));
    expect("it ended with code 1");
    put_program(host.path(), Path::new("/bin/echo"));
    expect("it does not say that it is funcd");
    fs::remove_file(host.path().join("funcd")).unwrap();
    expect("can't be opened");
    // The control.
    put_program(host.path(), &artifacts::funcd());
    upgrade_ok(&host);
    assert_ne!(the_supervisor(&host), before);
    assert_eq!(host.instance("one"), one);
}

/// A host with a configuration file.
fn configured(text: &str) -> Host {
    let plan = Plan::new().own_program();
    let file = plan.path().join("funcd.toml");
    fs::write(&file, text).unwrap();
    plan.arguments(&["--config", &file.display().to_string()]).start()
}

fn a_configuration_with_errors_changes_nothing() {
    let host = configured("drain = \"20s\"\n");
    let before = the_supervisor(&host);
    fs::write(host.path().join("funcd.toml"), "drian = \"20s\"\n").unwrap();
    let said = refused(&host);
    assert!(said.contains("drian") && said.contains("funcd.toml"), "{said}");
    assert_eq!(the_supervisor(&host), before);
    host.signal(Signal::SIGHUP);
    until("the log to say why", || host.log().matches("drian").count() >= 2);
    assert_eq!(the_supervisor(&host), before);
}

fn what_can_not_change_while_it_runs_is_named() {
    let host = configured("uid_count = 900\n");
    let before = the_supervisor(&host);
    fs::write(host.path().join("funcd.toml"), "uid_count = 901\n").unwrap();
    let said = refused(&host);
    assert!(
        said.contains("`uid_count`") && said.contains("restart funcd"),
        "{said}"
    );
    assert_eq!(the_supervisor(&host), before);
}

fn other_settings_are_read_again() {
    let host = configured("[defaults.limits]\npids = 77\n");
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let config = |host: &Host| {
        let output = host.funcd(&["explain-sandbox", "one"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(config(&host).contains("77"), "{}", config(&host));
    fs::write(host.path().join("funcd.toml"), "[defaults.limits]\npids = 78\n").unwrap();
    upgrade_ok(&host);
    eventually("the new default", || {
        let said = config(&host);
        if said.contains("78") { Ok(()) } else { Err(said) }
    });
}

/// Waits until there are two supervisors: the one that is not `before`.
#[track_caller]
fn the_new_one(host: &Host, before: &Process) -> Process {
    eventually("a new supervisor", || {
        let new = supervisors(host).into_iter().find(|it| it != before);
        new.ok_or_else(|| host.log_tail())
    })
}

/// A function whose storing takes a while, so that a supervisor is not ready at once: a large executable.
fn slow_to_read(host: &Host) {
    let path = host.path().join("large");
    fs::copy(artifacts::example("hello"), &path).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&path, host.function_path("large")).unwrap();
    host.wait_live("large");
}

fn a_supervisor_that_does_not_come_up_leaves_the_one_before() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    slow_to_read(&host);
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let load = Load::start(host.address(), "/one/", 2);
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    let new = the_new_one(&host, &before);
    new.signal(Signal::SIGKILL);
    let output = asking.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", host.log_tail());
    assert!(said.contains("before it was ready"), "{said}");
    load.wait_for_more(20);
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "{}", host.log_tail());
    assert_eq!(the_supervisor(&host), before, "the one before serves");
    assert_eq!(host.instance("one"), one);
    // It is the one before in all: it starts what is asked for, and sees what ends.
    one.signal(Signal::SIGKILL);
    until("another instance", || {
        host.get("/one/").status() == 200 && host.instance("one") != one
    });
    upgrade_ok(&host);
    assert_ne!(the_supervisor(&host), before);
    host.get_ok("/one/");
}

fn a_supervisor_that_is_never_ready_leaves_the_one_before() {
    let host = Plan::new()
        .own_program()
        .variable("FUNCD_TEST_READY_WITHIN_MS", "1")
        .start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let said = refused(&host);
    assert!(said.contains("was not ready within"), "{said}");
    assert_eq!(the_supervisor(&host), before);
    host.get_ok("/one/");
    assert_eq!(host.instance("one"), one);
}

/// What the new program understood, or somebody writes meanwhile, the one before may not be able to read.
fn the_way_back_reads_no_configuration() {
    let host = configured("uid_count = 900\n");
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    slow_to_read(&host);
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    let new = the_new_one(&host, &before);
    fs::write(host.path().join("funcd.toml"), "a_key_of_tomorrow = 1\n").unwrap();
    new.signal(Signal::SIGKILL);
    let output = asking.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", host.log_tail());
    assert_eq!(the_supervisor(&host), before, "the one before serves");
    host.get_ok("/one/");
    assert_eq!(host.instance("one"), one);
    // The control: it does matter to an upgrade.
    assert!(refused(&host).contains("a_key_of_tomorrow"));
}

fn while_the_one_before_drains_the_host_is_ready_and_who_asks_is_answered() {
    let host = Plan::new().own_program().start();
    host.deploy("talk", "websocket", "");
    let mut socket = Socket::open(&host, "/talk/ws");
    assert_eq!(socket.say("text before"), "text before");
    let before = the_supervisor(&host);
    upgrade_ok(&host);
    for _ in 0..30 {
        let answer = host.admin_get("/readyz");
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    // One waits until the one before is gone, and another is told so at once.
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    until("it to wait", || host.log().contains("an upgrade waits until"));
    let said = refused(&host);
    assert!(said.contains("under way already"), "{said}");
    assert!(before.is_there(), "it drained all the while");
    drop(socket);
    let output = asking.join().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", host.log_tail());
}

fn what_is_under_way_is_finished_by_the_one_before() {
    let host = Plan::new().own_program().start();
    host.deploy("slow", "slow", "");
    host.deploy("echo", "echo", "");
    host.get_ok("/slow/?ms=0");
    let slow = host.instance("slow");
    let mut late = host.connect();
    late.send_head(&Request::get("/slow/?ms=1500")).unwrap();
    let mut stream = host.connect();
    stream
        .send_head(&Request::get("/slow/stream?ms=150&n=10"))
        .unwrap();
    assert_eq!(stream.head().unwrap().status, 200);
    // A body of which half is there.
    let mut upload = host.connect();
    upload
        .write(b"POST /echo/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        .unwrap();
    // One that asks nothing yet.
    let mut idle = host.connect();
    let before = the_supervisor(&host);
    upgrade_ok(&host);
    upload.write(b"56789").unwrap();
    let answer = upload.response("POST").unwrap();
    assert_eq!(answer.status(), 200, "{}\n{}", answer.text(), host.log_tail());
    let answer = idle.ask(&Request::get("/slow/?ms=0")).unwrap();
    assert_eq!(answer.status(), 200);
    let mut pieces = 0;
    while !stream
        .chunk()
        .unwrap_or_else(|error| panic!("{error}\n{}", host.log_tail()))
        .is_empty()
    {
        pieces += 1;
    }
    assert_eq!(pieces, 10);
    assert_eq!(late.response("GET").unwrap().status(), 200);
    drop((late, upload, idle, stream));
    until("the one before to be gone", || !before.is_there());
    assert_eq!(host.instance("slow"), slow);
    host.get_ok("/slow/?ms=0");
}

fn what_is_cold_is_started_meanwhile() {
    let host = Plan::new().own_program().start();
    host.deploy("warm", "hello", "");
    slow_to_read(&host);
    let names: Vec<String> = (0..6).map(|number| format!("cold-{number}")).collect();
    for name in &names {
        host.deploy(name, "hello", "");
    }
    // On connections that belong to the one before.
    let mut connections: Vec<_> = names.iter().map(|_| host.connect()).collect();
    for connection in &mut connections {
        assert_eq!(connection.ask(&Request::get("/warm/")).unwrap().status(), 200);
    }
    let before = the_supervisor(&host);
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    the_new_one(&host, &before);
    for (name, connection) in names.iter().zip(&mut connections) {
        let answer = connection.ask(&Request::get(&format!("/{name}/")));
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}\n{}", host.log_tail()));
        assert_eq!(answer.status(), 200, "{name}: {}", answer.text());
    }
    let output = asking.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    drop(connections);
    the_supervisor(&host);
    for name in &names {
        host.get_ok(&format!("/{name}/"));
    }
}

fn a_websocket_lives_on_until_the_drain_ends() {
    let plan = Plan::new().own_program();
    let file = plan.path().join("funcd.toml");
    fs::write(&file, "drain = \"4s\"\n").unwrap();
    let host = plan.arguments(&["--config", &file.display().to_string()]).start();
    host.deploy("talk", "websocket", "");
    let mut socket = Socket::open(&host, "/talk/ws");
    assert_eq!(socket.say("text before"), "text before");
    let before = the_supervisor(&host);
    upgrade_ok(&host);
    assert_eq!(socket.say("text after"), "text after");
    assert_eq!(supervisors(&host).len(), 2, "the one before holds it");
    host.get_ok("/talk/open");
    until("the one before to end with its drain", || !before.is_there());
    assert_ne!(socket.say("next"), "text after");
    host.get_ok("/talk/open");
}

fn ends_are_seen_and_output_is_kept_afterwards() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "crash", "[scale]\nmin = 1\n");
    host.get_ok("/one/");
    for _ in 0..2 {
        upgrade_ok(&host);
        the_supervisor(&host);
        let one = host.instance("one");
        one.signal(Signal::SIGKILL);
        until("another instance", || {
            host.try_ps()
                .is_ok_and(|rows| rows.iter().any(|row| row.pid.is_some_and(|pid| pid != one.pid)))
        });
        assert!(!one.is_there(), "it was reaped");
        host.get_ok("/one/");
    }
    let lines = |host: &Host| {
        let output = host.funcd(&["logs", "one", "-n", "1000"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    let before = lines(&host);
    upgrade_ok(&host);
    the_supervisor(&host);
    let _ = host.get("/one/?code=3");
    until("its last words to be there", || lines(&host) > before);
}

fn a_lambda_function_is_asked_on() {
    let host = Plan::new().own_program().start();
    let manifest = fs::read_to_string(artifacts::example_file("lambda-py/function.toml")).unwrap();
    host.drop_folder(
        "stays",
        &artifacts::example_file("lambda-py/bootstrap"),
        &manifest,
    );
    host.wait_for("/stays/", "200", |answer| answer.status() == 200);
    let process = host.instance("stays");
    upgrades_under(&host, [Load::start(host.address(), "/stays/", 1)], 3, 10);
    // And one that waits for something to do.
    the_supervisor(&host);
    upgrade_ok(&host);
    the_supervisor(&host);
    host.get_ok("/stays/");
    assert!(process.is_there(), "the same process\n{}", host.log_tail());
    assert!(
        !host.log().contains("instance=1 reason"),
        "it did not end\n{}",
        host.log_tail()
    );
}

/// A host that would rather wait for ever than cut off what goes on.
fn patient() -> Host {
    let plan = Plan::new().own_program();
    let file = plan.path().join("funcd.toml");
    fs::write(&file, "drain = \"1h\"\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    plan.arguments(&["--config", &file]).start()
}

fn calls_that_the_one_before_took_are_answered() {
    let host = patient();
    host.deploy("far", "slow", "");
    deploy_asker(&host, "near", "[bindings.far]\nfunction = \"far\"\n");
    host.get_ok("/near/?to=far");
    // Keeps the old one for a while: it takes what functions ask until it yields, which is after two seconds.
    let mut held = host.connect();
    held.send_head(&Request::get("/far/?ms=4000")).unwrap();
    let before = the_supervisor(&host);
    upgrade_ok(&host);
    // The new one has the request, the old one the call that is made for it, and nothing else before long.
    let said = host.get_ok("/near/?to=far&path=/%3Fms=8000").json();
    assert_eq!(said["status"], 200, "{said}\n{}", host.log_tail());
    assert_eq!(held.response("GET").unwrap().status(), 200);
    until("the old one to end", || !before.is_alive());
}

fn what_only_the_one_before_has_calls_on() {
    let host = patient();
    host.deploy("far", "hello", "");
    let call = "sleep 5; exec 3<>/dev/tcp/127.0.0.1/$port; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let script = format!("port=${{FAR_URL##*:}}; port=${{port%%/*}}; {call}");
    let manifest = "contract = \"stdio\"\n[request]\ntimeout = \"20s\"\n[bindings.far]\nfunction = \"far\"\n";
    bash(&host, "each", &script, manifest);
    host.get_ok("/far/");
    let mut asked = host.connect();
    asked.send_head(&Request::get("/each/")).unwrap();
    until("its process", || {
        host.launcher()
            .descendants()
            .iter()
            .any(|it| it.name() == "sleep")
    });
    let before = the_supervisor(&host);
    upgrade_ok(&host);
    // By the time of its call all bindings are the new one's, but for those of such processes.
    let answer = asked.response("GET").unwrap();
    assert!(
        answer.text().contains("Hello from funcd"),
        "{}\n{}",
        answer.text(),
        host.log_tail()
    );
    until("the old one to end", || !before.is_alive());
}

fn bindings_go_on() {
    let host = Plan::new().own_program().start();
    host.deploy("far", "hello", "");
    deploy_asker(&host, "near", "[bindings.far]\nfunction = \"far\"\n");
    host.get_ok("/near/?to=far");
    let near = host.instance("near");
    let load = Load::start(host.address(), "/near/?to=far", 2);
    let [tally] = upgrades_under(&host, [load], 3, 20);
    for body in tally.bodies {
        assert!(body.contains("Hello from funcd"), "{body}\n{}", host.log_tail());
    }
    assert_eq!(host.instance("near"), near);
}

fn prepared_processes_serve_afterwards() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "[scale]\nidle = \"300ms\"\n");
    bash(&host, "each", "cat", "contract = \"stdio\"\n");
    let load = Load::start(host.address(), "/one/", 1);
    let each = Load::posts(host.address(), "/each/", 1);
    upgrades_under(&host, [load, each], 3, 10);
    the_supervisor(&host);
    host.wait_idle("one");
    let waiting = |host: &Host| {
        let all = host.launcher().descendants();
        all.into_iter()
            .filter(|process| process.name() == "funcd-standby")
            .count()
    };
    eventually("its own prepared processes, and no others", || {
        match waiting(&host) {
            // One of the function, and of the program one more than were needed at once.
            1..=3 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

fn sigterm_in_the_middle_ends_everything() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    slow_to_read(&host);
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    the_new_one(&host, &before);
    host.signal(Signal::SIGTERM);
    let status = host.wait_ended();
    assert_eq!(status.code(), Some(0), "{}", host.log_tail());
    assert!(!one.is_there() && !before.is_there());
    assert!(!asking.join().unwrap().status.success());
}

/// `kill -9` of the launcher: all that ran under it is gone, and the next start clears up.
fn ends_with_its_launcher(host: Host, processes: &[Process]) {
    let belongings = host.belongings();
    assert!(processes.iter().all(Process::is_alive), "the control: they run");
    host.signal(Signal::SIGKILL);
    host.wait_ended();
    until("functions and supervisors to be gone", || {
        processes.iter().all(|process| !process.is_there())
    });
    let host = host.start_again();
    host.wait_for("/one/", "200", |answer| answer.status() == 200);
    drop(host);
    assert_eq!(belongings.left(), [""; 0]);
}

fn nothing_outlives_a_launcher_that_took_over() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.deploy("deaf", "deaf", "");
    host.get_ok("/one/");
    upgrade_ok(&host);
    // One from before, one from after.
    host.get_ok("/deaf/");
    let processes = [host.instance("one"), host.instance("deaf"), the_supervisor(&host)];
    ends_with_its_launcher(host, &processes);
}

fn nothing_outlives_a_launcher_in_the_middle() {
    let host = Plan::new().own_program().start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    slow_to_read(&host);
    let (one, before) = (host.instance("one"), the_supervisor(&host));
    let mut asking = host.funcd(&["upgrade"]);
    let asking = std::thread::spawn(move || asking.output().unwrap());
    let new = the_new_one(&host, &before);
    // Held still, so that it is in the middle for certain.
    new.signal(Signal::SIGSTOP);
    ends_with_its_launcher(host, &[one, before, new]);
    assert!(!asking.join().unwrap().status.success());
}

fn who_may_not_use_the_admin_socket_may_not_upgrade() {
    let host = Plan::new().own_program().start();
    let before = the_supervisor(&host);
    let socket = host.path().join("run/admin.sock");
    let mut stranger = std::process::Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    stranger
        .arg(artifacts::funcd())
        .args(["upgrade", "--admin"])
        .arg(&socket);
    let output = stranger.output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert_eq!(the_supervisor(&host), before);
    // The control.
    upgrade_ok(&host);
}
