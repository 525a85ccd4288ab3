//! Makes a mishap happen, to a host of these benches and its own processes; none lasts longer than a few seconds.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk::Disk;
use super::script::Mishap;
use super::{FUNCTIONS, kind_of};
use crate::artifacts::Artifacts;
use crate::failure::{During, Failure, Outcome};
use crate::host::Host;
use crate::open::{Callers, Kind, Phase};
use crate::simulate::chance::Chance;

/// How long each of them lasts.
const FLOOD_SECONDS: f64 = 2.0;
const STOPPED: Duration = Duration::from_secs(2);
const SUPERVISOR_STOPPED: Duration = Duration::from_millis(500);
const FULL: Duration = Duration::from_secs(3);

/// Where mishaps happen.
pub(crate) struct Ground<'a> {
    host: &'a mut Host,
    artifacts: &'a Artifacts,
    disk: Option<&'a Disk>,
    chance: Chance,
    deploys: u32,
    seed: u64,
}

impl<'a> Ground<'a> {
    /// A host with all [`FUNCTIONS`].
    pub(crate) fn of(
        host: &'a mut Host,
        artifacts: &'a Artifacts,
        disk: Option<&'a Disk>,
        seed: u64,
    ) -> Ground<'a> {
        Ground {
            host,
            artifacts,
            disk,
            // Not that of the script, so that a longer script changes no choice.
            chance: Chance::new(!seed),
            deploys: 0,
            seed,
        }
    }

    /// Does it; says what was done.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub(crate) fn happen(&mut self, mishap: Mishap) -> Outcome<String> {
        match mishap {
            Mishap::KillInstance => self.signal_instance("killed", Signal::SIGKILL).map(killed),
            Mishap::KillSupervisor => self.signal_supervisor(Signal::SIGKILL).map(killed),
            Mishap::OutOfMemory => self.ask("/greedy/memory?mb=1024"),
            Mishap::Crash => self.ask("/crashing/?code=3"),
            Mishap::Flood => self.flood(),
            Mishap::Deploy => self.deploy(),
            Mishap::Remove => self.remove(),
            Mishap::StopInstance => {
                let pid = self.signal_instance("stopped", Signal::SIGSTOP)?;
                Ok(go_on_after(pid, STOPPED))
            }
            Mishap::StopSupervisor => {
                let pid = self.signal_supervisor(Signal::SIGSTOP)?;
                Ok(go_on_after(pid, SUPERVISOR_STOPPED))
            }
            Mishap::FullDisk => self.full_disk(),
        }
    }

    fn signal_instance(&mut self, function: &str, signal: Signal) -> Outcome<Pid> {
        let known = self.host.query("ps")?;
        let instances = known["instances"].as_array().into_iter().flatten();
        let mine = instances.filter(|instance| instance["function"] == function);
        let children = self.host.instances();
        // What the host says is true, but a pid is only ours to signal while it is a child of our launcher.
        let pids: Vec<i32> = mine
            .filter_map(|instance| i32::try_from(instance["pid"].as_i64()?).ok())
            .filter(|pid| children.contains(pid))
            .collect();
        if pids.is_empty() {
            return Err(Failure(format!("{function} has no instance")));
        }
        let pid = Pid::from_raw(pids[self.chance.below(pids.len() as u64) as usize]);
        kill(pid, signal).during(format!("sending {signal} to an instance of {function}"))?;
        Ok(pid)
    }

    fn signal_supervisor(&self, signal: Signal) -> Outcome<Pid> {
        let [_, supervisor] = self.host.own_processes()?;
        let pid = Pid::from_raw(supervisor);
        kill(pid, signal).during(format!("sending {signal} to the supervisor"))?;
        Ok(pid)
    }

    /// One request that its function does not survive.
    fn ask(&self, path: &str) -> Outcome<String> {
        let kind = Kind::get(path, "", Duration::from_secs(5));
        // The rate is high so that one comes soon; the phase is so short that more are unlikely.
        let seen = Callers::of(self.host.address()).at_usual_priority().run(
            &[kind],
            vec![Phase::of(0.02, &[200.0])],
            self.seed,
        )?;
        Ok(format!("GET {path}: {}", seen.whole(None).told()))
    }

    fn flood(&self) -> Outcome<String> {
        let kind = Kind::get("/flooded/?cpu_us=2000", "", Duration::from_millis(500));
        let seen = Callers::of(self.host.address()).at_usual_priority().run(
            &[kind],
            vec![Phase::of(FLOOD_SECONDS, &[2000.0])],
            self.seed,
        )?;
        let part = seen.whole(None);
        Ok(format!(
            "{} requests, {} good, {}",
            part.offered,
            part.good,
            part.told()
        ))
    }

    /// The same program with a few bytes more at its end, so that it is another revision.
    fn deploy(&mut self) -> Outcome<String> {
        self.deploys += 1;
        let function = &FUNCTIONS[kind_of("deployed")];
        let folder = tempfile::tempdir().during("making a folder for a program")?;
        let program = folder.path().join("program");
        let step = format!("making {}", program.display());
        fs::copy(self.program(function.program), &program).during(&step)?;
        let mut file = OpenOptions::new().append(true).open(&program).during(&step)?;
        file.write_all(&self.deploys.to_le_bytes()).during(&step)?;
        drop(file);
        self.host.deploy(function.name, &program, function.manifest)?;
        Ok(format!("revision {} of {}", self.deploys, function.name))
    }

    fn remove(&mut self) -> Outcome<String> {
        let function = &FUNCTIONS[kind_of("fleeting")];
        self.host.remove(function.name)?;
        let program = self.program(function.program);
        self.host.deploy(function.name, &program, function.manifest)?;
        self.host.wait_until_answered(function.name)?;
        Ok("gone and back".to_owned())
    }

    /// Those of `FUNCTIONS` that come anew are all the same program.
    fn program(&self, name: &str) -> PathBuf {
        debug_assert_eq!(name, "work");
        self.artifacts.work.clone()
    }

    fn full_disk(&self) -> Outcome<String> {
        let disk = self
            .disk
            .ok_or_else(|| Failure("this host has no disk of its own".into()))?;
        let filled = disk.fill();
        thread::sleep(FULL);
        disk.empty()?;
        Ok(format!("{} bytes were free", filled?))
    }
}

fn killed(pid: Pid) -> String {
    format!("pid {pid}")
}

/// Whatever else happens, it goes on.
fn go_on_after(pid: Pid, length: Duration) -> String {
    thread::sleep(length);
    match kill(pid, Signal::SIGCONT) {
        Ok(()) => format!("pid {pid} for {length:?}"),
        Err(errno) => format!("pid {pid} until it was gone ({errno})"),
    }
}
