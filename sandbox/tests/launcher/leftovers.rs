//! What is left after an end, a crash or a failed start: nothing. Stories on live processes.

use super::*;

pub(super) fn grading_leaves_nothing(who: As) {
    let (pid, said) = host::grades(who);
    assert_eq!(said.lines().count(), 10, "{said}");
    for line in said.lines() {
        // What is kept says how; what is missing says why and what to do.
        assert!(
            line.contains(" kept by ") != line.contains(" missing: "),
            "{line}"
        );
    }
    assert_eq!(
        host::cgroups_named(&format!("funcd-{pid:08x}")),
        Vec::<PathBuf>::new()
    );
}

pub(super) fn sigterm_leaves_nothing(who: As) {
    let (mut host, digest) = started(who);
    let deaf = host.launch(host.spec(digest, &["deaf"]));
    assert_eq!(read_line(&deaf.stdout), "deaf");
    let supervisor = host.supervisor();
    // `stop` asserts what is gone.
    host.stop();
    assert_eq!(read_all(deaf.stdout), "");
    assert!(!Path::new(&format!("/proc/{supervisor}")).exists());
}

pub(super) fn a_second_sigterm_ends_at_once(who: As) {
    let (mut host, digest) = started(who);
    host.launch(host.spec(digest, &["deaf"]));
    host.signal(Signal::SIGTERM);
    assert_eq!(host.recv().0, Event::Shutdown);
    host.signal(Signal::SIGINT);
    assert!(host.ended().success());
    assert_eq!(host.cgroups(), Vec::<PathBuf>::new());
}

pub(super) fn one_launcher_per_run_folder(who: As) {
    let host = Running::start(who);
    let (status, said) = host.start_another(who);
    assert!(!status.success());
    assert!(said.contains("another funcd runs"), "{said}");
    host.stop();
}

pub(super) fn a_crashed_launcher_is_cleared_away(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    host.signal(Signal::SIGKILL);
    assert!(!host.ended().success());
    // The kernel ends its children with it.
    assert_eq!(read_all(function.stdout), "");
    host.restart(who);
    assert_eq!(host.inventory.len(), 0);
    assert!(!host.dir.path().join(format!("run/i/{}", function.id)).exists());
    let again = host.launch(host.spec(digest, &["serve"]));
    assert_eq!(host.call(again.id), "hello\n");
    host.stop();
}

pub(super) fn what_a_function_left_behind_dies_with_it(who: As) {
    let (mut host, digest) = started(who);
    let daemon = host.launch(host.spec(digest, &["daemon"]));
    assert_eq!(read_line(&daemon.stdout), "daemon");
    host.send(&Request::Terminate { id: daemon.id }, &[]);
    assert_eq!(host.exit_of(daemon.id), Exit::Stopped);
    let orphan = host.launch(host.spec(digest, &["orphan"]));
    assert_eq!(host.exit_of(orphan.id), Exit::Code { code: 0 });
    if who == As::User && !host.has(funcd_sandbox::property::Property::TotalKill) {
        println!("skipped: a total kill needs a pid namespace or a delegated cgroup");
        return;
    }
    // The pipe's end comes when the last process that held it is gone.
    assert_eq!(read_all(daemon.stdout), "");
    assert_eq!(read_all(orphan.stdout), "daemon\n");
    host.stop();
}

/// Starts that succeed and starts that fail at each step that a spec can make fail, again and again: what the launcher holds
/// stays what it was.
pub(super) fn no_start_leaves_anything(who: As) {
    let (mut host, digest) = started(who);
    let broken = host.dir.path().join("broken");
    fs::write(&broken, "\x7fELF and nothing else").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let broken = host.store(&broken);
    let dynamic = host.dir.path().join("dynamic");
    compile(&dynamic, &[]);
    let dynamic = host.store(&dynamic);
    type Change = fn(&mut funcd_sandbox::spec::Spec);
    let failing: &[(&str, Change)] = &[
        ("floor", |spec| spec.args.clear()),
        ("artifact", |spec| spec.artifact = Digest([7; 32])),
        ("grant", |spec| spec.read = vec!["/usr/no/such/path".into()]),
        ("descriptors", |spec| spec.image = Image::Script),
        ("port", |spec| spec.socket = Socket::Port(80)),
        ("memory", |spec| spec.limits.memory_bytes = 1 << 20),
        ("pids", |spec| spec.limits.pids = 1),
    ];
    let round = |host: &mut Running| {
        for (what, change) in failing {
            for artifact in [broken, dynamic] {
                let mut spec = host.spec(artifact, &["exit"]);
                change(&mut spec);
                let id = host.ask(spec);
                // Where the spec can be kept, a file that is no executable is what fails.
                match host.answer_to(id) {
                    Event::LaunchFailed { .. } => {}
                    Event::Launched { .. } => drop(host.exit_of(id)),
                    other => panic!("{other:?} instead of an answer to {what}"),
                }
            }
        }
        for socket in [Socket::Unix, Socket::Port(80)] {
            let mut spec = host.spec(digest, &["exit"]);
            spec.socket = socket;
            let function = host.launch(spec);
            host.exit_of(function.id);
        }
    };
    round(&mut host);
    let before = host.holds();
    let rounds = std::env::var("FUNCD_TEST_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds {
        round(&mut host);
    }
    host.holds_no_more(&before);
    host.stop();
}

/// An attacker that tells of success: a host whose sandbox does not hold serves nobody, and says what was reached.
pub(super) fn what_the_self_check_reaches_refuses_service(who: As) {
    let (status, said, left) = host::refused_start(who, |dir| {
        let actor = dir.join("actor");
        fs::copy(super::actor(), &actor).unwrap();
        fs::write(dir.join("program"), actor.to_str().unwrap()).unwrap();
    });
    assert!(!status.success());
    for part in [
        "the self-check of the sandbox failed for a static executable on a Unix socket",
        "P1 `files` is not kept",
        "a function could read /etc/passwd",
        "nothing is served",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(left, Vec::<PathBuf>::new());
}
