//! Attempts 6 to 8: the processes of neighbours and of the host.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use funcd_tests::eventually;
use funcd_tests::need::{Need, is_root};
use funcd_tests::suite::Suite;
use nix::libc;

use crate::context::{attempt, context};
use crate::control::Control::{Aside, None as Without, Works};
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

/// EPERM by the filter, or by the kernel for another uid; ESRCH in a pid namespace.
const OUT: &[&str] = &["EPERM", "ESRCH"];
const REFUSED: &[&str] = &["EPERM"];
const PROCESSES: &[Need] = &[Need::Property("processes")];

pub(crate) fn register(suite: &mut Suite) {
    static ROWS: [Row; 3] = [
        Row {
            title: Title {
                number: 6,
                attempt: "ptrace, process_vm_readv/writev, process_madvise, kcmp, pidfd_getfd",
                mechanism: "P3 processes, P4 kernel surface: seccomp, uid, Landlock, pid namespace",
            },
            name: "trace",
            needs: &[Need::Property("kernel-surface")],
            attempts: trace,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 7,
                attempt: "signal neighbour, supervisor, launcher, another instance of its own; kill(-1)",
                mechanism: "P3 processes: Landlock scope or pid namespace, uid",
            },
            name: "signal",
            needs: PROCESSES,
            attempts: signals,
            own: Some("[scale]\nmin = 2\nmax = 2\n"),
            after: own_kind_is_out_of_reach,
        },
        Row {
            title: Title {
                number: 8,
                attempt: "limits, affinity, priority and scheduling of a neighbour",
                mechanism: "P3 processes: uid, pid namespace",
            },
            name: "adjust",
            needs: PROCESSES,
            attempts: adjust,
            own: None,
            after: nothing,
        },
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

fn trace() -> Vec<Attempt> {
    let trace = |label, arguments| call(label, libc::SYS_ptrace, arguments, REFUSED, Works);
    vec![
        trace("attach", "16 {neighbour} 0 0"),
        trace("seize", "0x4206 {supervisor} 0 0"),
        call("traceme", libc::SYS_ptrace, "0 0 0 0", REFUSED, Works),
        call(
            "vm_readv",
            libc::SYS_process_vm_readv,
            "{neighbour} z:16 0 z:16 0 0",
            REFUSED,
            Works,
        ),
        call(
            "vm_writev",
            libc::SYS_process_vm_writev,
            "{supervisor} z:16 0 z:16 0 0",
            REFUSED,
            Works,
        ),
        call(
            "kcmp",
            libc::SYS_kcmp,
            "{neighbour} {neighbour} 0 0 0",
            REFUSED,
            Works,
        ),
        call(
            "pidfd_getfd",
            libc::SYS_pidfd_getfd,
            "0 0 0",
            REFUSED,
            Without("it needs a pidfd first: see #59"),
        ),
        call(
            "process_madvise",
            libc::SYS_process_madvise,
            "-1 z:16 1 4 0",
            REFUSED,
            Without("it needs a pidfd first"),
        ),
    ]
}

fn signals() -> Vec<Attempt> {
    vec![
        by("neighbour", "signal {neighbour} 9", OUT, Works),
        by("supervisor", "signal {supervisor} 9", OUT, Works),
        by("launcher", "signal {launcher} 9", OUT, Works),
        by("is the neighbour there", "signal {neighbour} 0", OUT, Works),
        call("tkill", libc::SYS_tkill, "{neighbour} 9", OUT, Works),
        call(
            "tgkill",
            libc::SYS_tgkill,
            "{neighbour} {neighbour} 9",
            OUT,
            Works,
        ),
        // Its first argument is no pidfd: that one can't be had is tried by the next.
        call(
            "queue",
            libc::SYS_rt_sigqueueinfo,
            "{neighbour} 9 h:0900000000000000ffffffff",
            OUT,
            Works,
        ),
        call(
            "process group",
            libc::SYS_kill,
            "-{launcher} 9",
            OUT,
            Without("the victim has no group of its own"),
        ),
        by(
            "owner of a socket",
            "signal-by-owner {neighbour}",
            &["ok", "EPERM", "ESRCH"],
            Works,
        ),
        // Itself and all that it started die; nothing else. Only the process in its place is new.
        by(
            "kill(-1)",
            "kill-all",
            &["died", "exit 0", "ok", "EPERM", "ESRCH"],
            Aside("ok: all others die in a pid namespace of its own"),
        ),
    ]
}

fn adjust() -> Vec<Attempt> {
    vec![
        call(
            "prlimit",
            libc::SYS_prlimit64,
            "{neighbour} 7 h:00000000000000000000000000000000 0",
            OUT,
            Works,
        ),
        call(
            "prlimit, reading",
            libc::SYS_prlimit64,
            "{supervisor} 7 0 z:16",
            OUT,
            Works,
        ),
        // Not promised where there is no pid namespace: the kernel lets anybody ask for it. Noted, so that the table says so.
        call(
            "reading affinity (not promised)",
            libc::SYS_sched_getaffinity,
            "{neighbour} 8 z:8",
            &["ok", "ESRCH"],
            Works,
        ),
        call(
            "affinity",
            libc::SYS_sched_setaffinity,
            "{neighbour} 8 h:0100000000000000",
            OUT,
            Works,
        ),
        call(
            "priority",
            libc::SYS_setpriority,
            "0 {neighbour} 19",
            &["EPERM", "EACCES", "ESRCH"],
            Works,
        ),
        call(
            "scheduler",
            libc::SYS_sched_setscheduler,
            "{neighbour} 5 z:4",
            OUT,
            Works,
        ),
        call(
            "attributes",
            libc::SYS_sched_setattr,
            "{neighbour} h:30000000050000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 0",
            OUT,
            Works,
        ),
        call(
            "io priority",
            libc::SYS_ioprio_set,
            "1 {neighbour} 0x6000",
            OUT,
            Works,
        ),
        call(
            "process group",
            libc::SYS_setpgid,
            "{neighbour} 0",
            &["EPERM", "ESRCH"],
            Without("only its parent may"),
        ),
        call(
            "memory policy",
            libc::SYS_migrate_pages,
            "{neighbour} 1 z:8 z:8",
            OUT,
            Without("the machine has one memory node"),
        ),
    ]
}

/// Two instances of one function have one uid: Landlock's scope, or the pid namespace, keeps them apart.
fn own_kind_is_out_of_reach(function: &str) {
    let context = context();
    let pids = eventually("two instances", || {
        match context.host.instances(function).as_slice() {
            [one, other] => Ok([one, other].map(|instance| instance.pid.unwrap_or_default())),
            others => Err(format!("{others:?}")),
        }
    });
    let reached = attempt(
        &context.host,
        function,
        &context.words(&format!("reach {} {}", pids[0], pids[1]), None, "/tmp"),
    );
    let reached = reached.text();
    assert!(
        ["0", "1"].contains(&reached.as_str()),
        "it reaches {reached} of two: itself at most"
    );
    // The controls of two attempts that a process can't tell the outcome of.
    let attack = context.tools.join("attack");
    let mut apart = Command::new("unshare");
    if !is_root() {
        apart.args(["--user", "--map-root-user"]);
    }
    let script = "sleep 600 & \"$0\" try kill-all; wait $!; echo $?";
    let output = apart
        .args(["--pid", "--fork", "sh", "-c", script])
        .arg(&attack)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ok\n137\n",
        "outside kill(-1) kills others"
    );
    let mut victims = [0, 1].map(|_| Command::new("sleep").arg("600").spawn().unwrap());
    let pids = victims.each_ref().map(|victim| victim.id().to_string());
    let output = Command::new(&attack)
        .args(["try", "reach"])
        .args(&pids)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "2\n",
        "outside it reaches both"
    );
    assert!(
        Command::new(&attack)
            .args(["try", "signal-by-owner", &pids[0]])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        victims[0].wait().unwrap().signal(),
        Some(9),
        "outside a socket's owner is killed"
    );
    victims[1].kill().unwrap();
    victims[1].wait().unwrap();
}
