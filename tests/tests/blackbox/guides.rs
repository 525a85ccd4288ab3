//! What the guides in docs/migrate say is done to the letter: their files are written, their commands run, and what they
//! say is printed must be what is printed. Only where the host is, and where `/srv` is, is put in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use funcd_tests::artifacts::root;
use funcd_tests::host::Host;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::wheels::{FDK, FUNCTIONS_FRAMEWORK, GUNICORN, wheels};

pub(crate) fn register(suite: &mut Suite) {
    const CURL: Need = Need::Program("curl");
    const PYTHON: Need = Need::Program("/usr/bin/python3");
    const PERL: Need = Need::Program("/usr/bin/perl");
    funcd_tests::tests!(suite, "guides", [
        every_guide_is_followed,
        a_guide_that_says_something_else_is_noticed: &[CURL, PERL],
        the_guide_for_openfaas_does_what_it_says: &[CURL, PYTHON, Need::Program("/bin/bash")],
        the_guide_for_cgi_does_what_it_says: &[CURL, PERL],
        the_guide_for_ironfunctions_does_what_it_says: &[CURL, PERL, Need::Program("/bin/bash")],
        the_guide_for_lambda_does_what_it_says: &[CURL, PYTHON],
        the_guide_for_fn_does_what_it_says: &[CURL, Need::Wheels(FDK), Need::MountNamespaces],
        the_guide_for_cloud_run_does_what_it_says: &[CURL, Need::Wheels(FUNCTIONS_FRAMEWORK)],
        the_guide_for_kubeless_does_what_it_says: &[CURL, PYTHON],
        the_guide_for_nginx_unit_does_what_it_says: &[CURL, Need::Wheels(GUNICORN), Need::Program("/usr/bin/node")],
        the_guide_for_uwsgi_does_what_it_says: &[CURL, Need::Program(UWSGI), Need::Program(UWSGI_PYTHON)],
    ]);
}

const UWSGI: &str = "/usr/bin/uwsgi-core";
const UWSGI_PYTHON: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";
/// Each guide, and how many of its commands print something.
const GUIDES: [(&str, usize); 9] = [
    ("cgi.md", 1),
    ("cloud-run.md", 5),
    ("fn.md", 1),
    ("ironfunctions.md", 3),
    ("kubeless.md", 4),
    ("lambda.md", 2),
    ("nginx-unit.md", 3),
    ("openfaas.md", 3),
    ("uwsgi-emperor.md", 2),
];

fn folder() -> PathBuf {
    root().join("docs/migrate")
}

/// The blocks of a guide: what stands behind their three backquotes, and what is in them.
fn blocks(text: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = text.split("```").collect();
    let inner = parts.iter().skip(1).step_by(2);
    inner
        .map(|block| block.split_once('\n').expect("a block has lines"))
        .map(|(head, body)| (head.to_owned(), body.to_owned()))
        .collect()
}

/// Commands, each with the lines that it prints.
fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_owned(), String::new())),
            None => {
                let (_, printed) = commands.last_mut().expect("a command, then what it prints");
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    commands
}

/// Runs a command as a user types it; packages of PyPI come from what is kept of them. What it printed.
#[track_caller]
fn typed(host: &Host, command: &str, packages: &[&str]) -> String {
    let kept: Vec<String> = packages
        .iter()
        .map(|package| wheels(package).display().to_string())
        .collect();
    let output = Command::new("bash")
        .args(["-c", command])
        .current_dir(host.path())
        // The system's own python3, which functions see, not one of a version manager in somebody's home.
        .env("PATH", "/usr/local/sbin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("PIP_NO_INDEX", "1")
        .env("PIP_NO_COMPILE", "1")
        .env("PIP_FIND_LINKS", kept.join(" "))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        host.log_tail()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a file of a guide into a folder that functions may be granted, or beside the function that it is one of.
fn write(path: &Path, body: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, body).unwrap();
    let is_manifest = path.extension().is_some_and(|ext| ext == "toml");
    fs::set_permissions(
        path,
        Permissions::from_mode(if is_manifest { 0o644 } else { 0o755 }),
    )
    .unwrap();
}

/// Does what a guide says. How many of its commands said what they were to say; the first that did not.
fn follow(host: &Host, text: &str, packages: &[&str]) -> Result<usize, String> {
    let volumes = host.path().join("state/volumes");
    host.volume("");
    let functions = host.path().join("functions").display().to_string();
    let here = |text: &str| {
        text.replace("/srv/", &format!("{}/", volumes.display()))
            .replace("/var/lib/funcd/functions", &functions)
            .replace("127.0.0.1:8080", &host.address().to_string())
    };
    let mut asked = 0;
    for (head, body) in blocks(text) {
        let (head, body) = (here(&head), here(&body));
        match head.split_once(' ') {
            None if head == "console" => {
                for (command, printed) in commands(&body) {
                    let said = typed(host, &command, packages);
                    if said.trim_end() != printed.trim_end() {
                        return Err(format!("{command} prints {said:?}, not {printed:?}"));
                    }
                    asked += usize::from(!printed.is_empty());
                }
            }
            // What is only shown: a configuration of the other system, a command that needs a machine of its own.
            None => {}
            Some((_, file)) if Path::new(file).is_absolute() => write(Path::new(file), &body),
            Some((_, file)) => {
                write(&Path::new(&functions).join(file), &body);
                let (name, file) = file.split_once('/').expect("FUNCTION/FILE");
                if file == "function.toml" {
                    host.wait_live(name);
                }
            }
        }
    }
    Ok(asked)
}

#[track_caller]
fn follows(guide: &str, packages: &[&str]) {
    // Guides have functions of the same names.
    let host = Host::start();
    let text = fs::read_to_string(folder().join(guide)).unwrap();
    let (_, expected) = GUIDES.iter().find(|(name, _)| *name == guide).unwrap();
    match follow(&host, &text, packages) {
        Ok(asked) => assert_eq!(asked, *expected, "{guide} asks"),
        Err(other) => panic!("{guide}: {other}\n{}", host.log_tail()),
    }
}

/// A guide that nobody follows would soon be wrong.
fn every_guide_is_followed() {
    let mut there: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    there.sort();
    assert_eq!(there, GUIDES.map(|(name, _)| name));
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for name in there {
        assert!(index.contains(&format!("({name})")), "the index has no {name}");
    }
}

/// The control: what shows that a guide is true would fail if it weren't.
fn a_guide_that_says_something_else_is_noticed() {
    let host = Host::start();
    let text = fs::read_to_string(folder().join("cgi.md")).unwrap();
    let text = text.replace("guestbook", "guestbook-two");
    assert_eq!(follow(&host, &text, &[]), Ok(1));
    let wrong = text
        .replace("guestbook-two", "guestbook-three")
        .replace(": $body", ": nothing");
    let wrong = follow(&host, &wrong, &[]);
    assert!(wrong.is_err_and(|error| error.contains("nothing")));
}

fn the_guide_for_openfaas_does_what_it_says() {
    follows("openfaas.md", &[]);
}

fn the_guide_for_cgi_does_what_it_says() {
    follows("cgi.md", &[]);
}

fn the_guide_for_ironfunctions_does_what_it_says() {
    follows("ironfunctions.md", &[]);
}

fn the_guide_for_lambda_does_what_it_says() {
    follows("lambda.md", &[]);
}

fn the_guide_for_fn_does_what_it_says() {
    follows("fn.md", &[FDK]);
}

fn the_guide_for_cloud_run_does_what_it_says() {
    follows("cloud-run.md", &[FUNCTIONS_FRAMEWORK]);
}

fn the_guide_for_kubeless_does_what_it_says() {
    follows("kubeless.md", &[]);
}

fn the_guide_for_nginx_unit_does_what_it_says() {
    follows("nginx-unit.md", &[GUNICORN]);
}

fn the_guide_for_uwsgi_does_what_it_says() {
    follows("uwsgi-emperor.md", &[]);
}
