//! The test in the place of a supervisor that was taken over: valid requests in the wrong order, half messages, garbage,
//! odd descriptors, silence. Whatever it does, what runs goes on, and the launcher ends it and starts the next.
//!
//! `FUNCD_TEST_STORMS=N` plays N storms instead of a few, `FUNCD_TEST_SEED=S` begins with a certain one.

use std::os::fd::FromRawFd;

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::{InstanceId, Spec, System};
use funcd_sandbox::wire::{self, MAX_FDS, MAX_MESSAGE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use host::Started;

/// xorshift64*: the same storm for the same seed, on any machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Two functions that must not notice anything.
fn witnesses(host: &mut Running, digest: Digest) -> [Started; 2] {
    ["first", "second"].map(|name| {
        let mut spec = host.spec(digest, &["serve"]);
        spec.function = name.into();
        let function = host.launch(spec);
        read_line(&function.stdout);
        function
    })
}

/// After a takeover: they are in the inventory under their ids and pids, and answer; what else runs is ended.
fn testify(host: &mut Running, witnesses: &[Started], seed: u64) {
    for witness in witnesses {
        let found = host
            .inventory
            .iter()
            .any(|(id, pid, _)| (*id, *pid) == (witness.id, witness.pid));
        assert!(found, "seed {seed}: {} is gone: {:?}", witness.id, host.inventory);
        assert_eq!(host.call(witness.id), "hello\n", "seed {seed}");
    }
    let others: Vec<_> = host.inventory.iter().map(|(id, ..)| *id).collect();
    for id in others
        .into_iter()
        .filter(|id| witnesses.iter().all(|witness| witness.id != *id))
    {
        host.send(&Request::Kill { id }, &[]);
        while !matches!(host.recv().0, Event::Exited { id: ended, .. } if ended == id) {}
    }
    host.inventory.clear();
}

pub(super) fn a_storm_of_messages_ends_the_supervisor_and_nothing_else(who: As) {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("FUNCD_TEST_SEED", 1), number("FUNCD_TEST_STORMS", 6));
    let mut host = Running::start_with(who, "hand");
    let digest = host.store(&actor());
    let witnesses = witnesses(&mut host, digest);
    testify(&mut host, &[], 0);
    // Once, so that what is made ahead is made.
    storm(&mut host, digest, &witnesses, &mut Chance(999));
    next_supervisor(&mut host);
    testify(&mut host, &witnesses, 0);
    let before = host.holds();
    for seed in first..first + count {
        storm(
            &mut host,
            digest,
            &witnesses,
            &mut Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        );
        next_supervisor(&mut host);
        testify(&mut host, &witnesses, seed);
        // And it still does what a supervisor may ask for.
        let other = host.launch(host.spec(digest, &["exit"]));
        assert_eq!(host.exit_of(other.id), Exit::Code { code: 7 }, "seed {seed}");
    }
    // An executable or two more may be stored.
    let before: Vec<_> = before
        .into_iter()
        .map(|(what, n)| (what, n + usize::from(what == "stored") * 4))
        .collect();
    host.holds_no_more(&before);
    host.stop();
}

/// Ends the supervisor that is played, unless the launcher did, and waits for the next.
fn next_supervisor(host: &mut Running) {
    let generation = host.handover.generation;
    host.hang_up();
    host.take_over();
    assert_eq!(host.handover.generation, generation + 1);
}

/// Whether the launcher has closed the connection.
fn is_over(host: &Running) -> bool {
    let mut fds = [PollFd::new(host.link(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLHUP)
}

/// Sends whatever the kernel takes; what it does not take, and what nobody reads any more, is no matter.
fn throw(host: &Running, bytes: &[u8], fds: &[std::os::fd::RawFd]) {
    for _ in 0..50 {
        match wire::send_bytes(host.link(), bytes, fds) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !is_over(host) => {
                std::thread::yield_now()
            }
            _ => return,
        }
    }
}

fn storm(host: &mut Running, digest: Digest, witnesses: &[Started], chance: &mut Chance) {
    let odd = OddFiles::new();
    let mut last = host.handover.next_id.0;
    for _ in 0..200 {
        if is_over(host) {
            return;
        }
        // What may well end it comes rarely, so that much can happen before.
        match chance.below(60) {
            0 => throw(host, &chance.bytes(40), &[]),
            1 => throw(host, &vec![7; MAX_MESSAGE + 1 + chance.below(1000)], &[]),
            2 => {
                let bytes = encoded(host, digest, witnesses, &mut last, chance);
                throw(host, &bytes[..chance.below(bytes.len())], &[]);
            }
            3 => {
                let fds = vec![odd.any(chance); MAX_FDS + 1 + chance.below(200)];
                throw(host, &wire::encode(&Request::Store { ticket: 1 }).unwrap(), &fds);
            }
            4 => throw(host, &[], &vec![odd.any(chance); chance.below(3)]),
            5 => throw(host, &wire::encode(&Request::Goodbye).unwrap(), &[]),
            // Replies of its own making: the launcher takes only requests.
            6 => throw(host, &wire::encode(&Event::InventoryEnd).unwrap(), &[]),
            7 => {
                // The launcher may have ended it just before.
                if let Some(pid) = host.find_supervisor() {
                    let _ = kill(
                        Pid::from_raw(pid),
                        chance.pick(&[Signal::SIGSTOP, Signal::SIGCONT]),
                    );
                }
            }
            8..20 => {
                let fds: Vec<_> = (0..1 + chance.below(3) / 2).map(|_| odd.any(chance)).collect();
                throw(
                    host,
                    &wire::encode(&Request::Store {
                        ticket: chance.next(),
                    })
                    .unwrap(),
                    &fds,
                );
            }
            20 => {
                // Its own end of the socket, to itself.
                let own = std::os::fd::AsRawFd::as_raw_fd(&host.link());
                throw(
                    host,
                    &wire::encode(&Request::Store { ticket: 3 }).unwrap(),
                    &[own],
                );
            }
            _ => {
                let bytes = encoded(host, digest, witnesses, &mut last, chance);
                let fds: &[i32] = if chance.below(8) == 0 {
                    &[odd.any(chance)]
                } else {
                    &[]
                };
                throw(host, &bytes, fds);
            }
        }
        if chance.below(4) == 0 {
            // Reads some of what it is told, now and then.
            let mut buffer = Box::new([0; MAX_MESSAGE]);
            while let Ok(Some(_)) = wire::recv::<Event>(host.link(), &mut buffer) {}
        }
    }
}

/// Of those requests, one that fits in a message.
fn encoded(
    host: &Running,
    digest: Digest,
    witnesses: &[Started],
    last: &mut u64,
    chance: &mut Chance,
) -> Vec<u8> {
    loop {
        if let Ok(bytes) = wire::encode(&request(host, digest, witnesses, last, chance)) {
            return bytes;
        }
    }
}

/// A request that means something, for whatever exists or does not; never one against the witnesses.
fn request(
    host: &Running,
    digest: Digest,
    witnesses: &[Started],
    last: &mut u64,
    chance: &mut Chance,
) -> Request {
    let mut id = InstanceId(match chance.below(6) {
        0 => chance.next(),
        1 => u64::MAX >> 3,
        2 => 0,
        _ => chance.below(*last as usize + 3) as u64,
    });
    while witnesses.iter().any(|witness| witness.id == id) {
        id.0 += 1;
    }
    match chance.below(12) {
        0 => Request::Terminate { id },
        1 | 2 => Request::Kill { id },
        3 => Request::Sockets {
            id,
            count: chance.next() as u8,
        },
        4 => Request::Usage {
            ids: vec![id; chance.below(4000)],
        },
        5 => Request::Retain {
            artifacts: vec![Digest([chance.next() as u8; 32]); chance.below(100)],
        },
        6 => Request::Store {
            ticket: chance.next(),
        },
        7 => Request::Launch {
            id,
            spec: Box::new(spec(host, digest, chance)),
        },
        8 => {
            *last += 1;
            Request::Prepare {
                id: InstanceId(*last),
                spec: Box::new(spec(host, digest, chance)),
            }
        }
        _ => {
            *last += 1 + chance.below(3) as u64;
            Request::Launch {
                id: InstanceId(*last),
                spec: Box::new(spec(host, digest, chance)),
            }
        }
    }
}

fn spec(host: &Running, digest: Digest, chance: &mut Chance) -> Spec {
    let what = chance.pick(&[
        "serve",
        "exit",
        "abort",
        "deaf",
        "daemon",
        "orphan",
        "environment",
    ]);
    let mut spec = host.spec(digest, &[what]);
    let text = |chance: &mut Chance| {
        let length = chance.pick(&[0, 1, 10, 3000, 40_000]);
        chance.pick(&["\0", "/", "LD_", "é", "..", "a"]).repeat(length)
    };
    for _ in 0..chance.below(3) {
        match chance.below(16) {
            15 => {
                spec.ports = vec![chance.pick(&[0, 1, 9001]); chance.below(20)];
                spec.socket = chance.pick(&[Socket::Unix, Socket::Port(1), Socket::None]);
            }
            0 => spec.function = text(chance).chars().take(20_000).collect(),
            1 => spec.artifact = Digest([chance.next() as u8; 32]),
            2 => spec.image = chance.pick(&[Image::Static, Image::Dynamic, Image::Script]),
            3 => spec.args = vec![text(chance)],
            4 => spec
                .env
                .push((text(chance).chars().take(9000).collect(), String::new())),
            5 => spec.socket = Socket::Port(chance.next() as u16),
            6 => spec.limits.memory_bytes = 1 << chance.below(64),
            7 => spec.limits.pids = chance.next() as u32,
            8 => spec.limits.cpu_millis = chance.next() as u32,
            9 => spec.limits.files = chance.next() as u32,
            10 => spec.limits.tmp_bytes = chance.next(),
            11 => {
                spec.read = vec![
                    chance
                        .pick(&["/usr", "/", "/etc", "/proc/self/root", "/usr/../etc", "x"])
                        .into(),
                ]
            }
            12 => {
                spec.write = vec![host.dir.path().join(chance.pick(&[
                    "data",
                    "state",
                    "run",
                    "data/x",
                    "data/../run",
                ]))]
            }
            13 => spec.degraded = vec![chance.pick(&Property::ALL)],
            _ => spec.memo = vec![1; chance.below(26_000)],
        }
    }
    spec
}

/// Files that are no executables, and executables that are odd.
struct OddFiles {
    _dir: tempfile::TempDir,
    fds: Vec<OwnedFd>,
}

impl OddFiles {
    fn new() -> OddFiles {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path, flags: i32| -> OwnedFd {
            use std::os::unix::fs::OpenOptionsExt;
            let write = flags & libc::O_RDWR != 0;
            let opened = fs::OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(flags & !libc::O_RDWR)
                .open(path);
            opened
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
                .into()
        };
        let executable = |name: &str, mode| {
            let path = dir.path().join(name);
            fs::write(&path, format!("\x7fELF {name}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o755)).unwrap();
        let mut fds = vec![
            open(dir.path(), libc::O_DIRECTORY),
            open(&fifo, libc::O_NONBLOCK),
            open(&fifo, libc::O_PATH),
            open(Path::new("/dev/zero"), 0),
            open(Path::new("/dev/full"), libc::O_RDWR),
            open(Path::new("/proc/self/maps"), 0),
            open(Path::new("/proc/self/ns/net"), 0),
            open(Path::new("/sys/kernel/uevent_seqnum"), 0),
            open(&executable("plain", 0o755), 0),
            open(&executable("path-only", 0o755), libc::O_PATH),
            open(&executable("setuid", 0o4755), 0),
            open(&executable("writer", 0o755), libc::O_RDWR),
        ];
        let unlinked = executable("unlinked", 0o755);
        fds.push(open(&unlinked, 0));
        fs::remove_file(unlinked).unwrap();
        // Under a write lease of this process: nobody else may open it, and the launcher must not wait for that.
        let leased = open(&executable("leased", 0o755), libc::O_RDWR);
        // SAFETY: fcntl with an integer argument.
        unsafe { libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
        // A sparse executable as large as may be: a thousand steps.
        let large = executable("large", 0o755);
        fs::OpenOptions::new()
            .write(true)
            .open(&large)
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        fds.extend([leased, open(&large, 0)]);
        // SAFETY: each call makes a new descriptor that nothing else owns, or -1, which is left out.
        let made = unsafe {
            [
                libc::epoll_create1(libc::EPOLL_CLOEXEC),
                libc::eventfd(0, libc::EFD_CLOEXEC),
                libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC),
                libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0),
            ]
        };
        // SAFETY: as above.
        fds.extend(
            made.into_iter()
                .filter(|fd| *fd >= 0)
                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
        );
        OddFiles { _dir: dir, fds }
    }

    fn any(&self, chance: &mut Chance) -> i32 {
        self.fds[chance.below(self.fds.len())].as_raw_fd()
    }
}

/// Each way to be a bad peer, by itself: the launcher ends it, and what runs goes on.
pub(super) fn each_bad_peer_is_ended_and_replaced(who: As) {
    type Bad = (&'static str, fn(&Running));
    let table: &[Bad] = &[
        ("garbage", |host| throw(host, &[255; 40], &[])),
        ("half a message", |host| {
            let bytes = wire::encode(&Request::Usage {
                ids: vec![InstanceId(300); 9],
            })
            .unwrap();
            throw(host, &bytes[..bytes.len() - 1], &[]);
        }),
        ("a message and a half", |host| {
            let mut bytes = wire::encode(&Request::Store { ticket: 1 }).unwrap();
            bytes.push(0);
            throw(host, &bytes, &[]);
        }),
        // Which is the begin of a request.
        ("an event", |host| {
            throw(host, &wire::encode(&Event::InventoryEnd).unwrap(), &[]);
        }),
        ("a large message", |host| {
            throw(host, &vec![0; MAX_MESSAGE + 1], &[])
        }),
        ("an empty message", |host| throw(host, &[], &[])),
        ("too many descriptors", |host| {
            let fds = vec![std::os::fd::AsRawFd::as_raw_fd(&host.link()); MAX_FDS + 1];
            throw(host, &wire::encode(&Request::Store { ticket: 1 }).unwrap(), &fds);
        }),
        ("goodbye", |host| host.send(&Request::Goodbye, &[])),
        ("half closed, nothing is sent", |host| {
            nix::sys::socket::shutdown(host.link().as_raw_fd(), nix::sys::socket::Shutdown::Write).unwrap();
        }),
        ("half closed, nothing is read", |host| {
            nix::sys::socket::shutdown(host.link().as_raw_fd(), nix::sys::socket::Shutdown::Read).unwrap();
            host.send(&Request::Store { ticket: 1 }, &[]);
        }),
        ("dead", |host| {
            kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap()
        }),
        ("stopped, and nothing is read", |host| {
            kill(Pid::from_raw(host.supervisor()), Signal::SIGSTOP).unwrap();
            never_read(host);
        }),
        ("nothing is read", never_read),
    ];
    let mut host = Running::start_with(who, "hand");
    let digest = host.store(&actor());
    let witnesses = witnesses(&mut host, digest);
    testify(&mut host, &[], 0);
    for (what, act) in table {
        println!("{what}");
        act(&host);
        let generation = host.handover.generation;
        // The connection is held open: it is the launcher that ends it.
        let held = host.link().try_clone_to_owned().unwrap();
        host.take_over();
        assert_eq!(host.handover.generation, generation + 1, "{what}");
        drop(held);
        testify(&mut host, &witnesses, 0);
    }
    host.stop();
}

/// Asks for more answers than the launcher keeps for one that does not read.
pub(super) fn never_read(host: &Running) {
    let mut spec = host.spec(Digest([1; 32]), &["serve"]);
    spec.function = "X".into();
    for id in 0.. {
        let id = InstanceId(host.handover.next_id.0 + id);
        let request = Request::Launch {
            id,
            spec: Box::new(spec.clone()),
        };
        loop {
            match wire::send(host.link(), &request, &[]) {
                Ok(()) => break,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(host.link(), PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::from(1000_u16)).unwrap();
                }
                Err(_) => return,
            }
        }
        assert!(id.0 < 100_000, "the launcher keeps answers without end");
    }
}

/// A supervisor that neither answers nor ends must not keep a host from ending.
pub(super) fn a_stopped_supervisor_holds_up_no_end(who: As) {
    let (mut host, digest) = started(who);
    host.launch(host.spec(digest, &["deaf"]));
    let supervisor = host.supervisor();
    kill(Pid::from_raw(supervisor), Signal::SIGSTOP).unwrap();
    host.signal(Signal::SIGTERM);
    host.signal(Signal::SIGINT);
    assert!(host.ended().success());
    assert!(!Path::new(&format!("/proc/{supervisor}")).exists());
    assert_eq!(host.cgroups(), Vec::<PathBuf>::new());
}

/// What a supervisor that was taken over does to a spec.
type Change = Box<dyn Fn(&mut Spec)>;

/// The floor, clause by clause, whatever the supervisor says.
pub(super) fn no_clause_of_the_floor_gives_way(who: As) {
    let mut host = Running::start_in(who, "hand", |dir| {
        fs::write(dir.join("max_instances"), "4").unwrap();
        fs::create_dir(dir.join("secrets")).unwrap();
    });
    let digest = host.store(&actor());
    let dir = host.dir.path().to_path_buf();
    std::os::unix::fs::symlink("/etc", dir.join("data/escape")).unwrap();
    std::os::unix::fs::symlink(dir.join("state/store"), dir.join("data/store")).unwrap();
    let read = |path: &Path| -> Change {
        let path = path.to_path_buf();
        Box::new(move |spec| spec.read = vec![path.clone()])
    };
    let write = |path: PathBuf| -> Change { Box::new(move |spec| spec.write = vec![path.clone()]) };
    let variable =
        |name: &'static str| -> Change { Box::new(move |spec| spec.env.push((name.into(), "1".into()))) };
    let mut table: Vec<(&str, Change)> = vec![
        ("no function name", Box::new(|s| s.function = "../../etc".into())),
        ("no function name", Box::new(|s| s.function = "a\0b".into())),
        ("argv[0]", Box::new(|s| s.args.clear())),
        ("NUL", Box::new(|s| s.args.push("a\0b".into()))),
        ("NUL", Box::new(|s| s.env.push(("A".into(), "\0".into())))),
        ("more than", Box::new(|s| s.args = vec![String::new(); 600])),
        ("larger than", Box::new(|s| s.args.push("x".repeat(33_000)))),
        (
            "twice",
            Box::new(|s| s.env = vec![("A".into(), "1".into()), ("A".into(), "2".into())]),
        ),
        ("memo", Box::new(|s| s.memo = vec![0; 24 * 1024 + 1])),
        ("port 0", Box::new(|s| s.socket = Socket::Port(0))),
        ("more than 17 ports", Box::new(|s| s.ports = (1..=18).collect())),
        ("port 9001 can't", Box::new(|s| s.ports = vec![9001, 9001])),
        ("memory", Box::new(|s| s.limits.memory_bytes = u64::MAX)),
        ("memory", Box::new(|s| s.limits.memory_bytes = 0)),
        ("pids", Box::new(|s| s.limits.pids = u32::MAX)),
        ("pids", Box::new(|s| s.limits.pids = 0)),
        ("cpu", Box::new(|s| s.limits.cpu_millis = u32::MAX)),
        ("tmp", Box::new(|s| s.limits.tmp_bytes = u64::MAX)),
        ("files", Box::new(|s| s.limits.files = u32::MAX)),
        ("step artifact", Box::new(|s| s.artifact = Digest([9; 32]))),
        (
            "granted paths",
            Box::new(|s| s.read = vec!["/usr/share".into(); 17]),
        ),
        ("LD_PRELOAD", variable("LD_PRELOAD")),
        ("LD_LIBRARY_PATH", variable("LD_LIBRARY_PATH")),
        ("LISTEN_PID", variable("LISTEN_PID")),
        ("no variable name", variable("A=B")),
        ("no variable name", variable("")),
        ("read_roots", read(Path::new("/etc/shadow"))),
        ("read_roots", read(Path::new("/"))),
        ("read_roots", read(Path::new("/proc/self/root/usr"))),
        ("read_roots", read(&dir.join("secrets"))),
        ("without", read(Path::new("/usr/../etc/shadow"))),
        ("without", read(Path::new("usr"))),
        ("write_roots", write("/usr".into())),
        ("write_roots", write(dir.join("state"))),
        ("write_roots", write(dir.join("state/store"))),
        ("write_roots", write(dir.join("run"))),
        ("write_roots", write(dir.join("functions"))),
        ("write_roots", write(dir.join("secrets"))),
        ("write_roots", write(dir.join("data/escape"))),
        ("write_roots", write(dir.join("data/escape/made"))),
        ("write_roots", write(dir.join("data/store"))),
        ("write_roots", write(dir.join("dataX"))),
        ("without", write(dir.join("data/../state"))),
        ("below the symlink", below_a_link(&dir.join("data"), true)),
        ("below the symlink", below_a_link(&dir.join("data"), false)),
    ];
    if who == As::Root {
        // What the host's own configuration does not let go missing, no function lets go missing.
        for property in Property::ALL {
            table.push((
                "but the host does not",
                Box::new(move |s| s.degraded = vec![property]),
            ));
        }
    }
    for (expected, change) in table {
        let mut spec = host.spec(digest, &["serve"]);
        change(&mut spec);
        let id = host.ask(spec);
        let said = host.answer_to(id);
        assert!(
            !dir.join("data/made").is_symlink(),
            "a start made a symlink on the host"
        );
        let Event::LaunchFailed { message: said, .. } = said else {
            panic!("{said:?} instead of a refusal with {expected:?}");
        };
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
    for (id, expected) in [
        (1, "not larger"),
        (u64::MAX, "too much"),
        (u64::MAX >> 3, "too much"),
    ] {
        let spec = Box::new(host.spec(digest, &["serve"]));
        host.send(
            &Request::Launch {
                id: InstanceId(id),
                spec,
            },
            &[],
        );
        let said = host.recv().0;
        assert!(
            matches!(&said, Event::LaunchFailed { message, .. } if message.contains(expected)),
            "{said:?}"
        );
    }
    // No more than the host allows, and what is allowed still works.
    let running: Vec<_> = (0..4)
        .map(|_| host.launch(host.spec(digest, &["serve"])))
        .collect();
    assert!(
        host.refused(host.spec(digest, &["serve"]))
            .contains("max_instances")
    );
    for function in &running {
        assert_eq!(host.call(function.id), "hello\n");
        use std::os::unix::fs::MetadataExt;
        let uid = fs::metadata(format!("/proc/{}", function.pid)).unwrap().uid();
        let expected = if who == As::Root { UID_FIRST } else { 65_534 };
        assert_eq!(uid, expected);
    }
    for (path, mode) in [("state/store", 0o700), ("secrets", 0o755), ("run/i", 0o710)] {
        assert_eq!(
            fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o7777,
            mode,
            "{path}"
        );
    }
    assert!(!Path::new("/etc/made").exists());
    host.stop();
}

/// Symlinks of the system, one of them below another that leads to a folder of the host: made one after the other, before the
/// root is the function's, the second would be made on the host.
fn below_a_link(folder: &Path, absolute: bool) -> Change {
    let target = match absolute {
        true => folder.to_owned(),
        // From `usr` in the staging folder, whatever that is called.
        false => Path::new(&"../".repeat(20)).join(folder.strip_prefix("/").unwrap()),
    };
    Box::new(move |spec| {
        spec.system = System::Parts {
            paths: Vec::new(),
            links: vec![
                ("/usr/link".into(), target.clone()),
                ("/usr/link/made".into(), "/etc/shadow".into()),
            ],
        };
    })
}

/// Uids come from the host's range, each function's own, and no function gets one beyond it.
pub(super) fn no_uid_lies_outside_the_range(who: As) {
    let (mut host, digest) = started(who);
    for number in 0..100 {
        let mut spec = host.spec(digest, &["serve"]);
        spec.function = format!("f{number}");
        let function = host.launch(spec);
        assert_eq!(
            read_line(&function.stdout),
            format!("serving as {}", UID_FIRST + number)
        );
        host.send(&Request::Kill { id: function.id }, &[]);
        host.exit_of(function.id);
    }
    let said = host.refused(host.spec(digest, &["serve"]));
    assert!(
        said.contains("step identity") && said.contains("raise `uid_count`"),
        "{said}"
    );
    host.stop();
}

/// Grants are what they were when they were checked: another function swaps a directory for a link to elsewhere, again and
/// again, while starts are granted it.
pub(super) fn a_directory_swapped_for_a_link_is_never_granted(who: As) {
    let (mut host, digest) = started(who);
    let data = host.dir.path().join("data");
    let (granted, secret) = (data.join("granted"), host.dir.path().join("secret"));
    fs::create_dir(&granted).unwrap();
    fs::set_permissions(&granted, fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o777)).unwrap();
    let link = data.join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut started, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                renameat2(AT_FDCWD, &granted, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
            if granted.is_symlink() {
                renameat2(AT_FDCWD, &granted, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        for _ in 0..300 {
            let mut spec = host.spec(digest, &["touch", granted.join("made").to_str().unwrap()]);
            spec.write = vec![granted.clone()];
            let id = host.ask(spec);
            match host.answer_to(id) {
                Event::Launched { .. } => {
                    started += 1;
                    host.exit_of(id);
                }
                Event::LaunchFailed { .. } => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    println!("{started} started, {refused} refused");
    assert_eq!(
        fs::read_dir(&secret).unwrap().count(),
        0,
        "a function wrote behind the link"
    );
    // The control: without the swaps it writes where it may.
    let mut spec = host.spec(digest, &["touch", granted.join("made").to_str().unwrap()]);
    spec.write = vec![granted.clone()];
    let function = host.launch(spec);
    assert_eq!(host.exit_of(function.id), Exit::Code { code: 0 });
    assert!(granted.join("made").exists());
    host.stop();
}
