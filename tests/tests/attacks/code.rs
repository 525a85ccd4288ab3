//! Attempt 33: to run what was not deployed.

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

use crate::context::Runtime;
use crate::control::Control::{None as Without, Works};
use crate::inside::{Attempt, Row, by, nothing, register as row};
use crate::table::Title;

const FORBIDDEN: &[&str] = &["EACCES"];

pub(crate) fn register(suite: &mut Suite) {
    static ROW: Row = Row {
        title: Title {
            number: 33,
            attempt: "run downloaded code: a file, an open file, by the dynamic linker, mapped, from memory",
            mechanism: "P1 files: noexec /tmp and grants, Landlock execute",
        },
        name: "downloaded_code",
        needs: &[Need::MountNamespaces],
        attempts,
        own: None,
        after: nothing,
    };
    row(suite, &ROW);
}

#[cfg(target_arch = "x86_64")]
/// It fails to map its program: a failure of its own, with its own exit code. A static executable has no linker there.
const BY_LINKER: &[(Runtime, &[&str])] = &[
    (Runtime::Dynamic, &["failed"]),
    (Runtime::Python, &["failed"]),
    (Runtime::Node, &["failed"]),
];

fn attempts() -> Vec<Attempt> {
    vec![
        by("file in /tmp", "execute-file {tmp}", FORBIDDEN, Works),
        by("file in a grant", "execute-file {lent}", FORBIDDEN, Works).control_with("execute-file {tmp}"),
        by("open file", "execute-open-file {tmp}", FORBIDDEN, Works),
        by("mapped", "map-file {tmp}", &["EPERM", "EACCES"], Works),
        by(
            "made executable later",
            "map-file-later {tmp}",
            &["EPERM", "EACCES"],
            Works,
        ),
        #[cfg(target_arch = "x86_64")]
        by(
            "dynamic linker",
            "execute-by-linker /lib64/ld-linux-x86-64.so.2 {tmp}",
            &["ENOENT"],
            Without("it wants a dynamic program"),
        )
        .except(BY_LINKER),
        // Not promised: it gains nothing over mapping memory as code, which every just-in-time compiler does, and what runs
        // is as confined. Noted, so that the table says so.
        by(
            "from memory (not promised)",
            "execute-memory",
            &["ok", "EACCES"],
            Works,
        ),
    ]
}
