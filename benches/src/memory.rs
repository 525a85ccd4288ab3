//! `memory`: what launcher and supervisor hold with a thousand registered functions of which none runs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome};
use crate::host::Plan;
use crate::process::{Cost, Memory};
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};

const MEGABYTE: f64 = 1e6;
/// Idle CPU is an average over this.
const IDLE: Duration = Duration::from_secs(20);
/// Up to so many functions, the goals are those of a small host.
const FEW: usize = 100;
/// Between looks at how many are live: each look is work for the host.
const GLANCE: Duration = Duration::from_millis(100);
/// A host that has not registered them by then won't.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures a host with `count` functions, each a plain executable with a name of its own.
///
/// # Errors
/// A host that does not start, or refuses one of them.
pub(crate) fn measure(artifacts: &Artifacts, count: usize) -> Outcome<Table> {
    let plan = Plan::of(&artifacts.funcd)?;
    for number in 0..count {
        plan.executable(&format!("hello-{number}"), &artifacts.hello)?;
    }
    let watch = Watch::start();
    let start = Instant::now();
    let mut host = plan.start(None)?;
    loop {
        // It listens before it has read the folder, and may not answer yet.
        let answer = host.query("ls");
        let live = answer.as_ref().map_or(0, live);
        if live >= count {
            break;
        }
        if start.elapsed() > PATIENCE {
            let why = answer.map_or_else(|failure| failure.to_string(), |_| "`funcd ls` says why".into());
            return Err(Failure(format!(
                "{live} of {count} functions are live after {PATIENCE:?}: {why}"
            )));
        }
        std::thread::sleep(GLANCE);
    }
    let registered = start.elapsed();

    let own = host.own_processes()?;
    let before = Cost::of(&own)?;
    std::thread::sleep(IDLE);
    let idle = Cost::of(&own)?.since(before);
    let [launcher, supervisor] = own.map(Memory::of);
    let (launcher, supervisor) = (launcher?, supervisor?);
    let running = host.instances().len();
    let standbys = host.standbys();
    let of_standbys: Vec<_> = standbys
        .iter()
        .map(|pid| Memory::of(*pid))
        .collect::<Result<_, _>>()?;
    let standby_rss: u64 = of_standbys.iter().map(|memory| memory.rss).sum();
    // What they share with the launcher is counted there. A kernel that does not tell leaves the larger number.
    let standby_pss: u64 = of_standbys
        .iter()
        .map(|memory| memory.pss.unwrap_or(memory.rss))
        .sum();
    // One of them, to show that they are real.
    host.wait_until_answered(&format!("hello-{}", count.saturating_sub(1)))?;
    let others = watch.finish();

    let megabytes = |what: &str, bytes: u64| Row::of(what, Unit::Megabytes, bytes as f64 / MEGABYTE);
    let of_both = megabytes("launcher + supervisor, RSS", launcher.rss + supervisor.rss);
    let mut rows = vec![
        megabytes(
            "launcher + supervisor, RSS; standbys, PSS",
            launcher.rss + supervisor.rss + standby_pss,
        )
        .at_most(40.0),
        if count <= FEW {
            of_both.at_most(15.0)
        } else {
            of_both
        },
        megabytes("launcher, RSS", launcher.rss),
        megabytes("supervisor, RSS", supervisor.rss),
        megabytes(&format!("{} standbys, RSS", standbys.len()), standby_rss),
    ];
    if let (Some(launcher), Some(supervisor)) = (launcher.pss, supervisor.pss) {
        let all = launcher + supervisor + standby_pss;
        rows.push(megabytes("launcher + supervisor + standbys, PSS", all));
    }
    let idle_percent = idle.cpu_nanos as f64 / IDLE.as_nanos() as f64 * 100.0;
    rows.extend([
        Row::of("instances running", Unit::Count, running as f64).at_most(0.0),
        Row::of("start to all live", Unit::Seconds, registered.as_secs_f64()),
    ]);
    let idle = Row::of("CPU while idle", Unit::CorePercent, idle_percent);
    rows.push(if count <= FEW { idle.at_most(0.1) } else { idle });
    Ok(Table {
        name: "memory",
        title: format!("{count} registered functions, none running"),
        rows,
        notes: vec![
            "RSS counts what launcher and supervisor share twice; what standbys share with the launcher is counted there"
                .into(),
        ],
        others,
    })
}

/// How many entries of `funcd ls --json` are functions that requests go to.
fn live(ls: &Value) -> usize {
    let entries = ls["functions"].as_array().into_iter().flatten();
    entries.filter(|entry| entry["function"].is_object()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_live_when_there_is_a_function_behind_it() {
        let ls = serde_json::json!({ "version": 1, "functions": [
            { "name": "a", "status": "accepted", "function": { "state": "idle" } },
            { "name": "b", "status": "settling" },
            { "name": "c", "status": "refused", "reason": "it is a FIFO" },
        ]});
        assert_eq!(live(&ls), 1);
        assert_eq!(live(&Value::Null), 0);
    }
}
