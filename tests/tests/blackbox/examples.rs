//! Each example does what its line in examples/README.md says, in its sandbox; and the demo shows them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use funcd_tests::artifacts::{self, example, example_file};
use funcd_tests::host::Host;
use funcd_tests::http::{Connection, Request};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "examples", [
        hello_greets,
        thumbs_shrinks_pictures,
        thumbs_says_what_it_can_not_take,
        notes_keeps_notes,
        ticker_has_a_page,
        py_port_answers: &[Need::Program("/usr/bin/python3")],
        all_run_without_funcd_too,
        the_demo_serves_them: &[Need::Program("curl")],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("examples", |host| {
        host.deploy("hello", "hello", "");
        let manifest = fs::read_to_string(example_file("thumbs/function.toml")).unwrap();
        host.deploy("thumbs", "thumbs", &manifest);
        host.deploy("ticker", "ticker", "");
    })
}

fn hello_greets() {
    assert_eq!(host().get_ok("/hello/").text(), "Hello from funcd\n");
    assert_eq!(host().get_ok("/hello/world").text(), "Hello, world\n");
}

/// A PNG of one colour, without compression: signature, IHDR, IDAT with stored blocks, IEND.
fn png(width: u32, height: u32, claimed: (u32, u32)) -> Vec<u8> {
    fn crc(bytes: impl Iterator<Item = u8>) -> u32 {
        !bytes.fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }
    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let sum = crc(kind.iter().chain(data).copied());
        [
            &(data.len() as u32).to_be_bytes(),
            &kind[..],
            data,
            &sum.to_be_bytes(),
        ]
        .concat()
    }
    let row = [vec![0], vec![120; 3 * width as usize]].concat();
    let pixels = row.repeat(height as usize);
    let mut stream = vec![0x78, 0x01];
    for (at, block) in pixels.chunks(65_535).enumerate() {
        let last = (at + 1) * 65_535 >= pixels.len();
        let length = block.len() as u16;
        stream.push(last.into());
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (a, b) = pixels.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    stream.extend((b << 16 | a).to_be_bytes());
    let header = [
        &claimed.0.to_be_bytes()[..],
        &claimed.1.to_be_bytes(),
        &[8, 2, 0, 0, 0],
    ]
    .concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        &chunk(b"IDAT", &stream),
        &chunk(b"IEND", &[]),
    ]
    .concat()
}

/// Width and height that a PNG says it has.
fn size(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

fn thumbs_shrinks_pictures() {
    let host = host();
    let picture = png(300, 200, (300, 200));
    for (query, expected) in [
        ("w=60", (60, 40)),
        ("h=20", (30, 20)),
        ("w=60&h=10", (15, 10)),
        ("w=3000", (300, 200)),
    ] {
        let answer = host.ask(&Request::post(&format!("/thumbs/?{query}"), picture.clone()));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("image/png"));
        assert_eq!(size(&answer.body), expected, "{query}");
    }
}

fn thumbs_says_what_it_can_not_take() {
    let host = host();
    let picture = png(30, 20, (30, 20));
    let status = |query: &str, body: Vec<u8>| {
        host.ask(&Request::post(&format!("/thumbs/?{query}"), body))
            .status()
    };
    for query in ["", "w=0", "w=99999", "w=a", "wide=1"] {
        assert_eq!(status(query, picture.clone()), 400, "{query}");
    }
    assert_eq!(status("w=9", picture[..60].to_vec()), 400, "half a picture");
    assert_eq!(status("w=9", b"GIF89a not a PNG".to_vec()), 415);
    assert_eq!(
        status("w=9", png(3, 2, (60_000, 60_000))),
        413,
        "a small file that claims to be a huge picture"
    );
    let answer = host.get("/thumbs/?w=9");
    assert_eq!((answer.status(), answer.header("allow")), (405, Some("POST")));
}

fn notes_keeps_notes() {
    let host = host();
    let volume = host.volume("notes");
    let manifest = fs::read_to_string(example_file("notes/function.toml")).unwrap();
    assert!(manifest.contains("/srv/notes"), "{manifest}");
    let manifest = manifest.replace("/srv/notes", &volume.to_string_lossy());
    host.deploy("notes", "notes", &manifest);
    assert_eq!(host.get_ok("/notes/notes").json(), serde_json::json!([]));
    let made = host.ask(&Request::post(
        "/notes/notes",
        "{\"text\": \"buy m\u{fc}sli; DROP TABLE notes\"}",
    ));
    assert_eq!(made.status(), 201, "{}", made.text());
    let id = made.json()["id"].clone();
    assert_eq!(
        host.ask(&Request::post("/notes/notes", "{\"text\": 1}")).status(),
        400
    );
    // Another process finds them in the same place.
    host.instance("notes").signal(Signal::SIGKILL);
    host.wait_exit("notes", "signal");
    let note = host.wait_for(&format!("/notes/notes/{id}"), "200", |answer| {
        answer.status() == 200
    });
    assert_eq!(note.json(), made.json());
    let delete = Request::new("DELETE", &format!("/notes/notes/{id}"));
    assert_eq!(host.ask(&delete).status(), 204);
    assert_eq!(host.ask(&delete).status(), 404);
    assert_eq!(host.get(&format!("/notes/notes/{id}")).status(), 404);
    assert_eq!(host.ask(&Request::new("PUT", "/notes/notes")).status(), 405);
    assert!(volume.join("notes.db").exists());
}

fn ticker_has_a_page() {
    let answer = host().get_ok("/ticker/");
    assert!(
        answer.text().contains("new EventSource('events')"),
        "relative, so that the prefix does not matter"
    );
}

fn py_port_answers() {
    let host = host();
    let manifest = fs::read_to_string(example_file("py-port/function.toml")).unwrap();
    host.drop_folder("py-port", &example_file("py-port/server.py"), &manifest);
    let answer = host.wait_for("/py-port/x", "200", |answer| answer.status() == 200);
    assert_eq!(
        answer.json(),
        serde_json::json!({"hello": "/x", "prefix": "/py-port"})
    );
}

fn all_run_without_funcd_too() {
    for name in ["hello", "thumbs", "notes", "ticker"] {
        let folder = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        drop(taken);
        let mut command = Command::new(example(name));
        command
            .env("PORT", address.port().to_string())
            .env("NOTES_DB", folder.path().join("notes.db"));
        let mut child = command.spawn().unwrap();
        let answered = std::panic::catch_unwind(|| {
            eventually(&format!("{name} to answer on its own"), || {
                let mut connection = Connection::tcp(address).map_err(|error| error.to_string())?;
                connection
                    .ask(&Request::get("/"))
                    .map_err(|error| error.to_string())
            })
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(answered.is_ok());
    }
}

/// A demo of all examples that have a curl line, and what it has said so far. Dropping it ends it.
struct Demo {
    folder: tempfile::TempDir,
    child: Child,
    process: Process,
}

impl Demo {
    fn start() -> Demo {
        let folder = tempfile::tempdir().unwrap();
        let examples = folder.path().join("examples");
        fs::create_dir(&examples).unwrap();
        for name in ["hello", "ticker"] {
            fs::copy(example(name), examples.join(name)).unwrap();
        }
        for name in ["notes", "thumbs"] {
            let function = examples.join(name);
            fs::create_dir(&function).unwrap();
            fs::copy(example(name), function.join(name)).unwrap();
            let manifest = artifacts::example_file(&format!("{name}/function.toml"));
            fs::copy(manifest, function.join("function.toml")).unwrap();
        }
        let output = fs::File::create(folder.path().join("log")).unwrap();
        let mut demo = Command::new(artifacts::funcd());
        demo.args(["demo", "--listen", "127.0.0.1:0", "--examples"])
            .arg(&examples)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = demo.spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        Demo {
            folder,
            child,
            process,
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs a line as somebody would who pastes it, for at most two seconds: a stream has no end of its own.
    fn paste(&self, line: &str) -> String {
        let limited = line.replacen("curl ", "curl -s --fail-with-body --max-time 2 ", 1);
        let output = Command::new("/bin/sh")
            .args(["-c", &limited])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // As Ctrl-C: a killed demo would leave its home behind.
            self.process.signal(Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

fn the_demo_serves_them() {
    let mut demo = Demo::start();
    until("the demo to say that it is ready", || {
        demo.said().contains("Ctrl-C")
    });
    let said = demo.said();
    assert!(
        said.contains("P10") && said.contains("4 functions answer"),
        "{said}"
    );
    let printed = |start: &str| -> Vec<&str> {
        said.lines()
            .map(str::trim)
            .filter(|line| line.starts_with(start))
            .collect()
    };
    let answers: Vec<String> = printed("curl ").iter().map(|line| demo.paste(line)).collect();
    let [hello, note, notes, picture, events] = answers.as_slice() else {
        panic!("{answers:?}\n{said}")
    };
    assert_eq!(hello, "Hello from funcd\n");
    assert!(
        note.contains("buy milk") && notes.contains(note.trim()),
        "{note} {notes}"
    );
    assert!(events.contains("data: 1\n"), "{events}");
    assert_eq!(picture, "", "it goes into a file");
    let small = fs::read(demo.folder.path().join("small.png")).unwrap();
    assert_eq!(size(&small), (100, 67));
    let looks = said.lines().map(str::trim).filter(|line| line.ends_with(" ps"));
    let shown: String = looks.map(|line| demo.paste(line)).collect();
    assert!(shown.contains("hello"), "{shown}");

    let everyone = demo.process.descendants();
    let home = said.split_whitespace().last().unwrap().to_owned();
    assert!(Path::new(&home).is_dir(), "{home}");
    demo.process.signal(Signal::SIGINT);
    let status = eventually("the demo to end on Ctrl-C", || {
        let status = demo.child.try_wait().map_err(|error| error.to_string())?;
        status.ok_or("it runs".to_owned())
    });
    assert_eq!(status.code(), Some(0), "{}", demo.said());
    assert!(!Path::new(&home).exists(), "{}", demo.said());
    until("nothing of the demo to be left", || {
        everyone.iter().all(|process| !process.is_there())
    });
}
