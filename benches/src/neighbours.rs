//! `neighbours`: what a quiet function's callers notice of a bad one beside it, for each way of being bad; with runs alone in between,
//! whose differences are the noise.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::failure::{During, Outcome};
use crate::host::{Host, Plan};
use crate::open::{Callers, Kind, Part, Phase};
use crate::quiet::{Watch, cores};
use crate::stats::median;
use crate::sys::Urgent;
use crate::table::{Row, Table, Unit};

/// The victim: a running function with callers who come all the time.
const VICTIM: &str = "[scale]\nmin = 1\nmax = 1\n";
/// A second.
const RATE: f64 = 500.0;
/// More than any answer of the victim takes unless something is wrong.
const PATIENT: Duration = Duration::from_secs(5);
/// The neighbour's callers leave sooner, or a flood would be one of connections.
const HURRIED: Duration = Duration::from_millis(250);
/// Of a run alone, and of one beside a neighbour, in seconds.
const ALONE: f64 = 3.0;
const BESIDE: f64 = 5.0;
/// What p99 may grow by, beyond the noise.
const GROWTH: f64 = 1.10;
/// Functions that nobody has called before, called one after the other beside the flood.
const FIRST: usize = 12;
/// Between their calls.
const PAUSE: Duration = Duration::from_millis(300);
/// A first call beside a flood takes no longer, in µs: less than anybody notices.
const FIRST_ANSWER: f64 = 100_000.0;
/// Callers of bodies that never end, of each sort.
const SLOW: usize = 50;

const FLOOD: &str = "10 × flood";

/// One way of being bad.
struct Neighbour {
    what: &'static str,
    /// The example that can.
    program: &'static str,
    manifest: String,
    how: How,
}

/// What makes it so.
enum How {
    /// These requests, so many a second.
    Asked(String, f64),
    /// Callers who send and read bodies as slowly as they can.
    Slowly,
}

fn all() -> Vec<Neighbour> {
    let neighbour = |what, program, manifest: &str, how| Neighbour {
        what,
        program,
        manifest: manifest.to_owned(),
        how,
    };
    // A millisecond for each core: ten times as many come as all of them bear.
    let flood = How::Asked(format!("?cpu_us={}", 1000 * cores()), 10_000.0);
    let asked = |path: &str, rate| How::Asked(path.to_owned(), rate);
    vec![
        neighbour("spin", "hog", "", asked("spin", 8.0)),
        neighbour("fork bomb", "forkbomb", "", asked("bomb?then=spin", 10.0)),
        neighbour("memory bomb", "hog", "", asked("memory?mb=512", 10.0)),
        neighbour("descriptor leak", "hog", "", asked("files", 10.0)),
        neighbour("log flood", "hog", "", asked("shout", 2.0)),
        neighbour(FLOOD, "work", "", flood),
        neighbour(
            "crash loop",
            "crash",
            "env = { CRASH = \"start\" }\n",
            asked("", 50.0),
        ),
        neighbour("slow bodies", "echo", "", How::Slowly),
    ]
}

/// A run of the victim beside each whose name contains `only`, and alone before and after each.
///
/// # Errors
/// A host that does not start, or does not take a function.
pub(crate) fn measure(artifacts: &Artifacts, only: &str, seed: u64) -> Outcome<Table> {
    // A build beside a run would be a neighbour too.
    let mut neighbours = all();
    neighbours.retain(|neighbour| neighbour.what.contains(only));
    let programs: Vec<_> = neighbours
        .iter()
        .map(|neighbour| artifacts.example(neighbour.program))
        .collect::<Outcome<_>>()?;
    let watch = Watch::start();
    let plan = Plan::of(&artifacts.funcd)?;
    plan.with_manifest("victim", &artifacts.hello, VICTIM)?;
    for number in 0..FIRST {
        plan.executable(&format!("first{number}"), &artifacts.hello)?;
    }
    let mut host = plan.start(None)?;
    host.wait_until_answered("victim")?;
    let victim = |host: &Host, seconds, seed| {
        let kind = Kind::get("/victim/", "", PATIENT);
        Callers::of(host.address()).run(&[kind], vec![Phase::of(seconds, &[RATE])], seed)
    };
    victim(&host, 1.0, seed)?;
    let mut notes = Vec::new();
    let mut alone = vec![victim(&host, ALONE, seed)?.whole(None)];
    let mut beside = Vec::new();
    for (neighbour, program) in neighbours.iter().zip(&programs) {
        host.deploy("neighbour", program, &neighbour.manifest)?;
        let over = AtomicBool::new(false);
        let (part, bad) = {
            let host = &host;
            let over = &over;
            thread::scope(|scope| {
                let worse = scope.spawn(move || neighbour.misbehave(host.address(), over, seed));
                let seen = victim(host, BESIDE, seed + 1);
                over.store(true, Ordering::Relaxed);
                let bad = worse.join().expect("a neighbour's callers do not panic");
                (seen, bad)
            })
        };
        let (seen, bad) = (part?, bad?);
        let part = seen.whole(None);
        eprintln!(
            "neighbours: beside {}: p99 {:.0} µs, {} of {} good; it: {bad}",
            neighbour.what,
            part.p99(),
            part.good,
            part.offered
        );
        notes.push(format!("{}: {bad}", neighbour.what));
        if part.good < part.offered {
            let (told, reasons) = (part.told(), seen.reasons());
            notes.push(format!(
                "victim beside {}: {told}; reasons of refusals: {reasons}",
                neighbour.what
            ));
        }
        host.remove("neighbour")?;
        host.wait_for("to end the neighbour", |host| {
            Ok((host.instances().len() == 1).then_some(()))
        })?;
        beside.push((neighbour.what, part));
        alone.push(victim(&host, ALONE, seed)?.whole(None));
    }
    let mut first = Vec::new();
    if let Some(flood) = neighbours.iter().position(|neighbour| neighbour.what == FLOOD) {
        host.deploy("neighbour", &programs[flood], &neighbours[flood].manifest)?;
        first = first_calls(&host, &neighbours[flood], seed)?;
    }
    let mut table = Table {
        name: "neighbours",
        title: format!("a hello with {RATE} requests a second, beside a function that is bad in one way each; open loop"),
        rows: rows(&alone, &beside),
        notes: vec![
            "ratio: p99 beside ÷ mean of the p99 of the runs alone before and after; noise: the median ratio of the larger to the smaller of two runs alone in a row"
                .into(),
            "default limits for all; callers run on the same cores, before everybody else: they stand for other machines".into(),
            "first calls: of functions without an instance, one after the other beside the flood, from connecting to the answer".into(),
        ],
        others: watch.finish(),
    };
    table.notes.extend(notes);
    if let Some(slowest) = first.iter().copied().reduce(f64::max) {
        let median = median(&first).unwrap_or(f64::NAN);
        table.rows.extend([
            Row::of("10 × flood: first calls, median", Unit::Micros, median),
            Row::of("10 × flood: first calls, slowest", Unit::Micros, slowest).at_most(FIRST_ANSWER),
        ]);
    }
    Ok(table)
}

/// How long the first call of each takes while another function is flooded, in µs.
fn first_calls(host: &Host, flood: &Neighbour, seed: u64) -> Outcome<Vec<f64>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worse = scope.spawn(|| flood.misbehave(host.address(), &over, seed));
        let urgent = Urgent::thread();
        let calls = (0..FIRST).map(|number| {
            thread::sleep(PAUSE);
            let begun = Instant::now();
            let target = host.target(&format!("first{number}"));
            target.ask_once().during("a first call beside a flood")?;
            Ok(begun.elapsed().as_secs_f64() * 1e6)
        });
        let calls = calls.collect();
        drop(urgent);
        worse.join().expect("a neighbour's callers do not panic")?;
        calls
    })
}

fn rows(alone: &[Part], beside: &[(&str, Part)]) -> Vec<Row> {
    let noise = noise(&alone.iter().map(Part::p99).collect::<Vec<_>>());
    let of_alone = |value: fn(&Part) -> f64| {
        let values: Vec<f64> = alone.iter().map(value).collect();
        median(&values).unwrap_or(f64::NAN)
    };
    let errors: u64 = alone.iter().map(|part| part.offered - part.good).sum();
    let mut rows = vec![
        Row::of("alone p50", Unit::Micros, of_alone(Part::p50)),
        Row::of("alone p99", Unit::Micros, of_alone(Part::p99)),
        Row::of("alone errors", Unit::Count, errors as f64).at_most(0.0),
        Row::of("alone ÷ alone, p99: the noise", Unit::Ratio, noise),
    ];
    for ((what, part), around) in beside.iter().zip(alone.windows(2)) {
        let usual = f64::midpoint(around[0].p99(), around[1].p99());
        let errors = (part.offered - part.good) as f64;
        rows.extend([
            Row::of(format!("{what}: errors"), Unit::Count, errors).at_most(0.0),
            Row::of(format!("{what}: p99 ÷ alone"), Unit::Ratio, part.p99() / usual)
                .at_most(GROWTH + noise - 1.0),
            Row::of(format!("{what}: p50"), Unit::Micros, part.p50()),
            Row::of(format!("{what}: p99"), Unit::Micros, part.p99()),
        ]);
    }
    rows
}

/// The median ratio of the larger to the smaller of two values in a row: one run that something disturbed must not excuse all others.
fn noise(values: &[f64]) -> f64 {
    let ratios = values
        .windows(2)
        .map(|pair| (pair[0] / pair[1]).max(pair[1] / pair[0]));
    median(&ratios.collect::<Vec<_>>()).unwrap_or(f64::NAN)
}

impl Neighbour {
    /// Until `over`; what came of it.
    fn misbehave(&self, address: SocketAddr, over: &AtomicBool, seed: u64) -> Outcome<String> {
        match &self.how {
            How::Asked(path, rate) => {
                let kind = Kind::get(&format!("/neighbour/{path}"), "", HURRIED);
                let phase = Phase::of(BESIDE, &[*rate]);
                let callers = Callers::of(address);
                let seen = callers.run(&[kind], vec![phase], seed)?;
                let part = seen.whole(None);
                let told = part.told();
                let comma = if told.is_empty() { "" } else { ", " };
                Ok(format!(
                    "{} requests, {} good{comma}{told} ({}); its callers used {:.2} cores",
                    part.offered,
                    part.good,
                    seen.reasons(),
                    seen.share()
                ))
            }
            How::Slowly => {
                let bytes = slowly(address, over).during("reading and sending bodies slowly")?;
                Ok(format!(
                    "{SLOW} callers read and {SLOW} sent {bytes} bytes in all, a few at a time"
                ))
            }
        }
    }
}

/// Half of the callers ask for a megabyte and take it in small bites, half send one in small bites.
fn slowly(address: SocketAddr, over: &AtomicBool) -> std::io::Result<usize> {
    const BITE: usize = 256;
    let connect = |request: &str| {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut streams = Vec::new();
    for _ in 0..SLOW {
        let read = "GET /neighbour/bytes?n=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let send = "POST /neighbour/count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
        streams.push((connect(read)?, false));
        streams.push((connect(send)?, true));
    }
    let mut bytes = 0;
    while !over.load(Ordering::Relaxed) {
        for (stream, sends) in &mut streams {
            let mut bite = [0; BITE];
            let moved = if *sends {
                stream.write(&bite)
            } else {
                stream.read(&mut bite)
            };
            match moved {
                Ok(count) => bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Whoever is so slow may be sent away.
                Err(_) => {}
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_usual_difference_between_two_runs_in_a_row_either_way() {
        assert_eq!(noise(&[100.0, 100.0]), 1.0);
        assert_eq!(noise(&[100.0, 125.0, 100.0]), 1.25);
        assert_eq!(noise(&[100.0, 80.0, 100.0]), 1.25);
        let disturbed = [100.0, 100.0, 100.0, 9000.0];
        assert_eq!(noise(&disturbed), 1.0, "one disturbed run is not the noise");
    }

    #[test]
    fn a_victim_that_fails_misses_its_goal_however_fast_it_is() {
        let part = |good: u64, offered: u64| {
            let mut part = Part {
                offered,
                good,
                ..Part::default()
            };
            part.times.push(Duration::from_micros(100));
            part
        };
        let rows = rows(&[part(10, 10), part(10, 10)], &[("spin", part(9, 10))]);
        let table = Table {
            name: "neighbours",
            title: String::new(),
            rows,
            notes: Vec::new(),
            others: Watch::start().finish(),
        };
        let text = table.to_string();
        let errors = text.lines().find(|line| line.contains("spin: errors")).unwrap();
        assert!(errors.ends_with("MISSED"), "{text}");
    }
}
