//! Who stands before the function under overload: funcd, HAProxy, nginx; each with what it needs for as long as it is asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::fronts::Front;
use super::sweep::Scenario;
use crate::artifacts::Artifacts;
use crate::bare::{Bare, BareServer};
use crate::client::Target;
use crate::failure::Outcome;
use crate::host::{Host, Plan};
use crate::load::Load;
use crate::peer::{HAPROXY, NGINX};
use crate::process::Cost;
use crate::quiet::cores;
use crate::{process, procfs};

/// How long the closed loop looks that finds the capacity.
const CLOSED_FOR: Duration = Duration::from_secs(2);

/// One of them.
pub(crate) struct Contender {
    /// Who.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What is asked for.
    pub(crate) path: String,
    /// Its own processes, without the function.
    processes: Vec<i32>,
    _host: Option<Host>,
    _front: Option<Front>,
}

impl Contender {
    /// A host whose function `work` has an instance for each core.
    ///
    /// # Errors
    /// A host that does not start.
    pub(crate) fn funcd(artifacts: &Artifacts, scenario: &Scenario) -> Outcome<Contender> {
        let plan = Plan::of(&artifacts.funcd)?.configured(TRUSTING);
        let manifest = format!(
            "[scale]\nmin = {cores}\nmax = {cores}\nconcurrency = {concurrency}\n[request]\ntimeout = \"{timeout}ms\"\n",
            cores = cores(),
            concurrency = scenario.concurrency,
            timeout = super::DEADLINE_MILLIS,
        );
        plan.with_manifest("work", &artifacts.work, &manifest)?;
        let mut host = plan.start(None)?;
        host.wait_until_answered("work")?;
        host.wait_for("to have all instances", |host| {
            Ok((host.instances().len() == cores()).then_some(()))
        })?;
        Ok(Contender {
            name: "funcd",
            address: host.address(),
            path: format!("/work/?{}", scenario.query),
            processes: host.own_processes()?.to_vec(),
            _host: Some(host),
            _front: None,
        })
    }

    /// Those peers that are installed, before `servers`; and for each that is not, which package has it.
    ///
    /// # Errors
    /// One that does not start.
    pub(crate) fn peers(
        scenario: &Scenario,
        servers: &[BareServer],
    ) -> Outcome<(Vec<Contender>, Vec<String>)> {
        let sockets: Vec<PathBuf> = servers.iter().map(|server| server.socket.clone()).collect();
        let (mut peers, mut missing) = (Vec::new(), Vec::new());
        match HAPROXY.find() {
            Ok(program) => {
                let wait = Duration::from_millis(super::DEADLINE_MILLIS / 2);
                let front = Front::haproxy(&program, &sockets, scenario.places, wait)?;
                peers.push(Contender::behind("HAProxy", front, scenario));
            }
            Err(note) => missing.push(note),
        }
        match NGINX.find() {
            Ok(program) => {
                let front = Front::nginx(&program, &sockets, scenario.places)?;
                peers.push(Contender::behind("nginx", front, scenario));
            }
            Err(note) => missing.push(note),
        }
        Ok((peers, missing))
    }

    fn behind(name: &'static str, front: Front, scenario: &Scenario) -> Contender {
        Contender {
            name,
            address: front.address,
            path: format!("/?{}", scenario.query),
            processes: procfs::tree(front.id(), &process::table()),
            _host: None,
            _front: Some(front),
        }
    }

    /// What its own processes have used.
    ///
    /// # Errors
    /// One that is gone.
    pub(crate) fn cost(&self) -> Outcome<Cost> {
        Cost::of(&self.processes)
    }
}

/// The callers of these benches may say which class their requests have.
pub(crate) const TRUSTING: &str = "trusted = [\"127.0.0.0/8\"]\n";

/// The same program, started by hand once for each core.
///
/// # Errors
/// One that does not answer.
pub(crate) fn servers(artifacts: &Artifacts) -> Outcome<Vec<BareServer>> {
    (0..cores())
        .map(|_| Bare::of(&[&artifacts.work])?.serve())
        .collect()
}

/// Answers a second of all `servers` together, asked directly in a closed loop with `connections` to each: nobody stands before them
/// who could refuse.
///
/// # Errors
/// One that does not answer.
pub(crate) fn capacity(servers: &[BareServer], scenario: &Scenario, connections: usize) -> Outcome<f64> {
    let path = format!("/?{}", scenario.query);
    let one = |server: &BareServer| {
        let mut load = Load::open(&Target::unix(&server.socket, &path), connections)?;
        load.run(Duration::from_millis(300))?;
        let start = Instant::now();
        let seen = load.run(CLOSED_FOR)?;
        Ok(seen.times.len() as f64 / start.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let loops: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(move || one(server)))
            .collect();
        let rates = loops
            .into_iter()
            .map(|one| one.join().expect("a closed loop does not panic"));
        rates.sum()
    })
}
