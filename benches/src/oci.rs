//! The smallest container that does the same: `crun run` with a bundle of one static program and crun's own default
//! configuration, without a terminal, with a filter of the same system calls. Removed after each life.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::sys;

/// A bundle, and how crun runs it on this machine.
#[derive(Debug)]
pub(crate) struct Container {
    program: PathBuf,
    folder: TempDir,
    how: How,
    next: u32,
}

/// How crun is run.
#[derive(Debug)]
struct How {
    manager: &'static str,
    /// A mount namespace to run it in.
    view: Option<View>,
}

/// A mount namespace without the v2 hierarchy: crun refuses machines that mount v1 and v2 side by side.
#[derive(Debug)]
struct View {
    namespace: File,
    _holder: Guard,
}

impl View {
    fn without_unified() -> Outcome<View> {
        let step = "hiding /sys/fs/cgroup/unified from crun";
        let script = "umount /sys/fs/cgroup/unified && echo && exec sleep infinity";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .during(step)?;
        let mut stdout = child.stdout.take().expect("it was asked for");
        let holder = Guard::child(child, Duration::ZERO);
        if stdout.read(&mut [0]).during(step)? == 0 {
            return Err(Failure(format!("{step}: it is not there, or may not be")));
        }
        let namespace = File::open(format!("/proc/{}/ns/mnt", holder.id())).during(step)?;
        Ok(View {
            namespace,
            _holder: holder,
        })
    }
}

impl Container {
    /// Makes the bundle, and finds out with which cgroup manager crun runs here.
    ///
    /// # Errors
    /// A crun that runs it with none; what it said is in the message.
    pub(crate) fn of(program: &Path, byte: &Path) -> Outcome<Container> {
        let step = "making a bundle for crun";
        let folder = tempfile::Builder::new().prefix("funcd-bench-").tempdir();
        let folder = folder.during(step)?;
        let root = folder.path().join("rootfs");
        fs::create_dir(&root).during(step)?;
        for name in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(root.join(name)).during(step)?;
        }
        fs::copy(byte, root.join("byte")).during(step)?;
        let made = Command::new(program)
            .args(["spec", "--bundle"])
            .arg(folder.path())
            .current_dir(folder.path())
            .output()
            .during(step)?;
        let path = folder.path().join("config.json");
        let text = fs::read_to_string(&path).map_err(|error| {
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            Failure(format!("{step}: {error}: {said}"))
        })?;
        let config = configured(serde_json::from_str(&text).during(step)?);
        fs::write(&path, config.to_string()).during(step)?;
        let mut container = Container {
            program: program.to_path_buf(),
            folder,
            how: How {
                manager: "cgroupfs",
                view: None,
            },
            next: 1,
        };
        if let Err(failure) = container.live() {
            // Without cgroups it runs here, and has less to do than where it makes them.
            container.how = How {
                manager: "disabled",
                view: View::without_unified().ok(),
            };
            let second = |second| Failure(format!("{failure}; without cgroups: {second}"));
            container.live().map_err(second)?;
        }
        Ok(container)
    }

    /// What it is, for whoever reads the numbers.
    pub(crate) fn describe(&self) -> String {
        let cgroups = match self.how.manager {
            "disabled" => "no cgroup, as it refuses to run beside both v1 and v2 (v2 is hidden from it)",
            _ => "a cgroup",
        };
        format!(
            "crun: `crun run`, crun's own default configuration (its namespaces, mounts, capabilities), funcd's list of system \
             calls, {cgroups}; end: kill, wait, `crun delete`"
        )
    }

    /// From before crun starts to the first byte, and from the kill to the end of `crun delete`.
    ///
    /// # Errors
    /// A crun that fails, with what it said.
    pub(crate) fn live(&mut self) -> Outcome<(Duration, Duration)> {
        let id = format!("funcd-bench-{}-{}", std::process::id(), self.next);
        self.next += 1;
        let log = self.folder.path().join("log");
        let errors = File::create(&log).during("making a log for crun")?;
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(self.folder.path()).arg(&id);
        let start = Instant::now();
        let mut child: Child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .during("starting crun")?;
        let mut stdout = child.stdout.take().expect("it was asked for");
        let process = Guard::child(child, Duration::ZERO);
        let mut byte = [0];
        let read = stdout.read(&mut byte).during("reading from crun")?;
        let to_first_byte = start.elapsed();
        let start = Instant::now();
        let deleted = self.command(&["delete", "--force"]).arg(&id).output();
        drop(process);
        let to_nothing_left = start.elapsed();
        if read == 0 {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure(format!("crun run: {said}")));
        }
        let deleted = deleted.during("crun delete")?;
        if !deleted.status.success() {
            let said = String::from_utf8_lossy(&deleted.stderr);
            return Err(Failure(format!("crun delete: {said}")));
        }
        Ok((to_first_byte, to_nothing_left))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--cgroup-manager")
            .arg(self.how.manager)
            .arg("--root")
            .arg(self.folder.path().join("state"))
            .args(words);
        if let Some(view) = &self.how.view {
            sys::enter_mounts(&mut command, view.namespace.as_fd());
        }
        command
    }
}

/// crun's own default with our program, without a terminal, and with a filter.
fn configured(mut config: Value) -> Value {
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/byte"]);
    let names: Vec<&str> = funcd_sandbox::seccomp::function_calls().collect();
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" }],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    });
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_keeps_what_it_has_and_gets_a_filter() {
        let config = configured(
            json!({ "process": { "terminal": true, "cwd": "/" }, "linux": { "namespaces": [1] } }),
        );
        assert_eq!(config["process"]["cwd"], "/");
        assert_eq!(config["process"]["terminal"], false);
        assert_eq!(config["linux"]["namespaces"], json!([1]));
        let names = config["linux"]["seccomp"]["syscalls"][0]["names"]
            .as_array()
            .unwrap();
        assert!(names.len() > 200 && names.contains(&"read".into()), "{names:?}");
    }
}
