//! What is worked out for programs of this machine. Runs none of them.

use super::*;

fn paths(view: &View) -> Vec<String> {
    view.parts
        .iter()
        .map(|part| part.path.display().to_string())
        .collect()
}

fn script(line: &str) -> View {
    let (path, argument) = crate::catalog::image::interpreter(line.as_bytes()).unwrap();
    view(&Asks::Interpreter(path, argument), Scope::Auto)
}

#[test]
fn a_plain_program_sees_its_loader_and_libraries_and_no_programs() {
    let needs = libraries::needs_of(Path::new("/bin/cat")).unwrap();
    let view = view(&Asks::Libraries(needs), Scope::Auto);
    assert_eq!(view.whole, None);
    let paths = paths(&view);
    assert!(
        paths
            .iter()
            .any(|path| path.contains("libc.so") || path.contains("ld-musl")),
        "{paths:?}"
    );
    for hidden in [
        "/usr",
        "/usr/bin",
        "/usr/lib",
        "/bin",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/sbin",
    ] {
        assert!(!paths.contains(&hidden.to_owned()), "{hidden} is in {paths:?}");
    }
    // By their real names, so that the launcher takes them.
    for part in &view.parts {
        assert_eq!(part.path.canonicalize().unwrap(), part.path, "{part:?}");
        assert!(system::holds(&part.path), "{part:?}");
        assert!(!part.why.is_empty());
    }
}

#[test]
fn an_interpreter_that_is_a_fifo_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["python3", "env"] {
        let fifo = dir.path().join(name);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let line = format!("#!{} python3\n", fifo.display());
        let (done, told) = std::sync::mpsc::channel();
        // Who waits for the other end of it waits for ever.
        std::thread::spawn(move || done.send(script(&line)));
        let view = told
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("it comes to an end");
        let why = view.whole.expect("it can't be told");
        assert!(why.contains("no program of this machine"), "{why}");
    }
}

#[test]
fn a_runtime_sees_its_own_library() {
    for (interpreter, part) in [
        ("/usr/bin/python3", "/usr/lib/python3"),
        ("/usr/bin/perl", "/usr/share/perl"),
        ("/usr/bin/java", "/usr/lib/jvm/"),
        ("/usr/bin/java", "/etc/java-"),
        ("/usr/bin/node", "/node"),
    ] {
        if !Path::new(interpreter).exists() {
            println!("skipped: {interpreter} is not there");
            continue;
        }
        let view = script(&format!("#!{interpreter}\n"));
        let paths = paths(&view);
        assert_eq!(view.whole, None, "{interpreter}");
        assert!(
            paths.iter().any(|path| path.contains(part)),
            "{part} is not in {paths:?}"
        );
        assert!(!paths.contains(&"/usr/bin".to_owned()), "{paths:?}");
        let (real, _) = follow(Path::new(interpreter)).unwrap();
        let shown = |path: &Path| view.parts.iter().any(|part| path.starts_with(&part.path));
        assert!(shown(&real), "{} is not in {paths:?}", real.display());
        // By way of env it is the same, and env.
        let name = Path::new(interpreter).file_name().unwrap().to_str().unwrap();
        let by_env = script(&format!("#!/usr/bin/env {name}\n"));
        let more: Vec<_> = by_env
            .parts
            .iter()
            .filter(|part| !view.parts.contains(part))
            .collect();
        assert!(more.iter().any(|part| part.path.ends_with("env")), "{more:?}");
    }
}

#[test]
fn what_is_not_known_sees_everything_and_says_why() {
    for (line, why) in [
        ("#!/bin/sh\n", "runs other programs"),
        ("#!/usr/bin/env sh\n", "runs other programs"),
        ("#!/usr/bin/env no-such-program\n", "is not in /usr/local/bin"),
        ("#!/usr/bin/env -i sh\n", "can't be told"),
        ("#!/no/such/interpreter\n", "is not there"),
    ] {
        let view = script(line);
        assert!(
            view.whole.as_ref().is_some_and(|whole| whole.contains(why)),
            "{line}: {view:?}"
        );
        assert_eq!(view.system(), System::Whole);
    }
    let strange = Needs {
        loader: Some("/lib64/ld-linux-x86-64.so.2".into()),
        libraries: vec!["libnosuchthing.so.9".into()],
        search: vec![],
    };
    let missing = view(&Asks::Libraries(strange), Scope::Auto);
    let missing = missing.whole.unwrap_or_default();
    assert!(
        missing.contains("libnosuchthing.so.9") || missing.contains("is not there"),
        "{missing}"
    );
    assert!(view(&Asks::Nothing, Scope::Full).whole.is_some());
    assert_eq!(view(&Asks::Nothing, Scope::Auto), View::default());
}

#[test]
fn symlinks_are_followed_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    fs::create_dir(dir.join("real")).unwrap();
    fs::write(dir.join("real/file"), "").unwrap();
    std::os::unix::fs::symlink("real", dir.join("folder")).unwrap();
    std::os::unix::fs::symlink("../folder/file", dir.join("real/link")).unwrap();
    std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
    let (real, links) = follow(&dir.join("folder/link")).unwrap();
    assert_eq!(real, dir.join("real/file"));
    let expected = [
        (dir.join("folder"), PathBuf::from("real")),
        (dir.join("real/link"), PathBuf::from("../folder/file")),
        (dir.join("folder"), PathBuf::from("real")),
    ];
    assert_eq!(links, expected);
    assert_eq!(follow(&dir.join("loop")), None);
    assert_eq!(follow(&dir.join("missing")), None);
}
