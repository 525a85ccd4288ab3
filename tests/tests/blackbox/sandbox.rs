//! What the sandbox promises, asked of a live process inside; and that the same attempt succeeds outside, so that each
//! of these can fail.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::until;

pub(crate) fn register(suite: &mut Suite) {
    const FILES: &[Need] = &[Need::MountNamespaces];
    const NETWORK: &[Need] = &[Need::Property("network")];
    funcd_tests::tests!(suite, "sandbox", [
        exactly_four_descriptors_are_open,
        the_environment_is_known_to_the_byte,
        files_of_the_host_are_not_there: FILES,
        files_of_the_host_itself_are_not_there: FILES,
        neighbours_do_not_see_each_other: FILES,
        only_tmp_is_writable_and_nothing_runs_from_there: FILES,
        tmp_has_an_end: FILES,
        grants_are_what_they_say: FILES,
        no_network_is_reachable: NETWORK,
        the_admin_socket_is_not_reachable: FILES,
        processes_of_the_host_are_out_of_reach: &[Need::Property("processes")],
        each_function_has_a_uid_of_its_own: &[Need::Root],
        no_privilege_is_left: &[Need::Property("privileges")],
        a_fork_bomb_stays_small: &[Need::Property("pid-limit")],
        a_cpu_hog_leaves_the_neighbour_alive,
        a_missing_property_is_shown_not_hidden,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("sandbox", |host| host.deploy("inside", "echo", ""))
}

/// What came of an attempt made by the function `name`.
#[track_caller]
fn attempt(host: &Host, name: &str, what: &str, at: &str) -> String {
    host.get_ok(&format!("/{name}/try?do={what}&at={at}")).text()
}

/// Checks that an attempt ended with one of these errors.
#[track_caller]
fn refused(what: &str, at: &str, errors: &[&str]) {
    let came = attempt(&host(), "inside", what, at);
    assert!(
        errors.contains(&came.as_str()),
        "{what} {at}: {came:?}, expected one of {errors:?}"
    );
}

fn exactly_four_descriptors_are_open() {
    let facts = host().get_ok("/inside/facts").json();
    assert_eq!(
        facts["fds"],
        serde_json::json!({"0": "device", "1": "pipe", "2": "pipe", "3": "socket"})
    );
    assert_eq!(facts["cwd"], "/");
}

fn the_environment_is_known_to_the_byte() {
    let host = Plan::new().variable("FUNCD_TEST_SECRET", "hunter2").start();
    host.deploy("env", "echo", "env = { OWN = \"a b=c\", LANG = \"C\" }\n");
    let facts = host.get_ok("/env/facts").json();
    let revision = host.entry("env").unwrap().revision.unwrap();
    let mut expected = vec![
        "FUNCD_FUNCTION=env".to_owned(),
        format!("FUNCD_REVISION={}", &revision[..12]),
        "HOME=/tmp".to_owned(),
        "LANG=C".to_owned(),
        "LISTEN_FDNAMES=http".to_owned(),
        "LISTEN_FDS=1".to_owned(),
        format!("LISTEN_PID={}", facts["pid"]),
        "OWN=a b=c".to_owned(),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        "TMPDIR=/tmp".to_owned(),
    ];
    expected.sort();
    let mut seen: Vec<String> = facts["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect();
    seen.sort();
    assert_eq!(seen, expected);
}

fn files_of_the_host_are_not_there() {
    for path in [
        "/etc/passwd",
        "/etc/shadow",
        "/root",
        "/home",
        "/proc/self/environ",
        "/proc/1/cmdline",
        "/sys",
        "/run",
    ] {
        for what in ["read", "stat", "list"] {
            refused(what, path, &["ENOENT"]);
        }
    }
    for path in ["/etc/passwd", "/etc/shadow", "/proc/self/environ"] {
        assert!(
            fs::symlink_metadata(path).is_ok(),
            "the control: {path} exists outside"
        );
    }
}

fn files_of_the_host_itself_are_not_there() {
    let host = host();
    for path in ["functions", "functions/inside", "state", "run", "log"] {
        let path = host.path().join(path);
        assert!(path.exists(), "the control: {} exists outside", path.display());
        refused("stat", &path.to_string_lossy(), &["ENOENT"]);
    }
}

fn neighbours_do_not_see_each_other() {
    let host = host();
    host.deploy("neighbour", "echo", "");
    assert_eq!(attempt(&host, "neighbour", "write", "/tmp/secret"), "ok");
    assert_eq!(attempt(&host, "neighbour", "read", "/tmp/secret"), "1");
    refused("read", "/tmp/secret", &["ENOENT"]);
}

fn only_tmp_is_writable_and_nothing_runs_from_there() {
    let host = host();
    assert_eq!(attempt(&host, "inside", "write", "/tmp/note"), "ok");
    refused("write", "/note", &["EROFS", "EACCES", "EPERM"]);
    refused("write", "/dev/note", &["EROFS", "EACCES", "EPERM", "ENOENT"]);
    refused("write-and-exec", "/tmp/run", &["EACCES", "EPERM"]);
}

fn tmp_has_an_end() {
    let host = host();
    host.deploy("filler", "echo", "[limits]\ntmp = \"8M\"\n");
    let fill = |name: &str| {
        host.get_ok(&format!("/filler/try?do=write&at=/tmp/{name}&n={}", 5 << 20))
            .text()
    };
    assert_eq!(fill("one"), "ok");
    assert_eq!(fill("two"), "ENOSPC");
}

fn grants_are_what_they_say() {
    let host = host();
    let (shown, lent) = (host.volume("shown"), host.volume("lent"));
    fs::write(shown.join("page"), "hello").unwrap();
    let manifest = format!("[sandbox]\nread = [{:?}]\nwrite = [{:?}]\n", shown, lent);
    host.deploy("granted", "echo", &manifest);
    let at = |folder: &std::path::Path, file: &str| folder.join(file).to_string_lossy().into_owned();
    assert_eq!(attempt(&host, "granted", "read", &at(&shown, "page")), "5");
    let written = attempt(&host, "granted", "write", &at(&shown, "page"));
    assert!(["EROFS", "EACCES"].contains(&written.as_str()), "{written}");
    assert_eq!(attempt(&host, "granted", "write", &at(&lent, "mine")), "ok");
    assert_eq!(fs::read(lent.join("mine")).unwrap(), b"x");
    refused("read", &at(&shown, "page"), &["ENOENT"]);
    // Only below what the operator allows to be granted.
    host.drop_folder(
        "greedy",
        &funcd_tests::artifacts::example("echo"),
        "[sandbox]\nread = [\"/etc\"]\n",
    );
    let answer = host.wait_for("/greedy/", "a refusal", |answer| answer.status() != 200);
    assert!([404, 503].contains(&answer.status()), "{}", answer.text());
    let entry = host.entry("greedy").unwrap();
    assert!(
        entry.status == "refused" || entry.state.as_deref() != Some("ready"),
        "{entry:?}"
    );
}

fn no_network_is_reachable() {
    let host = host();
    let here = host.address().to_string();
    assert!(
        TcpStream::connect(host.address()).is_ok(),
        "the control: it is open from outside"
    );
    for address in [here.as_str(), "169.254.169.254:80", "1.1.1.1:53", "[::1]:80"] {
        refused(
            "tcp",
            address,
            &["ENETUNREACH", "EACCES", "EPERM", "ECONNREFUSED", "EADDRNOTAVAIL"],
        );
    }
    for address in ["169.254.169.254:80", "1.1.1.1:53"] {
        refused("udp", address, &["ENETUNREACH", "EACCES", "EPERM"]);
    }
}

fn the_admin_socket_is_not_reachable() {
    let path = host().path().join("run/admin.sock");
    assert!(
        UnixStream::connect(&path).is_ok(),
        "the control: it is open to the operator"
    );
    refused("unix", &path.to_string_lossy(), &["ENOENT"]);
}

fn processes_of_the_host_are_out_of_reach() {
    let host = host();
    let launcher = host.launcher().pid.to_string();
    let control = nix::sys::signal::kill(nix::unistd::Pid::from_raw(host.launcher().pid), None);
    assert!(control.is_ok(), "the control: this test may signal it");
    refused("kill", &launcher, &["ESRCH", "EPERM"]);
    refused("kill", &std::process::id().to_string(), &["ESRCH", "EPERM"]);
}

fn each_function_has_a_uid_of_its_own() {
    let host = host();
    host.deploy("other", "echo", "");
    let (inside, other) = (
        host.get_ok("/inside/facts").json(),
        host.get_ok("/other/facts").json(),
    );
    assert_ne!(inside["uids"], other["uids"]);
    assert_ne!(inside["gids"], other["gids"]);
    for facts in [&inside, &other] {
        let ids = facts["uids"].as_array().unwrap();
        assert!(ids.iter().all(|uid| *uid == ids[0] && *uid != 0), "{facts}");
        assert!(
            facts["groups"]
                .as_array()
                .unwrap()
                .iter()
                .all(|gid| *gid == facts["gids"][0]),
            "{facts}"
        );
    }
    let supervisor = host.supervisor().uid();
    let functions = [host.instance("inside").uid(), host.instance("other").uid()];
    assert!(
        !functions.contains(&supervisor) && functions[0] != functions[1],
        "{functions:?} {supervisor:?}"
    );
    // Another instance of the same function has the same uid: files in its volumes stay its own.
    let before = host.instance("other");
    before.signal(nix::sys::signal::Signal::SIGKILL);
    let again = host.wait_for("/other/facts", "200 from another process", |answer| {
        answer.status() == 200 && !before.is_there()
    });
    assert_eq!(again.json()["uids"], other["uids"]);
}

fn no_privilege_is_left() {
    let host = host();
    host.get_ok("/inside/");
    refused("setuid", "", &["EPERM"]);
    let process = host.instance("inside");
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    assert!(status.contains("Seccomp:\t2"), "{status}");
}

fn a_fork_bomb_stays_small() {
    let host = host();
    host.deploy("bomb", "forkbomb", "[limits]\npids = 20\n");
    host.get_ok("/inside/");
    let neighbour = host.instance("inside");
    let told = host.get_ok("/bomb/bomb").json();
    assert_eq!(told["refused"], "EAGAIN", "{told}");
    let forked = told["forked"].as_u64().unwrap();
    assert!((1..20).contains(&forked), "{told}");
    host.get_ok("/inside/");
    assert_eq!(host.instance("inside"), neighbour);
    let everyone = host.instance("bomb").companions();
    assert!(
        everyone.len() as u64 > forked,
        "the children are still there: {}",
        everyone.len()
    );
    host.remove("bomb");
    until("nothing of the bomb to be left", || {
        everyone.iter().all(|process| !process.is_there())
    });
    host.get_ok("/inside/");
}

fn a_cpu_hog_leaves_the_neighbour_alive() {
    let host = host();
    host.deploy("spinner", "hog", "[limits]\ncpu = 0.5\n");
    host.get_ok("/spinner/");
    let address = host.address();
    let spinners: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut caller = funcd_tests::http::Connection::tcp(address).unwrap();
                caller
                    .ask(&Request::get("/spinner/cpu?ms=1500"))
                    .map(|answer| answer.status())
            })
        })
        .collect();
    for _ in 0..20 {
        host.get_ok("/inside/");
    }
    for spinner in spinners {
        assert_eq!(spinner.join().unwrap().unwrap(), 200);
    }
}

fn a_missing_property_is_shown_not_hidden() {
    // What this machine lacks was accepted by name when the host was started: `doctor` shows it as missing and accepted.
    let host = host();
    let output = host.funcd(&["--json", "doctor"]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let properties = document["properties"].as_array().unwrap();
    assert_eq!(properties.len(), 10, "{document}");
    for property in properties {
        assert_ne!(
            property["kept"], property["accepted"],
            "kept, or missing and accepted: {property}"
        );
        if property["kept"] == false {
            assert!(
                !property["cause"].as_str().unwrap_or_default().is_empty(),
                "{property}"
            );
            assert!(
                !property["fix"].as_str().unwrap_or_default().is_empty(),
                "{property}"
            );
        }
    }
    let complete = properties.iter().all(|property| property["kept"] == true);
    assert_eq!(
        output.status.success(),
        complete,
        "the exit code says whether all are kept"
    );
}
