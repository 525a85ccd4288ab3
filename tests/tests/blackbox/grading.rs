//! Hosts that can keep less: each mechanism is taken away (`FUNCD_WITHOUT`), and what rested on it is missing. Then nothing
//! starts, and it is said by name why and what to do; accepted by name, it starts, and everybody can see that.

use funcd_tests::eventually;
use funcd_tests::host::{Host, Plan};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use serde_json::Value;

/// What is taken away must be there.
const ALL: &[Need] = &[
    Need::Root,
    Need::Property("files"),
    Need::Property("network"),
    Need::Property("processes"),
    Need::Property("kernel-surface"),
    Need::Property("memory-limit"),
    Need::Property("pid-limit"),
    Need::Property("cpu-limit"),
    Need::Property("total-kill"),
    Need::Property("artifact"),
    Need::Property("privileges"),
];

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "grading", [
        without_a_namespace_what_rests_on_it_is_missing: ALL,
        without_a_security_module_what_rests_on_it_is_missing: ALL,
        without_a_cgroup_what_rests_on_it_is_missing: ALL,
        without_root_s_own_what_rests_on_it_is_missing: ALL,
        what_another_mechanism_keeps_is_not_missing: ALL,
        what_is_taken_away_has_a_name: &[],
        doctor_says_what_each_property_needs: &[],
        what_is_not_enforced_is_not_explained_as_if_it_were: ALL,
    ]);
}

/// What is taken away, what is then missing, and what the refusal says: cause, then fix.
struct Row(&'static str, &'static [&'static str], &'static [&'static str]);

fn without_a_namespace_what_rests_on_it_is_missing() {
    for row in [
        Row(
            "mount-namespace",
            &["files"],
            &["P1 `files`", "mount namespaces can't be made", "CAP_SYS_ADMIN"],
        ),
        Row(
            "network-namespace",
            &["network"],
            &[
                "P2 `network`",
                "network namespaces can't be made",
                "CAP_SYS_ADMIN",
            ],
        ),
        // What /proc tells is out of reach neither by a root of its own nor by Landlock, whatever the pids.
        Row(
            "mount-namespace,landlock",
            &["files", "processes"],
            &["P1 `files`", "mount namespaces can't be made", "no Landlock"],
        ),
        Row(
            "pid-namespace,cgroup-kill",
            &["total-kill"],
            &["P8 `total-kill`", "has cgroup.kill", "Use Linux 5.14"],
        ),
    ] {
        check(&row);
    }
}

fn without_a_security_module_what_rests_on_it_is_missing() {
    for row in [
        Row(
            "landlock",
            &["files"],
            &["P1 `files`", "no Landlock", "Linux 5.13", "lsm="],
        ),
        Row(
            "landlock=4,pid-namespace",
            &["processes"],
            &["P3 `processes`", "Landlock ABI 4 does not scope", "Linux 6.12"],
        ),
        Row(
            "seccomp",
            &["network", "kernel-surface"],
            &["P2 `network`", "filters can't be loaded", "CONFIG_SECCOMP_FILTER"],
        ),
    ] {
        check(&row);
    }
}

fn without_a_cgroup_what_rests_on_it_is_missing() {
    for row in [
        Row(
            "memory",
            &["memory-limit"],
            &["P5 `memory-limit`", "the memory controller", "Delegate=yes"],
        ),
        Row(
            "pids",
            &["pid-limit"],
            &["P6 `pid-limit`", "the pids controller", "Delegate=yes"],
        ),
        Row(
            "cpu",
            &["cpu-limit"],
            &["P7 `cpu-limit`", "the cpu controller", "Delegate=yes"],
        ),
    ] {
        check(&row);
    }
}

fn without_root_s_own_what_rests_on_it_is_missing() {
    for row in [
        Row(
            "own-uid",
            &["files", "processes", "privileges"],
            &["P1 `files`", "no uids to give", "a range of uids"],
        ),
        Row(
            "store",
            &["artifact"],
            &["P9 `artifact`", "does not belong to root", "only root can write"],
        ),
    ] {
        check(&row);
    }
}

fn check(Row(without, missing, said): &Row) {
    // Nothing is accepted: nothing starts, and everybody is told.
    let host = Plan::new().variable("FUNCD_WITHOUT", without).start();
    host.deploy("hello", "hello", "");
    let status = host.get("/hello/").status();
    assert!(status >= 500, "without {without} it answers {status}");
    let reason = eventually("the refusal in `funcd ls`", || {
        let document = host.json(&["ls"])?;
        let reason = document["functions"][0]["function"]["reason"]
            .as_str()
            .unwrap_or_default();
        match reason.contains("can't keep") {
            true => Ok(reason.to_owned()),
            false => Err(document.to_string()),
        }
    });
    for part in said.iter().copied().chain(["degraded = ["]) {
        assert!(
            reason.contains(part),
            "without {without}: {part:?} is not in {reason:?}"
        );
    }
    assert_eq!(missing_in(&doctor(&host)), *missing, "without {without}");
    for name in *missing {
        let line = format!("`{name}` is missing");
        assert!(
            host.log().contains(&line),
            "{line:?} is not in the log: {}",
            host.log()
        );
    }
    assert!(host.ps().iter().all(|row| row.pid.is_none()));
    drop(host);

    // All but the last is accepted: it is still refused, for that one.
    let (last, others) = missing.split_last().expect("something is missing");
    if !others.is_empty() {
        let host = accepting(without, others);
        host.deploy("hello", "hello", "");
        assert!(
            host.get("/hello/").status() >= 500,
            "without {without}, accepting {others:?}"
        );
        eventually("the refusal for the other", || {
            let document = host.json(&["ls"])?.to_string();
            document
                .contains(&format!("`{last}`"))
                .then_some(())
                .ok_or(document)
        });
    }

    // Accepted by name, it starts, and that is seen everywhere.
    let host = accepting(without, missing);
    host.deploy("hello", "hello", "");
    assert_eq!(
        host.get_ok("/hello/").text(),
        "Hello from funcd\n",
        "without {without}"
    );
    for command in ["ps", "ls"] {
        assert_eq!(
            strings(&host.json(&[command]).unwrap()["degraded"]),
            *missing,
            "{command}"
        );
        let output = host.funcd(&[command]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let note = format!("functions run without {}, which was accepted", missing.join(", "));
        assert!(text.contains(&note), "{note:?} is not in {text}");
    }
    let metrics = host.admin_get("/metrics").text();
    for name in *missing {
        let line = format!("funcd_sandbox_property{{property=\"{name}\",state=\"missing\"}} 1");
        assert!(metrics.contains(&line), "{line}");
        let line = format!("`{name}`, which was accepted");
        assert!(
            host.log().contains(&line),
            "{line:?} is not in the log: {}",
            host.log()
        );
    }
    let doctor = doctor(&host);
    assert_eq!(missing_in(&doctor), *missing);
    for property in doctor["properties"].as_array().unwrap() {
        assert_ne!(property["kept"], property["accepted"], "{property}");
    }
}

fn accepting(without: &str, properties: &[&str]) -> Host {
    let list = properties.join(",");
    Plan::new()
        .variable("FUNCD_WITHOUT", without)
        .arguments(&["--degraded", &list])
        .start()
}

fn doctor(host: &Host) -> Value {
    let output = host.funcd(&["--json", "doctor"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn missing_in(doctor: &Value) -> Vec<String> {
    let rows = doctor["properties"].as_array().unwrap();
    let missing = rows.iter().filter(|row| row["kept"] == false);
    missing
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect()
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn what_another_mechanism_keeps_is_not_missing() {
    for (without, property, by) in [
        ("landlock=1", "processes", "pid namespace + own uid"),
        ("landlock=1", "files", "Landlock ABI 1"),
        ("landlock=2", "processes", "pid namespace + own uid"),
        ("landlock=4", "processes", "pid namespace + own uid"),
        ("cgroup-kill", "total-kill", "pid namespace"),
        ("pid-namespace", "total-kill", "cgroup.kill"),
        ("pid-namespace", "processes", "Landlock ABI"),
    ] {
        let host = Plan::new().variable("FUNCD_WITHOUT", without).start();
        host.deploy("hello", "hello", "");
        assert_eq!(
            host.get_ok("/hello/").text(),
            "Hello from funcd\n",
            "without {without}"
        );
        let doctor = doctor(&host);
        assert_eq!(missing_in(&doctor), [""; 0], "without {without}");
        let rows = doctor["properties"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == property).unwrap();
        assert!(
            row["mechanism"].as_str().unwrap().contains(by),
            "without {without}: {row}"
        );
        assert_eq!(host.json(&["ps"]).unwrap()["degraded"], Value::Null);
    }
}

fn what_is_taken_away_has_a_name() {
    let output = Plan::new().variable("FUNCD_WITHOUT", "landlok").start_and_fail();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("\"landlok\" is no mechanism") && said.contains("cgroup-kill"),
        "{said}"
    );
}

fn doctor_says_what_each_property_needs() {
    let ask = |without: &str| -> (Value, String) {
        let run = |json: &[&str]| {
            let mut command = std::process::Command::new(funcd_tests::artifacts::funcd());
            command
                .args(json)
                .args(["doctor", "--admin", "/nonexistent/admin.sock"]);
            let output = command
                .env("FUNCD_WITHOUT", without)
                .env("NO_COLOR", "1")
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        (serde_json::from_str(&run(&["--json"])).unwrap(), run(&[]))
    };
    let (document, text) = ask("landlock,memory");
    let rows = document["properties"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    for (row, needs) in rows.iter().zip([
        "Landlock ABI 1 (Linux 5.13)",
        "network namespace + seccomp (Linux 4.14)",
        "Landlock ABI 6 (Linux 6.12) + own uid (root) + seccomp (Linux 4.14), or pid namespace + own uid (root)",
        "no_new_privs",
        "memory controller (cgroup v1 or v2)",
        "pids controller",
        "cpu controller",
        "cgroup.kill (Linux 5.14, cgroup v2), or pid namespace",
        "root-owned store (root) + executed by descriptor",
        "own uid (root) + empty capabilities",
    ]) {
        assert!(row["needs"].as_str().unwrap().contains(needs), "{needs:?}: {row}");
        assert!(text.contains(needs), "{needs:?} is not in {text}");
        // What is missing says why and what to do; what is kept says by what.
        let kept = row["kept"].as_bool().unwrap();
        assert_eq!(row["mechanism"].is_string(), kept, "{row}");
        assert_eq!(row["cause"].is_string() && row["fix"].is_string(), !kept, "{row}");
    }
    let missing = missing_in(&document);
    assert!(
        missing.contains(&"files".to_owned()) && missing.contains(&"memory-limit".to_owned()),
        "{missing:?}"
    );
}

fn what_is_not_enforced_is_not_explained_as_if_it_were() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("function.toml");
    std::fs::write(&manifest, "[sandbox]\ndegraded = [\"memory-limit\"]\n").unwrap();
    let explained = |without: &str| {
        let mut command = std::process::Command::new(funcd_tests::artifacts::funcd());
        command.env("FUNCD_WITHOUT", without);
        command.args(["--json", "explain-sandbox", "--admin", "/nonexistent/admin.sock"]);
        command.arg(funcd_tests::artifacts::example("hello"));
        let output = command.arg("--manifest").arg(&manifest).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        move |section: &str, name: &str| {
            let items = document["items"].as_array().unwrap();
            let found = items.iter().find(|item| {
                item["section"] == section && item["name"].as_str().is_some_and(|own| own.starts_with(name))
            });
            found.expect("an item")["value"].as_str().unwrap().to_owned()
        }
    };
    // The control: everything is kept.
    let whole = explained("");
    for (section, name) in [
        ("limits", "memory"),
        ("limits", "cpu"),
        ("limits", "pids"),
        ("identity", "uid"),
    ] {
        assert!(!whole(section, name).contains("NOT"), "{}", whole(section, name));
    }
    let less = explained("memory,own-uid");
    let memory = less("limits", "memory");
    assert!(
        memory.ends_with("NOT ENFORCED, `memory-limit` is missing"),
        "{memory}"
    );
    assert_eq!(less("limits", "cpu"), whole("limits", "cpu"));
    assert!(
        less("identity", "uid").contains("NOT ITS OWN"),
        "{}",
        less("identity", "uid")
    );
    // The manifest accepts the one, nobody the other.
    assert_eq!(less("properties", "P5"), "MISSING, and accepted");
    assert_eq!(less("properties", "P10"), "MISSING: starts are refused");
}
