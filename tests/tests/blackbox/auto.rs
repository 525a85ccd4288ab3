//! `contract = "auto"`: every example of every contract, without a manifest.

use std::fs;
use std::path::{Path, PathBuf};

use funcd_tests::artifacts::{self, Hello, example, example_file, fdk, gunicorn, hello, uvicorn};
use funcd_tests::host::Host;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

use crate::clients::found;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "auto", [
        each_example_is_found_out_without_a_manifest: &[
            Need::Program("cc"),
            Need::Program("go"),
            Need::Program("/usr/bin/python3"),
            Need::Program("/usr/bin/node"),
            Need::Program("busybox"),
            Need::Property("network"),
        ],
        what_others_wrote_is_found_out_without_a_manifest: &[
            Need::Gunicorn,
            Need::Uvicorn,
            Need::Fdk,
            Need::Program("/usr/bin/jq"),
        ],
        an_example_of_a_guide_is_found_out_without_its_manifest,
    ]);
}

/// The folders of examples/ that are no functions of a contract.
const NO_TEMPLATES: [&str; 2] = ["attack", "misbehaving"];

/// Puts a file there as it is: no folder, no manifest.
fn drop_plain(host: &Host, name: &str, path: &Path) {
    host.drop_in(name, path);
    host.wait_live(name);
}

/// Checks what `funcd ls` says of it: to programs always, to people unless it is `http`, which most are.
#[track_caller]
fn is_found(host: &Host, name: &str, contract: &str, because: &str) {
    let (found, why) = found(host, name);
    assert!(
        found == contract && why.contains(because),
        "{name}: {found}, as {why}, where {contract}, as {because}, is expected"
    );
    if contract == "http" {
        return;
    }
    let table = crate::programs::said(host, &["ls"]);
    let line = format!("{name}: contract {contract}, as {why}");
    assert!(table.contains(&line), "{line:?} is not in\n{table}");
}

fn each_example_is_found_out_without_a_manifest() {
    let host = Host::start();
    let examples: [(&str, PathBuf, &str, &str); 17] = [
        ("hello", example("hello"), "http", "LISTEN_FDS"),
        ("thumbs", example("thumbs"), "http", "LISTEN_FDS"),
        ("notes", example("notes"), "http", "LISTEN_FDS"),
        ("ticker", example("ticker"), "http", "LISTEN_FDS"),
        ("grpc", example("grpc"), "http", "LISTEN_FDS"),
        ("websocket", example("websocket"), "http", "LISTEN_FDS"),
        ("c-http", hello(Hello::CStatic), "http", "nothing in it"),
        ("go-http", hello(Hello::Go), "http", "LISTEN_FDS"),
        (
            "node-http",
            example_file("node-http/server.js"),
            "http",
            "LISTEN_FDS",
        ),
        ("py-port", example_file("py-port/server.py"), "port", "PORT"),
        ("perl-port", example_file("perl-port/server.pl"), "port", "PORT"),
        ("java-port", example_file("java-port/server"), "port", "PORT"),
        ("sh-port", example_file("sh-port/server.sh"), "port", "PORT"),
        (
            "lambda-http",
            example("lambda-http"),
            "lambda",
            "AWS_LAMBDA_RUNTIME_API",
        ),
        (
            "lambda-tries",
            example("lambda-tries"),
            "lambda",
            "AWS_LAMBDA_RUNTIME_API",
        ),
        (
            "lambda-py",
            example_file("lambda-py/bootstrap"),
            "lambda",
            "AWS_LAMBDA_RUNTIME_API",
        ),
        // The same C source on the system's library, whose names it shows.
        ("c-dynamic", hello(Hello::CDynamic), "http", "nothing in it"),
    ];
    // None was forgotten.
    let folders = fs::read_dir(artifacts::root().join("examples"))
        .unwrap()
        .flatten();
    for folder in folders.filter(|entry| {
        entry.path().join("Cargo.toml").exists() || entry.path().join("function.toml").exists()
    }) {
        let name = folder.file_name().to_string_lossy().into_owned();
        let is_here = examples.iter().any(|(example, ..)| *example == name);
        assert!(
            is_here || NO_TEMPLATES.contains(&name.as_str()),
            "examples/{name} is not among them"
        );
    }
    for (name, path, contract, because) in &examples {
        drop_plain(&host, name, path);
        is_found(&host, name, contract, because);
    }
    // And what was found out works.
    for name in [
        "hello",
        "node-http",
        "py-port",
        "sh-port",
        "lambda-http",
        "lambda-py",
    ] {
        host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
    }
}

fn what_others_wrote_is_found_out_without_a_manifest() {
    let host = Host::start();
    for (name, path, contract, because) in [
        ("gunicorn", gunicorn().join("bin/gunicorn"), "http", "gunicorn"),
        ("uvicorn", uvicorn().join("bin/uvicorn"), "http", "uvicorn"),
        ("fdk", fdk().join("bin/fdk"), "fn", "from fdk"),
        ("cat", "/bin/cat".into(), "stdio", "accepts no connections"),
        ("wc", "/usr/bin/wc".into(), "stdio", "accepts no connections"),
        ("jq", "/usr/bin/jq".into(), "stdio", "accepts no connections"),
    ] {
        drop_plain(&host, name, &path);
        is_found(&host, name, contract, because);
    }
}

fn an_example_of_a_guide_is_found_out_without_its_manifest() {
    let host = Host::start();
    let scripts = [
        ("openfaas.md", "upper", "stdio", "Http_Path"),
        ("cgi.md", "guestbook", "cgi", "REQUEST_METHOD"),
        ("ironfunctions.md", "greet", "stdio", "it is a script"),
        ("ironfunctions.md", "count", "ironhttp", "HTTP/1.1 200 OK"),
        ("lambda.md", "python", "lambda", "AWS_LAMBDA_RUNTIME_API"),
    ];
    for (guide, name, contract, because) in scripts {
        let text = fs::read_to_string(artifacts::root().join("docs/migrate").join(guide)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        let blocks = text.split("```").skip(1).step_by(2);
        let mut blocks = blocks.filter_map(|block| block.split_once('\n'));
        let is_it = |head: &str, body: &str| body.starts_with("#!") && head.contains(name);
        let (_, body) = blocks.find(|(head, body)| is_it(head, body)).unwrap();
        fs::write(&path, body).unwrap();
        let name = format!("{}-{}", guide.trim_end_matches(".md"), contract);
        drop_plain(&host, &name, &path);
        is_found(&host, &name, contract, because);
    }
}
