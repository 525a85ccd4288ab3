//! What is dropped into the folder becomes a function, or is refused with the reason; what runs goes on running.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use funcd_tests::artifacts::example;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::load::Load;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "deploy",
        [
            a_dropped_executable_answers,
            a_folder_with_a_manifest_answers,
            an_executable_moved_into_place_answers,
            replacing_it_under_load_fails_no_request,
            changing_the_manifest_makes_a_new_revision,
            removing_it_lets_requests_finish,
            what_is_no_function_is_refused_with_the_reason,
            a_bad_replacement_leaves_the_running_revision,
            a_half_copied_file_never_goes_live,
            a_manifest_error_names_the_place_and_the_nearest_key,
            many_functions_at_once,
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("deploy", |_| {})
}

fn a_dropped_executable_answers() {
    let host = host();
    assert_eq!(host.get("/dropped/").status(), 404);
    host.drop_in("dropped", &example("hello"));
    let answer = host.wait_for("/dropped/world", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), "Hello, world\n");
    let entry = host.entry("dropped").unwrap();
    assert_eq!(
        (entry.status.as_str(), entry.state.as_deref()),
        ("accepted", Some("ready"))
    );
}

fn a_folder_with_a_manifest_answers() {
    let host = host();
    host.drop_folder(
        "folder",
        &example("echo"),
        "args = [\"one\", \"two\"]\nenv = { COLOUR = \"green\" }\n",
    );
    let facts = host
        .wait_for("/folder/facts", "200", |answer| answer.status() == 200)
        .json();
    assert_eq!(facts["args"].as_array().unwrap()[1..], ["one", "two"]);
    assert!(
        facts["env"].as_array().unwrap().contains(&"COLOUR=green".into()),
        "{facts}"
    );
}

fn an_executable_moved_into_place_answers() {
    let host = host();
    let staged = host.path().join("staged-moved");
    fs::copy(example("hello"), &staged).unwrap();
    fs::rename(&staged, host.function_path("moved")).unwrap();
    host.wait_for("/moved/", "200", |answer| answer.status() == 200);
}

fn replacing_it_under_load_fails_no_request() {
    let host = Host::start();
    host.deploy("f", "hello", "");
    host.get_ok("/f/");
    let first = host.entry("f").unwrap().revision;
    let load = Load::start(host.address(), "/f/", 3);
    load.wait_for_more(50);
    // By cp over it, by mv over it, and back: each is a new revision, whatever was there before.
    host.drop_in("f", &example("crash"));
    let next_revision = |before: Option<String>| {
        eventually("a new revision", || match host.entry("f") {
            Some(entry) if entry.revision != before => Ok(entry.revision),
            other => Err(format!("{other:?}")),
        })
    };
    let second = next_revision(first.clone());
    load.wait_for_more(50);
    let staged = host.path().join("staged");
    fs::copy(example("hello"), &staged).unwrap();
    fs::rename(&staged, host.function_path("f")).unwrap();
    let third = next_revision(second);
    assert_eq!(third, first, "the same bytes are the same revision");
    host.wait_for("/f/", "as the third revision does", |answer| {
        answer.text() == "Hello from funcd\n"
    });
    load.wait_for_more(50);
    let tally = load.stop();
    assert_eq!(
        tally.failures,
        [""; 0],
        "of {} requests\n{}",
        tally.answered,
        host.log_tail()
    );
    let bodies: Vec<&str> = tally.bodies.iter().map(String::as_str).collect();
    assert!(
        bodies.contains(&"Hello from funcd\n") && bodies.len() == 2,
        "both revisions served: {bodies:?}"
    );
    eventually("one instance to be left", || {
        match host.instances("f").as_slice() {
            [_] => Ok(()),
            others => Err(format!("{others:?}")),
        }
    });
}

fn changing_the_manifest_makes_a_new_revision() {
    let host = host();
    host.deploy("tuned", "echo", "env = { LEVEL = \"1\" }\n");
    let level = |level: &str| {
        let wanted = format!("LEVEL={level}");
        host.wait_for("/tuned/facts", &wanted, |answer| answer.text().contains(&wanted));
    };
    level("1");
    let manifest = host.function_path("tuned/function.toml");
    fs::write(manifest, "exec = \"echo\"\nenv = { LEVEL = \"2\" }\n").unwrap();
    level("2");
}

fn removing_it_lets_requests_finish() {
    let host = host();
    host.deploy("leaving", "slow", "");
    let mut caller = host.connect();
    caller
        .send_head(&Request::get("/leaving/stream?ms=100&n=20"))
        .unwrap();
    assert_eq!(caller.head().unwrap().status, 200);
    assert_eq!(caller.chunk().unwrap(), b"piece 0\n");
    let process = host.instance("leaving");
    host.remove("leaving");
    host.wait_for("/leaving/", "404", |answer| answer.status() == 404);
    let mut pieces = 1;
    while !caller.chunk().unwrap().is_empty() {
        pieces += 1;
    }
    assert_eq!(pieces, 20, "the request in flight was cut off");
    until("the instance to be stopped", || !process.is_there());
    until("the function to be gone from ls", || {
        host.entry("leaving").is_none()
    });
}

/// The entry of a name once the catalog has judged it to be refused.
#[track_caller]
fn refused(host: &Host, name: &str) -> String {
    eventually(&format!("{name:?} to be refused"), || match host.entry(name) {
        Some(entry) if entry.status == "refused" => Ok(entry.reason),
        other => Err(format!("{other:?}")),
    })
}

fn what_is_no_function_is_refused_with_the_reason() {
    let host = host();
    let hello = example("hello");
    let with_mode = |name: &str, mode: u32| {
        fs::copy(&hello, host.function_path(name)).unwrap();
        fs::set_permissions(host.function_path(name), Permissions::from_mode(mode)).unwrap();
    };
    with_mode("not-executable", 0o644);
    with_mode("setuid", 0o4755);
    with_mode("setgid", 0o2755);
    with_mode("group-writable", 0o775);
    with_mode("world-writable", 0o757);
    with_mode("Bad_Name", 0o755);
    with_mode(&"long".repeat(16), 0o755);
    symlink(&hello, host.function_path("symlink")).unwrap();
    nix::unistd::mkfifo(
        &host.function_path("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o755),
    )
    .unwrap();
    fs::create_dir(host.function_path("empty-folder")).unwrap();
    host.drop_folder("folder-symlink", &hello, "");
    fs::remove_file(host.function_path("folder-symlink/hello")).unwrap();
    symlink(&hello, host.function_path("folder-symlink/hello")).unwrap();
    host.drop_folder("no-exec", &hello, "exec = \"missing\"\n");
    host.drop_folder("climbing", &hello, "exec = \"../dropped\"\n");
    host.drop_folder("preload", &hello, "env = { LD_PRELOAD = \"/tmp/evil.so\" }\n");
    host.drop_folder("not-toml", &hello, "this is not = = toml\n");

    for (name, word) in [
        ("not-executable", "execut"),
        ("setuid", "setuid"),
        ("setgid", "setgid"),
        ("group-writable", "go-w"),
        ("world-writable", "go-w"),
        ("Bad_Name", "a-z"),
        (&"long".repeat(16), "63"),
        ("symlink", "symbolic"),
        ("fifo", "FIFO"),
        ("empty-folder", "empty-folder"),
        ("folder-symlink", "symbolic"),
        ("no-exec", "missing"),
        ("climbing", "exec"),
        ("preload", "LD_PRELOAD"),
        ("not-toml", "function.toml"),
    ] {
        let reason = refused(&host, name);
        assert!(
            reason.to_lowercase().contains(&word.to_lowercase()),
            "{name}: the reason should say {word:?}: {reason}"
        );
        assert_eq!(host.get(&format!("/{name}/")).status(), 404, "{name}");
    }
    let metrics = host.admin_get("/metrics").text();
    assert!(
        metrics.contains("refused"),
        "no metric counts refusals:\n{metrics}"
    );
    assert!(
        host.log().contains("not-executable"),
        "the log names what was refused"
    );
}

fn a_bad_replacement_leaves_the_running_revision() {
    let host = host();
    host.deploy("steady", "hello", "");
    host.get_ok("/steady/");
    let process = host.instance("steady");
    fs::set_permissions(host.function_path("steady"), Permissions::from_mode(0o644)).unwrap();
    refused(&host, "steady");
    assert_eq!(host.get_ok("/steady/").text(), "Hello from funcd\n");

    // An executable that the kernel can't run: it is stored, never gets ready, and never gets traffic.
    fs::remove_file(host.function_path("steady")).unwrap_or_default();
    fs::write(host.path().join("broken"), b"\x7fELF but not really").unwrap();
    fs::set_permissions(host.path().join("broken"), Permissions::from_mode(0o755)).unwrap();
    fs::rename(host.path().join("broken"), host.function_path("steady")).unwrap();
    refused(&host, "steady");
    assert_eq!(host.get_ok("/steady/").text(), "Hello from funcd\n");
    assert_eq!(host.instance("steady"), process, "it is still the same process");
}

fn a_half_copied_file_never_goes_live() {
    let host = host();
    let bytes = fs::read(example("hello")).unwrap();
    let mut copy = File::create(host.function_path("half")).unwrap();
    copy.set_permissions(Permissions::from_mode(0o755)).unwrap();
    copy.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let entry = eventually("the half file to be seen", || {
        host.entry("half").ok_or("not yet".to_owned())
    });
    assert_ne!(entry.status, "accepted", "{entry:?}");
    assert_eq!(host.get("/half/").status(), 404);
    // Another function that is dropped meanwhile has been through every step: time enough for the half one too.
    host.deploy("meanwhile", "hello", "");
    let entry = host.entry("half").unwrap();
    assert!(
        entry.status != "accepted" && entry.revision.is_none(),
        "{entry:?}"
    );
    assert_eq!(host.get("/half/").status(), 404);
    copy.write_all(&bytes[bytes.len() / 2..]).unwrap();
    drop(copy);
    host.wait_for("/half/", "200", |answer| answer.status() == 200);
}

fn a_manifest_error_names_the_place_and_the_nearest_key() {
    let host = host();
    host.drop_folder(
        "typo",
        &example("hello"),
        "exec = \"hello\"\n\n[limits]\nmemroy = \"64M\"\n",
    );
    let reason = refused(&host, "typo");
    for part in ["function.toml", "4:1", "memroy", "memory"] {
        assert!(reason.contains(part), "the reason should say {part:?}: {reason}");
    }
    host.drop_folder(
        "wrong",
        &example("hello"),
        "exec = \"hello\"\n[limits]\nmemory = \"a lot\"\n",
    );
    let reason = refused(&host, "wrong");
    for part in ["function.toml", "3:10", "a lot"] {
        assert!(reason.contains(part), "the reason should say {part:?}: {reason}");
    }
    fs::write(
        host.function_path("typo/function.toml"),
        "exec = \"hello\"\n[limits]\nmemory = \"64M\"\n",
    )
    .unwrap();
    host.wait_for("/typo/", "200 once it is repaired", |answer| {
        answer.status() == 200
    });
}

fn many_functions_at_once() {
    let host = Host::start();
    let names: Vec<String> = (0..40).map(|n| format!("many-{n}")).collect();
    for name in &names {
        host.drop_in(name, &example("hello"));
    }
    for name in &names {
        host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
    }
}
