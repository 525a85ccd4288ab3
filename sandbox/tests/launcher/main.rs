//! The launcher, end to end: real processes, cgroups and sockets. The test binary plays three parts: the tests, the
//! launcher (`launcher DIR AS BEHAVIOUR`) and the supervisor (`relay CONTROL BEHAVIOUR`).

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod compromised;
mod freezer;
mod host;
mod leftovers;
mod limits;
mod pipes;
mod place;
mod relay;
mod shortage;
mod standby;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::self_check;
use funcd_sandbox::spec::{Digest, Image, InstanceId, Socket, Spec};
use funcd_sandbox::wire::{Descriptor, Event, Request};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use host::{As, Running, UID_FIRST, read_all, read_line, readable};

/// As funcd's own.
#[global_allocator]
static ALLOCATOR: funcd_sandbox::sys::ballast::Allocator = funcd_sandbox::sys::ballast::Allocator;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("launcher") => {
            if let Err(e) = host::run_launcher(Path::new(&args[2]), &args[3], &args[4]) {
                eprintln!("{e}");
                std::process::exit(1);
            }
        }
        Some(self_check::ROLE) => {
            self_check::attack(&self_check::Target::parse(&args[1..]).expect("the launcher gives them"))
        }
        Some("probe") => {
            let pid = |index: usize| args[index].parse().expect("the test gives pids");
            print!("{}", place::probe(Path::new(&args[2]), pid(3), pid(4)));
        }
        Some("grades") => host::print_grades(),
        Some("relay") => relay::run(Path::new(&args[2]), &args[3]),
        _ => run_tests(),
    }
}

/// A test and its name.
type Test = (&'static str, fn(As));

fn run_tests() {
    let tests: &[Test] = &[
        (
            "a_function_is_stored_started_called_and_stopped",
            a_function_is_stored_started_called_and_stopped,
        ),
        ("every_end_has_its_reason", every_end_has_its_reason),
        (
            "a_killed_supervisor_is_replaced_and_functions_stay",
            a_killed_supervisor_is_replaced_and_functions_stay,
        ),
        (
            "a_supervisor_that_sends_garbage_is_replaced",
            a_supervisor_that_sends_garbage_is_replaced,
        ),
        (
            "what_a_function_left_behind_dies_with_it",
            leftovers::what_a_function_left_behind_dies_with_it,
        ),
        (
            "a_function_with_a_port_is_reached_by_its_sockets",
            a_function_with_a_port_is_reached_by_its_sockets,
        ),
        (
            "a_function_asks_on_a_port_that_every_supervisor_gets",
            a_function_asks_on_a_port_that_every_supervisor_gets,
        ),
        (
            "a_start_below_the_floor_is_refused",
            a_start_below_the_floor_is_refused,
        ),
        (
            "the_environment_is_exactly_what_was_asked_for",
            the_environment_is_exactly_what_was_asked_for,
        ),
        (
            "a_large_executable_delays_no_start",
            a_large_executable_delays_no_start,
        ),
        ("sigterm_leaves_nothing", leftovers::sigterm_leaves_nothing),
        (
            "a_second_sigterm_ends_at_once",
            leftovers::a_second_sigterm_ends_at_once,
        ),
        (
            "one_launcher_per_run_folder",
            leftovers::one_launcher_per_run_folder,
        ),
        (
            "a_crashed_launcher_is_cleared_away",
            leftovers::a_crashed_launcher_is_cleared_away,
        ),
        (
            "a_dynamic_executable_and_a_script_see_the_system",
            a_dynamic_executable_and_a_script_see_the_system,
        ),
        ("grading_leaves_nothing", leftovers::grading_leaves_nothing),
        (
            "a_mini_init_keeps_its_memory_to_itself",
            limits::a_mini_init_keeps_its_memory_to_itself,
        ),
        ("no_start_leaves_anything", leftovers::no_start_leaves_anything),
        (
            "functions_go_first_when_the_host_is_out_of_memory",
            limits::functions_go_first_when_the_host_is_out_of_memory,
        ),
        (
            "a_storm_of_messages_ends_the_supervisor_and_nothing_else",
            compromised::a_storm_of_messages_ends_the_supervisor_and_nothing_else,
        ),
        (
            "each_bad_peer_is_ended_and_replaced",
            compromised::each_bad_peer_is_ended_and_replaced,
        ),
        (
            "a_stopped_supervisor_holds_up_no_end",
            compromised::a_stopped_supervisor_holds_up_no_end,
        ),
        (
            "a_frozen_instance_answers_nobody_until_it_is_thawed",
            freezer::a_frozen_instance_answers_nobody_until_it_is_thawed,
        ),
        (
            "a_frozen_instance_ends_when_it_is_told_to",
            freezer::a_frozen_instance_ends_when_it_is_told_to,
        ),
        (
            "what_is_frozen_without_an_instance_changes_nothing",
            freezer::what_is_frozen_without_an_instance_changes_nothing,
        ),
        (
            "no_clause_of_the_floor_gives_way",
            compromised::no_clause_of_the_floor_gives_way,
        ),
        (
            "a_directory_swapped_for_a_link_is_never_granted",
            compromised::a_directory_swapped_for_a_link_is_never_granted,
        ),
        (
            "a_prepared_instance_executes_when_it_is_told",
            standby::a_prepared_instance_executes_when_it_is_told,
        ),
        (
            "what_has_just_executed_is_frozen_too",
            standby::what_has_just_executed_is_frozen_too,
        ),
        (
            "one_that_waits_holds_nothing_of_the_launcher",
            standby::one_that_waits_holds_nothing_of_the_launcher,
        ),
        (
            "one_that_waits_ends_with_whoever_could_tell_it",
            standby::one_that_waits_ends_with_whoever_could_tell_it,
        ),
        (
            "one_that_was_woken_last_is_kept_for_the_next_supervisor",
            standby::one_that_was_woken_last_is_kept_for_the_next_supervisor,
        ),
        (
            "what_can_not_be_prepared_is_refused_by_name",
            standby::what_can_not_be_prepared_is_refused_by_name,
        ),
        (
            "a_prepared_instance_that_can_not_execute_says_so",
            standby::a_prepared_instance_that_can_not_execute_says_so,
        ),
        (
            "another_is_prepared_while_one_still_ends",
            standby::another_is_prepared_while_one_still_ends,
        ),
        (
            "a_request_brings_its_variables_and_its_body",
            pipes::a_request_brings_its_variables_and_its_body,
        ),
        (
            "what_no_request_may_set_executes_nothing",
            pipes::what_no_request_may_set_executes_nothing,
        ),
        (
            "one_with_pipes_ends_with_its_supervisor",
            pipes::one_with_pipes_ends_with_its_supervisor,
        ),
        (
            "the_directory_of_a_socket_is_the_functions_own",
            pipes::the_directory_of_a_socket_is_the_functions_own,
        ),
    ];
    let root: &[Test] = &[
        (
            "no_uid_lies_outside_the_range",
            compromised::no_uid_lies_outside_the_range,
        ),
        (
            "a_function_out_of_memory_dies_as_a_whole",
            limits::a_function_out_of_memory_dies_as_a_whole,
        ),
        (
            "the_supervisor_can_reach_nothing_of_the_host",
            place::the_supervisor_can_reach_nothing_of_the_host,
        ),
        (
            "full_folders_are_said_so_and_can_be_emptied",
            shortage::full_folders_are_said_so_and_can_be_emptied,
        ),
        (
            "a_thousand_instances_take_little_memory",
            shortage::a_thousand_instances_take_little_memory,
        ),
        (
            "what_the_self_check_reaches_refuses_service",
            leftovers::what_the_self_check_reaches_refuses_service,
        ),
        (
            "without_descriptors_it_says_so_and_goes_on",
            shortage::without_descriptors_it_says_so_and_goes_on,
        ),
        (
            "without_memory_it_says_so_and_goes_on",
            shortage::without_memory_it_says_so_and_goes_on,
        ),
        (
            "without_memory_it_keeps_nothing_for_who_does_not_read",
            shortage::without_memory_it_keeps_nothing_for_who_does_not_read,
        ),
        (
            "a_file_that_may_not_grow_is_said_so",
            shortage::a_file_that_may_not_grow_is_said_so,
        ),
        ("usage_is_told", limits::usage_is_told),
        (
            "one_that_gets_what_no_other_wants_does_once_it_runs",
            limits::one_that_gets_what_no_other_wants_does_once_it_runs,
        ),
        (
            "a_stopped_process_is_seen_as_one",
            limits::a_stopped_process_is_seen_as_one,
        ),
        ("each_function_has_a_uid", limits::each_function_has_a_uid),
        (
            "a_missing_grant_is_made_for_the_function",
            limits::a_missing_grant_is_made_for_the_function,
        ),
    ];
    let is_root = nix::unistd::geteuid().is_root();
    let mut trials = Vec::new();
    let required = std::env::var("FUNCD_TEST_REQUIRE").is_ok_and(|what| what == "all");
    let mut add = |name: String, who: As, test: fn(As), run: bool| {
        let trial = Trial::test(name, move || {
            if who == As::Root && !is_root {
                return Err("needs root, and FUNCD_TEST_REQUIRE=all makes a skipped test a failure".into());
            }
            test(who);
            Ok::<(), Failed>(())
        });
        trials.push(trial.with_ignored_flag(!run));
    };
    for (name, test) in tests {
        add(format!("root::{name}"), As::Root, *test, is_root || required);
        add(format!("user::{name}"), As::User, *test, true);
    }
    for (name, test) in root {
        add(format!("root::{name}"), As::Root, *test, is_root || required);
    }
    add("measure_launch".to_owned(), As::Root, measure_launch, false);
    if !is_root && !required {
        println!("skipped: root::* need root");
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The actor, compiled once.
fn actor() -> PathBuf {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("actor");
        compile(&path, &["-static"]);
        (dir, path)
    });
    path.clone()
}

fn compile(path: &Path, flags: &[&str]) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/launcher/actor.c");
    let made = Command::new("cc")
        .args(flags)
        .args(["-O1", "-o"])
        .arg(path)
        .arg(source)
        .status();
    assert!(
        made.expect("a C compiler is installed: apt install gcc")
            .success()
    );
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn started(who: As) -> (Running, Digest) {
    let mut host = Running::start(who);
    let digest = host.store(&actor());
    (host, digest)
}

fn a_function_is_stored_started_called_and_stopped(who: As) {
    let (mut host, digest) = started(who);
    assert_eq!(host.handover.config, b"the configuration");
    use Descriptor::{Admin, AdminTcp, Functions, Listener, Logs, Sockets};
    assert_eq!(
        host.handover.descriptors,
        [Listener, Listener, Admin, AdminTcp, Functions, Sockets, Logs]
    );
    assert_eq!(host.descriptors.len(), 7);
    let addresses = fs::read_to_string(host.dir.path().join("run/listen")).unwrap();
    assert_eq!(addresses.lines().count(), 1);
    std::net::TcpStream::connect(addresses.trim()).unwrap();

    let function = host.launch(host.spec(digest, &["serve"]));
    assert!(read_line(&function.stdout).starts_with("serving as"));
    assert_eq!(host.call(function.id), "hello\n");
    host.send(&Request::Terminate { id: function.id }, &[]);
    assert_eq!(host.exit_of(function.id), Exit::Stopped);
    assert!(!host.dir.path().join(format!("run/i/{}", function.id)).exists());
    host.stop();
}

fn every_end_has_its_reason(who: As) {
    let (mut host, digest) = started(who);
    for (what, expected) in [
        ("exit", Exit::Code { code: 7 }),
        (
            "abort",
            Exit::Signal {
                signal: libc::SIGABRT,
            },
        ),
        ("realtime", Exit::Signal { signal: 37 }),
    ] {
        let function = host.launch(host.spec(digest, &[what]));
        assert_eq!(host.exit_of(function.id), expected, "{what}");
    }
    let deaf = host.launch(host.spec(digest, &["deaf"]));
    assert_eq!(read_line(&deaf.stdout), "deaf");
    host.send(&Request::Terminate { id: deaf.id }, &[]);
    assert_eq!(host.call(deaf.id), "hello\n");
    host.send(&Request::Kill { id: deaf.id }, &[]);
    assert_eq!(host.exit_of(deaf.id), Exit::StopTimeout);
    let late = host.launch(host.spec(digest, &["deaf"]));
    host.send(&Request::Kill { id: late.id }, &[]);
    assert_eq!(host.exit_of(late.id), Exit::StartTimeout);
    host.stop();
}

fn a_killed_supervisor_is_replaced_and_functions_stay(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    let waiting = host.connect(function.id);
    let caller = fs::read_to_string(host.dir.path().join("run/listen")).unwrap();
    for generation in 1..=2 {
        let gone = host.supervisor();
        kill(Pid::from_raw(gone), Signal::SIGKILL).unwrap();
        // Who connects meanwhile waits in the queue of a socket that never closes.
        let _queued = std::net::TcpStream::connect(caller.trim()).unwrap();
        host.take_over();
        assert_eq!(host.handover.generation, generation);
        assert!(host.handover.next_id > function.id);
        let [(id, pid, _)] = &host.inventory[..] else {
            panic!("one instance runs");
        };
        assert_eq!((*id, *pid), (function.id, function.pid));
        assert_eq!(host.call(function.id), "hello\n");
    }
    assert_eq!(read_all(waiting), "hello\n");
    // What runs is still watched, and new ones can be started.
    host.send(&Request::Terminate { id: function.id }, &[]);
    assert_eq!(host.exit_of(function.id), Exit::Stopped);
    let other = host.launch(host.spec(digest, &["exit"]));
    assert_eq!(host.exit_of(other.id), Exit::Code { code: 7 });
    host.stop();
}

fn a_supervisor_that_sends_garbage_is_replaced(who: As) {
    let host = Running::start_with(who, "garbage");
    assert_eq!(host.handover.generation, 1);
    host.stop();
}

fn a_function_with_a_port_is_reached_by_its_sockets(who: As) {
    let (mut host, digest) = started(who);
    // Not below 1024, and for hosts without network namespaces not a port that others use.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut spec = host.spec(digest, &["port", &port.to_string()]);
    spec.socket = Socket::Port(port);
    let function = host.launch(spec);
    assert_eq!(read_line(&function.stdout), "listening");
    host.send(
        &Request::Sockets {
            id: function.id,
            count: 3,
        },
        &[],
    );
    let (event, sockets) = host.recv();
    assert_eq!(event, Event::Sockets { id: function.id });
    assert_eq!(sockets.len(), 3);
    for socket in sockets {
        assert_eq!(call_port(socket, port), "hello\n");
    }
    if host.has(funcd_sandbox::property::Property::Network) {
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            "its port is reachable from outside"
        );
    }
    host.stop();
}

fn a_function_asks_on_a_port_that_every_supervisor_gets(who: As) {
    let (mut host, digest) = started(who);
    let mut spec = host.spec(digest, &["ask", "9001"]);
    (spec.socket, spec.ports) = (Socket::None, vec![80, 9001]);
    if !host.has(funcd_sandbox::property::Property::Network) {
        assert!(host.refused(spec).contains("network namespace"));
        return host.stop();
    }
    let function = host.launch(spec);
    for generation in 0..=2 {
        assert_eq!(host.handover.generation, generation);
        assert_eq!(host.ports.len(), 2);
        let listener = std::net::TcpListener::from(host.ports.pop().unwrap());
        readable(listener.as_fd(), "the function asks");
        listener.accept().unwrap().0.write_all(b"told\n").unwrap();
        assert_eq!(read_line(&function.stdout), "told");
        drop(listener);
        if generation < 2 {
            kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
            // What it asks meanwhile waits, as nothing closed the socket.
            host.take_over();
            assert_eq!(host.inventory[0].1, function.pid);
        }
    }
    // One with a socket of its own too, as functions with bindings have.
    let mut spec = host.spec(digest, &["serve"]);
    spec.ports = vec![9001];
    let both = host.launch(spec);
    assert_eq!((host.ports.len(), host.call(both.id).as_str()), (1, "hello\n"));
    host.stop();
}

fn call_port(socket: OwnedFd, port: u16) -> String {
    use nix::sys::socket::{SockaddrIn, connect};
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
    let mut said = String::new();
    std::net::TcpStream::from(socket)
        .read_to_string(&mut said)
        .unwrap();
    said
}

fn a_start_below_the_floor_is_refused(who: As) {
    let (mut host, digest) = started(who);
    let mut spec = host.spec(digest, &["serve"]);
    spec.env.push(("LD_PRELOAD".into(), "/tmp/x.so".into()));
    assert!(host.refused(spec).contains("LD_PRELOAD is refused"));
    let mut spec = host.spec(digest, &["serve"]);
    spec.write.push("/etc".into());
    assert!(host.refused(spec).contains("write_roots"));
    let unknown = host.spec(Digest([7; 32]), &["serve"]);
    assert!(host.refused(unknown).contains("step artifact"));
    let mut spec = host.spec(digest, &["serve"]);
    spec.function = "x".repeat(40_000);
    assert!(
        host.refused(spec).len() <= 2000,
        "the launcher would keep all of it"
    );
    // An id that was used, also for a failed start, is never used again.
    host.send(
        &Request::Launch {
            id: funcd_sandbox::spec::InstanceId(1),
            spec: Box::new(host.spec(digest, &["serve"])),
        },
        &[],
    );
    assert!(matches!(host.recv().0, Event::LaunchFailed { message, .. } if message.contains("not larger")));
    // Nor can one supervisor use up all ids.
    host.send(
        &Request::Launch {
            id: funcd_sandbox::spec::InstanceId(u64::MAX >> 3),
            spec: Box::new(host.spec(digest, &["serve"])),
        },
        &[],
    );
    assert!(matches!(host.recv().0, Event::LaunchFailed { message, .. } if message.contains("too much")));
    let still = host.launch(host.spec(digest, &["exit"]));
    assert_eq!(host.exit_of(still.id), Exit::Code { code: 7 });
    let mut broken = host.dir.path().join("broken");
    fs::write(&broken, "\x7fELF and nothing else").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let broken_digest = host.store(&broken);
    let said = host.refused(host.spec(broken_digest, &[]));
    assert!(
        said.contains("step exec") && said.contains("this machine"),
        "{said}"
    );
    broken.pop();
    assert_eq!(fs::read_dir(broken.join("run/i")).unwrap().count(), 0);
    host.stop();
}

fn the_environment_is_exactly_what_was_asked_for(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["environment"]));
    let said = read_all(function.stdout);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let pid = lines
        .iter()
        .position(|line| line.starts_with("LISTEN_PID="))
        .expect("LISTEN_PID is set");
    lines.remove(pid);
    assert_eq!(lines, ["GREETING=hello", "LISTEN_FDNAMES=http", "LISTEN_FDS=1"]);
    assert_eq!(host.exit_of(function.id), Exit::Code { code: 0 });
    host.stop();
}

fn a_dynamic_executable_and_a_script_see_the_system(who: As) {
    let mut host = Running::start(who);
    let file = host.dir.path().join("file");
    compile(&file, &[]);
    let digest = host.store(&file);
    let mut spec = host.spec(digest, &["serve"]);
    spec.image = Image::Dynamic;
    let dynamic = host.launch(spec);
    assert_eq!(host.call(dynamic.id), "hello\n");

    fs::write(&file, "#!/bin/sh\necho \"$0 $1\"; exit 3\n").unwrap();
    let digest = host.store(&file);
    let mut spec = host.spec(digest, &["argument"]);
    spec.image = Image::Script;
    let script = host.launch(spec);
    assert_eq!(host.exit_of(script.id), Exit::Code { code: 3 });
    assert_eq!(read_all(script.stdout), "/function/actor argument\n");
    host.stop();
}

fn a_large_executable_delays_no_start(who: As) {
    let (mut host, digest) = started(who);
    let large = host.dir.path().join("large");
    fs::write(&large, vec![1; 64 << 20]).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o755)).unwrap();
    // Once, so that nobody writes it any more; storing it again reads and hashes all of it again.
    host.store(&large);
    let file = fs::File::open(&large).unwrap();
    host.send(&Request::Store { ticket: 9 }, &[file.as_raw_fd()]);
    // The answer to the start comes before that to the copy, which was asked for earlier.
    let function = host.launch(host.spec(digest, &["serve"]));
    assert_eq!(host.call(function.id), "hello\n");
    assert!(matches!(
        host.recv().0,
        Event::Stored {
            ticket: 9,
            result: Ok(_)
        }
    ));
    host.stop();
}

/// Prints the round trip of a launch, from the request to the answer, and the launcher's memory with a thousand
/// instances; run it with `--ignored measure`.
fn measure_launch(who: As) {
    let (mut host, digest) = started(who);
    let mut micros = Vec::new();
    for _ in 0..300 {
        let spec = host.spec(digest, &["serve"]);
        let began = Instant::now();
        let function = host.launch(spec);
        micros.push(began.elapsed().as_micros());
        host.send(&Request::Kill { id: function.id }, &[]);
        host.exit_of(function.id);
    }
    micros.sort_unstable();
    println!(
        "launch by way of the relay: p50 {} µs, p99 {} µs",
        micros[150], micros[297]
    );
    println!("memory before: {}", host.memory());
    let began = Instant::now();
    for _ in 0..1000 {
        host.launch(host.spec(digest, &["serve"]));
    }
    println!(
        "1,000 instances in {} ms; memory: {}",
        began.elapsed().as_millis(),
        host.memory()
    );
    let began = Instant::now();
    host.stop();
    println!("ended in {} ms", began.elapsed().as_millis());
}
