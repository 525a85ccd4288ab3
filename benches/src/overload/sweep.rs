//! Goodput from half to ten times the capacity, of each contender in turn at each load.

use std::time::Duration;

use super::contender::{self, Contender};
use super::{DEADLINE_MILLIS, work_micros};
use crate::artifacts::Artifacts;
use crate::failure::Outcome;
use crate::open::{Callers, Kind, Part, Phase};
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};

/// Of the capacity.
const LOADS: [f64; 6] = [0.5, 0.7, 1.0, 2.0, 5.0, 10.0];
/// What funcd promises of goodput ÷ peak.
const GOALS: [(f64, f64); 3] = [(2.0, 0.90), (5.0, 0.90), (10.0, 0.85)];
/// Of each run: what came before counts no more, and what comes is measured. In seconds.
const SETTLE: f64 = 1.0;
const MEASURED: f64 = 3.0;
/// Between runs: what callers left behind is done or given up.
const REST: Duration = Duration::from_millis(500);

/// What a function does.
pub(crate) struct Scenario {
    name: &'static str,
    title: String,
    /// What each request asks for.
    pub(crate) query: String,
    /// What funcd is told: the most that an instance may ever have. It has to find the right number itself.
    pub(crate) concurrency: usize,
    /// What the peers are told: as many at once for each instance as is right for this function, which somebody had to find out.
    pub(crate) places: usize,
    /// Connections to each instance that find the capacity in a closed loop.
    closed: usize,
}

/// CPU, and nothing else.
pub(crate) fn cpu_bound() -> Scenario {
    let micros = work_micros();
    Scenario {
        name: "overload-cpu",
        title: format!("open loop, {micros} µs of CPU a request"),
        query: format!("cpu_us={micros}"),
        concurrency: 64,
        places: 4,
        closed: 4,
    }
}

/// The same CPU, before something slow.
pub(crate) fn io_bound() -> Scenario {
    let micros = work_micros();
    Scenario {
        name: "overload-io",
        title: format!("open loop, {micros} µs of CPU and 50 ms of waiting a request"),
        query: format!("cpu_us={micros}&wait_ms=50"),
        concurrency: 256,
        places: 28,
        closed: 32,
    }
}

/// A run of one contender.
struct Point {
    load: f64,
    measured: Part,
    whole: Part,
    /// Of its own processes, in microseconds.
    cpu: f64,
    share: f64,
    reasons: String,
    urgent: bool,
}

/// A contender and its runs.
struct Course {
    contender: Contender,
    points: Vec<Point>,
}

/// What came of a sweep.
pub(crate) struct Swept {
    /// Answers a second at most, of funcd.
    pub(crate) capacity: f64,
    /// All of it.
    pub(crate) table: Table,
}

/// Measures all contenders.
///
/// # Errors
/// One that does not start, or a function that does not answer.
pub(crate) fn measure(artifacts: &Artifacts, scenario: &Scenario, seed: u64) -> Outcome<Swept> {
    let servers = contender::servers(artifacts)?;
    let (peers, missing) = Contender::peers(scenario, &servers)?;
    let watch = Watch::start();
    let capacity = contender::capacity(&servers, scenario, scenario.closed)?;
    eprintln!(
        "{}: the function answers {capacity:.0} a second in a closed loop",
        scenario.name
    );
    let contenders = [Contender::funcd(artifacts, scenario)?].into_iter().chain(peers);
    let mut courses: Vec<Course> = contenders
        .map(|contender| Course {
            contender,
            points: Vec::new(),
        })
        .collect();
    for load in LOADS {
        for course in &mut courses {
            std::thread::sleep(REST);
            course.run(load, capacity, seed)?;
        }
    }
    let mut notes = vec![
        format!(
            "1 × is {capacity:.0} a second, what the function answers in a closed loop with nobody before it; callers leave after {DEADLINE_MILLIS} ms"
        ),
        "peak: the most that the same contender answered at any load".into(),
        format!(
            "HAProxy: maxconn {} for each server, timeout queue {} ms; nginx: limit_conn {0} for each server; funcd is told {} and finds \
             its limit itself",
            scenario.places,
            DEADLINE_MILLIS / 2,
            scenario.concurrency
        ),
        "the callers run on the same cores, and take what their row says; goodput is not corrected for it"
            .into(),
    ];
    if courses
        .iter()
        .any(|course| course.points.iter().any(|point| !point.urgent))
    {
        notes.push(
            "callers had no real-time priority, so they waited for a CPU themselves: run it as root".into(),
        );
    }
    notes.extend(courses.iter().filter_map(Course::told));
    notes.extend(missing);
    let (rows, peak) = (courses.iter().flat_map(Course::rows).collect(), courses[0].peak());
    Ok(Swept {
        capacity: peak,
        table: Table {
            name: scenario.name,
            title: scenario.title.clone(),
            rows,
            notes,
            others: watch.finish(),
        },
    })
}

impl Course {
    fn run(&mut self, load: f64, capacity: f64, seed: u64) -> Outcome<()> {
        let kind = Kind::get(&self.contender.path, "", Duration::from_millis(DEADLINE_MILLIS));
        let phase = Phase::of(SETTLE + MEASURED, &[capacity * load]);
        let before = self.contender.cost()?;
        let seen = Callers::of(self.contender.address).run(&[kind], vec![phase], seed)?;
        let cost = self.contender.cost()?.since(before);
        let measured = seen.part(None, SETTLE, SETTLE + MEASURED);
        eprintln!(
            "{load} × {}: {:.0} a second good, {}",
            self.contender.name,
            measured.goodput(),
            measured.told()
        );
        self.points.push(Point {
            load,
            measured,
            whole: seen.whole(None),
            cpu: cost.cpu_nanos as f64 / 1000.0,
            share: seen.share(),
            reasons: seen.reasons(),
            urgent: seen.urgent,
        });
        Ok(())
    }

    fn peak(&self) -> f64 {
        let goodputs = self.points.iter().map(|point| point.measured.goodput());
        goodputs.fold(f64::NAN, f64::max)
    }

    fn at(&self, load: f64) -> &Point {
        let point = self.points.iter().find(|point| point.load == load);
        point.expect("every contender took part in every load")
    }

    fn rows(&self) -> Vec<Row> {
        let name = self.contender.name;
        let (usual, most) = (self.at(0.7), self.at(10.0));
        let goal = |row: Row, goal: f64| if name == "funcd" { row.at_least(goal) } else { row };
        let mut rows = vec![Row::of(format!("{name} peak"), Unit::PerSecond, self.peak())];
        for point in &self.points {
            let ratio = point.measured.goodput() / self.peak();
            let row = Row::of(
                format!("{name} {} ×, goodput ÷ peak", point.load),
                Unit::Ratio,
                ratio,
            );
            let bound = GOALS.iter().find(|(load, _)| *load == point.load);
            rows.push(match bound {
                Some((_, bound)) => goal(row, *bound),
                None => row,
            });
        }
        let growth = Row::of(
            format!("{name} p99 of the answered, 10 × ÷ .7 ×"),
            Unit::Ratio,
            most.measured.p99() / usual.measured.p99(),
        );
        rows.push(if name == "funcd" {
            growth.at_most(2.5)
        } else {
            growth
        });
        rows.extend([
            Row::of(
                format!("{name} .7 ×, p99 of the answered"),
                Unit::Micros,
                usual.measured.p99(),
            ),
            Row::of(
                format!("{name} 10 ×, p99 of the answered"),
                Unit::Micros,
                most.measured.p99(),
            ),
        ]);
        if let Some(refusals) = most.measured.refusals.summary() {
            rows.push(Row::of(
                format!("{name} 10 ×, p99 of the refused"),
                Unit::Micros,
                refusals.p99 / 1000.0,
            ));
            rows.push(Row::of(
                format!("{name} 10 ×, CPU a refused request"),
                Unit::CpuMicros,
                cpu_of_a_refusal(usual, most),
            ));
        }
        rows.push(Row::of(
            format!("{name} 10 ×, the callers' own CPU"),
            Unit::CorePercent,
            most.share * 100.0,
        ));
        let lag = most
            .measured
            .lag
            .summary()
            .map_or(f64::NAN, |lag| lag.p99 / 1000.0);
        rows.push(Row::of(
            format!("{name} 10 ×, p99 due to sent"),
            Unit::Micros,
            lag,
        ));
        rows
    }

    /// What became of the rest at ten times.
    fn told(&self) -> Option<String> {
        let point = self.at(10.0);
        let part = &point.measured;
        (part.offered > part.good).then(|| {
            format!(
                "{} 10 ×: of {} requests {} good, {} (all refusals of this run: {})",
                self.contender.name,
                part.offered,
                part.good,
                part.told(),
                point.reasons
            )
        })
    }
}

/// What is left at ten times when the answered have cost what they cost at .7 times, for each that was refused.
fn cpu_of_a_refusal(usual: &Point, most: &Point) -> f64 {
    let answered = usual.cpu / usual.whole.good as f64;
    (most.cpu - answered * most.whole.good as f64) / most.whole.refused as f64
}
