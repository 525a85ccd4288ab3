//! Functions of Fn's FDKs and of IronFunctions' `http` format, and those that misbehave.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use funcd_tests::artifacts::fdk;
use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

use crate::programs::{post, problem, said};

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "migrate", [
        an_fdk_of_fn_serves_calls: &[Need::Fdk, Need::MountNamespaces],
        an_fdk_that_misbehaves_is_ended: &[Need::Program("/usr/bin/python3"), Need::MountNamespaces],
        an_ironhttp_program_answers_one_request_after_the_other: &[Need::Program("/usr/bin/perl")],
        an_ironhttp_program_that_misbehaves_is_replaced: &[Need::Program("/usr/bin/perl")],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("migrate", |_| {})
}

/// Deploys a script under a name of its own.
fn script(host: &Host, name: &str, text: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    host.drop_folder(name, &path, manifest);
    host.wait_live(name);
}

/// A folder that a function may read, with Fn's FDK in it and this code of a user.
fn fdk_volume(host: &Host, name: &str, code: &str) -> PathBuf {
    let volume = host.volume(name);
    let copied = Command::new("cp")
        .arg("-rT")
        .arg(fdk())
        .arg(&volume)
        .status()
        .unwrap();
    assert!(copied.success());
    fs::write(volume.join("func.py"), code).unwrap();
    volume
}

fn an_fdk_of_fn_serves_calls() {
    let host = host();
    let code = "import io\nfrom fdk import response\n\n\
                def handler(ctx, data: io.BytesIO = None):\n\
                \x20   if ctx.RequestURL().endswith('/fail'):\n        raise ValueError('told to')\n\
                \x20   said = ctx.Method() + ' ' + ctx.RequestURL() + ' ' + ctx.HTTPHeaders().get('x-who', '')\n\
                \x20   return response.Response(ctx, response_data=said + '|' + data.getvalue().decode(),\n\
                \x20       headers={'Content-Type': 'text/x-fn', 'X-From': ctx.AppName()}, status_code=201)\n";
    let volume = fdk_volume(&host, "fdk", code);
    let folder = volume.display();
    let manifest = format!(
        "args = [\"{folder}/func.py\", \"handler\"]\n\
         env = {{ PYTHONPATH = \"{folder}\", PYTHONDONTWRITEBYTECODE = \"1\" }}\n[sandbox]\nread = [\"{folder}\"]\n\
         [health]\nready_within = \"60s\"\n[request]\ntimeout = \"60s\"\n"
    );
    // The very script that pip installed, as in Fn's images.
    host.drop_folder("fdk-echo", &fdk().join("bin/fdk"), &manifest);
    host.wait_live("fdk-echo");
    for body in ["first", "second"] {
        let answer = host.ask(&Request::post("/fdk-echo/a?b=c", body).header("x-who", "Ann"));
        assert_eq!(
            answer.status(),
            201,
            "{}\n{}",
            answer.text(),
            said(&host, &["logs", "fdk-echo"])
        );
        let text = answer.text();
        assert!(
            text.starts_with("POST http://") && text.ends_with(&format!("/a?b=c Ann|{body}")),
            "{text}"
        );
        assert_eq!(
            (answer.header("content-type"), answer.header("x-from")),
            (Some("text/x-fn"), Some("funcd"))
        );
        assert_eq!(
            answer.header("fn-fdk-version"),
            None,
            "what is between host and FDK stays there"
        );
    }
    let pid = host.instance("fdk-echo").pid;
    problem(&host.get("/fdk-echo/fail"), 502, "function-error");
    assert_eq!(host.ask(&Request::post("/fdk-echo/", "again")).status(), 201);
    assert_eq!(
        host.instance("fdk-echo").pid,
        pid,
        "one that failed is called again"
    );
    let listed = said(&host, &["ls"]);
    assert!(
        listed.contains("fdk-echo: contract fn, as it mentions from fdk"),
        "{listed}"
    );
}

fn an_fdk_that_misbehaves_is_ended() {
    let host = host();
    let bind = "#!/usr/bin/python3\nimport os, socket, time\ns = socket.socket(socket.AF_UNIX)\n\
                path = os.environ['FN_LISTENER'][5:]\nhere = os.path.dirname(path)\ns.bind(here + '/own')\nos.chmod(here + '/own', 0o666)\ns.listen()\n";
    let manifest = "contract = \"fn\"\n[request]\ntimeout = \"20s\"\n";
    // Its socket is a symlink out of its directory, to one that it has no business with.
    let admin = host.path().join("run/admin.sock");
    let outside = format!(
        "{bind}os.symlink({:?}, path)\ntime.sleep(1000)\n",
        admin.display().to_string()
    );
    script(&host, "fdk-outside", &outside, manifest);
    host.wait_for("/fdk-outside/", "503", |answer| answer.status() == 503);
    eventually("the reason in its log", || {
        let log = said(&host, &["logs", "fdk-outside"]);
        log.contains("symlink out of its directory")
            .then_some(())
            .ok_or(log)
    });
    // Its socket never comes.
    let never = "#!/usr/bin/python3\nimport time\ntime.sleep(1000)\n";
    script(
        &host,
        "fdk-never",
        never,
        &format!("{manifest}[health]\nready_within = \"200ms\"\n"),
    );
    host.wait_for("/fdk-never/", "503", |answer| answer.status() == 503);
    // The control: the same with a symlink beside it. It answers what no FDK does, and is ended for that.
    let odd = format!(
        "{bind}os.symlink('own', path)\nwhile True:\n    c, _ = s.accept()\n    c.recv(65536)\n    \
         c.sendall(b'HTTP/1.1 500 Odd\\r\\nContent-Length: 0\\r\\n\\r\\n')\n    c.close()\n"
    );
    script(&host, "fdk-odd", &odd, manifest);
    let answer = host.wait_for("/fdk-odd/", "502", |answer| answer.status() == 502);
    problem(&answer, 502, "malformed-response");
    eventually("it to be ended", || {
        let log = said(&host, &["logs", "fdk-odd"]);
        log.contains("ended: ").then_some(()).ok_or(log)
    });
}

/// An IronFunctions function by hand: HTTP on stdin and stdout.
const IRON: &str = r#"#!/usr/bin/perl
use strict; $| = 1;
my $count = 0;
while (defined(my $line = <STDIN>)) {
    my ($method, $path) = split / /, $line;
    my %h;
    while (defined(my $head = <STDIN>)) {
        $head =~ s/\r?\n$//;
        last if $head eq '';
        my ($name, $value) = split /: /, $head, 2;
        $h{lc $name} = $value;
    }
    read(STDIN, my $body, $h{'content-length'});
    $count++;
    my $said = "$count $method $path $h{'route'} $h{'method'} $body";
    exit 3 if $path eq '/exit';
    sleep 1000 if $path eq '/sleep';
    if ($path eq '/endless') { print "HTTP/1.1 200 OK\r\n\r\nhello"; next; }
    if ($path eq '/garbage') { print "hello\n\n"; next; }
    if ($path eq '/twice') { print "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" x 2; next; }
    print "HTTP/1.1 200 OK\r\nContent-Length: ", length($said), "\r\n\r\n$said";
}
"#;

fn an_ironhttp_program_answers_one_request_after_the_other() {
    let host = host();
    script(&host, "iron", IRON, "contract = \"ironhttp\"\n[scale]\nmax = 1\n");
    for count in 1..=3 {
        let answer = post(&host, "/iron/way", "body");
        assert_eq!(
            answer.text(),
            format!("{count} POST /way /iron POST body"),
            "one process for all: {}",
            host.log_tail()
        );
    }
    // A body whose length nobody knows can't be passed on.
    let mut connection = host.connect();
    connection
        .write(b"POST /iron/ HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .unwrap();
    problem(&connection.response("POST").unwrap(), 411, "length-required");
}

fn an_ironhttp_program_that_misbehaves_is_replaced() {
    let host = host();
    script(
        &host,
        "iron-bad",
        IRON,
        "contract = \"ironhttp\"\n[scale]\nmax = 1\n[request]\ntimeout = \"2s\"\n",
    );
    let works = |what: &str| {
        let answer = host.wait_for("/iron-bad/ok", "200", |answer| answer.status() == 200);
        assert!(
            answer.text().ends_with("GET /ok /iron-bad GET "),
            "after {what}: {}",
            answer.text()
        );
    };
    works("nothing");
    for (path, status) in [
        ("/endless", 502),
        ("/garbage", 502),
        ("/exit", 502),
        ("/sleep", 504),
    ] {
        let answer = host.get(&format!("/iron-bad{path}"));
        assert_eq!(answer.status(), status, "{path}: {}", answer.text());
        works(path);
    }
    // One that answers twice: nobody else gets the second.
    host.get("/iron-bad/twice");
    works("/twice");
}
