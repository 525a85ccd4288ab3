//! Functions of Fn's FDKs and of IronFunctions' `http` format, and what the guides in docs/migrate say.

use std::fs;
use std::path::{Path, PathBuf};
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
        the_examples_of_the_guides_answer_as_they_say: &[
            Need::Program("/bin/bash"),
            Need::Program("/usr/bin/perl"),
            Need::Program("curl"),
        ],
        the_example_of_the_guide_for_fn_answers: &[Need::Fdk, Need::Program("curl"), Need::MountNamespaces],
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

/// The blocks of a guide: what stands behind their three backquotes, and what is in them.
fn blocks(guide: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/migrate")
        .join(guide);
    let text = fs::read_to_string(path).unwrap();
    let parts: Vec<&str> = text.split("```").collect();
    let inner = parts.iter().skip(1).step_by(2);
    inner
        .map(|block| block.split_once('\n').unwrap())
        .map(|(head, body)| (head.to_owned(), body.to_owned()))
        .collect()
}

/// Does what a guide says: copies its files, then asks what it asks and gets what it gets. How many questions there were.
fn follow(host: &Host, guide: &str, change: impl Fn(&str) -> String) -> usize {
    let staged = tempfile::tempdir().unwrap();
    let mut asked = 0;
    for (head, body) in blocks(guide) {
        let body = change(&body);
        let (kind, file) = head.split_once(' ').unwrap_or((&head, ""));
        let (name, file) = file.split_once('/').unwrap_or_default();
        match (kind, file) {
            ("console", _) => {
                let mut lines = body.lines().peekable();
                while let Some(line) = lines.next() {
                    let command = line.strip_prefix("$ ").expect("a command, then what it prints");
                    let command = command.replace("127.0.0.1:8080", &host.address().to_string());
                    let expected = lines.next().unwrap();
                    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    assert_eq!(
                        text.trim_end(),
                        expected,
                        "{guide}: {command}\n{}",
                        host.log_tail()
                    );
                    asked += 1;
                }
            }
            // Outside of the functions folder: `change` has put it there.
            _ if name.is_empty() => {}
            (_, "function.toml") => {
                let exec = body.lines().find_map(|line| line.strip_prefix("exec = "));
                let exec = exec.map_or(name.to_owned(), |exec| exec.trim_matches('"').to_owned());
                let own = staged.path().join(&exec);
                let executable = if own.exists() {
                    own
                } else {
                    fdk().join("bin").join(exec)
                };
                host.drop_folder(name, &executable, &body);
                host.wait_live(name);
            }
            (_, file) => fs::write(staged.path().join(file), body).unwrap(),
        }
    }
    asked
}

fn the_examples_of_the_guides_answer_as_they_say() {
    let host = host();
    for (guide, questions) in [("openfaas.md", 1), ("cgi.md", 1), ("ironfunctions.md", 3)] {
        assert_eq!(follow(&host, guide, str::to_owned), questions, "{guide}");
    }
}

fn the_example_of_the_guide_for_fn_answers() {
    let host = host();
    let code = blocks("fn.md")
        .into_iter()
        .find(|(head, _)| head == "python /srv/fdk/func.py");
    let volume = fdk_volume(&host, "fdk-guide", &code.unwrap().1);
    let folder = volume.display().to_string();
    assert_eq!(
        follow(&host, "fn.md", |text| text.replace("/srv/fdk", &folder)),
        1
    );
}
