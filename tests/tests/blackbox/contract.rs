//! How requests get into the process: `http` (descriptor 3) and `port`, with servers that nobody here wrote.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use funcd_tests::artifacts::{example_file, gunicorn, static_web_server};
use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    const PYTHON: &[Need] = &[Need::Program("/usr/bin/python3")];
    funcd_tests::tests!(suite, "contract", [
        http_is_systemd_socket_activation,
        port_tells_which_port_to_listen_on: PYTHON,
        port_functions_have_a_network_each: PYTHON,
        port_functions_start_stop_and_come_back: PYTHON,
        gunicorn_serves_through_listen_fds: &[Need::Gunicorn],
        static_web_server_serves_through_port: &[Need::StaticWebServer],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("contract", |_| {})
}

/// The variables that a function sees.
fn environment(host: &Host, function: &str) -> Vec<String> {
    let facts = host.get_ok(&format!("/{function}/facts")).json();
    let variables = facts["env"].as_array().expect("echo lists them");
    variables
        .iter()
        .filter_map(|variable| variable.as_str().map(str::to_owned))
        .collect()
}

fn http_is_systemd_socket_activation() {
    let host = host();
    host.deploy("activated", "echo", "");
    let facts = host.get_ok("/activated/facts").json();
    let variables = environment(&host, "activated");
    assert!(variables.contains(&"LISTEN_FDS=1".to_owned()), "{variables:?}");
    assert!(
        variables.contains(&format!("LISTEN_PID={}", facts["pid"])),
        "{variables:?}"
    );
    assert!(
        variables
            .iter()
            .any(|variable| variable.starts_with("LISTEN_FDNAMES=")),
        "{variables:?}"
    );
    assert_eq!(facts["fds"]["3"], "socket");
    assert!(
        !variables.iter().any(|variable| variable.starts_with("PORT=")),
        "{variables:?}"
    );
}

fn port_tells_which_port_to_listen_on() {
    let host = host();
    host.drop_folder(
        "ported",
        &funcd_tests::artifacts::example("echo"),
        "contract = \"port\"\n",
    );
    host.wait_for("/ported/", "200", |answer| answer.status() == 200);
    let variables = environment(&host, "ported");
    assert!(variables.contains(&"PORT=8080".to_owned()), "{variables:?}");
    assert!(
        !variables.iter().any(|variable| variable.starts_with("LISTEN_")),
        "{variables:?}"
    );
    assert!(
        variables.contains(&"K_SERVICE=ported".to_owned()),
        "{variables:?}"
    );
    let seen = host.get_ok("/ported/x").json();
    assert_eq!(seen["target"], "/x");
}

fn port_functions_have_a_network_each() {
    let host = host();
    // Both listen on the same port, and neither reaches the other there.
    let manifest = "contract = \"port\"\nport = 9000\n";
    host.deploy("alone", "echo", manifest);
    host.deploy("apart", "echo", manifest);
    let (alone, apart) = (
        host.get_ok("/alone/facts").json(),
        host.get_ok("/apart/facts").json(),
    );
    assert_eq!(
        host.instances("alone").len() + host.instances("apart").len(),
        2,
        "{alone} {apart}"
    );
    let own = host.get_ok("/alone/try?do=tcp&at=127.0.0.1:9000").text();
    assert_eq!(own, "ok", "the control: its own port is open to itself");
    let own_instance = host.instance("alone");
    host.remove("apart");
    host.wait_idle("apart");
    assert_eq!(host.get_ok("/alone/try?do=tcp&at=127.0.0.1:9000").text(), "ok");
    assert_eq!(host.instance("alone"), own_instance);
}

fn port_functions_start_stop_and_come_back() {
    let host = host();
    let manifest = fs::read_to_string(example_file("py-port/function.toml")).unwrap();
    host.drop_folder(
        "py",
        &example_file("py-port/server.py"),
        &format!("{manifest}\n[scale]\nidle = \"1s\"\n"),
    );
    let answer = host
        .wait_for("/py/there", "200", |answer| answer.status() == 200)
        .json();
    assert_eq!(
        (answer["hello"].as_str(), answer["prefix"].as_str()),
        (Some("/there"), Some("/py"))
    );
    host.wait_idle("py");
    host.wait_for("/py/again", "200", |answer| answer.status() == 200);
}

/// Copies a folder with its files and folders.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn gunicorn_serves_through_listen_fds() {
    let host = host();
    let installed = gunicorn();
    let volume = host.volume("gunicorn");
    copy_folder(&installed, &volume);
    fs::write(
        volume.join("two_lines.py"),
        "def app(environ, start_response):\n    start_response('200 OK', []); return [b'from gunicorn\\n']\n",
    )
    .unwrap();
    let folder = volume.display();
    let manifest = format!(
        "args = [\"--workers\", \"2\", \"two_lines:app\"]\nenv = {{ PYTHONPATH = \"{folder}\", PYTHONDONTWRITEBYTECODE = \
         \"1\" }}\n[sandbox]\nread = [\"{folder}\"]\n[health]\nready_within = \"60s\"\n[request]\ntimeout = \"60s\"\n"
    );
    // The very script that pip installed.
    host.drop_folder("gunicorn", &installed.join("bin/gunicorn"), &manifest);
    let answer = host.wait_for("/gunicorn/", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), "from gunicorn\n");
    assert!(
        answer
            .header("server")
            .is_some_and(|server| server.contains("gunicorn")),
        "{answer:?}"
    );
    for _ in 0..20 {
        assert_eq!(host.get("/gunicorn/").status(), 200);
    }
    eventually("gunicorn's own log to arrive", || {
        let output = host
            .funcd(&["logs", "gunicorn"])
            .output()
            .map_err(|error| error.to_string())?;
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        if log.contains("Listening at: unix:") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

fn static_web_server_serves_through_port() {
    let host = host();
    let volume = host.volume("site");
    fs::write(volume.join("index.html"), "<h1>a static page</h1>\n").unwrap();
    fs::write(volume.join("big.bin"), vec![7; 3 << 20]).unwrap();
    let manifest = format!(
        "contract = \"port\"\nargs = [\"--port\", \"8080\", \"--root\", \"{0}\"]\n[sandbox]\nread = [\"{0}\"]\n",
        volume.display()
    );
    host.drop_folder("site", &static_web_server(), &manifest);
    let answer = host.wait_for("/site/index.html", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), "<h1>a static page</h1>\n");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let part = host.ask(&Request::get("/site/big.bin").header("Range", "bytes=10-19"));
    assert_eq!((part.status(), part.body.len()), (206, 10));
    assert_eq!(host.get_ok("/site/big.bin").body.len(), 3 << 20);
    assert_eq!(host.get("/site/missing").status(), 404);
}
