//! Putting the program in place that lies there by now. Whatever goes wrong, the old one serves on:
//!
//! ```text
//! asked → look at it in a child → execute it in this process → [it takes over; starts a supervisor] → that is ready → the old one retires
//!            │ no                      │ no                        │ no                                  │ not in time, or ended
//!            └ as before               └ as before                 └ execute the old one again ──────────┘
//! ```

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::carried::{self, Document, Fixed, Head};
use super::check::Checked;
use super::image::Strangers;
use super::poll::Token;
use super::retire::Old;
use super::serve::{CopyState, Launcher, Phase};
use super::supervisor::{self, Supervisor};
use super::{folders, log};
use crate::cgroup::Tree;
use crate::confine::{self, Confinement, Spawned};
use crate::namespace;
use crate::sys::process::{self, Child, Status};
use crate::wire::{Event, StoreError};

/// A program that says nothing of itself for this long is none of ours.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// A new supervisor must be ready within this: it reads the folder and has everything in it stored.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Another bound than [`READY_WITHIN`], in milliseconds: for tests only.
const VARIABLE: &str = "FUNCD_TEST_READY_WITHIN_MS";
/// As much as is read of what a program says.
const MAX_SAID: u64 = 16 * 1024;

/// How far an upgrade is.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// There is none.
    None,
    /// Another one is asked for, and the supervisor before the last is not gone yet.
    Waiting(Option<u64>),
    /// The program is asked what it is.
    Checking(Box<Checking>),
    /// This is the new launcher: its supervisor has yet to be ready.
    Trial(Trial),
}

/// The question to a program.
#[derive(Debug)]
pub(super) struct Checking {
    ticket: Option<u64>,
    program: OwnedFd,
    child: Spawned,
    said: OwnedFd,
    until: Instant,
    is_late: bool,
}

/// A new launcher before its supervisor is ready.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) ticket: Option<u64>,
    /// The program to go back to.
    pub(super) back: Rc<OwnedFd>,
    /// What that one ran with.
    host: serde_json::Value,
    pub(super) until: Instant,
}

impl Upgrade {
    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Upgrade::None | Upgrade::Waiting(_) => None,
            Upgrade::Checking(checking) => Some(checking.until),
            Upgrade::Trial(trial) => Some(trial.until),
        }
    }

    /// Whether the question is asked by this process.
    pub(super) fn is_checked_by(&self, pid: i32) -> bool {
        matches!(self, Upgrade::Checking(checking) if checking.child.pid == pid)
    }
}

impl Launcher {
    /// Somebody wants the program that lies there by now.
    pub(super) fn upgrade(&mut self, ticket: Option<u64>) {
        let refuse = match (&self.upgrade, self.phase) {
            (_, Phase::Draining(_) | Phase::Over) => Some("funcd is stopping"),
            (Upgrade::None, Phase::Serving) => None,
            (Upgrade::Waiting(_) | Upgrade::Checking(_) | Upgrade::Trial(_), Phase::Serving) => {
                Some("an upgrade is under way already: try again when it is done")
            }
        };
        if self.phase == Phase::Serving {
            self.notify.reloading();
        }
        if let Some(why) = refuse {
            // What is under way ends with the word that callers are served.
            log(format_args!("upgrade: {why}"));
            // Who asked for nothing but a reload is not told: what was changed since is read afterwards.
            self.again |= ticket.is_none() && !matches!(self.upgrade, Upgrade::Waiting(None));
            return self.answer_to(self.asking, ticket, Err(why.to_owned()));
        }
        if self.old.is_some() {
            log(format_args!(
                "an upgrade waits until the supervisor before is gone"
            ));
            self.upgrade = Upgrade::Waiting(ticket);
            return;
        }
        match self.ask(ticket) {
            Ok(checking) => self.upgrade = Upgrade::Checking(Box::new(checking)),
            Err(why) => self.refuse(ticket, why),
        }
    }

    /// The supervisor before is gone.
    pub(super) fn on_old_gone(&mut self) {
        if let Upgrade::Waiting(ticket) = self.upgrade {
            self.upgrade = Upgrade::None;
            self.asking = self.generation;
            self.upgrade(ticket);
        }
    }

    /// Starts the program that lies there, and has it say what it is.
    fn ask(&mut self, ticket: Option<u64>) -> Result<Checking, String> {
        let program = self.image.next(&Strangers::of(&self.host))?;
        let failed = |what: &str, e: io::Error| format!("{what}: {e}");
        let memory =
            carried::write(&self.document(ticket)).map_err(|e| failed("no memory for its state", e))?;
        let (said, says) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("no pipe", e.into()))?;
        fcntl(&said, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed("no pipe", e.into()))?;
        let words = std::env::args_os().map(|word| CString::new(word.into_vec()));
        let mut args: Vec<CString> = words.filter_map(Result::ok).collect();
        // Relative paths mean what they mean here; what is started begins in the root.
        let here = std::env::current_dir().map_err(|e| failed("its own folder", e))?;
        let here =
            CString::new(here.into_os_string().into_vec()).map_err(|_| "a path with a NUL".to_owned())?;
        let question = [
            c"upgrade-check".to_owned(),
            c"--folder".to_owned(),
            here,
            c"--".to_owned(),
        ];
        let first = 1.min(args.len());
        args.splice(first..first, question);
        let (program_fd, says_fd) = (program.as_raw_fd(), says.as_raw_fd());
        // It reads the configuration, as the launcher does; but holds none of its capabilities.
        let child = confine::spawn(&Confinement {
            rlimits: supervisor::rlimits(),
            ..Confinement::none(
                program_fd,
                args,
                supervisor::environment(),
                says_fd,
                memory.as_raw_fd(),
            )
        })
        .map_err(|failure| {
            let why = nix::errno::Errno::from_raw(failure.errno).desc();
            format!("{} can't be executed: {why}", self.image.path.display())
        })?;
        self.poll
            .add(&child.pidfd, Token::CheckEnd)
            .map_err(|e| failed("it can't be watched", e))?;
        Ok(Checking {
            ticket,
            program,
            child,
            said,
            until: Instant::now() + CHECK_WITHIN,
            is_late: false,
        })
    }

    /// The program has said what it is.
    pub(super) fn on_check_end(&mut self) {
        let Upgrade::Checking(checking) = &self.upgrade else {
            return;
        };
        let Ok(Some((_, status))) = process::wait(Child::Pidfd(checking.child.pidfd.as_fd()), true) else {
            return;
        };
        let Upgrade::Checking(checking) = std::mem::replace(&mut self.upgrade, Upgrade::None) else {
            return;
        };
        match judge(&checking, status) {
            Ok(checked) => {
                log(format_args!(
                    "upgrade: {} is funcd {}; executing it",
                    self.image.path.display(),
                    checked.version
                ));
                let failed = self.hand_on(&checking.program, checking.ticket, None);
                let path = self.image.path.display();
                let why = format!("{path} can't be executed in place of this program: {failed}");
                self.refuse(checking.ticket, why);
            }
            Err(why) => {
                let why = format!("{} is not fit: {why}", self.image.path.display());
                self.refuse(checking.ticket, why);
            }
        }
    }

    /// Executes another program in this process, with all that this one has. Returns only when that failed.
    /// `back`: why it goes back to that program, and what that ran with.
    fn hand_on(
        &mut self,
        program: &OwnedFd,
        ticket: Option<u64>,
        back: Option<(&str, &serde_json::Value)>,
    ) -> String {
        self.come_to_rest();
        if let Err(e) = self.uids.save() {
            return e.to_string();
        }
        let mut document = self.document(ticket);
        if let Some((_, host)) = back {
            document.host = host.clone();
        }
        if let Some(Err(e)) = self.tree.as_mut().map(Tree::leave_cpu) {
            log(format_args!(
                "the launcher can't leave the cgroup of the supervisor: {e}"
            ));
        }
        let failed = carried::hand_on(program, &document, back.map(|(why, _)| why));
        if let Some(tree) = &mut self.tree {
            tree.join_cpu();
        }
        failed.to_string()
    }

    /// What can't be handed on is finished now, or begun again by who asked for it.
    fn come_to_rest(&mut self) {
        while let Some((asker, id)) = self.usage.pop_front() {
            self.tell_usage(asker, id);
        }
        for (asker, ticket, state) in std::mem::take(&mut self.copies) {
            drop::<CopyState>(state);
            let result = Err(StoreError::Changed);
            self.tell(asker, &Event::Stored { ticket, result }, Vec::new());
        }
        self.buffer = Vec::new();
        self.pool.clear();
    }

    pub(super) fn on_upgrade_time(&mut self, now: Instant) {
        match &mut self.upgrade {
            Upgrade::Checking(checking) if now >= checking.until => {
                // Its end is told as any other.
                checking.is_late = true;
                checking.until = now + CHECK_WITHIN;
                let _ = process::signal(checking.child.pidfd.as_fd(), libc::SIGKILL);
            }
            Upgrade::Trial(trial) if now >= trial.until => {
                let within = ready_within().as_secs_f32();
                self.go_back(&format!("the new supervisor was not ready within {within} s"));
            }
            Upgrade::None | Upgrade::Waiting(_) | Upgrade::Checking(_) | Upgrade::Trial(_) => {}
        }
    }

    /// Whether this is a new launcher whose supervisor has yet to be ready.
    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.upgrade, Upgrade::Trial(_))
    }

    /// A supervisor serves callers.
    pub(super) fn on_ready(&mut self) {
        if !self.is_on_trial() {
            return;
        }
        let Upgrade::Trial(trial) = std::mem::replace(&mut self.upgrade, Upgrade::None) else {
            return;
        };
        log(format_args!(
            "upgrade: funcd {} is in place, supervisor {} serves",
            env!("CARGO_PKG_VERSION"),
            self.supervisor.as_ref().map_or(0, |supervisor| supervisor.pid)
        ));
        self.answer(trial.ticket, Ok(env!("CARGO_PKG_VERSION").to_owned()));
        self.retire_old(Instant::now());
        self.reload_again();
    }

    /// There was a reload while the upgrade was under way.
    fn reload_again(&mut self) {
        if std::mem::take(&mut self.again) && self.phase == Phase::Serving {
            self.upgrade(None);
        }
    }

    /// The new program can't do it: the old one is executed again, with what is there now.
    pub(super) fn go_back(&mut self, why: &str) {
        let Upgrade::Trial(trial) = std::mem::replace(&mut self.upgrade, Upgrade::None) else {
            return;
        };
        log(format_args!("upgrade: {why}; going back to the program before"));
        self.forget_new();
        let failed = self.hand_on(&trial.back, trial.ticket, Some((why, &trial.host)));
        // This one goes on with the old supervisor then, which serves as before.
        log(format_args!(
            "the program before can't be executed again: {failed}"
        ));
        self.refuse(trial.ticket, why.to_owned());
        if self.supervisor.is_none() {
            self.replace_supervisor(Instant::now());
        }
    }

    /// Ends the new supervisor and what it has started; the old one is the only one again.
    fn forget_new(&mut self) {
        if let Some(mut new) = self.supervisor.take() {
            new.give_up();
        }
        let old = self.old.take().map(|old| old.supervisor);
        let generation = old.as_ref().map_or(self.generation, |old| old.generation);
        for instance in self.instances.values_mut() {
            if std::mem::take(&mut instance.shared) {
                instance.owner = generation;
            } else if instance.owner != generation {
                instance.end_is_told = true;
                instance.waiting = None;
                instance.sandbox.kill_all();
            }
        }
        self.generation = generation;
        self.supervisor = old.map(|old| Supervisor {
            max_id: Token::MAX_ID,
            ..old
        });
    }

    /// Everything is to end: nobody waits for an upgrade.
    pub(super) fn give_up_upgrade(&mut self) {
        match std::mem::replace(&mut self.upgrade, Upgrade::None) {
            Upgrade::None => {}
            Upgrade::Waiting(_) => {}
            Upgrade::Checking(checking) => {
                let _ = process::signal(checking.child.pidfd.as_fd(), libc::SIGKILL);
            }
            Upgrade::Trial(_) => self.forget_new(),
        }
    }

    /// There is no upgrade, and why.
    pub(super) fn refuse(&mut self, ticket: Option<u64>, why: String) {
        log(format_args!("upgrade: {why}; the program before serves on"));
        if self.supervisor.is_some() {
            self.notify.ready();
        }
        self.answer(ticket, Err(why));
        self.reload_again();
    }

    /// Tells who asked: the supervisor before, if there is one.
    fn answer(&mut self, ticket: Option<u64>, result: Result<String, String>) {
        let asker = self.old.as_ref().map(|old| old.supervisor.generation);
        self.answer_to(asker.unwrap_or(self.generation), ticket, result);
    }

    fn answer_to(&mut self, asker: u32, ticket: Option<u64>, result: Result<String, String>) {
        let Some(ticket) = ticket else {
            return;
        };
        // It must fit in a message.
        let result = result.map_err(|why| why.chars().take(2000).collect());
        let event = Event::Upgraded { ticket, result };
        self.tell(asker, &event, Vec::new());
    }

    /// All that the next program needs. While there are two supervisors there is no upgrade.
    fn document(&self, ticket: Option<u64>) -> Document {
        let mut fds = vec![self.image.program.as_raw_fd()];
        let mut keep = |fd: RawFd| {
            fds.push(fd);
            fd
        };
        let descriptors = self.descriptors.0.iter();
        let descriptors = descriptors
            .map(|(kind, fd)| (*kind, keep(fd.as_raw_fd())))
            .collect();
        let (folders, open): (folders::Carried, _) = self.folders.carry();
        open.into_iter().for_each(|fd| _ = keep(fd));
        let instances = self.instances.iter().map(|(&id, instance)| {
            let (sandbox, open) = instance.sandbox.carry();
            open.into_iter().for_each(|fd| _ = keep(fd));
            let waiting = instance.waiting.as_ref().map(|waiting| {
                let (standby, open) = waiting.standby.carry();
                open.into_iter().for_each(|fd| _ = keep(fd));
                carried::Waiting {
                    standby,
                    gifts: waiting.gifts.iter().map(|fd| keep(fd.as_raw_fd())).collect(),
                    function: waiting.function.clone(),
                }
            });
            carried::Instance {
                id,
                sandbox,
                artifact: instance.artifact,
                stdout: instance.stdout.as_ref().map(|fd| keep(fd.as_raw_fd())),
                stderr: keep(instance.stderr.as_raw_fd()),
                network: instance.network.as_ref().map(|network| keep(network.fd())),
                has_port: instance.has_port,
                ports: instance.ports.iter().map(|fd| keep(fd.as_raw_fd())).collect(),
                oom: instance.oom.as_ref().map(|fd| keep(fd.as_raw_fd())),
                memo: instance.memo.to_vec(),
                is_unreachable: instance.is_unreachable,
                waiting,
                with_supervisor: instance.with_supervisor,
                end_is_told: instance.end_is_told,
            }
        });
        let instances = instances.collect();
        let leaving = self.leaving.iter().map(|leaving| carried::Leaving {
            leaf: leaving.leaf.carry(),
            tell: leaving.tell.clone(),
        });
        let supervisor = self.supervisor.as_ref().map(|supervisor| carried::Supervisor {
            pid: supervisor.pid,
            pidfd: keep(supervisor.pidfd.as_raw_fd()),
            socket: supervisor.socket.as_ref().map(|fd| keep(fd.as_raw_fd())),
            generation: supervisor.generation,
            wire: supervisor.wire,
            last_id: supervisor.last_id,
            age_millis: u64::try_from(supervisor.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            queue: supervisor
                .queue
                .iter()
                .map(|outgoing| carried::Outgoing {
                    bytes: outgoing.bytes.clone(),
                    fds: outgoing.fds.iter().map(|fd| keep(fd.as_raw_fd())).collect(),
                })
                .collect(),
        });
        let tree = self
            .tree
            .as_ref()
            .expect("the tree is there until `end`, which hands on nothing");
        Document {
            path: self.image.path.clone(),
            fixed: Fixed::of(&self.host),
            // Whatever can't be written is read again.
            host: serde_json::to_value(&self.host).unwrap_or_default(),
            ticket,
            in_user_namespace: namespace::in_own_user_namespace(),
            addresses: self.listeners.addresses.clone(),
            admin_address: self.listeners.admin_tcp.as_ref().map(|(_, address)| *address),
            descriptors,
            folders,
            tree: tree.carry(&self.pool),
            secrets: self.secrets.carry(),
            known: self.store.carry(),
            instances,
            leaving: leaving.collect(),
            short_of_memory: self.short_of_memory.iter().map(|(id, _)| *id).collect(),
            last_id: self.last_id,
            generation: self.generation,
            short_lives: self.short_lives,
            supervisor,
            head: Head {
                version: carried::VERSION,
                readable_by: carried::READABLE_BY,
                program: env!("CARGO_PKG_VERSION").to_owned(),
                image: self.image.program.as_raw_fd(),
                fds,
            },
        }
    }

    /// This is the new launcher: the supervisor that it has is the old one.
    pub(super) fn begin_trial(
        &mut self,
        ticket: Option<u64>,
        (back, host): (Rc<OwnedFd>, serde_json::Value),
    ) {
        self.old = self.supervisor.take().map(Old::new);
        self.upgrade = Upgrade::Trial(Trial {
            ticket,
            back,
            host,
            until: Instant::now() + ready_within(),
        });
        self.generation += 1;
        let begun = self.self_check().and_then(|()| self.start_supervisor());
        if let Err(e) = begun {
            self.go_back(&e.to_string());
        }
    }
}

fn ready_within() -> Duration {
    let millis = std::env::var(VARIABLE)
        .ok()
        .and_then(|millis| millis.parse().ok());
    millis.map_or(READY_WITHIN, Duration::from_millis)
}

/// What came of the question.
fn judge(checking: &Checking, status: Status) -> Result<Checked, String> {
    let mut said = Vec::new();
    let file = checking
        .said
        .try_clone()
        .map(File::from)
        .map_err(|e| e.to_string())?;
    // What is there is there: nobody writes any more, or nobody that matters.
    let _ = file.take(MAX_SAID).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match status {
        _ if checking.is_late => Err(format!(
            "it did not say what it is within {} s",
            CHECK_WITHIN.as_secs()
        )),
        Status::Code(0) => {
            let checked: Checked =
                serde_json::from_str(&said).map_err(|_| "it does not say that it is funcd".to_owned())?;
            checked.fits()?;
            Ok(checked)
        }
        Status::Code(code) if said.is_empty() => Err(format!("it ended with code {code}")),
        Status::Code(_) => Err(said),
        Status::Signal(signal) => Err(format!("it was ended by signal {signal}")),
    }
}
