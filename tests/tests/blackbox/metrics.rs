//! What `/metrics` says of what functions use, compared with what they do.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};

use crate::programs::bash;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "metrics", [
        what_a_cpu_limit_holds_back_is_counted: &[Need::Property("cpu-limit")],
        what_the_kernel_kills_for_memory_is_counted: &[Need::Property("memory-limit")],
        the_cpu_time_of_a_process_for_each_request_is_counted,
        they_say_what_each_function_serves,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("metrics", |_| {})
}

/// The value of a line with these labels, in this order.
fn metric(host: &Host, name: &str, labels: &str) -> Option<f64> {
    let shown = host.admin_get("/metrics").text();
    let line = format!("{name}{{{labels}}} ");
    let value = shown.lines().find_map(|shown| shown.strip_prefix(&line))?;
    Some(value.parse().unwrap())
}

fn what_a_cpu_limit_holds_back_is_counted() {
    const THROTTLED: &str = "funcd_cgroup_cpu_throttled_seconds_total";
    let host = host();
    host.deploy(
        "held-back",
        "hog",
        "limits = { cpu = 0.1 }\nscale = { idle = \"1h\" }\n",
    );
    host.deploy("not-held-back", "hello", "scale = { idle = \"1h\" }\n");
    host.get_ok("/held-back/spin");
    host.get_ok("/not-held-back/");
    let held_back = || metric(&host, THROTTLED, "function=\"held-back\"");
    until("time to be counted", || {
        held_back().is_some_and(|seconds| seconds > 0.1)
    });
    let other = || metric(&host, THROTTLED, "function=\"not-held-back\"");
    until("its neighbour to be looked at", || other().is_some());
    assert_eq!(other(), Some(0.0));
    // Who is held back waits for the CPU: where the kernel says so, it is told.
    let process = host.instance("held-back");
    let pressure = || {
        let labels = "function=\"held-back\",resource=\"cpu\",kind=\"some\"";
        metric(&host, "funcd_cgroup_pressure_seconds_total", labels)
    };
    match pressure_file(process.pid) {
        Some(file) if total(&file) > 0 => until("its pressure to be told", || {
            pressure().is_some_and(|seconds| seconds > 0.0)
        }),
        _ => assert_eq!(pressure(), None),
    }
    host.remove("held-back");
}

/// What the kernel says of the CPU that a process's cgroup waits for, with cgroup v2.
fn pressure_file(pid: i32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let files = roots.iter().map(|root| root.join(path).join("cpu.pressure"));
    let mut files = files.filter(|file| !path.is_empty() && file.exists());
    files.next()
}

fn total(file: &PathBuf) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.split_once("total="));
    total.map_or(0, |(_, total)| total.trim().parse().unwrap())
}

fn what_the_kernel_kills_for_memory_is_counted() {
    const KILLS: &str = "funcd_cgroup_oom_kills_total";
    let host = host();
    host.deploy("eats", "hog", "[limits]\nmemory = \"64M\"\n");
    host.deploy("eats-little", "hello", "");
    host.get_ok("/eats-little/");
    let answer = host.ask(&Request::post("/eats/memory?mb=512", ""));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    host.wait_exit("eats", "oom");
    let kills = |labels: &str| metric(&host, KILLS, labels);
    until("it to be counted", || {
        kills("function=\"eats\"").is_some_and(|kills| kills >= 1.0)
    });
    assert_eq!(kills("function=\"eats-little\"").unwrap_or(0.0), 0.0);
}

fn the_cpu_time_of_a_process_for_each_request_is_counted() {
    let host = host();
    // Some tenths of a second on any machine.
    let script = "for ((i = 0; i < 300000; i++)); do :; done; echo done";
    bash(&host, "works", script, "contract = \"stdio\"\n");
    let seconds = || {
        metric(
            &host,
            "funcd_cgroup_cpu_seconds_total",
            "function=\"works\",mode=\"total\"",
        )
    };
    assert_eq!(seconds().unwrap_or(0.0), 0.0, "the control");
    for n in 1..=3 {
        assert_eq!(host.get("/works/").status(), 200);
        eventually("it to be counted", || match seconds() {
            Some(seconds) if seconds >= 0.05 * f64::from(n) => Ok(()),
            other => Err(format!("{other:?} after {n}")),
        });
    }
}

fn they_say_what_each_function_serves() {
    let host = host();
    let served = || {
        let shown = host.admin_get("/metrics").text();
        let lines = shown
            .lines()
            .filter(|line| line.starts_with("funcd_revision_info{function=\"changes\","));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    assert_eq!(served(), [""; 0]);
    host.deploy("changes", "hello", "[limits]\npids = 61\n");
    let before = served();
    let [first] = before.as_slice() else {
        panic!("{before:?}")
    };
    assert!(first.ends_with("} 1"), "{first}");
    let digest = label(first, "digest");
    let sum = std::process::Command::new("sha256sum")
        .arg(funcd_tests::artifacts::example("hello"))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&sum.stdout).starts_with(&digest),
        "{digest}"
    );
    // The same executable with another manifest is another revision, and the only one that is shown.
    host.deploy("changes", "hello", "[limits]\npids = 60\n");
    eventually("the other one alone", || match served().as_slice() {
        [second] if label(second, "revision") != label(first, "revision") => {
            assert_eq!(label(second, "digest"), digest);
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
}
