//! Attempts 22 to 27 and 32: the other doors into the kernel.

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::libc;

use crate::control::Control::{self, Apart, IfThere, None as Without, PastTheCheck, Root, Works};
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

const REFUSED: &[&str] = &["EPERM"];
const ABSENT: &[&str] = &["ENOSYS"];
const SURFACE: &[Need] = &[Need::Property("kernel-surface")];

const fn plain(
    number: u8,
    name: &'static str,
    attempt: &'static str,
    mechanism: &'static str,
    attempts: fn() -> Vec<Attempt>,
) -> Row {
    Row {
        title: Title {
            number,
            attempt,
            mechanism,
        },
        name,
        needs: SURFACE,
        attempts,
        own: None,
        after: nothing,
    }
}

pub(crate) fn register(suite: &mut Suite) {
    static ROWS: [Row; 7] = [
        plain(
            22,
            "mount",
            "mount, pivot_root, chroot, umount and the new mount calls",
            "P4 kernel surface: seccomp, capabilities, Landlock",
            mounts,
        ),
        plain(
            23,
            "namespaces",
            "unshare, clone with each NEW* flag, clone3, setns, CLONE_PARENT",
            "P4 kernel surface: seccomp",
            namespaces,
        ),
        plain(
            24,
            "bpf",
            "bpf, perf_event_open, userfaultfd, fanotify",
            "P4 kernel surface: seccomp",
            tracing,
        ),
        plain(
            25,
            "io_uring",
            "io_uring",
            "P4 kernel surface: seccomp, as if the kernel had none",
            rings,
        ),
        plain(
            26,
            "machine",
            "kexec, modules, reboot, clock, host name, ports",
            "P10 privileges, P4 kernel surface: capabilities, seccomp",
            machine,
        ),
        plain(
            27,
            "handles",
            "open_by_handle_at, name_to_handle_at",
            "P10 privileges, P4 kernel surface: capabilities, seccomp",
            handles,
        ),
        plain(
            32,
            "foreign_calls",
            "32-bit (int 0x80) and x32 system calls",
            "P4 kernel surface: seccomp kills for a foreign architecture",
            foreign,
        ),
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

fn mounts() -> Vec<Attempt> {
    vec![
        call(
            "mount",
            libc::SYS_mount,
            "s:tmpfs s:{tmp} s:tmpfs 0 0",
            REFUSED,
            Apart,
        ),
        call("bind", libc::SYS_mount, "s:/ s:{tmp} 0 0x5000 0", REFUSED, Apart),
        call(
            "remount writable",
            libc::SYS_mount,
            "0 s:/ 0 0x1020 0",
            REFUSED,
            Without("it would change nothing outside"),
        ),
        call(
            "umount",
            libc::SYS_umount2,
            "s:{tmp}/none 0",
            REFUSED,
            PastTheCheck(&["ENOENT"]),
        ),
        call(
            "pivot_root",
            libc::SYS_pivot_root,
            "s:{tmp}/none s:{tmp}/none",
            REFUSED,
            PastTheCheck(&["ENOENT"]),
        ),
        call("chroot", libc::SYS_chroot, "s:{tmp}", REFUSED, Root),
        call(
            "open_tree",
            libc::SYS_open_tree,
            "-100 s:/ 0x8001",
            REFUSED,
            Apart,
        ),
        call(
            "move_mount",
            libc::SYS_move_mount,
            "-1 s:x -100 s:x 0",
            REFUSED,
            PastTheCheck(&["EBADF", "ENOENT"]),
        ),
        call("fsopen", libc::SYS_fsopen, "s:tmpfs 0", REFUSED, Apart),
        call("fspick", libc::SYS_fspick, "-100 s:/ 0", REFUSED, Root),
        call(
            "fsmount",
            libc::SYS_fsmount,
            "-1 0 0",
            REFUSED,
            PastTheCheck(&["EBADF"]),
        ),
        call(
            "mount_setattr",
            libc::SYS_mount_setattr,
            "-100 s:{tmp}/none 0 z:32 32",
            REFUSED,
            PastTheCheck(&["ENOENT", "ok"]),
        ),
        call(
            "statmount",
            457,
            "z:32 z:64 64 0",
            REFUSED,
            Without("it asks only"),
        ),
        call(
            "listmount",
            458,
            "z:32 z:64 8 0",
            REFUSED,
            Without("it asks only"),
        ),
    ]
}

fn namespaces() -> Vec<Attempt> {
    let flags: [(&'static str, i32); 7] = [
        ("NEWNS", libc::CLONE_NEWNS),
        ("NEWUSER", libc::CLONE_NEWUSER),
        ("NEWPID", libc::CLONE_NEWPID),
        ("NEWNET", libc::CLONE_NEWNET),
        ("NEWIPC", libc::CLONE_NEWIPC),
        ("NEWUTS", libc::CLONE_NEWUTS),
        ("NEWCGROUP", libc::CLONE_NEWCGROUP),
    ];
    let mut attempts = Vec::new();
    for (label, flag) in flags {
        // An ordinary user makes a user namespace; for the rest there is one already where the control runs.
        attempts.push(call(label, libc::SYS_unshare, &flag.to_string(), REFUSED, Apart));
        attempts.push(by(label, &format!("clone {flag}"), REFUSED, Apart));
        let both = flag | libc::CLONE_NEWUSER;
        attempts.push(by("with NEWUSER", &format!("clone {both}"), REFUSED, Apart));
    }
    attempts.extend([
        call("NEWTIME", libc::SYS_unshare, "0x80", REFUSED, Apart),
        // The upper half of the argument is not looked at by the kernel.
        by(
            "upper half",
            &format!("clone {}", i64::from(libc::CLONE_NEWUSER) | 1 << 40),
            REFUSED,
            Without("as NEWUSER"),
        ),
        by(
            "CLONE_PARENT",
            &format!("clone {}", libc::CLONE_PARENT),
            REFUSED,
            Works,
        ),
        call(
            "clone3",
            libc::SYS_clone3,
            "z:88 88",
            ABSENT,
            Control::None("it would be a fork"),
        ),
        call(
            "setns",
            libc::SYS_setns,
            "-1 0",
            REFUSED,
            Without("it needs a descriptor"),
        ),
        call(
            "setns with a pidfd",
            libc::SYS_setns,
            "3 0x10000000",
            REFUSED,
            PastTheCheck(&["EINVAL", "EBADF"]),
        ),
    ]);
    attempts
}

fn tracing() -> Vec<Attempt> {
    vec![
        call(
            "bpf",
            libc::SYS_bpf,
            "0 z:16 16",
            REFUSED,
            PastTheCheck(&["EINVAL"]),
        ),
        call(
            "bpf, a program",
            libc::SYS_bpf,
            "5 z:48 48",
            REFUSED,
            PastTheCheck(&["EINVAL", "EFAULT", "E2BIG"]),
        ),
        call(
            "perf_event_open",
            libc::SYS_perf_event_open,
            "0 0 -1 -1 0",
            REFUSED,
            PastTheCheck(&["EFAULT", "ENOSYS"]),
        ),
        call("userfaultfd", libc::SYS_userfaultfd, "0", REFUSED, Root),
        call(
            "userfaultfd, own",
            libc::SYS_userfaultfd,
            "1",
            REFUSED,
            IfThere(&["ENOSYS"]),
        ),
        call(
            "fanotify",
            libc::SYS_fanotify_init,
            "0 0",
            REFUSED,
            PastTheCheck(&["ENOSYS"]),
        ),
        call("syslog", libc::SYS_syslog, "10 0 0", REFUSED, Root),
    ]
}

fn rings() -> Vec<Attempt> {
    vec![
        call(
            "setup",
            libc::SYS_io_uring_setup,
            "1 z:120",
            ABSENT,
            IfThere(&["EPERM"]),
        ),
        call(
            "enter",
            libc::SYS_io_uring_enter,
            "-1 0 0 0 0 0",
            ABSENT,
            PastTheCheck(&["EBADF", "EPERM"]),
        ),
        call(
            "register",
            libc::SYS_io_uring_register,
            "-1 0 0 0",
            ABSENT,
            PastTheCheck(&["EBADF", "EINVAL", "EPERM"]),
        ),
        call(
            "io_setup",
            libc::SYS_io_setup,
            "1 z:8",
            REFUSED,
            IfThere(&["ENOSYS"]),
        ),
    ]
}

fn machine() -> Vec<Attempt> {
    // Outside only with arguments that do nothing; a kernel without modules or kexec has no such call.
    vec![
        call(
            "kexec_load",
            libc::SYS_kexec_load,
            "0 1073741824 0 0xffffffff",
            REFUSED,
            PastTheCheck(&["EINVAL", "ENOSYS"]),
        ),
        call(
            "kexec_file_load",
            libc::SYS_kexec_file_load,
            "-1 -1 0 0 0xffff",
            REFUSED,
            PastTheCheck(&["EINVAL", "ENOSYS"]),
        ),
        call(
            "init_module",
            libc::SYS_init_module,
            "0 0 s:",
            REFUSED,
            PastTheCheck(&["ENOEXEC", "EFAULT", "ENOSYS"]),
        ),
        call(
            "finit_module",
            libc::SYS_finit_module,
            "-1 s: 0",
            REFUSED,
            PastTheCheck(&["EBADF", "ENOSYS"]),
        ),
        call(
            "delete_module",
            libc::SYS_delete_module,
            "s:no-such-module 0x800",
            REFUSED,
            PastTheCheck(&["ENOENT", "ENOSYS"]),
        ),
        call(
            "reboot",
            libc::SYS_reboot,
            "0 0 0 0",
            REFUSED,
            PastTheCheck(&["EINVAL"]),
        ),
        call(
            "clock_settime",
            libc::SYS_clock_settime,
            "1000 z:16",
            REFUSED,
            PastTheCheck(&["EINVAL"]),
        ),
        call(
            "settimeofday",
            libc::SYS_settimeofday,
            "1 0",
            REFUSED,
            PastTheCheck(&["EFAULT"]),
        ),
        call(
            "sethostname",
            libc::SYS_sethostname,
            "s:attacked 8",
            REFUSED,
            Apart,
        ),
        call(
            "acct",
            libc::SYS_acct,
            "s:/nonexistent",
            REFUSED,
            PastTheCheck(&["ENOENT", "ENOSYS"]),
        ),
        call(
            "quotactl",
            libc::SYS_quotactl,
            "0x800002 s:/nonexistent 0 0",
            REFUSED,
            PastTheCheck(&["ENOENT", "ENOSYS", "ENOTBLK", "EINVAL"]),
        ),
        #[cfg(target_arch = "x86_64")]
        call(
            "iopl",
            libc::SYS_iopl,
            "3",
            REFUSED,
            IfThere(&["ENOSYS", "EPERM"]),
        ),
        #[cfg(target_arch = "x86_64")]
        call(
            "ioperm",
            libc::SYS_ioperm,
            "128 1 1",
            REFUSED,
            IfThere(&["ENOSYS"]),
        )
        .root_only(),
        #[cfg(target_arch = "x86_64")]
        call(
            "modify_ldt",
            libc::SYS_modify_ldt,
            "0 z:16 16",
            REFUSED,
            IfThere(&["ENOSYS"]),
        ),
    ]
}

fn handles() -> Vec<Attempt> {
    vec![
        // Without a capability it is refused before anything is looked at.
        call(
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            "-100 h:080000000100000000000000000000000000 0",
            REFUSED,
            PastTheCheck(&["ESTALE", "EINVAL", "EOPNOTSUPP"]),
        ),
        call(
            "name_to_handle_at",
            libc::SYS_name_to_handle_at,
            "-100 s:/ z:8 z:8 0",
            REFUSED,
            PastTheCheck(&["EOVERFLOW", "ok"]),
        ),
    ]
}

fn foreign() -> Vec<Attempt> {
    vec![
        #[cfg(target_arch = "x86_64")]
        by(
            "int 0x80",
            "int80",
            &["SIGSYS"],
            IfThere(&["signal 11", "ENOSYS"]),
        ),
        // Few kernels have x32; without it the call is refused as unknown.
        #[cfg(target_arch = "x86_64")]
        by("x32", "x32", &["SIGSYS"], IfThere(&["ENOSYS"])),
        call(
            "newer than any table",
            100_000,
            "0",
            ABSENT,
            Without("no kernel has it"),
        ),
    ]
}
