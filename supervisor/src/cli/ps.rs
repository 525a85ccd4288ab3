//! `funcd ps`: the running instances, and the functions that have none.

use std::time::SystemTime;

use super::args::{Global, Ps};
use super::exit::{Code, Failure};
use super::output::{BAD, GOOD, WARN, age, degraded_note, print, print_json, safe, short, styled, table};
use crate::admin::view::{AdmissionView, BrownoutView, InstanceView, Instances, LimitsView, State};
use crate::typed::units::Size;

pub(super) fn run(global: &Global, ps: &Ps) -> Result<(), Failure> {
    let mut instances: Instances = super::client(global)?.get("/v1/instances")?;
    if let Some(name) = &ps.name {
        instances.instances.retain(|row| row.function == name.as_str());
    }
    match global.json {
        true => print_json(&instances)?,
        false => print(&render(&instances, ps.wide, SystemTime::now()))?,
    }
    let runs = instances.instances.iter().any(|row| row.pid.is_some());
    match &ps.name {
        Some(name) if !runs => Err(Failure::new(
            Code::NotRunning,
            format!("no instance of {name} runs; a request starts one if `funcd ls` shows it as accepted"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// What `--wide` adds: of the function, then of the instance.
const WIDE: [&str; 7] = ["WAITING", "LIMIT", "P50", "REFUSED", "MEMORY", "CPU", "PIDS"];

fn render(instances: &Instances, wide: bool, now: SystemTime) -> String {
    let mut heading = vec![
        "FUNCTION",
        "REVISION",
        "INSTANCE",
        "PID",
        "STATE",
        "SINCE",
        "IN-FLIGHT",
        "LAST EXIT",
    ];
    if wide {
        heading.splice(7..7, WIDE);
    }
    table(
        &heading,
        instances.instances.iter().map(|view| row(view, wide, now)),
    ) + &degraded_note(&instances.degraded)
        + &brownout_note(instances.brownout.as_ref())
}

fn brownout_note(brownout: Option<&BrownoutView>) -> String {
    brownout.map_or_else(String::new, |brownout| {
        format!(
            "\n{} the host is short of {}: {}; `funcd host` shows it\n",
            styled(WARN, "note:"),
            safe(brownout.cause.as_deref().unwrap_or("something")),
            match brownout.acts {
                true => safe(&brownout.message),
                false => "nothing is done, because `brownout` is off".to_owned(),
            }
        )
    })
}

fn row(view: &InstanceView, wide: bool, now: SystemTime) -> Vec<String> {
    let style = match view.state {
        State::Ready | State::Frozen => GOOD,
        State::Starting | State::Draining | State::Backoff => WARN,
        State::Failed => BAD,
        State::Idle => anstyle::Style::new(),
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let last_exit = view.last_exit.as_ref();
    let mut row = vec![
        safe(&view.function),
        short(&view.revision),
        or_dash(view.instance.map(|id| id.to_string())),
        or_dash(view.pid.map(|pid| pid.to_string())),
        styled(style, view.state.as_str()),
        age(&view.since, now),
        view.in_flight.to_string(),
        or_dash(last_exit.map(|exit| format!("{} {} ago", safe(&exit.message), age(&exit.at, now)))),
    ];
    if wide {
        let limit = |text: fn(&LimitsView) -> String| or_dash(view.limits.as_ref().map(text));
        let of_function = |text: fn(&AdmissionView) -> String| or_dash(view.admission.as_ref().map(text));
        let p50 = view.admission.and_then(|admission| admission.p50_micros);
        let wide = [
            of_function(|admission| admission.waiting.to_string()),
            of_function(|admission| admission.limit.to_string()),
            or_dash(p50.map(|micros| format!("{:.1}ms", micros as f64 / 1000.0))),
            of_function(|admission| format!("{}%", admission.refused_thousandths.div_ceil(10))),
            limit(|limits| Size(limits.memory_bytes).to_string()),
            limit(|limits| (f64::from(limits.cpu_millis) / 1000.0).to_string()),
            limit(|limits| limits.pids.to_string()),
        ];
        row.splice(7..7, wide);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::host;
    use crate::admin::view::ExitView;
    use crate::admission::brownout::{Brownout, Overloads};
    use funcd_sandbox::exit::Exit;
    use std::time::Duration;

    #[test]
    fn instances_and_functions_without_one() {
        let since = "2026-01-01T00:00:00.000Z";
        let running = InstanceView {
            function: "hello".to_owned(),
            revision: "ab".repeat(32),
            instance: Some(7),
            pid: Some(4242),
            state: State::Ready,
            since: since.to_owned(),
            last_exit: Some(ExitView::new(&Exit::Oom, since.to_owned())),
            in_flight: 2,
            admission: Some(AdmissionView {
                limit: 64,
                in_flight: 2,
                waiting: 3,
                p50_micros: Some(4250),
                saturated: true,
                refused_thousandths: 0,
            }),
            limits: Some(LimitsView {
                memory_bytes: 256 << 20,
                cpu_millis: 1500,
                pids: 64,
            }),
        };
        let idle = InstanceView {
            function: "notes".to_owned(),
            instance: None,
            pid: None,
            state: State::Idle,
            last_exit: None,
            in_flight: 0,
            limits: None,
            admission: None,
            ..running.clone()
        };
        let short = crate::host::State {
            brownout: Brownout::of(&Overloads([0.0, 0.0, 0.0, 0.4])),
            ..crate::host::State::new(SystemTime::UNIX_EPOCH)
        };
        let instances = Instances {
            instances: vec![running, idle],
            degraded: vec![funcd_sandbox::property::Property::Network],
            brownout: Some(host::brownout(&short, true)),
        };
        let now = SystemTime::from(since.parse::<jiff::Timestamp>().unwrap()) + Duration::from_secs(75);
        let expected = "\
FUNCTION  REVISION      INSTANCE  PID   STATE  SINCE  IN-FLIGHT  LAST EXIT
hello     abababababab  7         4242  ready  75s    2          out of memory: reached its memory limit 75s ago
notes     abababababab  -         -     idle   75s    0          -

note: functions run without network, which was accepted; `funcd doctor` says why

note: the host is short of descriptors: functions are told by x-funcd-brownout; `funcd host` shows it
";
        assert_eq!(
            anstream::adapter::strip_str(&render(&instances, false, now)).to_string(),
            expected
        );
        let wide = anstream::adapter::strip_str(&render(&instances, true, now)).to_string();
        let expected = "\
FUNCTION  REVISION      INSTANCE  PID   STATE  SINCE  IN-FLIGHT  WAITING  LIMIT  P50    REFUSED  MEMORY  CPU  PIDS  LAST EXIT
hello     abababababab  7         4242  ready  75s    2          3        64     4.2ms  0%       256M    1.5  64    out of memory: reached its memory limit 75s ago
notes     abababababab  -         -     idle   75s    0          -        -      -      -        -       -    -     -
";
        assert!(wide.starts_with(expected), "{wide}");
    }
}
