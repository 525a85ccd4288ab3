//! Attempts 10 to 17: to take all there is. A neighbour answers all the while, and is the same process afterwards.

use std::fs;

use funcd_tests::load::Load;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::libc;

use crate::context::{Runtime, attempt, context};
use crate::control::Control::{Apart, None as Without, PastTheCheck, Root, Works};
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

pub(crate) fn register(suite: &mut Suite) {
    static ROWS: [Row; 8] = [
        Row {
            title: Title {
                number: 10,
                attempt: "fork, clone and thread bomb",
                mechanism: "P6 pid-limit: pids.max",
            },
            name: "fork_bomb",
            needs: &[Need::Property("pid-limit")],
            attempts: bombs,
            own: Some("[limits]\npids = 40\n"),
            after: nothing,
        },
        Row {
            title: Title {
                number: 11,
                attempt: "memory bomb",
                mechanism: "P5 memory-limit: the memory controller, no swap, killed as a whole",
            },
            name: "memory_bomb",
            needs: &[Need::Property("memory-limit")],
            attempts: || {
                // The process that takes it, or already all of its function.
                const DIES: &[&str] = &["died", "signal 9"];
                vec![
                    by("memory", "eat 256", DIES, Works),
                    by("sockets", "eat-sockets 160", DIES, Works),
                ]
            },
            own: Some("[limits]\nmemory = \"128M\"\n"),
            after: |function| drop(context().host.wait_exit(function, "oom")),
        },
        Row {
            title: Title {
                number: 12,
                attempt: "fill /tmp, with bytes and with inodes",
                mechanism: "P1 files: size= and nr_inodes= of its own tmpfs",
            },
            name: "fill_tmp",
            needs: &[Need::MountNamespaces],
            attempts: || {
                vec![
                    by("bytes", "fill {tmp} 9", &["ENOSPC after"], Works),
                    by("inodes", "inodes {tmp} 3000", &["ENOSPC after"], Works),
                    by("shared memory", "fill /dev/shm 9", &["ENOSPC after"], Works)
                        .control_with("fill {tmp} 9"),
                ]
            },
            own: Some("[limits]\ntmp = \"8M\"\n"),
            after: nothing,
        },
        Row {
            title: Title {
                number: 13,
                attempt: "fill the disk: the root, system folders, one endless file in what is granted",
                mechanism: "P1 files: read-only root, Landlock; FSIZE",
            },
            name: "fill_disk",
            needs: &[Need::MountNamespaces],
            attempts: disk,
            own: Some("[limits]\ntmp = \"8M\"\n"),
            after: nothing,
        },
        Row {
            title: Title {
                number: 14,
                attempt: "use up descriptors",
                mechanism: "NOFILE, which it can't raise (no property: everywhere)",
            },
            name: "descriptors",
            needs: &[],
            attempts: || {
                // Outside as far as that machine lets this user go, which is more.
                vec![
                    by("dup", "descriptors 1100", &["EMFILE after"], Works),
                    call(
                        "raise the limit",
                        libc::SYS_prlimit64,
                        "0 7 h:00100000000000000010000000000000 0",
                        &["EPERM"],
                        Works,
                    ),
                ]
            },
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 15,
                attempt: "keep more CPUs busy than its share",
                mechanism: "P7 cpu-limit: the cpu controller",
            },
            name: "cpu",
            needs: &[Need::Property("cpu-limit")],
            attempts: || {
                const REFUSED: &[&str] = &["EPERM"];
                vec![
                    by("spin", "spin 4 1500", &["ok"], Works),
                    call(
                        "real time",
                        libc::SYS_sched_setscheduler,
                        "0 1 h:01000000",
                        REFUSED,
                        Root,
                    ),
                    call(
                        "deadline",
                        libc::SYS_sched_setattr,
                        "0 h:30000000060000000000000000000000000000000000000040420f000000000080841e000000000080841e0000000000 0",
                        REFUSED,
                        Root,
                    ),
                    call("nice", libc::SYS_setpriority, "0 0 -20", &["EACCES"], Root),
                ]
            },
            own: Some("[limits]\ncpu = 0.1\n"),
            after: throttled,
        },
        Row {
            title: Title {
                number: 16,
                attempt: "use up inotify instances",
                mechanism: "P10 privileges: a uid of its own, whose count it is",
            },
            name: "inotify",
            needs: &[Need::Property("privileges")],
            attempts: || {
                vec![
                    by(
                        "inotify_init",
                        "keep-inotify 2000",
                        &["EMFILE after"],
                        Without("it is the limit of the machine, for each uid"),
                    )
                    // Only a process that stays keeps them; what Node makes itself is one instance for all its watches.
                    .except(&[(Runtime::Node, &["EMFILE after"])]),
                ]
            },
            own: Some(""),
            after: neighbour_may_watch,
        },
        Row {
            title: Title {
                number: 17,
                attempt: "lock memory, message queues, shared memory and huge pages",
                mechanism: "P4 kernel surface: MEMLOCK, seccomp",
            },
            name: "kernel_memory",
            needs: &[Need::Property("kernel-surface")],
            attempts: kernel_memory,
            own: None,
            after: nothing,
        },
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

fn bombs() -> Vec<Attempt> {
    vec![
        by("fork", "fork-bomb 200", &["EAGAIN after"], Works),
        by("clone", "clone-bomb 200", &["EAGAIN after"], Works),
        by("threads", "thread-bomb 200", &["EAGAIN after"], Works),
    ]
}

/// What the limit of one file is: that of /tmp.
const PAST_FSIZE: &str = "9000000";

fn disk() -> Vec<Attempt> {
    // A static executable has no /usr. What is there is refused by Landlock or the mount, whichever looks first.
    const NOT_WRITABLE: &[&str] = &["EROFS", "EACCES", "ENOENT"];
    vec![
        by("/", "write /new", &["EROFS", "EACCES"], Works).control_with("write {tmp}/new"),
        by("/dev", "write /dev/new", &["EROFS", "EACCES"], Works).control_with("write {tmp}/new"),
        by("/usr", "write /usr/new", NOT_WRITABLE, Works).control_with("write {tmp}/new"),
        by("/usr/bin", "mkdir /usr/bin/new", NOT_WRITABLE, Works).control_with("mkdir {tmp}/new"),
        by("read grant", "write {tools}/new", &["EROFS", "EACCES"], Works).control_with("write {tmp}/new"),
        // It runs somewhere just now, which the kernel may see first.
        by(
            "read grant, its file",
            "write {tools}/attack",
            &["EROFS", "EACCES", "ETXTBSY"],
            Works,
        )
        .control_with("write {tmp}/own"),
        by(
            "endless file",
            &format!("extend {{lent}}/endless {PAST_FSIZE}"),
            &["EFBIG"],
            Works,
        )
        .control_with(&format!("extend {{tmp}}/endless {PAST_FSIZE}")),
        by(
            "endless file, allocated",
            &format!("allocate {{lent}}/endless {PAST_FSIZE}"),
            &["EFBIG"],
            Works,
        )
        .control_with(&format!("allocate {{tmp}}/endless {PAST_FSIZE}")),
    ]
}

/// The scheduler held it back; and did not where a function may have more than it wants. Counted by the kernel, not timed.
fn throttled(function: &str) {
    let context = context();
    let host = &context.host;
    assert!(times_throttled(function) > 0, "it was never held back");
    let control = crate::context::attacker(Runtime::Static, "unlimited", "[limits]\ncpu = 64.0\n");
    let load = Load::start(host.address(), "/neighbour/", 1);
    assert_eq!(
        attempt(host, &control, &context.words("spin 2 300", None, "/tmp")).text(),
        "ok"
    );
    load.wait_for_more(5);
    assert_eq!(load.stop().failures, [""; 0]);
    assert_eq!(
        times_throttled(&control),
        0,
        "the control: nothing holds this one back"
    );
}

fn times_throttled(function: &str) -> u64 {
    let cgroups = context().host.instance(function).cgroups();
    let files = cgroups.iter().flat_map(|path| {
        ["", "cpu", "cpu,cpuacct", "unified"]
            .map(|hierarchy| format!("/sys/fs/cgroup/{hierarchy}{path}/cpu.stat"))
    });
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    let counts = texts.filter_map(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok())
    });
    counts
        .max()
        .expect("one of them is its cgroup with the cpu controller")
}

fn neighbour_may_watch(_: &str) {
    let context = context();
    let words = context.words("inotify /tmp", None, "/tmp");
    assert_eq!(
        attempt(&context.host, "neighbour", &words).text(),
        "ok",
        "the neighbour has its own count"
    );
}

fn kernel_memory() -> Vec<Attempt> {
    const REFUSED: &[&str] = &["EPERM"];
    vec![
        call(
            "mlockall",
            libc::SYS_mlockall,
            "2",
            &["ok", "ENOMEM", "EPERM"],
            Without("it counts when memory is taken"),
        ),
        call(
            "mq_open",
            libc::SYS_mq_open,
            "s:funcd 0x42 0x180 0",
            REFUSED,
            Apart,
        ),
        call("shmget", libc::SYS_shmget, "0 4096 0x380", REFUSED, Apart),
        call("semget", libc::SYS_semget, "0 1 0x380", REFUSED, Apart),
        call("msgget", libc::SYS_msgget, "0 0x380", REFUSED, Apart),
        call(
            "huge pages",
            libc::SYS_shmget,
            "0 4096 0xb80",
            REFUSED,
            Without("the machine has none"),
        ),
        call(
            "swapon",
            libc::SYS_swapon,
            "s:/nonexistent 0",
            REFUSED,
            PastTheCheck(&["ENOENT"]),
        ),
        call(
            "memfd_secret",
            libc::SYS_memfd_secret,
            "0",
            REFUSED,
            crate::control::Control::IfThere(&["ENOSYS"]),
        ),
        by("mlock", "lock 1048576", &["ENOMEM", "EPERM", "EAGAIN"], Works),
    ]
}
