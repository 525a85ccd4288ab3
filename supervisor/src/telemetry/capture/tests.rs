//! Pipes, floods, followers and disks that fail, on real pipes and folders.

use super::*;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use funcd_sandbox::spec::Digest;

fn logs(dir: &Path) -> Logs {
    Logs::new(File::open(dir).unwrap().into(), Handle::current())
}

fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

fn writer(function: &str, instance: u64) -> Writer {
    Writer {
        function: name(function),
        revision: RevisionId(Digest([0xab; 32])),
        instance: InstanceId(instance),
    }
}

/// An attached instance: what it writes its stdout and stderr to.
fn attach(logs: &Logs, function: &str, instance: u64) -> (File, File) {
    let (stdout, out) = nix::unistd::pipe().unwrap();
    let (stderr, err) = nix::unistd::pipe().unwrap();
    logs.attach(writer(function, instance), [Some(stdout), Some(stderr)]);
    (out.into(), err.into())
}

async fn until_detached(logs: &Logs, function: &str) {
    while logs.of(&name(function)).lock().readers > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lines_of_both_streams_are_kept_with_their_source() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let (mut out, mut err) = attach(&logs, "hello", 7);
    out.write_all(b"one\n\x1b[31mtwo").unwrap();
    err.write_all(b"oops\n").unwrap();
    drop((out, err));
    until_detached(&logs, "hello").await;
    let records = logs.tail(&name("hello"), 10).unwrap().unwrap();
    let of = |stream: Stream| -> Vec<&str> {
        let kept = records.iter().filter(|r| r.stream == stream);
        kept.map(|r| r.line.as_str()).collect()
    };
    assert_eq!(of(Stream::Stdout), ["one", r"\x1b[31mtwo"]);
    assert_eq!(of(Stream::Stderr), ["oops"]);
    assert!(records.iter().all(|r| r.instance == Some(7)));
    assert!(
        records
            .iter()
            .all(|r| r.revision.as_deref() == Some("abababababab"))
    );
    assert!(logs.tail(&name("other"), 10).unwrap().is_none());
}

#[tokio::test]
async fn a_follower_gets_the_tail_and_then_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let (mut out, _err) = attach(&logs, "hello", 1);
    let (tail, mut follow) = logs.follow(&name("hello"), 10).unwrap();
    assert!(tail.is_empty());
    out.write_all(b"a\nb\n").unwrap();
    assert_eq!(follow.next().await.line, "a");
    assert_eq!(follow.next().await.line, "b");
    let (tail, mut second) = logs.follow(&name("hello"), 1).unwrap();
    assert_eq!(tail[0].line, "b");
    logs.note(&name("hello"), "instance 1 ended: out of memory");
    for follow in [&mut follow, &mut second] {
        let note = follow.next().await;
        assert_eq!((note.stream, note.instance), (Stream::Platform, None));
        assert_eq!(note.line, "instance 1 ended: out of memory");
    }
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let (_, mut follow) = logs.follow(&name("hello"), 0).unwrap();
    let log = logs.of(&name("hello"));
    for i in 0..FOLLOW_BEHIND + 5 {
        log.keep(&mut log.lock(), log.platform(i.to_string()));
    }
    assert_eq!(
        follow.next().await.line,
        "5 lines are not shown here: this reader is too slow"
    );
    assert_eq!(follow.next().await.line, "5");
}

#[tokio::test]
async fn a_flood_is_drained_dropped_and_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let (mut out, err) = attach(&logs, "flood", 1);
    let writer = std::thread::spawn(move || {
        for _ in 0..200 {
            out.write_all(&b"x\n".repeat(1000)).unwrap();
        }
    });
    drop(err);
    until_detached(&logs, "flood").await;
    writer.join().unwrap();
    let records = logs.tail(&name("flood"), tail::MAX_RECORDS).unwrap().unwrap();
    let dropped: u64 = records
        .iter()
        .filter(|r| r.stream == Stream::Platform)
        .map(|r| r.line.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(dropped > 0);
    let whole = std::fs::read_to_string(dir.path().join("flood.log")).unwrap();
    let kept = whole.matches(r#""stdout""#).count() as u64;
    assert_eq!(kept + dropped, 200_000);
}

#[tokio::test]
async fn drops_are_summed_up_once_a_second_of_the_given_clock() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let log = logs.of(&name("hello"));
    let start = Instant::now() + Duration::from_secs(1);
    let line = |now: Instant| {
        let piece = Piece {
            bytes: b"x",
            continues: false,
        };
        log.take(&writer("hello", 1), Stream::Stdout, piece, now)
    };
    let kept = (0..5000).filter(|_| line(start)).count();
    assert_eq!(kept, 4000);
    let summaries = || {
        let records = logs.tail(&name("hello"), 10_000).unwrap().unwrap();
        let of_platform = records.into_iter().filter(|r| r.stream == Stream::Platform);
        of_platform.map(|r| r.line).collect::<Vec<_>>()
    };
    assert!(line(start + Duration::from_millis(500)));
    assert!(summaries().is_empty());
    assert!(line(start + Duration::from_millis(1000)));
    assert_eq!(summaries(), ["1000 lines were dropped: more than 1000 a second"]);
}

#[tokio::test]
async fn a_disk_that_refuses_stops_neither_readers_nor_followers() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    // A folder in the place of the file: every open fails.
    std::fs::create_dir(dir.path().join("hello.log")).unwrap();
    let log = logs.of(&name("hello"));
    let mut receiver = {
        let sender = broadcast::channel(4).0;
        let receiver = sender.subscribe();
        log.lock().followers = Some(sender);
        receiver
    };
    log.keep(&mut log.lock(), log.platform("seen".to_owned()));
    assert_eq!(receiver.recv().await.unwrap().line, "seen");
    assert!(log.lock().disk_failed);
    std::fs::remove_dir(dir.path().join("hello.log")).unwrap();
    log.keep(&mut log.lock(), log.platform("kept".to_owned()));
    assert!(!log.lock().disk_failed);
    assert_eq!(logs.tail(&name("hello"), 10).unwrap().unwrap()[0].line, "kept");
}

#[tokio::test]
async fn idle_functions_hold_no_file_and_no_channel() {
    let dir = tempfile::tempdir().unwrap();
    let logs = logs(dir.path());
    let (mut out, err) = attach(&logs, "hello", 1);
    out.write_all(b"x\n").unwrap();
    drop((out, err));
    until_detached(&logs, "hello").await;
    let (_, follow) = logs.follow(&name("hello"), 0).unwrap();
    drop(follow);
    let log = logs.of(&name("hello"));
    log.keep(&mut log.lock(), log.platform("y".to_owned()));
    assert!(log.lock().followers.is_none());
}
