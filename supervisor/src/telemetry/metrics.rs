//! Metrics: the recorder, its upkeep, and what is known about this process and this host. Listens nowhere; the admin
//! API shows them.

use std::fs;
use std::time::{Duration, SystemTime};

use funcd_sandbox::probe::Grade;
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

use super::names::{self, Kind};

/// The bounds of histograms of durations, in seconds: from what a warm request costs to what a request may take.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];
/// Histograms keep raw samples until someone folds them; this often bounds their memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the process's recorder, once, before any metric is touched. A second call gives an unused one, so that
/// tests may call it.
pub fn install() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .expect("the list of buckets is not empty")
        .build_recorder();
    let handle = recorder.handle();
    // An error means that there is one already.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    handle
}

fn describe() {
    for (name, kind, help) in names::ALL {
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge | Kind::FractionalCounter => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, help),
        }
    }
}

/// All metrics as Prometheus reads them.
pub fn render(handle: &PrometheusHandle) -> String {
    let mut text = handle.render();
    for (name, kind, _) in names::ALL {
        if kind == Kind::FractionalCounter {
            text = text.replace(
                &format!("# TYPE {name} gauge\n"),
                &format!("# TYPE {name} counter\n"),
            );
        }
    }
    text
}

/// What each function serves, as Prometheus reads it: function, revision, digest. Not in the recorder, which would show each revision
/// that ever was.
pub fn revision_info<'a>(served: impl Iterator<Item = (&'a str, String, String)>) -> String {
    let name = names::REVISION_INFO;
    let mut text = String::new();
    for (function, revision, digest) in served {
        if text.is_empty() {
            let help = names::ALL.iter().find(|(known, _, _)| *known == name);
            let help = help.map_or("", |(_, _, help)| help);
            text = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        }
        // Names and digests need no escapes.
        text += &format!("{name}{{function=\"{function}\",revision=\"{revision}\",digest=\"{digest}\"}} 1\n");
    }
    text
}

/// Sets what does not change while this process runs. `landlock_abi` is `None` without Landlock.
pub fn record_host(grades: &[Grade], landlock_abi: Option<u32>) {
    gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(names::LANDLOCK_ABI).set(landlock_abi.map_or(0.0, f64::from));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    gauge!(names::PROCESS_START_TIME_SECONDS).set(now.unwrap_or_default().as_secs_f64());
    for grade in grades {
        let kept = grade.mechanism.is_some();
        for (state, is) in [("kept", kept), ("missing", !kept)] {
            gauge!(names::SANDBOX_PROPERTY, "property" => grade.property.as_str(), "state" => state)
                .set(f64::from(u8::from(is)));
        }
    }
}

/// Updates what is known about this process; called before each scrape. What the sandbox hides stays unset.
pub fn record_process() {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        gauge!(names::PROCESS_CPU_SECONDS_TOTAL).set(micros as f64 / 1e6);
    }
    if let Some(bytes) = resident_bytes() {
        gauge!(names::PROCESS_RESIDENT_MEMORY_BYTES).set(bytes as f64);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The one that lists is among them.
        gauge!(names::PROCESS_OPEN_FDS).set(entries.count().saturating_sub(1) as f64);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        gauge!(names::PROCESS_MAX_FDS).set(soft as f64);
    }
}

/// The second field of /proc/self/statm counts resident pages; see proc_pid_statm(5).
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Folds histogram samples every five seconds, for ever. Runs on the house thread.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcd_sandbox::property::Property;

    #[test]
    fn host_and_process_are_shown() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let missing = Grade {
                property: Property::CpuLimit,
                mechanism: None,
                cause: "no cpu controller".to_owned(),
                fix: "mount it".to_owned(),
                needs: String::new(),
            };
            let kept = Grade {
                property: Property::Files,
                mechanism: Some("mount namespace".to_owned()),
                cause: String::new(),
                fix: String::new(),
                needs: String::new(),
            };
            record_host(&[missing, kept], Some(7));
            record_process();
        });
        let text = render(&handle);
        for line in [
            r#"funcd_sandbox_property{property="cpu-limit",state="missing"} 1"#,
            r#"funcd_sandbox_property{property="cpu-limit",state="kept"} 0"#,
            r#"funcd_sandbox_property{property="files",state="kept"} 1"#,
            "funcd_landlock_abi 7",
            concat!(
                r#"funcd_build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
            "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
