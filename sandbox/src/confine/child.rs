//! The child's steps, in their order. Never allocates, never takes a lock, never returns to the launcher's code.

use std::ffi::CStr;
use std::os::fd::RawFd;

use super::Failure;
use super::prepare::Prepared;
use crate::exit::Step;
use crate::oom;
use crate::sys::Errno;
use crate::sys::calls;

/// [`crate::spec::EXCHANGE`], as the kernel wants it.
const EXCHANGE: &CStr = c"/tmp/iofs";

/// NOROOT, NO_SETUID_FIXUP and their locks, and KEEP_CAPS_LOCKED (capabilities(7)).
const SECUREBITS: usize = 0x2f;

impl Prepared<'_> {
    /// Everything but what the mini-init of a pid namespace must not have.
    pub(super) fn enclose(&self) -> Result<(), Failure> {
        self.step(Step::JoinCgroup, Self::join_cgroups)?;
        self.step(Step::Process, Self::leave_the_launcher)?;
        self.step(Step::Descriptors, Self::place_descriptors)?;
        self.step(Step::JoinNetwork, Self::join_network)?;
        self.step(Step::Mounts, Self::build_root)?;
        // The ruleset is made while it still has the privilege to open what it is granted, and used last.
        self.step(Step::Landlock, Self::make_ruleset)?;
        self.step(Step::Rlimits, Self::limit)?;
        self.step(Step::Keyring, Self::leave_keyrings)?;
        self.step(Step::Capabilities, Self::lock_privileges)?;
        self.step(Step::Identity, Self::change_identity)?;
        self.step(Step::Capabilities, |_| calls::clear_capabilities())?;
        self.step(Step::Socket, Self::make_exchange)?;
        // Changing the uid has cleared it.
        self.step(Step::Process, Self::die_with_the_launcher)
    }

    /// The last steps, exec included: returns only when one failed.
    pub(super) fn last_steps(&self) -> Failure {
        match self.close_behind() {
            Err(failure) => failure,
            Ok(()) => self.execute(),
        }
    }

    /// Returns only when it failed.
    pub(super) fn execute(&self) -> Failure {
        self.at.set(Step::Exec);
        calls::set_signals(0);
        let errno = match &self.path {
            Some(path) => self.vectors.exec_path(path),
            None => self.vectors.exec_fd(self.sources.executable),
        };
        Failure {
            step: Step::Exec,
            errno,
        }
    }

    /// Closes the launcher's descriptors now, where exec may be long in coming: they would keep pipes and sockets of
    /// others open. What is left: 0 to 3, and what the remaining steps need.
    pub(super) fn close_all_but(&self, [status, go]: [RawFd; 2]) -> Result<(), Failure> {
        self.step(Step::Descriptors, |this| {
            let mut keep = [status, go, this.sources.executable, this.ruleset.get()];
            keep.sort_unstable();
            let mut first = this.first_unplaced();
            for kept in keep.into_iter().filter(|kept| *kept >= 0) {
                if first < kept {
                    calls::close_between(first, kept - 1)?;
                }
                first = first.max(kept + 1);
            }
            calls::close_between(first, RawFd::MAX)
        })
    }

    /// From here on nothing but exec is possible.
    pub(super) fn close_behind(&self) -> Result<(), Failure> {
        self.vectors.set_listen_pid(calls::getpid());
        self.step(Step::Descriptors, Self::mark_descriptors)?;
        self.step(Step::NoNewPrivs, Self::give_up_privileges)?;
        self.step(Step::Landlock, Self::restrict)?;
        self.step(Step::Seccomp, Self::filter)
    }

    fn step(&self, step: Step, act: impl Fn(&Self) -> Result<(), Errno>) -> Result<(), Failure> {
        self.at.set(step);
        act(self).map_err(|errno| Failure { step, errno })
    }

    /// First, as a v1 `tasks` file moves one thread: there is only one now.
    fn join_cgroups(&self) -> Result<(), Errno> {
        self.confinement
            .tasks
            .iter()
            .try_for_each(|tasks| calls::write(*tasks, b"0").map(drop))
    }

    fn leave_the_launcher(&self) -> Result<(), Errno> {
        self.die_with_the_launcher()?;
        calls::setsid()?;
        // The clone has reset all signals but the ignored ones, which exec would hand on; real-time ones nobody ignores.
        (1..libc::SIGSYS + 1)
            .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
            .for_each(calls::default_disposition);
        // While it sees the host's /proc. Anybody may raise it; only root of the host could lower it again.
        self.oom_score.into_iter().for_each(oom::go_first);
        // The modes of what `build_root` makes; see there.
        calls::umask(0);
        Ok(())
    }

    fn die_with_the_launcher(&self) -> Result<(), Errno> {
        calls::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0])?;
        // It may have died just before. In a pid namespace nothing outside is visible, and `init` looks itself.
        if !self.confinement.pid_namespace && calls::getppid() != self.launcher {
            calls::exit(1);
        }
        Ok(())
    }

    fn place_descriptors(&self) -> Result<(), Errno> {
        let sources = &self.sources;
        calls::duplicate(sources.stdin, 0)?;
        calls::duplicate(sources.stdout, 1)?;
        calls::duplicate(sources.stderr, 2)?;
        sources
            .listener
            .map_or(Ok(()), |listener| calls::duplicate(listener, 3))
    }

    fn join_network(&self) -> Result<(), Errno> {
        self.sources
            .network
            .map_or(Ok(()), |network| calls::setns(network, libc::CLONE_NEWNET))
    }

    fn build_root(&self) -> Result<(), Errno> {
        self.root.as_ref().map_or(Ok(()), crate::mounts::Root::build)?;
        calls::umask(0o077);
        calls::chdir(c"/")
    }

    fn make_ruleset(&self) -> Result<(), Errno> {
        if let Some(rules) = &self.rules {
            self.ruleset.set(rules.make(self.sources.executable)?);
        }
        Ok(())
    }

    fn limit(&self) -> Result<(), Errno> {
        self.confinement
            .rlimits
            .iter()
            .try_for_each(|(resource, value)| calls::set_limit(*resource, *value))
    }

    fn leave_keyrings(&self) -> Result<(), Errno> {
        match calls::join_new_session_keyring() {
            // A kernel without keyrings has none to leave.
            Err(libc::ENOSYS) => Ok(()),
            result => result,
        }
    }

    fn lock_privileges(&self) -> Result<(), Errno> {
        if self.drop_bounding {
            drop_bounding()
        } else {
            Ok(())
        }
    }

    fn change_identity(&self) -> Result<(), Errno> {
        let Some((uid, gid)) = self.confinement.identity else {
            return Ok(());
        };
        calls::clear_groups()?;
        calls::set_gid(gid)?;
        calls::set_uid(uid)
    }

    /// As the function itself, below its own `/tmp`: what is in there counts against that.
    fn make_exchange(&self) -> Result<(), Errno> {
        let Some(exchange) = self.sources.exchange else {
            return Ok(());
        };
        calls::mkdir(EXCHANGE, 0o755)?;
        // The umask keeps it from others; a descriptor of it is the supervisor's, which is another user.
        calls::chmod(EXCHANGE, 0o755)?;
        // Its limit of open files holds by now, and what the launcher has open is still in the way: 3 is nobody's.
        calls::close(3);
        let directory = calls::open(EXCHANGE, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
        calls::send_descriptor(exchange, directory)?;
        calls::close(directory);
        Ok(())
    }

    /// Whatever the launcher has open beyond what was placed ends with exec.
    fn mark_descriptors(&self) -> Result<(), Errno> {
        calls::close_range(self.first_unplaced() as u32, libc::CLOSE_RANGE_CLOEXEC)
    }

    /// The first descriptor that is not the function's.
    fn first_unplaced(&self) -> RawFd {
        if self.sources.listener.is_some() { 4 } else { 3 }
    }

    fn give_up_privileges(&self) -> Result<(), Errno> {
        if self.set_no_new_privs {
            calls::no_new_privs()
        } else {
            Ok(())
        }
    }

    fn restrict(&self) -> Result<(), Errno> {
        const NONE: RawFd = -1;
        match self.ruleset.get() {
            NONE => Ok(()),
            ruleset => calls::landlock_restrict(ruleset),
        }
    }

    fn filter(&self) -> Result<(), Errno> {
        self.filter.map_or(Ok(()), calls::load_filter)
    }
}

/// Empties the bounding set and locks the securebits.
pub(super) fn drop_bounding() -> Result<(), Errno> {
    // Up to the last capability of this kernel, whichever that is.
    for capability in 0.. {
        match calls::prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]) {
            Ok(_) => {}
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    calls::prctl(libc::PR_SET_SECUREBITS, [SECUREBITS, 0, 0, 0]).map(drop)
}
