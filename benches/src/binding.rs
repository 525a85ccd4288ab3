//! `binding`: what a call costs more that a function makes by a binding, over the same call made directly. The same program
//! makes both, once as a function and once as an ordinary process, to the same server, by turns.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::artifacts::Artifacts;
use crate::failure::{During, Failure, Outcome};
use crate::host::Plan;
use crate::quiet::Watch;
use crate::stats::{Samples, median};
use crate::table::{Row, Table, Unit};

/// The role of this program that calls.
pub(crate) const AS_CALLER: &str = "binding-caller";
/// What is said, and answered with: a small query.
const WORD: [u8; 64] = [b'?'; 64];
/// Calls of one process over one connection; and those before that warm caches.
const CALLS: usize = 2000;
const WARM_UP: usize = 200;
const NANOS_PER_MICRO: f64 = 1000.0;

/// Calls the server that `DB_ADDR` names, and prints the median of the times in nanoseconds.
///
/// # Errors
/// A server that does not answer.
pub(crate) fn call() -> Outcome<()> {
    let address = std::env::var("DB_ADDR").map_err(|_| Failure("DB_ADDR is not set".to_owned()))?;
    let mut stream = TcpStream::connect(&address).during(format!("connecting to {address}"))?;
    stream.set_nodelay(true).during("setting TCP_NODELAY")?;
    let mut times = Samples::default();
    let mut heard = [0; WORD.len()];
    for call in 0..WARM_UP + CALLS {
        let start = Instant::now();
        stream.write_all(&WORD).during("calling")?;
        stream.read_exact(&mut heard).during("waiting for the answer")?;
        if call >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    let summary = times
        .summary()
        .ok_or_else(|| Failure("no call was made".to_owned()))?;
    println!("{}", summary.p50);
    Ok(())
}

/// Measures both, `rounds` times each.
///
/// # Errors
/// A host that does not start, or a caller that fails.
pub(crate) fn measure(artifacts: &Artifacts, rounds: usize) -> Outcome<Table> {
    let server = serve().during("starting a server")?;
    let myself = std::env::current_exe().during("finding this program")?;
    let plan = Plan::of(&artifacts.funcd)?.configured(&format!("[egress]\nallow = [\"{server}\"]\n"));
    let manifest = format!(
        "contract = \"stdio\"\nargs = [\"{AS_CALLER}\"]\n[scale]\nmax = 1\n[bindings.db]\ntcp = \"{server}\"\n"
    );
    plan.with_manifest("caller", &myself, &manifest)?;
    let mut host = plan.start(None)?;
    host.wait_until_answered("caller")?;
    let watch = Watch::start();
    let (mut bound, mut direct, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let by_binding = || micros(&ask(host.address())?);
        let directly = || {
            let mut command = Command::new(&myself);
            command
                .arg(AS_CALLER)
                .env("DB_ADDR", server.to_string())
                .stdin(Stdio::null());
            let output = command.output().during("starting a caller")?;
            micros(&String::from_utf8_lossy(&output.stdout))
        };
        // Nobody is always the first one after a pause.
        let (ours, theirs) = match round % 2 {
            0 => {
                let ours = by_binding()?;
                (ours, directly()?)
            }
            _ => {
                let theirs = directly()?;
                (by_binding()?, theirs)
            }
        };
        bound.push(ours);
        direct.push(theirs);
        added.push(ours - theirs);
    }
    let row = |what: &str, values: &[f64]| Row::of(what, Unit::Micros, median(values).unwrap_or(f64::NAN));
    Ok(Table {
        name: "binding",
        title: format!("a call of 64 bytes and its answer over one TCP connection; {rounds} rounds of {CALLS} calls each"),
        rows: vec![
            row("added by a binding, p50", &added).at_most(60.0),
            row("by a binding, p50", &bound),
            row("directly, p50", &direct),
        ],
        notes: vec![
            "medians of per-round medians; added: the median of per-round differences, both in the same round".to_owned(),
            "the same caller: as a function, and as an ordinary process; the kernel places everything".to_owned(),
        ],
        others: watch.finish(),
    })
}

/// A server that answers each word with itself.
fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut heard = [0; WORD.len()];
    loop {
        stream.read_exact(&mut heard)?;
        stream.write_all(&heard)?;
    }
}

/// What the function says.
fn ask(host: SocketAddr) -> Outcome<String> {
    let mut stream = TcpStream::connect(host).during("connecting to the host")?;
    let request = "GET /caller/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .during("asking the function")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .during("waiting for the function")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(Failure(format!("the function answered {answer:?}"))),
    }
}

fn micros(nanos: &str) -> Outcome<f64> {
    // A chunked body has its length in front.
    let number = nanos
        .split_ascii_whitespace()
        .filter_map(|word| word.parse::<f64>().ok());
    let number = number.fold(f64::NAN, f64::max);
    match number.is_nan() {
        true => Err(Failure(format!("a caller said {nanos:?}"))),
        false => Ok(number / NANOS_PER_MICRO),
    }
}
