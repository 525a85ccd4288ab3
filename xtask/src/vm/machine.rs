//! One QEMU: started, heard, spoken to over a serial port, ended. Emulates; needs neither root nor KVM.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use super::image::Image;

/// What a machine is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) image: &'a Image,
    /// The disk that it writes to: a copy of the image's.
    pub(super) disk: PathBuf,
    /// A tar archive, read by the guest.
    pub(super) payload: PathBuf,
    /// Room for a tar archive that the guest writes.
    pub(super) results: PathBuf,
    pub(super) ports: Ports,
    /// What the guest's kernel and systemd print.
    pub(super) console: PathBuf,
}

/// The guest's ports, each with the port of 127.0.0.1 here that leads to it.
#[derive(Debug, Clone)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Free ports here for ports of the guest.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn forward(guest: &[u16]) -> Result<Ports, String> {
        // All are held until each has one, so that no two get the same.
        let free = |_: &u16| TcpListener::bind("127.0.0.1:0");
        let held: Result<Vec<TcpListener>, _> = guest.iter().map(free).collect();
        let held = held.map_err(|why| format!("no free port on 127.0.0.1: {why}"))?;
        let here = held
            .iter()
            .map(|socket| socket.local_addr().map(|address| address.port()));
        let here: Result<Vec<u16>, _> = here.collect();
        let here = here.map_err(|why| format!("a port of 127.0.0.1: {why}"))?;
        Ok(Ports(guest.iter().copied().zip(here).collect()))
    }

    /// The port here that leads to the guest's.
    pub(super) fn of(&self, guest: u16) -> Option<u16> {
        let pair = self.0.iter().find(|(port, _)| *port == guest);
        pair.map(|(_, here)| *here)
    }
}

/// What is heard next.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line of the agent's serial port.
    Line(String),
    /// QEMU has ended, and everything that it said before was heard.
    Ended,
    /// Nothing until then.
    Nothing,
}

/// A running QEMU; dropping it ends it as a power cut does.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    agent: ChildStdin,
    lines: Receiver<String>,
}

/// One thread for both CPUs: with one each, QEMU 7.2 hung a boot now and then. The fastest model under emulation.
const HARDWARE: [&str; 18] = [
    "-accel",
    "tcg,thread=single",
    "-cpu",
    "Nehalem",
    "-M",
    "q35",
    "-smp",
    "2",
    "-m",
    "1280",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
    "-chardev",
    "stdio,id=agent,signal=off",
    "-device",
    "virtio-rng-pci",
];
/// Quicker when emulated, and nothing that a program sees. A panic ends the machine. On a busy machine the emulated timer may
/// be late when the kernel tries whether it is there at all.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 systemd.show_status=0 mitigations=off nokaslr \
                      tsc=reliable no_timer_check rcupdate.rcu_expedited=1";

impl Machine {
    /// Boots.
    ///
    /// # Errors
    /// When QEMU can't be run.
    pub(super) fn start(parts: &Parts<'_>) -> Result<Machine, String> {
        let file = |path: &PathBuf| {
            let open = File::options().append(true).create(true).open(path);
            open.map_err(|why| format!("{}: {why}", path.display()))
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(HARDWARE);
        let drives = [
            ("system", &parts.disk, "cache=unsafe"),
            ("in", &parts.payload, "readonly=on"),
            ("out", &parts.results, "cache=unsafe"),
        ];
        for (name, path, how) in drives {
            let drive = format!("if=none,id={name},file={},format=raw,{how}", path.display());
            // Found by its serial, never by its order.
            let device = format!("virtio-blk-pci,drive={name},serial={name}");
            command.args(["-drive", &drive, "-device", &device]);
        }
        // Nothing but these ports: the guest reaches nobody.
        let mut network = "user,model=virtio-net-pci,restrict=on".to_owned();
        for (guest, here) in &parts.ports.0 {
            network += &format!(",hostfwd=tcp:127.0.0.1:{here}-:{guest}");
        }
        let console = format!("file,id=console,path={},append=on", parts.console.display());
        let mut child = command
            .args(["-nic", &network, "-chardev", &console])
            .args(["-serial", "chardev:console", "-serial", "chardev:agent"])
            .arg("-kernel")
            .arg(&parts.image.kernel)
            .arg("-initrd")
            .arg(&parts.image.initrd)
            .args(["-append", KERNEL])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file(&parts.console)?)
            .spawn()
            .map_err(|why| format!("qemu-system-x86_64: {why}"))?;
        let agent = child.stdin.take().expect("it was asked for");
        let said = child.stdout.take().expect("it was asked for");
        let (tell, lines) = channel();
        thread::spawn(move || {
            // The guest's lines are what programs print there: not always text.
            for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Machine { child, agent, lines })
    }

    /// The next thing that is heard, if it comes in time.
    pub(super) fn hear(&mut self, until: Instant) -> Heard {
        let left = until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Heard::Line(line),
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::Ended,
        }
    }

    /// Says a line to the agent. One that is gone is noticed by who listens.
    pub(super) fn say(&mut self, line: &str) {
        let _ = writeln!(self.agent, "{line}").and_then(|()| self.agent.flush());
    }

    /// Ends it as a power cut does.
    pub(super) fn end(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}
