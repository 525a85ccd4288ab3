//! `funcd host`: what the host is short of, and what it holds back because of that.

use std::time::SystemTime;

use super::args::Global;
use super::exit::Failure;
use super::output::{BAD, GOOD, WARN, age, print, print_json, safe, styled, table};
use crate::admin::view::HostView;

pub(super) fn run(global: &Global) -> Result<(), Failure> {
    let host: HostView = super::client(global)?.get("/v1/host")?;
    match global.json {
        true => print_json(&host),
        false => print(&render(&host, SystemTime::now())),
    }
}

fn render(host: &HostView, now: SystemTime) -> String {
    let brownout = &host.brownout;
    let style = match brownout.stage.as_str() {
        "none" => GOOD,
        "best-effort" | "degraded" | "critical" => BAD,
        _ => WARN,
    };
    let mut text = format!(
        "brownout: {} for {}: {}\n",
        styled(style, safe(&brownout.stage)),
        age(&brownout.since, now),
        safe(&brownout.message)
    );
    if let Some(cause) = &brownout.cause {
        text += &format!(
            "  because of {}, by {:.0} %; scores above {} are refused\n",
            safe(cause),
            brownout.overload * 100.0,
            brownout.threshold
        );
    }
    if !brownout.acts {
        text += "  nothing is done about it: `brownout` is off\n";
    }
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    let mebibytes = |bytes: u64| bytes >> 20;
    let rows = [
        (
            "the supervisor waits for a CPU",
            format!("{:.2} ms each time", host.cpu_delay_ms),
        ),
        ("and for memory", percent(host.memory_pressure)),
        (
            "memory that can be had",
            format!(
                "{} of {} MiB",
                mebibytes(host.memory_available),
                mebibytes(host.memory_total)
            ),
        ),
        (
            "open descriptors",
            format!("{} of {}", host.descriptors_open, host.descriptors_limit),
        ),
        ("CPU in use (only shown)", percent(host.cpu_busy)),
        (
            "some thread waits for a CPU (only shown)",
            percent(host.cpu_pressure),
        ),
        (
            "some thread waits for a disk (only shown)",
            percent(host.io_pressure),
        ),
    ];
    let rows = rows.map(|(what, value)| vec![what.to_owned(), value]);
    text + "\n" + &table(&["MEASURE", "NOW"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::host;
    use crate::admission::brownout::{Brownout, Overloads};
    use crate::host::State;

    fn shown(overloads: [f64; 4], acts: bool) -> String {
        let state = State {
            brownout: Brownout::of(&Overloads(overloads)),
            ..State::new(SystemTime::UNIX_EPOCH)
        };
        let text = render(&host::now(&state, acts), SystemTime::UNIX_EPOCH);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn all_is_well() {
        let text = shown([0.0; 4], true);
        assert!(
            text.starts_with("brownout: none for 0s: nothing is held back\n\nMEASURE"),
            "{text}"
        );
    }

    #[test]
    fn the_cause_and_what_is_done() {
        let text = shown([0.0, 0.0, 0.8, 0.0], false);
        for part in [
            "brownout: degraded",
            "because of memory, by 80 %; scores above 49 are refused",
            "`brownout` is off",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
