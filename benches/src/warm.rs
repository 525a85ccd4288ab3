//! `warm`: a running function behind funcd, beside nginx in front of the same executable, and beside asking that
//! executable directly. One client for all, keep-alive, closed loop.

use std::time::Duration;

use crate::artifacts::Artifacts;
use crate::bare::{Bare, BareServer};
use crate::client::Target;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Plan};
use crate::load::Load;
use crate::nginx::Nginx;
use crate::peer::NGINX;
use crate::placement::{Cores, Home, Placement};
use crate::process::Cost;
use crate::quiet::{OtherLoad, Watch};
use crate::stats::{Samples, median, paired_ratio};
use crate::table::{Row, Table, Unit};
use crate::{process, procfs};

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
    /// What stands before the function: whose CPU and context switches are counted.
    proxy: Vec<i32>,
    /// The function.
    function: Vec<i32>,
    alone_p50: Vec<f64>,
    alone_p99: Vec<f64>,
    many_cpu: Vec<f64>,
    many_switches: Vec<f64>,
    many_rate: Vec<f64>,
    errors: u64,
    last_error: Option<String>,
}

impl Contender {
    fn new(name: &str, target: Target, proxy: &[i32], function: &[i32]) -> Contender {
        Contender {
            name: name.to_string(),
            target,
            proxy: proxy.to_vec(),
            function: function.to_vec(),
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
    fn take_part(&mut self, run: Duration, placement: Placement) -> Outcome<()> {
        placement.alone(&self.proxy, &self.function)?;
        let (times, _) = self.run(1, run)?;
        let summary = times.summary().ok_or_else(|| self.silent())?;
        self.alone_p50.push(summary.p50 / NANOS_PER_MICRO);
        self.alone_p99.push(summary.p99 / NANOS_PER_MICRO);

        placement.many(&self.proxy, &self.function)?;
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

    fn run(&mut self, connections: usize, length: Duration) -> Outcome<(Samples, Cost)> {
        let mut load = Load::open(&self.target, connections)?;
        let warm_up = load.run(WARM_UP)?;
        let before = Cost::of(&self.proxy)?;
        let seen = load.run(length)?;
        let cost = Cost::of(&self.proxy)?.since(before);
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
        if !self.proxy.is_empty() {
            rows.push(self.row("c=32 CPU a request", Unit::CpuMicros, &self.many_cpu));
            rows.push(self.switches());
        }
        rows
    }

    /// What funcd promises; the ratios only where the peer is installed.
    fn promises(&self, nginx: Option<&Contender>) -> Vec<Promise> {
        let mut promises = Vec::new();
        if let Some(nginx) = nginx {
            let ratio = |what: &str, ours: &[f64], theirs: &[f64]| {
                let ratio = paired_ratio(ours, theirs).unwrap_or(f64::NAN);
                Row::of(format!("{} / nginx, {what}", self.name), Unit::Ratio, ratio)
            };
            promises.push((ratio("c=1 p50", &self.alone_p50, &nginx.alone_p50), 1.0));
            promises.push((ratio("c=32 CPU a request", &self.many_cpu, &nginx.many_cpu), 1.1));
        }
        promises.push((self.switches(), 0.2));
        promises
    }

    fn switches(&self) -> Row {
        self.row(
            "c=32 voluntary switches a request",
            Unit::PerRequest,
            &self.many_switches,
        )
    }

    fn error_row(&self) -> Row {
        Row::of(format!("{} errors", self.name), Unit::Count, self.errors as f64)
    }
}

/// A number and its goal.
type Promise = (Row, f64);

/// Measures nginx, funcd and the function itself, interleaved: pinned, with goals, one worker each; then free, as funcd
/// runs by default.
///
/// # Errors
/// A contender that does not start or never answers.
pub(crate) fn measure(artifacts: &Artifacts, length: Length) -> Outcome<Vec<Table>> {
    let pinned = {
        let _home = Home::of_this_process()?;
        let host = start(artifacts, Some(1))?;
        let placement = Placement::Pinned(Cores::of_this_process()?);
        let mut field = Field::of(artifacts, "funcd", &host)?;
        let others = field.compete(length, placement)?;
        let promises = field.funcd.promises(field.nginx());
        Table {
            name: "warm",
            title: title("one worker each, pinned", length),
            rows: field.rows(promises.into_iter().map(|(row, goal)| row.at_most(goal))),
            notes: field.notes([
                "pinned: c=1 all on one core; c=32 the proxy on one core, client and function on another",
                "medians of per-round values; ratios are medians of per-round ratios, nginx in the same round",
                "CPU and switches: funcd's launcher and supervisor; nginx's worker; never the function's own",
            ]),
            others,
        }
    };
    let free = {
        let host = start(artifacts, None)?;
        let mut field = Field::of(artifacts, "funcd", &host)?;
        let others = field.compete(length, Placement::Free)?;
        let promises = field.funcd.promises(field.nginx());
        Table {
            name: "warm-free",
            title: title("funcd's default workers, the kernel places everything", length),
            rows: field.rows(promises.into_iter().map(|(row, _)| row)),
            notes: field.notes([
                "the kernel's choice of cores moves c=1 by half, whoever is asked: so no goal is judged here",
            ]),
            others,
        }
    };
    Ok(vec![pinned, free])
}

fn title(how: &str, length: Length) -> String {
    let seconds = length.run.as_secs_f64();
    format!(
        "keep-alive requests to a running hello; {how}; {} rounds of {seconds:.2} s",
        length.rounds
    )
}

/// All who take part, and what they stand before.
struct Field {
    funcd: Contender,
    peer: Result<(Contender, Nginx), String>,
    direct: Contender,
    _server: BareServer,
}

impl Field {
    fn of(artifacts: &Artifacts, name: &str, host: &Host) -> Outcome<Field> {
        let server = Bare::of(&[&artifacts.hello])?.serve()?;
        let function = [server.id()];
        let peer = match NGINX.find() {
            Ok(program) => {
                let nginx = Nginx::start(&program, &server.socket)?;
                let target = Target::tcp(nginx.address, "/hello/");
                Ok((Contender::new("nginx", target, &[nginx.worker], &function), nginx))
            }
            Err(missing) => Err(missing),
        };
        let table = process::table();
        let instances = host.instances();
        let instances: Vec<i32> = instances
            .iter()
            .flat_map(|instance| procfs::tree(*instance, &table))
            .collect();
        Ok(Field {
            funcd: Contender::new(name, host.target("hello"), &host.own_processes()?, &instances),
            peer,
            direct: Contender::new("direct", Target::unix(&server.socket, "/"), &[], &function),
            _server: server,
        })
    }

    fn nginx(&self) -> Option<&Contender> {
        self.peer.as_ref().ok().map(|(contender, _)| contender)
    }

    fn contenders(&self) -> impl Iterator<Item = &Contender> {
        [&self.funcd]
            .into_iter()
            .chain(self.nginx())
            .chain([&self.direct])
    }

    /// All rounds.
    fn compete(&mut self, length: Length, placement: Placement) -> Outcome<OtherLoad> {
        let watch = Watch::start();
        for round in 0..length.rounds {
            let peer = self.peer.as_mut().ok().map(|(contender, _)| contender);
            let mut order: Vec<&mut Contender> = peer
                .into_iter()
                .chain([&mut self.funcd, &mut self.direct])
                .collect();
            // Nobody is always the first one after a pause, or always after the same neighbour's heat.
            let first = round % order.len();
            order.rotate_left(first);
            for contender in order {
                contender.take_part(length.run, placement)?;
            }
        }
        Ok(watch.finish())
    }

    fn rows(&self, promises: impl Iterator<Item = Row>) -> Vec<Row> {
        let plain = self.contenders().flat_map(Contender::rows);
        let errors = self.funcd.error_row().at_most(0.0);
        promises.chain([errors]).chain(plain).collect()
    }

    fn notes<const N: usize>(&self, notes: [&str; N]) -> Vec<String> {
        let missing = self.peer.as_ref().err().cloned();
        let errors = self.contenders().filter_map(|contender| {
            let last = contender.last_error.as_ref()?;
            Some(format!(
                "{}: {} errors, last: {last}",
                contender.name, contender.errors
            ))
        });
        let notes = notes.into_iter().map(String::from);
        notes.chain(missing).chain(errors).collect()
    }
}

fn start(artifacts: &Artifacts, workers: Option<usize>) -> Outcome<Host> {
    let plan = Plan::of(&artifacts.funcd)?;
    plan.with_manifest("hello", &artifacts.hello, MANIFEST)?;
    let mut host = plan.start(workers)?;
    host.wait_until_answered("hello")?;
    Ok(host)
}
