//! Attempts 1 to 5 and 9: the files and local sockets of the host, of neighbours and of the host's own processes.

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::libc;

use crate::context::{Runtime, abstract_name, context};
use crate::control::Control::{None as Without, Root, Works};
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

const GONE: &[&str] = &["ENOENT"];
const FILES: &[Need] = &[Need::MountNamespaces];

pub(crate) fn register(suite: &mut Suite) {
    static ROWS: [Row; 6] = [
        Row {
            title: Title {
                number: 1,
                attempt: "read, stat, O_PATH, inotify, chdir: /etc/shadow, a readable file, folders of the host",
                mechanism: "P1 files: mount namespace, Landlock, uid",
            },
            name: "files_of_the_host",
            needs: FILES,
            attempts: host_files,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 2,
                attempt: "a neighbour's executable, stored executable, socket and /tmp",
                mechanism: "P1 files: mount namespace, uid, folders of mode 0700",
            },
            name: "files_of_a_neighbour",
            needs: FILES,
            attempts: neighbour_files,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 3,
                attempt: "connect to the admin socket, also as a wrong user of the host",
                mechanism: "P1 files: mount namespace; mode of the folder",
            },
            name: "admin_socket",
            needs: FILES,
            attempts: admin,
            own: None,
            after: wrong_user,
        },
        Row {
            title: Title {
                number: 4,
                attempt: "unlink and bind again its own or another's listener",
                mechanism: "P1 files: the socket is passed as descriptor 3, its folder is not there",
            },
            name: "own_listener",
            needs: FILES,
            attempts: listener,
            own: None,
            after: sockets_are_intact,
        },
        Row {
            title: Title {
                number: 5,
                attempt: "abstract sockets of the host and of a neighbour, stream and datagram",
                mechanism: "P2 network: network namespace; Landlock scope",
            },
            name: "abstract_sockets",
            needs: &[Need::Property("network")],
            attempts: abstract_sockets,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 9,
                attempt: "environ, mem and maps of others in /proc; kernel settings in /proc and /sys",
                mechanism: "P1 files, P3 processes: no /proc, or one with its own processes only",
            },
            name: "proc",
            needs: FILES,
            attempts: proc,
            own: None,
            after: nothing,
        },
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

fn host_files() -> Vec<Attempt> {
    vec![
        by("open shadow", "open /etc/shadow", GONE, Root),
        by("stat shadow", "stat /etc/shadow", GONE, Works),
        by("O_PATH shadow", "opath /etc/shadow", GONE, Works),
        by("inotify shadow", "inotify /etc/shadow", GONE, Root),
        by("open passwd", "open /etc/passwd", GONE, Works),
        by("open", "open {secret}", GONE, Works),
        by("stat", "stat {secret}", GONE, Works),
        by("O_PATH", "opath {secret}", GONE, Works),
        by("inotify", "inotify {secret}", GONE, Works),
        by("list", "list /home", GONE, Works),
        by("chdir", "chdir /sys/kernel", GONE, Works),
        by("dot-dot", "open /../../../../etc/passwd", GONE, Works),
        call(
            "openat2",
            libc::SYS_openat2,
            "-100 s:{secret} z:24 24",
            GONE,
            Works,
        ),
        call(
            "statx",
            libc::SYS_statx,
            "-100 s:{secret} 0 0x7ff z:256",
            GONE,
            Works,
        ),
        call("access", libc::SYS_faccessat, "-100 s:{secret} 0", GONE, Works),
        call(
            "getxattr",
            libc::SYS_getxattr,
            "s:{secret} s:user.x z:16 16",
            GONE,
            crate::control::Control::IfThere(&["ENODATA", "errno 61", "EOPNOTSUPP"]),
        ),
        call("statfs", libc::SYS_statfs, "s:{secret} z:120", GONE, Works),
    ]
}

fn neighbour_files() -> Vec<Attempt> {
    vec![
        by("deployed", "open {program}", GONE, Works),
        by("stored", "stat {stored}", GONE, Works),
        by("socket", "connect-unix {socket}", GONE, Works),
        by("its folder", "list {run}/i", GONE, Works),
        // It is there for the neighbour, which wrote it.
        by("/tmp", "open /tmp/secret", GONE, Works).control_with("open {secret}"),
    ]
}

fn admin() -> Vec<Attempt> {
    vec![
        by("connect", "connect-unix {admin}", GONE, Works),
        by("stat", "stat {admin}", GONE, Works),
        by(
            "datagram",
            "send-unix {admin}",
            GONE,
            Without("it is a stream socket"),
        ),
    ]
}

fn wrong_user(_: &str) {
    use std::os::unix::process::CommandExt;
    if !funcd_tests::need::is_root() {
        return;
    }
    let context = context();
    let mut command = std::process::Command::new(context.tools.join("attack"));
    command
        .args(["try", "connect-unix"])
        .arg(context.host.path().join("run/admin.sock"));
    let somebody = crate::control::SOMEBODY;
    let output = command.uid(somebody).gid(somebody).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "EACCES\n",
        "a wrong user of the host"
    );
}

fn listener() -> Vec<Attempt> {
    vec![
        by("unlink", "unlink {socket}", GONE, Works).control_with("unlink {tmp}/own"),
        by("bind", "bind-unix {socket}", GONE, Works)
            .control_with("bind-unix {tmp}/socket")
            // Its library says this for ENOENT, as on Windows.
            .except(&[(Runtime::Node, &["EACCES"])]),
        // Where the kernel says that it is bound: a name that leads nowhere here.
        by(
            "unlink by descriptor",
            "unlink /proc/self/fd/3",
            &["ENOENT", "EPERM", "EACCES", "EROFS"],
            Without("as above"),
        ),
    ]
}

fn sockets_are_intact(function: &str) {
    let context = context();
    assert!(!context.sockets().is_empty());
    context.host.get_ok(&format!("/{function}/"));
    context.host.get_ok("/neighbour/");
}

fn abstract_sockets() -> Vec<Attempt> {
    // EPERM where both are in one namespace and Landlock tells them apart.
    const OUT: &[&str] = &["ECONNREFUSED", "EPERM"];
    let own = format!("{}-n", abstract_name());
    vec![
        by("stream of the host", "connect-abstract {abstract}", OUT, Works),
        by("datagram of the host", "send-abstract {abstract}-d", OUT, Works),
        by(
            "stream of a neighbour",
            &format!("connect-abstract {own}"),
            OUT,
            Works,
        )
        .control_with("connect-abstract {abstract}"),
        by(
            "datagram of a neighbour",
            &format!("send-abstract {own}-d"),
            OUT,
            Works,
        )
        .control_with("send-abstract {abstract}-d"),
    ]
}

/// Dynamic executables and scripts need a /proc: it shows their own processes only.
const OWN: &[(Runtime, &[&str])] = &[
    (Runtime::Dynamic, &["own", "ENOENT"]),
    (Runtime::Python, &["own", "ENOENT"]),
    (Runtime::Node, &["own", "ENOENT"]),
];

fn proc() -> Vec<Attempt> {
    vec![
        by(
            "environ of a neighbour",
            "open /proc/{neighbour}/environ",
            GONE,
            Works,
        ),
        by("mem of a neighbour", "open /proc/{neighbour}/mem", GONE, Works),
        by("maps of a neighbour", "open /proc/{neighbour}/maps", GONE, Works),
        by("root of a neighbour", "list /proc/{neighbour}/root", GONE, Works),
        by(
            "cmdline of the supervisor",
            "open /proc/{supervisor}/cmdline",
            GONE,
            Works,
        ),
        by(
            "descriptors of the launcher",
            "list /proc/{launcher}/fd",
            GONE,
            Works,
        ),
        by("whom it sees", "visible", GONE, Without("see the others")).except(OWN),
        by("core_pattern", "open /proc/sys/kernel/core_pattern", GONE, Works),
        by("kallsyms", "open /proc/kallsyms", GONE, Works),
        by("mountinfo of the machine", "open /proc/1/mountinfo", GONE, Root),
        by(
            "sysrq",
            "open /proc/sysrq-trigger",
            GONE,
            Without("others may not even look"),
        ),
        by("/sys", "list /sys/kernel", GONE, Works),
    ]
}
