//! `warm`: a running function behind funcd, beside nginx in front of the same executable, and beside asking that
//! executable directly. One client for all, keep-alive, closed loop.

use std::time::Duration;

use crate::artifacts::Artifacts;
use crate::bare::Bare;
use crate::client::Target;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Plan};
use crate::load::Load;
use crate::nginx::Nginx;
use crate::peer::NGINX;
use crate::process::Cost;
use crate::quiet::Watch;
use crate::stats::{median, paired_ratio};
use crate::table::{Row, Table, Unit};

/// One instance that stays, as nginx has one server that stays.
const MANIFEST: &str = "[scale]\nmin = 1\nmax = 1\nconcurrency = 64\n";
/// The connections of the capacity rows.
const MANY: usize = 32;
/// Before each run: connections of the proxy to the function are made, caches are filled.
const WARM_UP: Duration = Duration::from_millis(100);
const NANOS_PER_MICRO: f64 = 1000.0;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    /// Every contender takes part in each.
    pub(crate) rounds: usize,
    /// Of each contender's two runs in a round.
    pub(crate) run: Duration,
}

/// One who stands before the function, with a value per round.
struct Contender {
    name: String,
    target: Target,
    /// Whose CPU and context switches are counted.
    processes: Vec<i32>,
    alone_p50: Vec<f64>,
    alone_p99: Vec<f64>,
    many_cpu: Vec<f64>,
    many_switches: Vec<f64>,
    many_rate: Vec<f64>,
    errors: u64,
    last_error: Option<String>,
}

impl Contender {
    fn new(name: &str, target: Target, processes: &[i32]) -> Contender {
        Contender {
            name: name.to_string(),
            target,
            processes: processes.to_vec(),
            alone_p50: Vec::new(),
            alone_p99: Vec::new(),
            many_cpu: Vec::new(),
            many_switches: Vec::new(),
            many_rate: Vec::new(),
            errors: 0,
            last_error: None,
        }
    }

    /// Both runs of a round.
    fn take_part(&mut self, run: Duration) -> Outcome<()> {
        let (times, _) = self.run(1, run)?;
        let summary = times.summary().ok_or_else(|| self.silent())?;
        self.alone_p50.push(summary.p50 / NANOS_PER_MICRO);
        self.alone_p99.push(summary.p99 / NANOS_PER_MICRO);

        let (times, cost) = self.run(MANY, run)?;
        let answers = times.len() as f64;
        if times.len() == 0 {
            return Err(self.silent());
        }
        self.many_cpu
            .push(cost.cpu_nanos as f64 / NANOS_PER_MICRO / answers);
        self.many_switches.push(cost.voluntary_switches as f64 / answers);
        self.many_rate.push(answers / run.as_secs_f64());
        Ok(())
    }

    fn run(&mut self, connections: usize, length: Duration) -> Outcome<(crate::stats::Samples, Cost)> {
        let mut load = Load::open(&self.target, connections)?;
        let warm_up = load.run(WARM_UP)?;
        let before = Cost::of(&self.processes)?;
        let seen = load.run(length)?;
        let cost = Cost::of(&self.processes)?.since(before);
        self.errors += warm_up.errors + seen.errors;
        self.last_error = seen.last_error.or(warm_up.last_error).or(self.last_error.take());
        Ok((seen.times, cost))
    }

    fn silent(&self) -> Failure {
        let last = self.last_error.as_deref().unwrap_or("no error");
        Failure(format!("{} answered no request ({last})", self.name))
    }

    fn row(&self, what: &str, unit: Unit, values: &[f64]) -> Row {
        Row::of(
            format!("{} {what}", self.name),
            unit,
            median(values).unwrap_or(f64::NAN),
        )
    }

    /// The plain numbers.
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            self.row("c=1 p50", Unit::Micros, &self.alone_p50),
            self.row("c=1 p99", Unit::Micros, &self.alone_p99),
            self.row("c=32 rate", Unit::PerSecond, &self.many_rate),
        ];
        // Nobody stands before the function that is asked directly.
        if !self.processes.is_empty() {
            rows.push(self.row("c=32 CPU a request", Unit::CpuMicros, &self.many_cpu));
            rows.push(self.row(
                "c=32 voluntary switches a request",
                Unit::PerRequest,
                &self.many_switches,
            ));
        }
        rows
    }

    /// What funcd promises; the ratios only where the peer is installed.
    fn promises(&self, nginx: Option<&Contender>) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some(nginx) = nginx {
            let ratio = |what: &str, ours: &[f64], theirs: &[f64]| {
                let ratio = paired_ratio(ours, theirs).unwrap_or(f64::NAN);
                Row::of(format!("{} / nginx, {what}", self.name), Unit::Ratio, ratio)
            };
            rows.push(ratio("c=1 p50", &self.alone_p50, &nginx.alone_p50).at_most(1.0));
            rows.push(ratio("c=32 CPU a request", &self.many_cpu, &nginx.many_cpu).at_most(1.1));
        }
        rows.push(
            self.row(
                "c=32 voluntary switches a request",
                Unit::PerRequest,
                &self.many_switches,
            )
            .at_most(0.2),
        );
        rows.push(Row::of(format!("{} errors", self.name), Unit::Count, self.errors as f64).at_most(0.0));
        rows
    }
}

/// Measures all contenders, interleaved.
///
/// # Errors
/// A contender that does not start or never answers.
pub(crate) fn measure(artifacts: &Artifacts, length: Length) -> Outcome<Table> {
    let server = Bare::of(&[&artifacts.hello])?.serve()?;
    let one_worker = start(artifacts, Some(1))?;
    let default_workers = start(artifacts, None)?;
    let mut notes = vec![
        "medians of per-round values; ratios are medians of per-round ratios, nginx measured in the same round".into(),
        "client, proxy and function share the cores, unpinned, for every contender".into(),
        "funcd's CPU and switches: launcher and supervisor; nginx's: its worker; the function's own: neither's".into(),
    ];
    let nginx = match NGINX.find() {
        Ok(program) => Some(Nginx::start(&program, &server.socket)?),
        Err(missing) => {
            notes.push(missing);
            None
        }
    };
    let mut direct = Contender::new("direct", Target::unix(&server.socket, "/"), &[]);
    let mut peer = nginx
        .as_ref()
        .map(|nginx| Contender::new("nginx", Target::tcp(nginx.address, "/hello/"), &[nginx.worker]));
    let mut ours = [
        contender("funcd (1 worker)", &one_worker)?,
        contender("funcd (default)", &default_workers)?,
    ];

    let watch = Watch::start();
    for round in 0..length.rounds {
        let mut order: Vec<&mut Contender> = peer.iter_mut().chain(&mut ours).chain([&mut direct]).collect();
        // Nobody is always the first one after a pause, or always after the same neighbour's heat.
        let first = round % order.len();
        order.rotate_left(first);
        for contender in order {
            contender.take_part(length.run)?;
        }
    }
    let others = watch.finish();

    let mut rows: Vec<Row> = ours
        .iter()
        .flat_map(|funcd| funcd.promises(peer.as_ref()))
        .collect();
    rows.extend(
        ours.iter()
            .chain(&peer)
            .chain([&direct])
            .flat_map(Contender::rows),
    );
    for contender in ours.iter().chain(&peer).chain([&direct]) {
        if let Some(error) = &contender.last_error {
            notes.push(format!(
                "{}: {} errors, last: {error}",
                contender.name, contender.errors
            ));
        }
    }
    Ok(Table {
        name: "warm",
        title: format!(
            "keep-alive requests to a running hello, {} rounds of {:.1} s",
            length.rounds,
            length.run.as_secs_f64()
        ),
        rows,
        notes,
        others,
    })
}

fn start(artifacts: &Artifacts, workers: Option<usize>) -> Outcome<Host> {
    let plan = Plan::of(&artifacts.funcd)?;
    plan.with_manifest("hello", &artifacts.hello, MANIFEST)?;
    let mut host = plan.start(workers)?;
    host.wait_until_answered("hello")?;
    Ok(host)
}

fn contender(name: &str, host: &Host) -> Outcome<Contender> {
    Ok(Contender::new(name, host.target("hello"), &host.own_processes()?))
}
