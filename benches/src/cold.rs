//! `cold`: HTTP from zero. No instance runs; a TCP connection and a request arrive; the answer is complete. Beside
//! the floor: vfork and exec of the same executable, asked over its Unix socket.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::bare::{self, Bare};
use crate::failure::{During, Failure, Outcome};
use crate::host::{Host, Plan};
use crate::peer::{BUBBLEWRAP, SOCKET_ACTIVATE};
use crate::quiet::Watch;
use crate::stats::{Samples, Summary};
use crate::table::{Row, Table, Unit};

/// Short, so that the next round begins at zero soon.
const MANIFEST: &str = "[scale]\nmax = 1\nidle = \"50ms\"\n";
/// After the last process is gone: bookkeeping of funcd and of the kernel ends, as it has before any real cold start.
const REST: Duration = Duration::from_millis(5);
/// Peers that need a process of their own to be prepared take part in one round of so many.
const PEERS_EVERY: usize = 10;
/// The same failure a few times tells enough.
const ERRORS_SHOWN: usize = 3;

/// One who starts the function.
struct Contender {
    name: &'static str,
    times: Samples,
    errors: Vec<String>,
}

impl Contender {
    fn new(name: &'static str) -> Contender {
        Contender {
            name,
            times: Samples::default(),
            errors: Vec::new(),
        }
    }

    fn record(&mut self, result: Result<Duration, impl std::fmt::Display>) {
        match result {
            Ok(time) => self.times.push(time),
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    fn summary(&self) -> Outcome<Summary> {
        let why = || {
            let last = self.errors.last().map_or("nothing was measured", String::as_str);
            Failure(format!("{} never answered: {last}", self.name))
        };
        self.times.summary().ok_or_else(why)
    }

    fn rows(&self) -> Outcome<[Row; 3]> {
        let Summary { min, p50, p99 } = self.summary()?;
        let row =
            |what: &str, nanos: f64| Row::of(format!("{} {what}", self.name), Unit::Micros, nanos / 1000.0);
        Ok([row("min", min), row("p50", p50), row("p99", p99)])
    }
}

/// Measures `rounds` starts of each, one after the other.
///
/// # Errors
/// funcd or the floor can't be measured at all; single failed requests are counted in the table.
pub(crate) fn measure(artifacts: &Artifacts, rounds: usize) -> Outcome<Table> {
    let hello = artifacts.hello.as_path();
    let floor = Bare::of(&[hello])?;
    let mut host = start(artifacts, "")?;
    let mut notes = vec![
        "floor: clone(VM|VFORK) + exec of the same executable, no sandbox, asked over its Unix socket"
            .to_string(),
        "each round begins when no instance runs; funcd and floor take turns at going first".to_string(),
    ];
    let mut peers = peers(hello, &mut notes)?;
    let mut unprepared = start(artifacts, "standbys = 0\n")?;
    let mut last = 0;
    let from_nothing: Start<'_> = Box::new(move || {
        wait_for_zero(&mut unprepared)?;
        from_zero(&unprepared, &mut last).during("a start that was not prepared")
    });
    peers.insert(0, (Contender::new("funcd, standbys = 0"), from_nothing));
    notes.push(
        "funcd: hello was used before, so its next start is prepared (`standbys`); beside it, a host that prepares none"
            .into(),
    );
    let mut funcd = Contender::new("funcd");
    let mut bare = Contender::new("floor");
    let mut seen_instance = 0;

    let watch = Watch::start();
    for round in 0..rounds {
        for turn in [round % 2, (round + 1) % 2] {
            wait_for_zero(&mut host)?;
            match turn {
                0 => bare.record(floor.start_and_ask()),
                _ => funcd.record(from_zero(&host, &mut seen_instance)),
            }
        }
        if round % PEERS_EVERY == 0 {
            wait_for_zero(&mut host)?;
            for (contender, start) in &mut peers {
                contender.record(start());
            }
        }
    }
    let others = watch.finish();

    let (ours, theirs) = (funcd.summary()?, bare.summary()?);
    let [our_min, our_p50, our_p99] = funcd.rows()?;
    let mut rows = vec![
        Row::of("funcd p50 / floor p50", Unit::Ratio, ours.p50 / theirs.p50).at_most(2.0),
        Row::of("funcd errors", Unit::Count, funcd.errors.len() as f64).at_most(0.0),
        our_p99.at_most(5_000.0),
        our_p50,
        our_min,
        Row::of("funcd min / floor min", Unit::Ratio, ours.min / theirs.min),
    ];
    rows.extend(bare.rows()?);
    for (peer, _) in &peers {
        match peer.rows() {
            Ok(peer_rows) => {
                let ratio = ours.p50 / peer.summary()?.p50;
                rows.extend(peer_rows);
                rows.push(Row::of(
                    format!("funcd p50 / {} p50", peer.name),
                    Unit::Ratio,
                    ratio,
                ));
            }
            Err(failure) => notes.push(failure.to_string()),
        }
    }
    notes.extend(shown_errors([&funcd, &bare]));
    Ok(Table {
        name: "cold",
        title: format!("HTTP from zero, {rounds} rounds, static hello"),
        rows,
        notes,
        others,
    })
}

fn start(artifacts: &Artifacts, config: &str) -> Outcome<Host> {
    let plan = Plan::of(&artifacts.funcd)?.configured(config);
    plan.with_manifest("hello", &artifacts.hello, MANIFEST)?;
    let mut host = plan.start(None)?;
    host.wait_until_answered("hello")?;
    Ok(host)
}

/// Nothing runs, and the host and the machine are at rest again.
fn wait_for_zero(host: &mut Host) -> Outcome<()> {
    host.wait_for("to stop the idle instance", |host| {
        Ok(host.instances().is_empty().then_some(()))
    })?;
    std::thread::sleep(REST);
    Ok(())
}

/// A start by funcd, with the proof that there was one: an instance that was not there before.
fn from_zero(host: &Host, seen_instance: &mut i32) -> io::Result<Duration> {
    let target = host.target("hello");
    let start = Instant::now();
    target.ask_once()?;
    let taken = start.elapsed();
    match host.instances()[..] {
        [instance] if instance != *seen_instance => *seen_instance = instance,
        ref instances => {
            return Err(io::Error::other(format!(
                "not from zero: instances {instances:?}, before {seen_instance}"
            )));
        }
    }
    Ok(taken)
}

type Start<'a> = Box<dyn FnMut() -> Outcome<Duration> + 'a>;

/// The peers that are installed; a note for each that is not.
fn peers<'a>(hello: &'a Path, notes: &mut Vec<String>) -> Outcome<Vec<(Contender, Start<'a>)>> {
    let mut peers: Vec<(Contender, Start<'a>)> = Vec::new();
    match SOCKET_ACTIVATE.find() {
        Ok(program) => {
            let start = move || bare::socket_activate(&program, hello);
            peers.push((Contender::new("systemd-socket-activate"), Box::new(start)));
            notes.push(
                "systemd-socket-activate: no sandbox; already running; execs once, over a Unix socket".into(),
            );
        }
        Err(missing) => notes.push(missing),
    }
    match BUBBLEWRAP.find() {
        Ok(program) => {
            let bwrap = Bare::of(&bare::bubblewrap(&program, hello))?;
            let start = move || bwrap.start_and_ask().during("bubblewrap");
            peers.push((Contender::new("bubblewrap"), Box::new(start)));
            notes.push(
                "bubblewrap: namespaces only (no Landlock, seccomp, cgroup, own uid), over a Unix socket"
                    .into(),
            );
        }
        Err(missing) => notes.push(missing),
    }
    Ok(peers)
}

fn shown_errors(contenders: [&Contender; 2]) -> Vec<String> {
    let of = |contender: &Contender| {
        let shown = contender.errors.iter().take(ERRORS_SHOWN);
        shown
            .map(|error| format!("{} error: {error}", contender.name))
            .collect::<Vec<_>>()
    };
    contenders.into_iter().flat_map(of).collect()
}
