//! `funcd demo`: the example functions, served from a temporary home until Ctrl-C. The host is a child, `funcd serve`,
//! so that its launcher is the small process that it should be; this process only watches and tells.

mod examples;
mod home;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};

use funcd_sandbox::property::Property;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};

use super::args::Demo;
use super::doctor;
use super::exit::{Code, Failure};
use super::output::{GOOD, STRONG, WARN, print, safe, styled};
use crate::admin::client::Client;
use crate::admin::view::{Doctor, FunctionView, Functions, Status};
use home::Home;

/// Between two looks at the host while it starts, in milliseconds.
const LOOK: u16 = 50;
/// Looks that the functions may take to settle after the host is ready.
const SETTLE: u32 = 100;

pub(super) fn run(demo: &Demo) -> Result<(), Failure> {
    let listen = free_address(demo.listen)?;
    let examples = examples::find(demo.examples.as_deref())?;
    // From here on, signals are read from a descriptor: nothing may end this process before it has cleaned up.
    let signals = Signals::take().map_err(|e| Failure::io("can't read signals from a descriptor", &e))?;
    let mut home = Home::make()?;
    home.furnish(&examples)?;
    let mut host = Host::start(&home, listen)?;
    let client = Client::new(&home.admin()).map_err(|e| Failure::io("can't start the admin client", &e))?;
    let mut looks = Looks::default();
    loop {
        if let Some(status) = host.ended()? {
            return host.verdict(status);
        }
        let timeout = if looks.done {
            PollTimeout::NONE
        } else {
            LOOK.into()
        };
        if signals
            .wait(timeout)
            .map_err(|e| Failure::io("can't wait for signals", &e))?
        {
            host.stop()?;
            looks.done = true;
        } else if !looks.done {
            looks.look(&client, &home, listen)?;
        }
    }
}

/// Checks that the address is free, and gives the one that port 0 means.
fn free_address(wanted: SocketAddr) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(wanted);
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            Code::Failure,
            format!("{wanted} is taken by another program: choose another address, for example --listen 127.0.0.1:0"),
        ),
        _ => Failure::io(format_args!("can't listen on {wanted}; choose another address with --listen"), &e),
    })
}

/// The signals that this process watches: those that end it, and the one that tells of its child's end.
struct Signals(SignalFd);

impl Signals {
    fn take() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals(SignalFd::with_flags(&set, flags)?))
    }

    /// Waits for a signal, at most this long. True: told to stop.
    fn wait(&self, timeout: PollTimeout) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut stop = false;
        while let Some(signal) = self.0.read_signal()? {
            stop |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        Ok(stop)
    }
}

/// The host: a child in a process group of its own, so that Ctrl-C reaches it once, through us.
struct Host {
    child: Child,
    told_to_stop: bool,
}

impl Host {
    fn start(home: &Home, listen: SocketAddr) -> Result<Host, Failure> {
        let all = Property::ALL.map(Property::as_str).join(",");
        // By its own name, so that `ps` and `top` show it; by the kernel's when it was replaced meanwhile.
        let own = std::env::current_exe().ok().filter(|path| path.exists());
        let mut command = Command::new(own.unwrap_or_else(|| "/proc/self/exe".into()));
        command.arg0("funcd").arg("serve").args(home.flags());
        command.args(["--listen", &listen.to_string(), "--degraded", &all]);
        command.args(["--with-parent", &getpid().to_string()]);
        for (key, _) in std::env::vars_os() {
            // The host of the demo is what this program makes it, not what is configured for another one.
            let ours = key.to_string_lossy().starts_with("FUNCD_");
            if ours && key != "FUNCD_LOG" && key != "FUNCD_LOG_FORMAT" {
                command.env_remove(key);
            }
        }
        if std::env::var_os("FUNCD_LOG").is_none() && std::env::var_os("RUST_LOG").is_none() {
            command.env("FUNCD_LOG", "warn");
        }
        let child = command.process_group(0).spawn();
        let child = child.map_err(|e| Failure::io("can't start `funcd serve`", &e))?;
        Ok(Host {
            child,
            told_to_stop: false,
        })
    }

    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>, Failure> {
        self.child
            .try_wait()
            .map_err(|e| Failure::io("can't wait for `funcd serve`", &e))
    }

    fn stop(&mut self) -> Result<(), Failure> {
        if !self.told_to_stop {
            anstream::eprintln!("\nstopping");
        }
        self.told_to_stop = true;
        // The child was not waited for yet, so the pid is still its own.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits into an i32"));
        kill(pid, Signal::SIGTERM).map_err(|e| Failure::io("can't stop `funcd serve`", &e.into()))
    }

    fn verdict(&self, status: std::process::ExitStatus) -> Result<(), Failure> {
        if self.told_to_stop && (status.success() || status.signal() == Some(Signal::SIGTERM as i32)) {
            return Ok(());
        }
        // What went wrong was said by the child itself.
        let code = match status.code() {
            Some(69) => Code::Unreachable,
            Some(77) => Code::Permission,
            Some(78) => Code::Config,
            Some(_) | None => Code::Failure,
        };
        Err(Failure::new(
            code,
            format!("the host of the demo ended: {status}"),
        ))
    }
}

impl Drop for Host {
    /// On the way out after an error: the home must not be removed under a running host.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.stop();
            let _ = self.child.wait();
        }
    }
}

/// Looks at the host until there is something to tell.
#[derive(Default)]
struct Looks {
    after_ready: u32,
    done: bool,
}

impl Looks {
    fn look(&mut self, client: &Client, home: &Home, listen: SocketAddr) -> Result<(), Failure> {
        let ready = client
            .text("/readyz")
            .is_ok_and(|(status, _)| status.is_success());
        if !ready {
            return Ok(());
        }
        self.after_ready += 1;
        let functions = client.get::<Functions>("/v1/functions")?.functions;
        let settled = |view: &FunctionView| view.status == Status::Refused || view.function.is_some();
        let complete = functions.len() >= home.count() && functions.iter().all(settled);
        if complete || self.after_ready >= SETTLE {
            self.done = true;
            let doctor: Doctor = client.get("/v1/doctor")?;
            print(&welcome(home, listen, &doctor, &functions))?;
        }
        Ok(())
    }
}

fn welcome(home: &Home, listen: SocketAddr, doctor: &Doctor, functions: &[FunctionView]) -> String {
    let mut text = format!(
        "{}\n\n{}",
        styled(STRONG, "How this machine confines functions"),
        doctor::render(doctor)
    );
    let missing = doctor.properties.iter().filter(|property| !property.kept);
    let missing: Vec<&str> = missing.map(|property| property.name.as_str()).collect();
    if !missing.is_empty() {
        text += &format!(
            "\n{} the demo accepts what is missing ({}); `funcd serve` refuses to start functions like that, unless told \
             to accept it with --degraded\n",
            styled(WARN, "note:"),
            missing.join(", ")
        );
    }
    let count = functions.iter().filter(|view| view.function.is_some()).count();
    text += &format!(
        "\n{} {count} {} on http://{listen}. Try:\n\n",
        styled(GOOD, "ready:"),
        if count == 1 {
            "function answers"
        } else {
            "functions answer"
        }
    );
    for view in functions {
        match view.function {
            Some(_) => text.extend(
                hints(&view.name, listen, &home.picture())
                    .iter()
                    .map(|hint| format!("  {hint}\n")),
            ),
            None => {
                let reason = view.reason.as_deref().unwrap_or("not taken up yet");
                text += &format!(
                    "  {} {}: {}\n",
                    styled(WARN, "not served:"),
                    safe(&view.name),
                    safe(reason)
                );
            }
        }
    }
    let funcd = format!("{} --admin {}", program(), word(&home.admin()));
    text += "\nLook at it from another terminal:\n\n";
    for command in ["ls", "ps", "logs -f hello"] {
        text += &format!("  {funcd} {command}\n");
    }
    text += &format!(
        "\nDrop an executable into {} and curl it. Ctrl-C stops everything and removes {}\n",
        home.functions().display(),
        home.path().display()
    );
    text
}

/// How to call this program from another terminal: by name where that is this one, else by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "funcd".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path)
        .map(|folder| folder.join("funcd"))
        .find(|file| file.is_file());
    match named.and_then(|file| file.canonicalize().ok()) {
        Some(found) if found == own => "funcd".to_owned(),
        Some(_) | None => word(&own),
    }
}

/// A path as one word of a shell.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", safe(&text).replace('\'', r"'\''")),
    }
}

/// What to try with a function: our examples are known, of others only the route.
fn hints(name: &str, listen: SocketAddr, picture: &Path) -> Vec<String> {
    let base = format!("http://{listen}/{}/", safe(name));
    match name {
        "thumbs" => vec![format!(
            "curl --data-binary @{} '{base}?w=100' -o small.png",
            word(picture)
        )],
        "notes" => vec![
            format!("curl -d '{{\"text\": \"buy milk\"}}' {base}notes"),
            format!("curl {base}notes"),
        ],
        "ticker" => vec![format!("curl -N {base}events")],
        _ => vec![format!("curl {base}")],
    }
}

/// In the child, before it becomes the host: its parent blocked signals for itself, and must not leave it behind.
pub(super) fn end_with(parent: i32) -> Result<(), Failure> {
    let asked = set_pdeathsig(Signal::SIGTERM).and_then(|()| SigSet::all().thread_unblock());
    asked.map_err(|e| Failure::io("can't follow the process that started this one", &e.into()))?;
    // It may have ended before the kernel was asked to tell.
    if getppid().as_raw() != parent {
        return Err(Failure::new(
            Code::Failure,
            "the process that started this one has ended",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::host;
    use crate::admin::view::State;
    use crate::admin::view::tests::state;

    #[test]
    fn a_taken_port_names_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = free_address(taken.local_addr().unwrap()).unwrap_err();
        assert!(failure.message.contains("--listen"), "{failure}");
        let free = free_address("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(free.port(), 0);
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(
            word(Path::new("/tmp/funcd-demo-x1/run/admin.sock")),
            "/tmp/funcd-demo-x1/run/admin.sock"
        );
        assert_eq!(word(Path::new("/my tmp/it's")), r"'/my tmp/it'\''s'");
    }

    #[test]
    fn the_welcome_says_what_is_missing_and_what_to_try() {
        let home = Home::make().unwrap();
        let grade = funcd_sandbox::probe::Grade {
            property: Property::CpuLimit,
            mechanism: None,
            cause: "no cpu controller".to_owned(),
            fix: "mount it".to_owned(),
            needs: String::new(),
        };
        let view = |name: &str, reason: Option<&str>| FunctionView {
            name: name.to_owned(),
            status: if reason.is_some() {
                Status::Refused
            } else {
                Status::Accepted
            },
            kind: None,
            reason: reason.map(str::to_owned),
            function: reason.is_none().then(|| state(State::Idle)),
        };
        let functions = [view("hello", None), view("broken", Some("it is a FIFO"))];
        let doctor = host::doctor(&[grade], Some(7), &[Property::CpuLimit], true);
        let text = welcome(&home, "127.0.0.1:8080".parse().unwrap(), &doctor, &functions);
        let text = anstream::adapter::strip_str(&text).to_string();
        for part in [
            "P7  cpu-limit  missing, accepted",
            "the demo accepts what is missing (cpu-limit)",
            "ready: 1 function answers on http://127.0.0.1:8080",
            "  curl http://127.0.0.1:8080/hello/\n",
            "  not served: broken: it is a FIFO\n",
            "admin.sock ps\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
