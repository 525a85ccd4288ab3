//! `contracts`: what each way into a process adds to a direct call of the same program, which does next to nothing. Beside
//! nginx for `http`, and a bare vfork and exec for what gets a process for each request. One client for all, keep-alive.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::bare::{Bare, BareServer};
use crate::client::{Connection, Target};
use crate::failure::{During, Failure, Outcome};
use crate::host::{Host, Plan};
use crate::load::Load;
use crate::nginx::Nginx;
use crate::peer::NGINX;
use crate::placement::{Cores, Home, Placement};
use crate::process::{self, Cost};
use crate::procfs;
use crate::quiet::Watch;
use crate::stats::{Samples, median, paired_ratio};
use crate::table::{Row, Table, Unit};
use crate::warm::Length;

/// The connections of the second run of each round.
const MANY: usize = 16;
const WARM_UP: Duration = Duration::from_millis(100);
const NANOS_PER_MICRO: f64 = 1000.0;
/// Before each of the single calls: what funcd prepares is prepared again, and the kernel's own cleaning up is over.
const REST: Duration = Duration::from_millis(12);
/// Single calls of each in a round.
const TURNS: u32 = 20;
/// USER_HZ, time(7).
const NANOS_PER_TICK: u64 = 10_000_000;

/// Processes that stay, and how many of them: as many as answer [`MANY`] at once.
const STAY: [(&str, &str); 5] = [
    ("http", "[scale]\nmin = 1\nmax = 1\n"),
    ("port", "[scale]\nmin = 1\nmax = 1\n"),
    ("lambda", "[scale]\nmin = 1\nmax = 1\nconcurrency = 16\n"),
    ("fn", "[scale]\nmin = 16\nmax = 16\nconcurrency = 1\n"),
    ("ironhttp", "[scale]\nmin = 16\nmax = 16\n"),
];
/// A process for each request.
const PASS: [(&str, &str); 2] = [("stdio", "[scale]\nmax = 16\n"), ("cgi", "[scale]\nmax = 16\n")];

/// One way to the program, with a value per round.
struct Way {
    name: String,
    target: Target,
    /// What stands before the function.
    proxy: Vec<i32>,
    function: Vec<i32>,
    /// Whose ended children count, too: the processes of single requests.
    parent: Option<i32>,
    alone_p50: Vec<f64>,
    many_p50: Vec<f64>,
    many_rate: Vec<f64>,
    many_cpu: Vec<f64>,
    errors: u64,
    last_error: Option<String>,
}

impl Way {
    fn new(name: &str, target: Target, proxy: &[i32], function: &[i32]) -> Way {
        Way {
            name: name.to_owned(),
            target,
            proxy: proxy.to_vec(),
            function: function.to_vec(),
            parent: None,
            alone_p50: Vec::new(),
            many_p50: Vec::new(),
            many_rate: Vec::new(),
            many_cpu: Vec::new(),
            errors: 0,
            last_error: None,
        }
    }

    /// Both runs of a round.
    fn take_part(&mut self, run: Duration, placement: Placement) -> Outcome<()> {
        placement.alone(&self.proxy, &self.function)?;
        let (times, _) = self.run(1, run)?;
        self.alone_p50.push(self.p50(&times)?);
        placement.many(&self.proxy, &self.function)?;
        let (times, cpu_nanos) = self.run(MANY, run)?;
        self.many_p50.push(self.p50(&times)?);
        let answers = times.len() as f64;
        self.many_rate.push(answers / run.as_secs_f64());
        self.many_cpu.push(cpu_nanos as f64 / NANOS_PER_MICRO / answers);
        Ok(())
    }

    fn p50(&self, times: &Samples) -> Outcome<f64> {
        let last = self.last_error.as_deref().unwrap_or("no error");
        let silent = || Failure(format!("{} answered no request ({last})", self.name));
        Ok(times.summary().ok_or_else(silent)?.p50 / NANOS_PER_MICRO)
    }

    fn run(&mut self, connections: usize, length: Duration) -> Outcome<(Samples, u64)> {
        let mut load = Load::open(&self.target, connections)?;
        let warm_up = load.run(WARM_UP)?;
        let before = self.cpu_nanos()?;
        let seen = load.run(length)?;
        let cpu_nanos = self.cpu_nanos()?.saturating_sub(before);
        self.errors += warm_up.errors + seen.errors;
        self.last_error = seen.last_error.or(warm_up.last_error).or(self.last_error.take());
        Ok((seen.times, cpu_nanos))
    }

    /// What it has cost so far but for a function that stays.
    fn cpu_nanos(&self) -> Outcome<u64> {
        let Some(parent) = self.parent else {
            return Ok(Cost::of(&self.proxy)?.cpu_nanos);
        };
        let others: Vec<i32> = self.proxy.iter().copied().filter(|pid| *pid != parent).collect();
        Ok(Cost::of(&others)?.cpu_nanos + ticks(parent)? * NANOS_PER_TICK)
    }

    fn row(&self, what: &str, unit: Unit, values: &[f64]) -> Row {
        let value = median(values).unwrap_or(f64::NAN);
        Row::of(format!("{} {what}", self.name), unit, value)
    }

    /// The plain numbers, and what of them is beyond a direct call.
    fn rows(&self, direct_p50: Option<&[f64]>) -> Vec<Row> {
        let mut rows = vec![self.row("c=1 p50", Unit::Micros, &self.alone_p50)];
        if let Some(direct) = direct_p50 {
            let added: Vec<f64> = self.alone_p50.iter().zip(direct).map(|(a, b)| a - b).collect();
            rows.push(self.row("c=1 p50 over the direct call", Unit::Micros, &added));
        }
        if !self.proxy.is_empty() {
            rows.push(self.row("c=16 CPU a request", Unit::CpuMicros, &self.many_cpu));
        }
        rows.push(self.row("c=16 p50", Unit::Micros, &self.many_p50));
        rows.push(self.row("c=16 rate", Unit::PerSecond, &self.many_rate));
        rows
    }
}

/// Single calls with a rest before each, in turns: those who get a process of funcd, and the program executed by hand.
struct Turns {
    callers: Vec<(Connection, Samples)>,
    bare: Bare,
    by_hand: Samples,
    /// Of all that were executed one after the other: their ticks, and how many they were.
    cpu: (u64, u32),
}

impl Turns {
    fn new(ways: &[Way], bare: Bare) -> Outcome<Turns> {
        let connect = |way: &Way| {
            let connection = way
                .target
                .connect()
                .during(format!("connecting to {}", way.target))?;
            Ok((connection, Samples::default()))
        };
        Ok(Turns {
            callers: ways.iter().map(connect).collect::<Outcome<_>>()?,
            bare,
            by_hand: Samples::default(),
            cpu: (0, 0),
        })
    }

    fn take(&mut self) -> Outcome<()> {
        for _ in 0..TURNS {
            for (connection, times) in &mut self.callers {
                std::thread::sleep(REST);
                let start = Instant::now();
                let answered = connection.ask().and_then(|()| connection.finish());
                answered.during("a call after a rest")?;
                times.push(start.elapsed());
            }
            std::thread::sleep(REST);
            self.by_hand.push(self.execute()?);
        }
        // One after the other, as CPU is counted in ticks.
        let own = i32::try_from(std::process::id()).expect("a pid is positive");
        let before = ticks(own)?;
        for _ in 0..TURNS {
            self.execute()?;
        }
        self.cpu.0 += ticks(own)? - before;
        self.cpu.1 += TURNS;
        Ok(())
    }

    fn execute(&self) -> Outcome<Duration> {
        self.bare.run_to_its_end().during("executing the program by hand")
    }
}

fn micros(times: &Samples) -> f64 {
    times
        .summary()
        .map_or(f64::NAN, |summary| summary.p50 / NANOS_PER_MICRO)
}

/// The CPU of a process and of its ended children.
fn ticks(pid: i32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).during(format!("reading {path}"))?;
    let stat = procfs::stat(&text).ok_or_else(|| Failure(format!("{path} has no ticks")))?;
    Ok(stat.ticks)
}

/// Measures the seven contracts: those whose processes stay pinned as in `warm`, those with a process for each request where
/// the kernel places them.
///
/// # Errors
/// A contract that does not start or never answers.
pub(crate) fn measure(artifacts: &Artifacts, length: Length) -> Outcome<Table> {
    let program = artifacts.example("answers")?;
    let watch = Watch::start();
    let (mut promises, mut rows, mut notes) = stay(artifacts, &program, length)?;
    let (more_promises, more_rows, more_notes) = pass(artifacts, &program, length)?;
    promises.extend(more_promises);
    promises.append(&mut rows);
    promises.extend(more_rows);
    notes.extend(more_notes);
    let seconds = length.run.as_secs_f64();
    Ok(Table {
        name: "contracts",
        title: format!(
            "requests to a program that answers `ok` at once, by contract; {} rounds of {seconds:.2} s",
            length.rounds
        ),
        rows: promises,
        notes,
        others: watch.finish(),
    })
}

type Measured = (Vec<Row>, Vec<Row>, Vec<String>);

fn start(
    artifacts: &Artifacts,
    program: &Path,
    all: &[(&str, &str)],
    workers: Option<usize>,
) -> Outcome<Host> {
    let plan = Plan::of(&artifacts.funcd)?;
    for (contract, manifest) in all {
        let manifest = format!("contract = {contract:?}\nargs = [{contract:?}]\n{manifest}");
        plan.with_manifest(contract, program, &manifest)?;
    }
    let mut host = plan.start(workers)?;
    for (contract, _) in all {
        host.wait_until_answered(contract)?;
    }
    Ok(host)
}

/// The processes of a function, with all below them.
fn processes(host: &Host, function: &str) -> Outcome<Vec<i32>> {
    let listed = host.query("ps")?;
    let rows = listed["instances"].as_array().map_or(&[] as &[_], Vec::as_slice);
    let own = rows.iter().filter(|row| row["function"] == function);
    let pids = own.filter_map(|row| row["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()));
    let table = process::table();
    Ok(pids.flat_map(|pid| procfs::tree(pid, &table)).collect())
}

fn compete(
    ways: &mut [Way],
    length: Length,
    placement: Placement,
    mut also: impl FnMut() -> Outcome<()>,
) -> Outcome<()> {
    for round in 0..length.rounds {
        // Nobody is always the first one, or always after the same neighbour.
        for turn in 0..ways.len() {
            let next = (round + turn) % ways.len();
            ways[next].take_part(length.run, placement)?;
        }
        also()?;
    }
    Ok(())
}

fn errors(ways: &[Way]) -> (Row, Vec<String>) {
    let count: u64 = ways.iter().map(|way| way.errors).sum();
    let names: Vec<&str> = ways.iter().map(|way| way.name.as_str()).collect();
    let row = Row::of(
        format!("errors of {}", names.join(", ")),
        Unit::Count,
        count as f64,
    );
    let last = ways.iter().filter_map(|way| {
        let last = way.last_error.as_ref()?;
        Some(format!("{}: {} errors, last: {last}", way.name, way.errors))
    });
    (row.at_most(0.0), last.collect())
}

/// The contracts whose processes stay, beside nginx and a direct call.
fn stay(artifacts: &Artifacts, program: &Path, length: Length) -> Outcome<Measured> {
    let _home = Home::of_this_process()?;
    let placement = Placement::Pinned(Cores::of_this_process()?);
    let host = start(artifacts, program, &STAY, Some(1))?;
    let own = host.own_processes()?;
    let server: BareServer = Bare::of(&[program, Path::new("http")])?.serve()?;
    let mut ways = Vec::new();
    for (contract, _) in STAY {
        let function = processes(&host, contract)?;
        ways.push(Way::new(contract, host.target(contract), &own, &function));
    }
    ways.push(Way::new(
        "direct http",
        Target::unix(&server.socket, "/"),
        &[],
        &[server.id()],
    ));
    let mut notes = vec![
        "http, port, lambda, fn, ironhttp: one worker, pinned; c=1 all on one core; c=16 funcd on one, client and function on another".to_owned(),
        "CPU: funcd's launcher and supervisor (a Lambda function's desk is a part of that), or nginx's worker".to_owned(),
        "the direct call of all five is the same program as a server, over its Unix socket".to_owned(),
        "lambda stands alone: the runtime interface emulator of AWS is in no registry that benches install from".to_owned(),
    ];
    let nginx = match NGINX.find() {
        Ok(nginx) => Some(Nginx::start(&nginx, &server.socket)?),
        Err(missing) => {
            notes.push(missing);
            None
        }
    };
    if let Some(nginx) = &nginx {
        let target = Target::tcp(nginx.address, "/hello/");
        ways.push(Way::new("nginx", target, &[nginx.worker], &[server.id()]));
    }
    compete(&mut ways, length, placement, || Ok(()))?;
    let (errors, told) = errors(&ways);
    notes.extend(told);
    let named = |name: &str| ways.iter().find(|way| way.name == name);
    let mut promises = vec![errors];
    if let (Some(http), Some(nginx)) = (named("http"), named("nginx")) {
        let ratio = paired_ratio(&http.many_cpu, &nginx.many_cpu).unwrap_or(f64::NAN);
        promises.push(Row::of("http / nginx, c=16 CPU a request", Unit::Ratio, ratio).at_most(1.1));
    }
    let direct = named("direct http").map(|way| way.alone_p50.as_slice());
    let beyond = |way: &Way| direct.filter(|_| !way.proxy.is_empty());
    let rows = ways.iter().flat_map(|way| way.rows(beyond(way))).collect();
    Ok((promises, rows, notes))
}

/// The contracts with a process for each request, beside one that is executed by hand.
fn pass(artifacts: &Artifacts, program: &Path, length: Length) -> Outcome<Measured> {
    let host = start(artifacts, program, &PASS, None)?;
    let own @ [launcher, _] = host.own_processes()?;
    let mut ways = Vec::new();
    for (contract, _) in PASS {
        let mut way = Way::new(contract, host.target(contract), &own, &[]);
        way.parent = Some(launcher);
        ways.push(way);
    }
    let mut turns = Turns::new(&ways, Bare::of(&[program, Path::new("stdio")])?)?;
    compete(&mut ways, length, Placement::Free, || turns.take())?;
    let (errors, mut notes) = errors(&ways);
    let by_hand = micros(&turns.by_hand);
    let mut promises = vec![errors];
    let mut rows: Vec<Row> = Vec::new();
    for (way, (_, times)) in ways.iter().zip(&turns.callers) {
        let (name, p50) = (&way.name, micros(times));
        let ratio = Row::of(
            format!("{name} / vfork + exec, p50 after a rest"),
            Unit::Ratio,
            p50 / by_hand,
        );
        promises.push(if name == "stdio" {
            ratio.at_most(1.5)
        } else {
            ratio
        });
        rows.push(Row::of(format!("{name} p50 after a rest"), Unit::Micros, p50));
        let added = format!("{name} p50 after a rest over the direct call");
        rows.push(Row::of(added, Unit::Micros, p50 - by_hand));
        rows.extend(way.rows(None));
    }
    rows.push(Row::of(
        "direct vfork + exec p50 after a rest",
        Unit::Micros,
        by_hand,
    ));
    let (ticks, calls) = turns.cpu;
    let cpu = (ticks * NANOS_PER_TICK) as f64 / NANOS_PER_MICRO / f64::from(calls);
    rows.push(Row::of("direct vfork + exec CPU a request", Unit::CpuMicros, cpu));
    notes.push(
        "stdio, cgi: funcd's default workers, placed by the kernel; CPU with the processes of the requests, from start to end, as that \
         of vfork + exec has its own"
            .to_owned(),
    );
    notes.push(format!(
        "after a rest: single calls with {REST:?} before each, in turns; c=1 and c=16 ask again at once, and so wait for what is prepared"
    ));
    notes.push("vfork + exec: from before the clone to the end of its output and of its process".to_owned());
    Ok((promises, rows, notes))
}
