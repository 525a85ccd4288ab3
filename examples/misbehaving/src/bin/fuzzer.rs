//! `/fuzz?seed=…&ms=…&workers=…` makes random system calls with random arguments, in child processes, and tells what came of
//! them: calls made, how many of each outcome, and how the children ended. Known numbers and unknown ones, those of the x32
//! table too; arguments that are random, and arguments that are nearly right, which reach further into the kernel.
//!
//! The same seed makes the same calls in each child until one of them depends on the time or on another process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{process, ptr};

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, number, serve, status};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// The largest errno.
const ERRNOS: usize = 4096;
/// Numbers of which it is counted one by one whether they ever succeeded.
const NUMBERS: usize = 512;
/// The bit that selects the x32 table on x86-64; elsewhere just a number that there is not.
const X32: u64 = 0x4000_0000;
/// A child that has made no call for this long hangs in one, and is replaced.
const STUCK: Duration = Duration::from_millis(50);
/// What pointers point into.
const ARENA: usize = 64 * 1024;
const WORKERS: usize = 16;

/// What children tell, in memory that they share with their parent. They may overwrite it: they are fuzzers.
struct Shared {
    calls: AtomicU64,
    outcomes: [AtomicU64; ERRNOS],
    succeeded: [AtomicU32; NUMBERS],
    tried: [AtomicU32; NUMBERS],
    progress: [AtomicU64; WORKERS],
}

/// splitmix64 (Steele, Lea, Flood 2014): every seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn number(&mut self) -> u64 {
        match self.below(100) {
            0..75 => self.below(470),
            75..82 => 470 + self.below(600),
            82..84 => X32 | self.below(600),
            84..97 => COMPLEX[self.below(COMPLEX.len() as u64) as usize] as u64,
            97 => self.next() >> 32,
            98 => self.next(),
            _ => self.below(16).wrapping_neg(),
        }
    }

    fn argument(&mut self, arena: *mut u8) -> u64 {
        let pointer = |random: &mut Random| arena as u64 + random.below(ARENA as u64 - 4096);
        match self.below(16) {
            0..3 => self.below(64),
            3..5 => self.below(21),
            5..8 => pointer(self),
            8 => PATHS[self.below(PATHS.len() as u64) as usize].as_ptr() as u64,
            9 => 1 << self.below(64),
            10 => (1 << self.below(32)) | (1 << self.below(32)),
            11 => self.below(8).wrapping_neg(),
            12 => 4096 * self.below(32),
            13 => [0, 1, 2, process::id().into(), self.below(40_000)][self.below(5) as usize],
            14 => self.next() >> self.below(64),
            // Where only the kernel may write.
            _ => 0xffff_8000_0000_0000 | self.below(1 << 40),
        }
    }
}

/// Calls with a history, asked for more often.
const COMPLEX: &[libc::c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_shmget,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_ioctl,
    libc::SYS_prctl,
    libc::SYS_openat,
    libc::SYS_mmap,
    libc::SYS_memfd_create,
    libc::SYS_timer_create,
    libc::SYS_inotify_add_watch,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_prlimit64,
    libc::SYS_seccomp,
    libc::SYS_futex,
];

const PATHS: &[&[u8]] = &[
    b"/\0",
    b"/tmp\0",
    b"/tmp/fuzz\0",
    b"/dev/null\0",
    b"/dev/zero\0",
    b"/etc/shadow\0",
    b"/proc/self/mem\0",
    b"/sys/fs/cgroup\0",
    b"../../../../etc/passwd\0",
    b"\0",
];

/// Those that end the caller, or leave it asleep for good: few of them say as much as many.
fn is_dull(number: u64) -> bool {
    let dull = [
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigsuspend,
    ];
    dull.contains(&(number as libc::c_long)) || number == PAUSE
}

#[cfg(target_arch = "x86_64")]
const PAUSE: u64 = libc::SYS_pause as u64;
#[cfg(not(target_arch = "x86_64"))]
const PAUSE: u64 = u64::MAX;

/// The life of a child: it never returns.
fn work(shared: &Shared, worker: usize, seed: u64, gentle: bool) -> ! {
    // SAFETY: nothing in this child uses the descriptors that it inherited; 0 to 2 stay.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    // SAFETY: a new mapping, and a pair of descriptors written to an array of ours.
    let arena = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mut pair = [0; 2];
        for family in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            libc::socketpair(libc::AF_UNIX, family, 0, pair.as_mut_ptr());
        }
        libc::pipe(pair.as_mut_ptr());
        libc::open(c"/tmp/fuzz".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600);
        libc::open(c"/".as_ptr(), libc::O_RDONLY);
        libc::epoll_create1(0);
        between_guards(ARENA, protection, flags).cast::<u8>()
    };
    let own = process::id();
    let mut random = Random(seed);
    for offset in (0..ARENA).step_by(8) {
        let small = random.below(4) > 0;
        let value = if small { random.below(64) } else { random.next() };
        // SAFETY: within the mapping, which is aligned to pages.
        unsafe { arena.add(offset).cast::<u64>().write(value) };
    }
    loop {
        let number = random.number();
        let mut arguments = [0; 6].map(|_: u64| random.argument(arena));
        if is_dull(number) && random.below(50) > 0 {
            continue;
        }
        if gentle && SIGNALS.contains(&(number as libc::c_long)) {
            // Signals to nobody in particular would end the one who counts.
            arguments[0] = 40_000 + random.below(4_000_000);
        }
        // SAFETY: none. Whatever this does to this process, it is what the process is for; others are the sandbox's business.
        let result = unsafe {
            let [a, b, c, d, e, f] = arguments;
            *libc::__errno_location() = 0;
            libc::syscall(number as libc::c_long, a, b, c, d, e, f)
        };
        let errno = match result {
            -1 => nix::errno::Errno::last_raw() as usize,
            _ => 0,
        };
        if process::id() != own {
            // A copy of this child that a call made.
            // SAFETY: ends this process, nothing else.
            unsafe { libc::_exit(0) };
        }
        shared.calls.fetch_add(1, Ordering::Relaxed);
        shared.progress[worker].fetch_add(1, Ordering::Relaxed);
        shared.outcomes[errno % ERRNOS].fetch_add(1, Ordering::Relaxed);
        if let Some(tried) = shared.tried.get(number as usize) {
            tried.store(1, Ordering::Relaxed);
            if errno == 0 {
                shared.succeeded[number as usize].store(1, Ordering::Relaxed);
            }
        }
    }
}

const SIGNALS: &[libc::c_long] = &[
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_prlimit64,
    libc::SYS_setpriority,
];

fn shared() -> &'static Shared {
    // SAFETY: a new mapping of zeros, which are what an empty Shared is made of; it is never unmapped here.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        &*between_guards(size_of::<Shared>(), protection, flags).cast::<Shared>()
    }
}

/// Memory with a page at each end that nobody may touch: what a call writes too much ends there, not in what lies beside.
///
/// # Safety
/// As mmap(2) of new memory.
unsafe fn between_guards(size: usize, protection: i32, flags: i32) -> *mut libc::c_void {
    const GUARD: usize = 64 * 1024;
    let size = size.next_multiple_of(GUARD);
    // SAFETY: the second mapping replaces a part of the first, which nobody has seen.
    unsafe {
        let nothing = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let whole = libc::mmap(ptr::null_mut(), size + 2 * GUARD, libc::PROT_NONE, nothing, -1, 0);
        assert!(whole != libc::MAP_FAILED, "no memory to count in");
        let middle = whole.cast::<u8>().add(GUARD).cast();
        libc::mmap(middle, size, protection, flags | libc::MAP_FIXED, -1, 0)
    }
}

struct Child {
    pid: Pid,
    progress: u64,
    since: Instant,
}

/// Starts a child; `None` where no more processes are allowed.
fn start(shared: &Shared, worker: usize, seed: u64, gentle: bool) -> Option<Child> {
    let progress = shared.progress[worker].load(Ordering::Relaxed);
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => work(shared, worker, seed, gentle),
        Ok(ForkResult::Parent { child: pid }) => Some(Child {
            pid,
            progress,
            since: Instant::now(),
        }),
        Err(_) => None,
    }
}

fn fuzz(seed: u64, length: Duration, workers: usize, gentle: bool) -> String {
    let shared = shared();
    let mut seeds = Random(seed);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let mut children: [Option<Child>; WORKERS] = [const { None }; WORKERS];
    let (mut started, began) = (0, Instant::now());
    while began.elapsed() < length {
        for (worker, child) in children.iter_mut().enumerate().take(workers) {
            let Some(running) = child else {
                *child = start(shared, worker, seeds.next(), gentle);
                started += u64::from(child.is_some());
                continue;
            };
            let progress = shared.progress[worker].load(Ordering::Relaxed);
            if progress != running.progress {
                (running.progress, running.since) = (progress, Instant::now());
            } else if running.since.elapsed() > STUCK {
                let _ = kill(running.pid, Signal::SIGKILL);
            }
            let how = match waitpid(running.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => continue,
                Ok(WaitStatus::Signaled(_, signal, _)) => signal.to_string(),
                Ok(WaitStatus::Exited(..)) => "exit".to_owned(),
                Ok(_) | Err(_) => "unknown".to_owned(),
            };
            *ends.entry(how).or_default() += 1;
            *child = None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // All of this uid that this process may signal, which in a sandbox is what it started, and not itself (kill(2)).
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    for child in children.into_iter().flatten() {
        let _ = waitpid(child.pid, None);
    }
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for (errno, count) in shared.outcomes.iter().enumerate() {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            let name = match nix::errno::Errno::from_raw(errno as i32) {
                _ if errno == 0 => "ok".to_owned(),
                nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
                known => format!("{known:?}"),
            };
            *outcomes.entry(name).or_default() += count;
        }
    }
    let marked = |marks: &[AtomicU32]| {
        let set = marks
            .iter()
            .enumerate()
            .filter(|(_, mark)| mark.load(Ordering::Relaxed) > 0);
        set.map(|(number, _)| number).collect::<Vec<_>>()
    };
    serde_json::json!({
        "seed": seed,
        "calls": shared.calls.load(Ordering::Relaxed),
        "children": started,
        "outcomes": outcomes,
        "ends": ends,
        "tried": marked(&shared.tried),
        "succeeded": marked(&shared.succeeded),
    })
    .to_string()
}

async fn respond(request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/fuzz" {
        return status(200, "ok\n");
    }
    // SAFETY: asks, and takes no pointer.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP) } != libc::SECCOMP_MODE_FILTER as libc::c_int {
        return status(
            500,
            "no filter of system calls confines this: it would harm the machine\n",
        );
    }
    let ask = |name, default| number(&request, name, default);
    let workers = ask("workers", 4).clamp(1, WORKERS as u64) as usize;
    let length = Duration::from_millis(ask("ms", 1000));
    status(200, fuzz(ask("seed", 1), length, workers, ask("gentle", 1) == 1))
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
