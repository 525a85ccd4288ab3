//! What operators type, and what it answers and exits with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use funcd_tests::artifacts::{self, example};
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "cli",
        [
            ps_and_ls_say_what_is_there,
            tables_are_for_people,
            logs_show_what_the_function_wrote,
            logs_are_escaped,
            logs_follow,
            logs_follow_a_new_supervisor,
            logs_outlive_the_function,
            run_and_rm_wait_for_what_comes_of_it,
            run_says_why_it_is_refused,
            health_and_metrics_are_served,
            doctor_lists_ten_properties,
            exit_codes_tell_what_went_wrong,
            a_bad_configuration_is_shown_with_its_place,
            config_says_where_each_value_comes_from,
            completions_and_man_pages_are_printed,
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("cli", |host| {
        host.deploy("hello", "hello", "");
        host.deploy("talker", "echo", "");
    })
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn ps_and_ls_say_what_is_there() {
    let host = host();
    host.get_ok("/hello/");
    let pid = host.instance("hello").pid;
    let document = host.json(&["ps"]).unwrap();
    assert_eq!(document["version"], 1);
    let rows = document["instances"].as_array().unwrap();
    let row = rows.iter().find(|row| row["function"] == "hello").unwrap();
    assert_eq!((&row["pid"], &row["state"]), (&pid.into(), &"ready".into()));
    for key in ["revision", "since"] {
        assert!(
            row[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}: {row}"
        );
    }
    let document = host.json(&["ls"]).unwrap();
    assert_eq!(document["version"], 1);
    let rows = document["functions"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "hello").unwrap();
    assert_eq!(
        (&row["status"], &row["function"]["routes"]),
        (&"accepted".into(), &serde_json::json!(["/hello/"]))
    );
}

fn tables_are_for_people() {
    let host = host();
    host.get_ok("/hello/");
    for command in ["ps", "ls", "doctor"] {
        let output = host.funcd(&[command]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains('\x1b'), "no colours into a pipe: {text:?}");
        let word = if command == "doctor" { "P10" } else { "hello" };
        assert!(text.contains(word), "{command}: {text}");
    }
    let output = host.funcd(&["ps", "hello"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

fn logs(host: &Host, arguments: &[&str]) -> String {
    let output = host.funcd(arguments).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn log_line(host: &Host, function: &str, line: &str) {
    let answer = host.ask(&Request::post(&format!("/{function}/log"), line));
    assert_eq!(answer.text(), "Ok(())\n");
}

fn logs_show_what_the_function_wrote() {
    let host = host();
    log_line(&host, "talker", "to standard output\n");
    host.ask(&Request::post("/talker/log?to=stderr", "to standard error\n"));
    eventually("both lines", || {
        let text = logs(&host, &["logs", "talker"]);
        let both = text.contains("to standard output") && text.contains("to standard error");
        if both { Ok(()) } else { Err(text) }
    });
    let records = logs(&host, &["--json", "logs", "talker"]);
    let records: Vec<Value> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |line: &str| records.iter().find(|record| record["line"] == line).unwrap();
    assert_eq!(find("to standard output")["stream"], "stdout");
    assert_eq!(find("to standard error")["stream"], "stderr");
    assert_eq!(find("to standard error")["function"], "talker");
}

fn logs_are_escaped() {
    let host = host();
    host.deploy("rude", "echo", "");
    log_line(
        &host,
        "rude",
        "\x1b[2Jcleared\rover\u{202e}txet \0 {\"time\":\"forged\"}\n",
    );
    log_line(&host, "rude", &("long ".repeat(20_000) + "\n"));
    log_line(&host, "rude", "the end\n");
    let text = eventually("the lines", || {
        let text = logs(&host, &["logs", "rude"]);
        if text.contains("the end") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert!(text.contains("cleared") && text.contains("txet"), "{text:?}");
    for bad in ['\x1b', '\r', '\0', '\u{202e}'] {
        assert!(!text.contains(bad), "{bad:?} got through");
    }
    assert!(
        text.lines().all(|line| line.len() < 32 << 10),
        "a line without end was kept whole"
    );
}

/// Kills and reaps a child at the end of a test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a child prints, as it comes.
fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let (sender, lines) = std::sync::mpsc::channel();
    let output = child.stdout.take().expect("it is piped");
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| drop(sender.send(line)));
    });
    lines
}

fn logs_follow() {
    let host = host();
    host.deploy("followed", "echo", "");
    log_line(&host, "followed", "before\n");
    let mut follower = Ended(
        host.funcd(&["logs", "-f", "followed"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines = lines_of(&mut follower.0);
    let wait_for = |text: &str| {
        eventually(&format!("{text:?} in the log"), || match lines.try_recv() {
            Ok(line) if line.contains(text) => Ok(()),
            Ok(other) => Err(other),
            Err(_) => Err("nothing new".to_owned()),
        });
    };
    wait_for("before");
    log_line(&host, "followed", "while it follows\n");
    wait_for("while it follows");
}

fn logs_follow_a_new_supervisor() {
    let host = Host::start();
    host.deploy("followed", "echo", "");
    log_line(&host, "followed", "before\n");
    let mut follower = Ended(
        host.funcd(&["logs", "-f", "followed"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines = lines_of(&mut follower.0);
    let mut seen = Vec::new();
    let mut wait_for = |text: &str| {
        eventually(&format!("{text:?} in the log"), || match lines.try_recv() {
            Ok(line) => {
                seen.push(line.clone());
                if line.contains(text) { Ok(()) } else { Err(line) }
            }
            Err(_) => Err("nothing new".to_owned()),
        });
    };
    wait_for("before");
    let supervisor = host.supervisor();
    supervisor.signal(Signal::SIGKILL);
    until("the supervisor to be gone", || !supervisor.is_there());
    host.wait_for("/followed/", "200", |answer| answer.status() == 200);
    log_line(&host, "followed", "after\n");
    wait_for("after");
    let shown_twice = seen.iter().filter(|line| line.contains("before")).count();
    assert_eq!(shown_twice, 1, "{seen:?}");
}

fn logs_outlive_the_function() {
    let host = host();
    host.deploy("late", "crash", "");
    host.ask(&Request::post("/late/?code=5", ""));
    eventually("its last words", || {
        let text = logs(&host, &["logs", "late"]);
        if text.contains("exit with 5, as asked") {
            Ok(())
        } else {
            Err(text)
        }
    });
    host.remove("late");
    until("it to be gone", || host.entry("late").is_none());
    assert!(logs(&host, &["logs", "late"]).contains("exit with 5, as asked"));
}

fn run_and_rm_wait_for_what_comes_of_it() {
    let host = host();
    let file = example("hello").to_string_lossy().into_owned();
    let output = host.funcd(&["run", "made", &file]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("curl http://"), "{}", said(&output));
    assert_eq!(host.get("/made/").status(), 200, "it waited until it was live");
    let document = host
        .json(&["run", "made", &example("crash").to_string_lossy()])
        .unwrap();
    assert_eq!(
        (&document["version"], &document["name"]),
        (&1.into(), &"made".into())
    );
    assert_eq!(
        document["revision"].as_str(),
        host.entry("made").unwrap().revision.as_deref()
    );
    let output = host.funcd(&["rm", "made"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(host.get("/made/").status(), 404);
    assert!(host.entry("made").is_none());
    let output = host.funcd(&["rm", "made"]).output().unwrap();
    assert!(
        !output.status.success(),
        "there is nothing to remove: {}",
        said(&output)
    );
}

fn run_says_why_it_is_refused() {
    let host = host();
    let bad = host.path().join("bad");
    fs::write(&bad, "neither ELF nor a script\n").unwrap();
    let output = host
        .funcd(&["run", "bad", &bad.to_string_lossy()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("ELF") || said(&output).contains("execut"),
        "{}",
        said(&output)
    );
}

fn health_and_metrics_are_served() {
    let host = host();
    host.get_ok("/hello/");
    for path in ["/livez", "/readyz", "/healthz", "/readyz?verbose"] {
        assert_eq!(host.admin_get(path).status(), 200, "{path}");
    }
    assert_eq!(
        host.admin_get("/v1/instances").status(),
        404,
        "numbers only on TCP"
    );
    // One that ends unasked, and is started again.
    host.deploy("again", "crash", "");
    host.ask(&Request::post("/again/?code=5", ""));
    let metrics = host.admin_get("/metrics").text();
    let requests = metrics.lines().find(|line| {
        line.starts_with("funcd_invocations_total{")
            && line.contains("function=\"hello\"")
            && line.contains("code=\"2xx\"")
    });
    assert!(requests.is_some(), "{metrics}");
    for name in [
        "funcd_build_info{version=",
        "funcd_brownout_threshold",
        "funcd_concurrency_limit{function=\"hello\"}",
        "funcd_breaker_state{function=\"hello\",state=\"open\"}",
        "funcd_host_overload{cause=",
        "funcd_instance_start_duration_seconds_count{function=\"hello\",phase=\"ready\"}",
        "funcd_instance_starts_total{function=\"hello\",kind=\"new\"}",
        "funcd_instance_exits_total{function=\"again\"",
        "funcd_instance_restarts_total{function=\"again\"}",
        "funcd_restart_backoff_seconds_count{function=\"again\"}",
        "funcd_instances{state=\"ready\"}",
        "funcd_invocation_duration_seconds_count{function=\"hello\"}",
        "funcd_invocations_in_flight{function=\"hello\"}",
        "funcd_landlock_abi",
        "funcd_proxy_overhead_seconds_count{function=\"hello\"}",
        "funcd_queue_depth{function=\"hello\"}",
        "funcd_reloads_total{result=\"accepted\"}",
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_start_time_seconds",
        "funcd_sandbox_property",
        "process_resident_memory_bytes",
    ] {
        // Some are first set a moment after the first answer.
        funcd_tests::eventually(&format!("the metric {name}"), || {
            let metrics = host.admin_get("/metrics").text();
            match metrics.contains(name) {
                true => Ok(()),
                false => Err(metrics),
            }
        });
    }
}

fn doctor_lists_ten_properties() {
    let host = host();
    let text = said(&host.funcd(&["doctor"]).output().unwrap());
    for n in 1..=10 {
        assert!(text.contains(&format!("P{n}")), "{text}");
    }
    // Also where no host runs: it asks the machine itself.
    let mut alone = Command::new(artifacts::funcd());
    let output = alone
        .args(["--json", "doctor", "--admin", "/nonexistent/admin.sock"])
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["properties"].as_array().unwrap().len(), 10);
}

fn exit_codes_tell_what_went_wrong() {
    let host = host();
    let funcd = |arguments: &[&str]| Command::new(artifacts::funcd()).args(arguments).output().unwrap();
    for arguments in [
        &["nonsense"][..],
        &["ps", "--nonsense"],
        &["logs"],
        &["run", "only-a-name"],
        &[],
    ] {
        assert_eq!(funcd(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for command in [&["ps"][..], &["ls"], &["logs", "hello"], &["rm", "hello"]] {
        let output = funcd(&[command, &["--admin", "/nonexistent/admin.sock"]].concat());
        assert_eq!(output.status.code(), Some(69), "{command:?}: {}", said(&output));
        assert!(
            said(&output).contains("/nonexistent/admin.sock"),
            "{}",
            said(&output)
        );
    }
    assert_eq!(
        host.funcd(&["ps", "nobody"]).output().unwrap().status.code(),
        Some(3)
    );
    assert_eq!(
        host.funcd(&["logs", "nobody"]).output().unwrap().status.code(),
        Some(1)
    );
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        assert_eq!(funcd(arguments).status.code(), Some(0), "{arguments:?}");
    }
}

fn a_bad_configuration_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("funcd.toml");
    fs::write(&file, "# a comment\nlissten = [\"127.0.0.1:1\"]\n").unwrap();
    let file = file.to_string_lossy().into_owned();
    for command in [&["config", "check"][..], &["serve"]] {
        let mut funcd = Command::new(artifacts::funcd());
        let output = funcd.args(command).args(["--config", &file]).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
        for part in [file.as_str(), "2:1", "lissten", "listen"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}

fn config_says_where_each_value_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("funcd.toml");
    fs::write(&file, "workers = 3\n").unwrap();
    let mut funcd = Command::new(artifacts::funcd());
    funcd
        .args([
            "config",
            "show",
            "--origin",
            "--listen",
            "127.0.0.1:4321",
            "--config",
        ])
        .arg(&file);
    let output = funcd.env("FUNCD_MAX_INSTANCES", "77").output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let origin_of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in\n{text}")).to_owned()
    };
    assert!(origin_of("workers").contains("funcd.toml"), "{text}");
    assert!(origin_of("listen").contains("--listen"), "{text}");
    assert!(
        origin_of("max_instances").contains("FUNCD_MAX_INSTANCES"),
        "{text}"
    );
    assert!(origin_of("rescan").contains("default"), "{text}");
}

fn completions_and_man_pages_are_printed() {
    let funcd =
        |arguments: &[&str]| said(&Command::new(artifacts::funcd()).args(arguments).output().unwrap());
    for shell in ["bash", "zsh", "fish"] {
        assert!(funcd(&["completions", shell]).contains("doctor"), "{shell}");
    }
    assert!(funcd(&["man"]).contains(".TH funcd 1"));
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(artifacts::funcd())
        .arg("man")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(folder.path().join("funcd-serve.1").exists());
}
