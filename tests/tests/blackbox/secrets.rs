//! Secrets: who gets which, how, what happens when one is replaced, and where none ever shows up.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::{Host, Plan};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    const MOUNTS: &[Need] = &[Need::MountNamespaces];
    funcd_tests::tests!(suite, "secrets", [
        a_secret_is_a_file_of_the_instance_alone: MOUNTS,
        nobody_gets_the_secret_of_another: MOUNTS,
        a_replaced_secret_arrives_without_a_restart: MOUNTS,
        half_a_secret_never_arrives: MOUNTS,
        a_missing_secret_is_named_and_what_to_do: MOUNTS,
        a_secret_that_others_can_read_is_refused: MOUNTS,
        credentials_of_the_service_are_secrets: MOUNTS,
        no_secret_shows_up_anywhere_else: &[Need::Root, Need::MountNamespaces],
        nothing_is_left_after_a_crash: &[Need::Root, Need::MountNamespaces],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("secrets", |_| {})
}

/// The manifest of a function with one secret.
const KEY: &str = "secrets = [\"key\"]\n";

/// What came of an attempt made by the function `name`.
#[track_caller]
fn attempt(host: &Host, name: &str, what: &str, at: &str) -> String {
    host.get_ok(&format!("/{name}/try?do={what}&at={at}")).text()
}

#[track_caller]
fn shows(host: &Host, name: &str, value: &str) {
    assert_eq!(attempt(host, name, "show", "/run/credentials/key"), value);
}

fn a_secret_is_a_file_of_the_instance_alone() {
    let host = host();
    let source = host.secret("keeper", "key", "open sesame");
    host.deploy("keeper", "echo", KEY);
    shows(&host, "keeper", "open sesame");
    let facts = host.get_ok("/keeper/facts").json();
    let environment = facts["env"].as_array().unwrap();
    assert!(
        environment.contains(&"CREDENTIALS_DIRECTORY=/run/credentials".into()),
        "{facts}"
    );
    assert_eq!(attempt(&host, "keeper", "list", "/run/credentials"), "1");
    let process = host.instance("keeper");
    if funcd_tests::need::is_root() {
        let inside = format!("/proc/{}/root/run/credentials", process.pid);
        let meta = fs::metadata(format!("{inside}/key")).unwrap();
        let uid = Some(meta.uid());
        assert_eq!(
            (meta.mode() & 0o7777, uid),
            (0o400, process.uid()),
            "for its uid alone"
        );
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o500);
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" /run/credentials "))
            .unwrap();
        for word in ["ro,", "nosuid", "nodev", "noexec", "ramfs"] {
            assert!(mount.contains(word), "{word} is not in {mount}");
        }
    }
    // It may not be changed, not even by its owner.
    for at in ["/run/credentials/key", "/run/credentials/more"] {
        let came = attempt(&host, "keeper", "write", at);
        assert!(["EROFS", "EACCES"].contains(&came.as_str()), "{at}: {came}");
    }
    let path = source.to_string_lossy();
    assert_eq!(
        attempt(&host, "keeper", "stat", &path),
        "ENOENT",
        "where it came from"
    );
    // Each instance has its own, and it goes with the instance.
    process.signal(Signal::SIGKILL);
    host.wait_for(
        "/keeper/try?do=show&at=/run/credentials/key",
        "the secret again",
        |answer| answer.status() == 200 && answer.text() == "open sesame",
    );
    assert_ne!(host.instance("keeper"), process);
}

fn nobody_gets_the_secret_of_another() {
    let host = host();
    host.secret("rich", "key", "a treasure");
    host.deploy("rich", "echo", KEY);
    host.deploy("poor", "echo", "");
    shows(&host, "rich", "a treasure");
    assert_eq!(attempt(&host, "poor", "list", "/run"), "ENOENT");
    // Naming it does not help: whose a secret is, is decided by the operator.
    host.drop_folder("thief", &funcd_tests::artifacts::example("echo"), KEY);
    let answer = host.wait_for("/thief/", "a refusal", |answer| answer.status() == 503);
    assert!(!answer.text().contains("a treasure"));
    for name in ["../rich/key", "rich/key", "/etc/shadow"] {
        host.drop_folder(
            "thief",
            &funcd_tests::artifacts::example("echo"),
            &format!("secrets = [\"{name}\"]\n"),
        );
        eventually("a refused manifest", || match host.entry("thief") {
            Some(entry) if entry.status == "refused" && entry.reason.contains("not the name of a secret") => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
    }
    host.remove("thief");
}

fn a_replaced_secret_arrives_without_a_restart() {
    // Its own: a reload is a new supervisor, which knows no last exits of others.
    let host = Host::start();
    let path = host.secret("rotating", "key", "first");
    host.deploy("rotating", "echo", KEY);
    shows(&host, "rotating", "first");
    let process = host.instance("rotating");
    let becomes = |value: &str| {
        host.wait_for("/rotating/try?do=show&at=/run/credentials/key", value, |answer| {
            answer.text() == value
        });
        assert_eq!(host.instance("rotating"), process, "the same process has it");
    };
    // By renaming, in place, and by a folder that takes the place of another.
    host.secret("rotating", "key", "second");
    becomes("second");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "third").unwrap();
    becomes("third");
    let (folder, old) = (
        host.path().join("secrets/rotating"),
        host.path().join("secrets/old"),
    );
    fs::rename(&folder, &old).unwrap();
    host.secret("rotating", "key", "fourth");
    becomes("fourth");
    host.secret("rotating", "key", "fifth");
    becomes("fifth");
    // One that is gone stays with those who have it, and so does what may not be used.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "sixth").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    host.signal(Signal::SIGHUP);
    eventually("the log to say why", || {
        match host.log().contains("chmod 0400 it") {
            true => Ok(()),
            false => Err(host.log_tail()),
        }
    });
    shows(&host, "rotating", "fifth");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    becomes("sixth");
}

/// As install(1) replaces a file: the old one is removed, and the new one grows in its place.
fn half_a_secret_never_arrives() {
    let host = host();
    let path = host.secret("growing", "key", "old");
    host.secret("growing", "other", "before");
    host.deploy("growing", "echo", "secrets = [\"key\", \"other\"]\n");
    shows(&host, "growing", "old");
    let becomes = |name: &str, value: &str| {
        let target = format!("/growing/try?do=show&at=/run/credentials/{name}");
        host.wait_for(&target, value, |answer| answer.text() == value);
    };
    fs::remove_file(&path).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut writer = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    writer.write_all(b"ne").unwrap();
    // Once this one has arrived, the other was looked at, too.
    host.secret("growing", "other", "after");
    becomes("other", "after");
    shows(&host, "growing", "old");
    writer.write_all(b"w").unwrap();
    drop(writer);
    becomes("key", "new");
}

fn a_missing_secret_is_named_and_what_to_do() {
    let host = host();
    host.drop_folder("hopeful", &funcd_tests::artifacts::example("echo"), KEY);
    host.wait_for("/hopeful/", "503", |answer| answer.status() == 503);
    let why = host.wait_exit("hopeful", "launch");
    for part in [
        "step secrets",
        "\"key\"",
        "\"hopeful\"",
        "is missing",
        "secrets/hopeful/key",
        "LoadCredential=hopeful.key:",
    ] {
        assert!(why.contains(part), "{part} is not in {why}");
    }
    host.secret("hopeful", "key", "here it is");
    // It would be tried again by itself within half a minute; a new revision is tried at once.
    host.drop_folder(
        "hopeful",
        &funcd_tests::artifacts::example("echo"),
        &format!("{KEY}env = {{ NEW = \"\" }}\n"),
    );
    host.wait_for("/hopeful/", "200", |answer| answer.status() == 200);
    shows(&host, "hopeful", "here it is");
}

fn a_secret_that_others_can_read_is_refused() {
    let host = host();
    let path = host.secret("careless", "key", "for everyone");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    host.drop_folder("careless", &funcd_tests::artifacts::example("echo"), KEY);
    host.wait_for("/careless/", "503", |answer| answer.status() == 503);
    let why = host.wait_exit("careless", "launch");
    assert!(why.contains("mode 0644") && why.contains("chmod 0400"), "{why}");
}

fn credentials_of_the_service_are_secrets() {
    let plan = Plan::new();
    let folder = plan.path().join("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("served.key"), "from systemd").unwrap();
    fs::set_permissions(folder.join("served.key"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    let host = plan
        .variable("CREDENTIALS_DIRECTORY", &folder.to_string_lossy())
        .start();
    host.deploy("served", "echo", KEY);
    shows(&host, "served", "from systemd");
    let of_supervisor = fs::read_to_string(format!("/proc/{}/environ", host.supervisor().pid)).unwrap();
    assert!(
        !of_supervisor.contains("CREDENTIALS_DIRECTORY"),
        "{of_supervisor}"
    );
    // So that the folder can be removed by whoever isn't root.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Not in this binary as a whole, which the host's log or state could hold.
fn value() -> String {
    ["vErY", "sEcReT", &std::process::id().to_string()].join("-")
}

fn no_secret_shows_up_anywhere_else() {
    let host = Plan::new().variable("FUNCD_LOG", "trace").start();
    let value = value();
    host.secret("discreet", "key", &value);
    host.deploy("discreet", "echo", KEY);
    shows(&host, "discreet", &value);
    host.secret("discreet", "key", &format!("{value}-2"));
    host.wait_for(
        "/discreet/try?do=stat&at=/run/credentials/key",
        "its new length",
        |answer| answer.text() == (value.len() + 2).to_string(),
    );
    let control = format!("/proc/{}/root/run/credentials/key", host.instance("discreet").pid);
    assert!(
        fs::read_to_string(control).unwrap().contains(&value),
        "the control: this search finds it"
    );
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for process in [
        host.launcher().clone(),
        host.supervisor(),
        host.instance("discreet"),
    ] {
        for file in ["environ", "cmdline", "comm", "status", "maps"] {
            let at = format!("/proc/{}/{file}", process.pid);
            places.push((at.clone(), fs::read(at).unwrap()));
        }
    }
    // What answers was read by the function itself, so the memory of these two is that it must not be in. The supervisor
    // forwarded the first answer, so the second value, which nobody asked for, is looked for.
    let second = format!("{value}-2");
    for process in [host.launcher().clone(), host.supervisor()] {
        assert!(
            !memory_holds(&process, b"CREDENTIALS_NOT_IN_HERE"),
            "the control: not everything is found"
        );
        assert!(
            memory_holds(&process, b"funcd"),
            "the control: this search finds what is there"
        );
        assert!(
            !memory_holds(&process, second.as_bytes()),
            "the memory of {}",
            process.pid
        );
    }
    for command in [
        &["ls"][..],
        &["ps"],
        &["logs", "discreet"],
        &["doctor"],
        &["config", "show"],
    ] {
        let output = host.funcd(&[&["--json"], command].concat()).output().unwrap();
        places.push((
            format!("funcd {command:?}"),
            [output.stdout, output.stderr].concat(),
        ));
    }
    places.push(("/metrics".into(), host.admin_get("/metrics").text().into_bytes()));
    places.push(("the log".into(), host.log().into_bytes()));
    for folder in ["state", "run", "functions"] {
        gather(&host.path().join(folder), &mut places);
    }
    for (place, content) in places {
        assert!(!holds(&content, value.as_bytes()), "the secret is in {place}");
    }
    // A core dump of the function has no place to go: one byte, of a file or a pipe.
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.instance("discreet").pid)).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");
}

fn holds(content: &[u8], wanted: &[u8]) -> bool {
    content.windows(wanted.len()).any(|window| window == wanted)
}

/// All files below a folder with what is in them.
fn gather(folder: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => gather(&path, places),
            kind if kind.is_file() => places.push((path.display().to_string(), fs::read(&path).unwrap())),
            _ => {}
        }
    }
}

/// Whether these bytes are somewhere in what a process can write to.
fn memory_holds(process: &Process, wanted: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap();
    let mut memory = fs::File::open(format!("/proc/{}/mem", process.pid)).unwrap();
    let mut found = false;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (
            u64::from_str_radix(from, 16).unwrap(),
            u64::from_str_radix(to, 16).unwrap(),
        );
        let mut content = vec![0; (to - from) as usize];
        if memory.seek(SeekFrom::Start(from)).is_ok() && memory.read_exact(&mut content).is_ok() {
            found |= holds(&content, wanted);
        }
    }
    found
}

fn nothing_is_left_after_a_crash() {
    let host = Host::start();
    host.secret("fleeting", "key", "gone with it");
    host.deploy("fleeting", "echo", KEY);
    shows(&host, "fleeting", "gone with it");
    let (instance, supervisor) = (host.instance("fleeting"), host.supervisor());
    let inside = host.path().join("run/secrets");
    let of_launcher = format!("/proc/{}/root{}", host.launcher().pid, inside.display());
    assert_eq!(
        fs::read_dir(&of_launcher).unwrap().count(),
        1,
        "the control: it is there for the launcher"
    );
    assert_eq!(
        fs::read_dir(&inside).unwrap().count(),
        0,
        "the host does not see it"
    );
    host.signal(Signal::SIGKILL);
    let host = host.start_again();
    eventually("everything of before to be gone", || {
        match [&instance, &supervisor].iter().any(|process| process.is_there()) {
            true => Err("some is there".to_owned()),
            false => Ok(()),
        }
    });
    host.wait_for(
        "/fleeting/try?do=show&at=/run/credentials/key",
        "the secret again",
        |answer| answer.text() == "gone with it",
    );
    host.remove("fleeting");
    host.wait_idle("fleeting");
    let of_launcher = format!("/proc/{}/root{}", host.launcher().pid, inside.display());
    eventually("the launcher to forget it", || {
        match fs::read_dir(&of_launcher).unwrap().count() {
            0 => Ok(()),
            n => Err(format!("{n} are there")),
        }
    });
}
