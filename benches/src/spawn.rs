//! `spawn`: from the decision to start a static executable to the first byte that it writes, and from the decision to end it
//! to nothing left. The launcher with its default profile, beside a bare vfork and exec, bubblewrap and crun.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use funcd_sandbox::spec::Spec;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::artifacts::Artifacts;
use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::launcher::{Launcher, Started, readable};
use crate::oci::Container;
use crate::peer::{BUBBLEWRAP, CRUN};
use crate::quiet::Watch;
use crate::stats::{Samples, Summary};
use crate::sys;
use crate::table::{Row, Table, Unit};

/// Between starts: what funcd makes ahead is made again, and the kernel's own cleaning up is over.
const REST: Duration = Duration::from_millis(12);
/// Peers take part in one round of so many: they take tens of times as long.
const PEERS_EVERY: usize = 5;

/// One start and its end.
struct Life {
    to_first_byte: Duration,
    to_nothing_left: Duration,
}

/// One who starts the program.
struct Contender<'a> {
    name: &'static str,
    live: Box<dyn FnMut() -> Outcome<Life> + 'a>,
    starts: Samples,
    ends: Samples,
    errors: Vec<String>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, live: impl FnMut() -> Outcome<Life> + 'a) -> Contender<'a> {
        Contender {
            name,
            live: Box::new(live),
            starts: Samples::default(),
            ends: Samples::default(),
            errors: Vec::new(),
        }
    }

    fn turn(&mut self) {
        match (self.live)() {
            Ok(life) => {
                self.starts.push(life.to_first_byte);
                self.ends.push(life.to_nothing_left);
            }
            Err(failure) => self.errors.push(failure.to_string()),
        }
        std::thread::sleep(REST);
    }

    fn summary(&self) -> Outcome<Summary> {
        let last = self.errors.last().map_or("nothing was measured", String::as_str);
        let why = || Failure(format!("{} never started: {last}", self.name));
        self.starts.summary().ok_or_else(why)
    }

    fn rows(&self) -> Outcome<Vec<Row>> {
        let mut rows = Vec::new();
        let summaries = [("start", Some(self.summary()?)), ("end", self.ends.summary())];
        for (what, summary) in summaries {
            let Some(Summary { min, p50, p99 }) = summary else {
                continue;
            };
            for (which, nanos) in [("min", min), ("p50", p50), ("p99", p99)] {
                let name = format!("{} {what} {which}", self.name);
                rows.push(Row::of(name, Unit::Micros, nanos / 1000.0));
            }
        }
        Ok(rows)
    }
}

/// Measures `rounds` lives of each, one after the other.
///
/// # Errors
/// The launcher or the floor can't be measured at all.
pub(crate) fn measure(artifacts: &Artifacts, rounds: usize) -> Outcome<Table> {
    let mut notes = vec![
        "start: from before the request (or clone) to the first byte on its stdout; the same static program for all".into(),
        "funcd: the launcher's default profile, asked as its supervisor asks; prepared, or all at once (not prepared); end: from the kill request to the word that \
         nothing is left, its cgroups removed"
            .into(),
        "floor: clone(VM|VFORK) + exec, no sandbox; end: kill and wait".into(),
    ];
    let mut launcher = Launcher::start()?;
    let digest = launcher.store(&artifacts.byte)?;
    let spec = Launcher::spec(digest);
    let mut left = 0;
    let floor = Bare::of(&[artifacts.byte.as_path()])?;
    // Two of them, as only one may borrow a launcher.
    let mut other = Launcher::start()?;
    let digest = other.store(&artifacts.byte)?;
    let unprepared_spec = Launcher::spec(digest);
    let mut left_unprepared = 0;
    let mut funcd = Contender::new("funcd", || prepared(&mut launcher, &spec, &mut left));
    let mut unprepared = Contender::new("funcd not prepared", || {
        confined(&mut other, &unprepared_spec, &mut left_unprepared)
    });
    let mut bare = Contender::new("floor", || floor.live());
    let mut peers = peers(&artifacts.byte, &mut notes)?;

    let watch = Watch::start();
    for round in 0..rounds {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => bare.turn(),
                1 => funcd.turn(),
                _ => unprepared.turn(),
            }
        }
        if round % PEERS_EVERY == 0 {
            peers.iter_mut().for_each(|(peer, _)| peer.turn());
        }
    }
    let others = watch.finish();

    let (ours, theirs) = (funcd.summary()?, bare.summary()?);
    let ends = funcd.ends.summary();
    let end_p50 = ends.map_or(f64::NAN, |ends| ends.p50 / 1000.0);
    let mut rows = vec![
        Row::of("funcd start p50 / floor p50", Unit::Ratio, ours.p50 / theirs.p50).at_most(2.5),
        Row::of(
            "funcd not prepared start p50 / floor p50",
            Unit::Ratio,
            unprepared.summary()?.p50 / theirs.p50,
        )
        .at_most(2.5),
        Row::of("funcd end p50", Unit::Micros, end_p50).at_most(1000.0),
    ];
    let mut details = funcd.rows()?;
    details.extend(unprepared.rows()?);
    details.extend(bare.rows()?);
    for (peer, times) in &peers {
        match peer.summary() {
            Ok(summary) => {
                let name = format!("{} start p50 / funcd p50", peer.name);
                rows.push(Row::of(name, Unit::Ratio, summary.p50 / ours.p50).at_least(*times));
                let (name, ours) = (
                    format!("{} start p50 / funcd not prepared p50", peer.name),
                    unprepared.summary()?.p50,
                );
                rows.push(Row::of(name, Unit::Ratio, summary.p50 / ours).at_least(*times));
                details.extend(peer.rows()?);
            }
            Err(failure) => notes.push(failure.to_string()),
        }
    }
    let errors = funcd.errors.len() + unprepared.errors.len() + bare.errors.len();
    rows.push(Row::of("funcd and floor errors", Unit::Count, errors as f64).at_most(0.0));
    notes.extend(funcd.errors.iter().take(3).cloned());
    notes.extend(unprepared.errors.iter().take(3).cloned());
    drop((funcd, unprepared));
    let left = left + left_unprepared;
    rows.push(Row::of("cgroups left after an end", Unit::Count, left as f64).at_most(0.0));
    rows.extend(details);
    Ok(Table {
        name: "spawn",
        title: format!("a confined process and its end, {rounds} rounds, static program of one byte"),
        rows,
        notes,
        others,
    })
}

/// A life under the launcher that was prepared before the clock starts, as that of a function that came to rest is.
fn prepared(launcher: &mut Launcher, spec: &Spec, left: &mut usize) -> Outcome<Life> {
    let mut go = launcher.prepare(spec)?;
    std::thread::sleep(REST);
    let start = Instant::now();
    go.write_all(&[1]).during("waking a prepared instance")?;
    let started = launcher.launched()?;
    life(launcher, started, start, left)
}

/// A life under the launcher that nothing was done for ahead.
fn confined(launcher: &mut Launcher, spec: &Spec, left: &mut usize) -> Outcome<Life> {
    let start = Instant::now();
    let started = launcher.launch(spec)?;
    life(launcher, started, start, left)
}

fn life(launcher: &mut Launcher, mut started: Started, start: Instant, left: &mut usize) -> Outcome<Life> {
    first_byte(&mut started.stdout)?;
    let to_first_byte = start.elapsed();
    let cgroups = cgroups_of(started.pid);
    let start = Instant::now();
    launcher.kill(started.id)?;
    let to_nothing_left = start.elapsed();
    *left += cgroups.iter().filter(|path| path.exists()).count();
    Ok(Life {
        to_first_byte,
        to_nothing_left,
    })
}

fn first_byte(from: &mut (impl Read + AsFd)) -> Outcome<()> {
    readable(from)?;
    let mut byte = [0];
    match from.read(&mut byte).during("reading the first byte")? {
        1 => Ok(()),
        _ => Err(Failure("it ended without a byte".into())),
    }
}

/// The directories of a process's own cgroups.
fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        path.contains("/funcd-")
            .then(|| (controllers.to_owned(), path.to_owned()))
    });
    // Whatever the hierarchies are mounted as: those that are there.
    let places = own.flat_map(|(controllers, path)| {
        let names = [controllers.as_str(), "unified", ""].map(|name| Path::new("/sys/fs/cgroup").join(name));
        names.map(|root| root.join(path.trim_start_matches('/')))
    });
    places.filter(|path| path.exists()).collect()
}

/// Starts one command line over and over, by vfork.
struct Bare {
    argv: Vec<CString>,
    null: File,
    // What the program gets as descriptor 3, which nobody uses.
    listener: UnixListener,
    _folder: TempDir,
}

impl Bare {
    fn of(argv: &[&Path]) -> Outcome<Bare> {
        let words = argv.iter().map(|word| CString::new(word.as_os_str().as_bytes()));
        let folder = tempfile::tempdir().during("making a folder for a socket")?;
        Ok(Bare {
            argv: words
                .collect::<Result<_, _>>()
                .during("a word of a command line")?,
            null: File::open("/dev/null").during("opening /dev/null")?,
            listener: UnixListener::bind(folder.path().join("socket")).during("binding a socket")?,
            _folder: folder,
        })
    }

    /// From before the clone to the first byte, and from the kill to the end of the wait.
    fn live(&self) -> Outcome<Life> {
        let start = Instant::now();
        let (process, to_first_byte) = self.start(start)?;
        let start = Instant::now();
        drop(process);
        Ok(Life {
            to_first_byte,
            to_nothing_left: start.elapsed(),
        })
    }

    fn start(&self, start: Instant) -> Outcome<(Guard, Duration)> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).during("making a pipe")?;
        let pid: Pid = sys::spawn(
            &self.argv,
            self.listener.as_fd(),
            self.null.as_fd(),
            write.as_fd(),
        )
        .during(format!("starting {:?}", self.argv))?;
        let process = Guard::pid(pid, Duration::ZERO);
        drop(write);
        first_byte(&mut File::from(read))?;
        Ok((process, start.elapsed()))
    }
}

/// The peers that are installed, each with how many times as long it is promised to take; a note for each that is not.
fn peers<'a>(byte: &'a Path, notes: &mut Vec<String>) -> Outcome<Vec<(Contender<'a>, f64)>> {
    let mut peers = Vec::new();
    match BUBBLEWRAP.find() {
        Ok(program) => {
            let bubblewrap = Bubblewrap::of(&program, byte)?;
            notes.push(
                "bubblewrap: all namespaces, a new root with /tmp and /dev, no capability, another uid, funcd's own filter \
                 of system calls; no Landlock, no cgroup, no limits"
                    .into(),
            );
            peers.push((Contender::new("bubblewrap", move || bubblewrap.live()), 5.0));
        }
        Err(missing) => notes.push(missing),
    }
    match CRUN.find() {
        Ok(program) => match Container::of(&program, byte) {
            Ok(mut container) => {
                notes.push(container.describe());
                let live = move || {
                    let (to_first_byte, to_nothing_left) = container.live()?;
                    Ok(Life {
                        to_first_byte,
                        to_nothing_left,
                    })
                };
                peers.push((Contender::new("crun", live), 10.0));
            }
            Err(failure) => notes.push(format!(
                "crun does not run here, so that peer is missing: {failure}"
            )),
        },
        Err(missing) => notes.push(missing),
    }
    Ok(peers)
}

/// bubblewrap with what it has of funcd's profile.
struct Bubblewrap {
    bare: Bare,
    filter: File,
}

impl Bubblewrap {
    fn of(program: &Path, byte: &Path) -> Outcome<Bubblewrap> {
        // Without CLOEXEC: bubblewrap reads it by its number.
        let filter: OwnedFd = memfd_create(c"filter", MFdFlags::empty()).during("making a file in memory")?;
        let mut filter = File::from(filter);
        let bytes = funcd_sandbox::seccomp::function_filter_bytes();
        filter.write_all(&bytes).during("writing a filter")?;
        let number = filter.as_raw_fd().to_string();
        let words = "--unshare-all --unshare-user --die-with-parent --new-session --clearenv --cap-drop ALL --uid 1000 --gid 1000 \
                     --tmpfs /tmp --dev /dev --remount-ro / --chdir / --seccomp";
        let mut argv = vec![program];
        argv.extend(words.split_whitespace().map(Path::new));
        argv.extend([Path::new(&number), Path::new("--ro-bind"), byte]);
        argv.extend([Path::new("/byte"), Path::new("/byte")]);
        Ok(Bubblewrap {
            bare: Bare::of(&argv)?,
            filter,
        })
    }

    fn live(&self) -> Outcome<Life> {
        // Its offset is shared with the one who read it before.
        (&self.filter).rewind().during("rewinding a filter")?;
        self.bare.live()
    }
}
