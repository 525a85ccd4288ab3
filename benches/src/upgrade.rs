//! What callers notice of upgrades: requests while the program is put in place again and again, beside the same without. An upgrade
//! to the same program does everything that one to another does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::answer::{self, Parsed};
use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Plan};
use crate::quiet::Watch;
use crate::stats::Samples;
use crate::table::{Row, Table, Unit};

/// Callers at once, half of them with requests that nobody may send twice.
const CALLERS: usize = 8;
/// Between two upgrades callers have it for themselves.
const PAUSE: Duration = Duration::from_millis(500);
/// An answer that takes longer counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What callers saw.
#[derive(Debug, Default)]
struct Seen {
    times: Samples,
    failures: Vec<String>,
}

/// So many requests without upgrades, then as many with.
///
/// # Errors
/// What could not be set up, and an upgrade that did not happen.
pub(crate) fn measure(artifacts: &Artifacts, requests: usize) -> Outcome<Table> {
    let plan = Plan::of(&artifacts.funcd)?;
    plan.executable("hello", &artifacts.hello)?;
    let mut host = plan.start(None)?;
    host.wait_until_answered("hello")?;
    let instances = host.instances();
    let watch = Watch::start();
    let before = call(&host, requests, |_| Ok(()))?;
    let mut upgrades = 0_usize;
    let during = call(&host, requests, |host| {
        host.query("upgrade")?;
        upgrades += 1;
        std::thread::sleep(PAUSE);
        Ok(())
    })?;
    let restarted = host.instances() != instances;
    let p99 = |seen: &Seen| {
        seen.times
            .summary()
            .map_or(f64::NAN, |summary| summary.p99 / 1000.0)
    };
    let count = |what: String, number: usize| Row::of(what, Unit::Count, number as f64);
    let total = during.times.len() + during.failures.len();
    let mut notes = vec![format!(
        "{CALLERS} callers on connections that they keep, half of them with POST; the same program is put in place {upgrades} times, \
         {} ms after the one before it served",
        PAUSE.as_millis()
    )];
    notes.extend(
        during
            .failures
            .iter()
            .take(3)
            .map(|failure| format!("failed: {failure}")),
    );
    Ok(Table {
        name: "upgrade",
        title: format!("{requests} requests while funcd is upgraded again and again"),
        rows: vec![
            count(
                format!("requests that failed, of {total}, during {upgrades} upgrades"),
                during.failures.len(),
            )
            .at_most(0.0),
            count("functions that were restarted".to_owned(), usize::from(restarted)).at_most(0.0),
            count(
                "requests that failed without upgrades".to_owned(),
                before.failures.len(),
            )
            .at_most(0.0),
            Row::of("a request during upgrades, p99", Unit::Micros, p99(&during)),
            Row::of("a request without upgrades, p99", Unit::Micros, p99(&before)),
        ],
        notes,
        others: watch.finish(),
    })
}

/// Has callers call until so many requests were answered; meanwhile does `each` again and again.
fn call(host: &Host, requests: usize, mut each: impl FnMut(&Host) -> Outcome<()>) -> Outcome<Seen> {
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let address = host.address();
    let callers: Vec<JoinHandle<Seen>> = (0..CALLERS)
        .map(|number| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            std::thread::spawn(move || caller(address, number % 2 == 1, &done, &stop))
        })
        .collect();
    let mut outcome = Ok(());
    while outcome.is_ok() && done.load(Ordering::Relaxed) < requests {
        outcome = each(host);
        std::thread::sleep(Duration::from_millis(1));
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Seen::default();
    for caller in callers {
        let seen = caller
            .join()
            .map_err(|_| Failure("a caller panicked".to_owned()))?;
        all.failures.extend(seen.failures);
        all.times.add(&seen.times);
    }
    outcome.map(|()| all)
}

fn caller(address: SocketAddr, posts: bool, done: &AtomicUsize, stop: &AtomicBool) -> Seen {
    let request: &[u8] = match posts {
        true => b"POST /hello/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
        false => b"GET /hello/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    };
    let mut seen = Seen::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match ask(&mut connection, address, request) {
            Ok(()) => seen.times.push(began.elapsed()),
            Err(error) => {
                connection = None;
                seen.failures.push(error.to_string());
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// One request and its answer; the connection is kept unless the answer says that it ends.
fn ask(connection: &mut Option<TcpStream>, address: SocketAddr, request: &[u8]) -> io::Result<()> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream
        }
    };
    stream.write_all(request)?;
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer)?;
        heard.extend_from_slice(&buffer[..count]);
        match answer::parse(&heard) {
            Parsed::Complete(answer) if answer.status == 200 && answer.length == heard.len() => {
                *connection = (!answer.closes).then_some(stream);
                return Ok(());
            }
            Parsed::Partial if count > 0 => {}
            Parsed::Partial => return Err(io::ErrorKind::UnexpectedEof.into()),
            other => return Err(io::Error::other(format!("unexpected: {other:?}"))),
        }
    }
}
