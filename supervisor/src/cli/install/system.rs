//! What an installation asks of the running system beside its files: a user, and that systemd looks again. Asks the
//! system's own programs; never edits /etc/passwd itself.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::User;

/// The user that the supervisor runs as.
const USER: &str = "funcd";

/// Whether systemd runs this machine (sd_booted(3)).
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether a host answers at the usual socket.
pub(super) fn is_serving() -> bool {
    UnixStream::connect("/run/funcd/admin.sock").is_ok()
}

/// Makes the user if there is none, with what this system has for it. What was run, if anything.
///
/// # Errors
/// What to do by hand.
pub(super) fn make_user(sysusers: &Path) -> Result<Option<String>, String> {
    if let Ok(Some(_)) = User::from_name(USER) {
        return Ok(None);
    }
    let file = sysusers.display().to_string();
    let ways: [&[&[&str]]; 3] = [
        &[&["systemd-sysusers", &file]],
        &[&[
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/",
            "--shell",
            "/usr/sbin/nologin",
            USER,
        ]],
        &[
            &["addgroup", "-S", USER],
            &[
                "adduser",
                "-S",
                "-D",
                "-H",
                "-h",
                "/",
                "-s",
                "/sbin/nologin",
                "-G",
                USER,
                USER,
            ],
        ],
    ];
    for way in ways {
        if way[0][0] == "systemd-sysusers" && !sysusers.exists() {
            continue;
        }
        if way.iter().all(|command| run(command).is_ok()) {
            return Ok(Some(
                way.iter()
                    .map(|command| command.join(" "))
                    .collect::<Vec<_>>()
                    .join("; "),
            ));
        }
    }
    Err(format!(
        "no user {USER:?} could be made, neither with systemd-sysusers nor useradd nor adduser: make it yourself, or set `user` \
         in the configuration"
    ))
}

/// Runs a program of the system, whose output is only told when it fails.
///
/// # Errors
/// What it said.
pub(super) fn run(command: &[&str]) -> Result<(), String> {
    let (name, arguments) = command.split_first().ok_or("nothing to run")?;
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    match output {
        Err(e) => Err(format!("{name}: {e}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{}: {}",
            command.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
