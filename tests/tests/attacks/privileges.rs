//! Attempts 18 to 21: keys, other identities, capabilities, devices.

use std::os::unix::process::CommandExt;
use std::process::Command;

use funcd_tests::need::{Need, is_root};
use funcd_tests::suite::Suite;
use nix::libc;

use crate::context::context;
use crate::control::Control::{Aside, None as Without, Root, Works};
use crate::control::SOMEBODY;
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

const REFUSED: &[&str] = &["EPERM"];
/// Root is not even a name in the user namespace of a host that isn't root's.
const NOT_ROOT: &[&str] = &["EPERM", "EINVAL"];

pub(crate) fn register(suite: &mut Suite) {
    static ROWS: [Row; 4] = [
        Row {
            title: Title {
                number: 18,
                attempt: "keys and keyrings",
                mechanism: "P4 kernel surface: seccomp; a session keyring of its own",
            },
            name: "keyrings",
            needs: &[Need::Property("kernel-surface")],
            attempts: keys,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 19,
                attempt: "execute a set-uid file and one with capabilities",
                mechanism: "P10 privileges: no_new_privs, nosuid, empty bounding set",
            },
            name: "set_uid",
            needs: &[Need::Property("privileges")],
            attempts: set_uid,
            own: None,
            after: set_uid_works_outside,
        },
        Row {
            title: Title {
                number: 20,
                attempt: "become root: setuid and the like, capset, securebits, ambient capabilities",
                mechanism: "P10 privileges: uid, no capabilities, NOROOT locked, seccomp",
            },
            name: "become_root",
            needs: &[Need::Property("kernel-surface")],
            attempts: become_root,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 21,
                attempt: "make character and block devices, whiteouts too",
                mechanism: "P10 privileges, P4 kernel surface: capabilities, seccomp, Landlock, nodev",
            },
            name: "mknod",
            needs: &[Need::Property("kernel-surface")],
            attempts: devices,
            own: None,
            after: nothing,
        },
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

fn keys() -> Vec<Attempt> {
    vec![
        call(
            "add_key",
            libc::SYS_add_key,
            "s:user s:funcd s:x 1 -1",
            REFUSED,
            Works,
        ),
        call("keyctl search", libc::SYS_keyctl, "0 -3 1", REFUSED, Works),
        call("keyctl join", libc::SYS_keyctl, "1 0", REFUSED, Works),
        call(
            "request_key",
            libc::SYS_request_key,
            "s:user s:funcd 0 0",
            REFUSED,
            crate::control::Control::PastTheCheck(&["ENOKEY"]),
        ),
    ]
}

/// The set-uid file asks who it is: root outside.
fn set_uid() -> Vec<Attempt> {
    let context = context();
    let mut give = Command::new(context.tools.join("attack"));
    assert!(
        give.args(["try", "file-capability"])
            .arg(context.tools.join("capable"))
            .status()
            .unwrap()
            .success()
    );
    vec![
        // Each uid of functions is large; the test below asks for no more than that it isn't root's.
        by(
            "set-uid",
            "run {tools}/set-uid try not-root",
            &["not root"],
            Aside("root, for another user"),
        ),
        by(
            "capabilities",
            "run {tools}/capable try capabilities",
            &["0"],
            Aside("CAP_NET_RAW, for another user"),
        ),
    ]
}

fn set_uid_works_outside(_: &str) {
    let context = context();
    let ask = |program: &str, what: &str| {
        let mut command = Command::new(context.tools.join(program));
        let output = command
            .args(["try", what])
            .uid(SOMEBODY)
            .gid(SOMEBODY)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert!(is_root());
    assert_eq!(
        ask("set-uid", "not-root"),
        "ok root",
        "the control: it works where nothing stops it"
    );
    assert_eq!(
        ask("capable", "capabilities"),
        "2000",
        "the control: it works where nothing stops it"
    );
}

fn become_root() -> Vec<Attempt> {
    vec![
        by("setuid", "setuid 0", NOT_ROOT, Root),
        by("setgid", "setgid 0", NOT_ROOT, Root),
        by("setgroups", "setgroups 0", REFUSED, Root),
        call("setreuid", libc::SYS_setreuid, "0 0", NOT_ROOT, Root),
        call("setresuid", libc::SYS_setresuid, "0 0 0", NOT_ROOT, Root),
        call("setresgid", libc::SYS_setresgid, "0 0 0", NOT_ROOT, Root),
        by("setfsuid", "setfsuid 0", REFUSED, Root),
        call(
            "capset",
            libc::SYS_capset,
            "h:2205082000000000 h:ffffffffffffffff00000000000000000000000000000000",
            REFUSED,
            Root,
        )
        .control_with(&format!(
            "call {} h:2205082000000000 h:010000000100000000000000000000000000000000000000",
            libc::SYS_capset
        )),
        call("securebits", libc::SYS_prctl, "28 0 0 0 0", REFUSED, Root),
        call("keep capabilities", libc::SYS_prctl, "8 1 0 0 0", REFUSED, Works),
        call(
            "ambient capability",
            libc::SYS_prctl,
            "47 2 13 0 0",
            REFUSED,
            Without("it takes an inheritable capability"),
        ),
        call(
            "undo no_new_privs",
            libc::SYS_prctl,
            "38 0 0 0 0",
            &["EINVAL"],
            Without("nobody may"),
        ),
        call(
            "seccomp off",
            libc::SYS_prctl,
            "22 0 0 0 0",
            REFUSED,
            crate::control::Control::PastTheCheck(&["EINVAL"]),
        ),
        call(
            "another filter",
            libc::SYS_seccomp,
            "1 0 0",
            REFUSED,
            crate::control::Control::PastTheCheck(&["EFAULT"]),
        ),
    ]
}

fn devices() -> Vec<Attempt> {
    vec![
        // /dev/mem is 1:1, the first disk 8:0, the clone device of the network 10:200.
        call(
            "mem",
            libc::SYS_mknodat,
            "-100 s:{tmp}/mem 0x21b6 0x101",
            REFUSED,
            Root,
        ),
        call(
            "disk",
            libc::SYS_mknodat,
            "-100 s:{tmp}/disk 0x61b6 0x800",
            REFUSED,
            Root,
        ),
        call(
            "tun",
            libc::SYS_mknodat,
            "-100 s:{lent}/tun 0x21b6 0xac8",
            REFUSED,
            Root,
        )
        .control_with(&format!(
            "call {} -100 s:{{tmp}}/tun 0x21b6 0xac8",
            libc::SYS_mknodat
        )),
        call(
            "whiteout",
            libc::SYS_mknodat,
            "-100 s:{tmp}/whiteout 0x2000 0",
            REFUSED,
            Works,
        ),
        #[cfg(target_arch = "x86_64")]
        call(
            "mknod",
            libc::SYS_mknod,
            "s:{tmp}/mem 0x21b6 0x101",
            REFUSED,
            Root,
        ),
    ]
}
