//! What documents say of the tests: that they are there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a directory, one after the other.
fn sources(below: &Path, all: &mut String) {
    for entry in fs::read_dir(below).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(path).expect("sources are text"));
        }
    }
}

/// The names in backquotes that can only be those of tests: four words or more.
fn named_tests(document: &str) -> Vec<&str> {
    let quoted = document.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        let letters = word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        letters && word.matches('_').count() >= 3
    };
    quoted.filter(is_name).collect()
}

#[test]
fn every_test_that_the_promises_of_security_name_is_there() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("it is in the checkout");
    let mut tests = String::new();
    for folder in ["tests/tests", "sandbox", "supervisor"] {
        sources(&root().join(folder), &mut tests);
    }
    let named = named_tests(&document);
    assert!(named.len() > 20, "{named:?}");
    let dead: Vec<&&str> = named
        .iter()
        .filter(|name| !tests.contains(&format!("fn {name}(")))
        .collect();
    assert!(dead.is_empty(), "no such test: {dead:?}");
}

#[test]
fn a_name_that_is_no_test_would_be_seen() {
    assert_eq!(
        named_tests("see `a_test_with_words`, `no_property` and `cargo test`"),
        ["a_test_with_words"]
    );
}

/// The anchors of the headings of a document, as GitHub makes them.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let letters = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    let anchor = |text: &str| -> String { text.trim().to_lowercase().chars().filter(letters).collect() };
    headings
        .map(|line| anchor(line.trim_start_matches('#')).replace(' ', "-"))
        .collect()
}

/// Links to headings of documents: the document, empty for the same one, and the anchor.
fn links(document: &str) -> Vec<(&str, &str)> {
    let targets = document
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split_once('#'))
        .collect()
}

#[test]
fn every_link_to_a_heading_leads_to_one() {
    let documents = [
        "README.md",
        "ARCHITECTURE.md",
        "SPECIFICATION.md",
        "CHANGELOG.md",
        "benches/README.md",
    ]
    .map(PathBuf::from);
    let docs = ["docs", "docs/migrate"].into_iter().flat_map(|folder| {
        let there = fs::read_dir(root().join(folder)).expect("it is in the checkout");
        there
            .flatten()
            .map(move |entry| Path::new(folder).join(entry.file_name()))
    });
    let (mut seen, mut dead) = (0, Vec::new());
    for from in documents
        .into_iter()
        .chain(docs)
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
    {
        let text = fs::read_to_string(root().join(&from)).expect("documents are text");
        for (to, anchor) in links(&text) {
            seen += 1;
            let there = match to {
                "" => Some(text.clone()),
                to => fs::read_to_string(root().join(&from).with_file_name("").join(to)).ok(),
            };
            if !there.is_some_and(|there| anchors(&there).iter().any(|is| is == anchor)) {
                dead.push(format!("{}: {to}#{anchor}", from.display()));
            }
        }
    }
    assert!(
        seen > 10 && dead.is_empty(),
        "of {seen} links these lead nowhere: {dead:?}"
    );
}

#[test]
fn a_link_to_no_heading_would_be_seen() {
    assert_eq!(
        links("[a](b.md#c), [d](#e), [f](g.md), [h](https://i/#j)"),
        [("b.md", "c"), ("", "e")]
    );
    assert_eq!(
        anchors("# A\ntext\n## What `x-y` says, to whom\n"),
        ["a", "what-x-y-says-to-whom"]
    );
}

/// What systemd says of the units, with an executable that is there.
fn verify(change: impl Fn(&str) -> String) -> Option<String> {
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let units = ["funcd.service", "funcd.socket", "funcd.slice"].map(|name| folder.path().join(name));
    for unit in &units {
        let from = root()
            .join("systemd")
            .join(unit.file_name().expect("it has a name"));
        let text = fs::read_to_string(from).expect("it is in the checkout");
        fs::write(unit, change(&text.replace("/usr/bin/funcd", "/bin/true"))).expect("the folder is ours");
    }
    let mut analyze = std::process::Command::new("systemd-analyze");
    let output = analyze.args(["verify", "--man=no"]).args(&units).output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    match verify(str::to_owned) {
        Some(said) => assert_eq!(said, ""),
        None if std::env::var_os("FUNCD_TEST_REQUIRE").is_some() => {
            panic!("systemd-analyze is missing: apt-get install systemd")
        }
        None => eprintln!("skipped: systemd_finds_nothing_wrong_with_the_units (systemd-analyze is missing)"),
    }
}

#[test]
fn a_unit_that_systemd_252_does_not_understand_would_be_seen() {
    // Newer ones know it, and would not complain; what no version knows stands for it.
    let newer = |text: &str| text.replace("Type=notify\n", "Type=notify-whatever\n");
    if let Some(said) = verify(newer) {
        assert!(said.contains("notify-whatever"), "{said}");
    }
}

#[test]
fn the_security_score_that_operations_state_is_that_of_the_unit() {
    let unit = root().join("systemd/funcd.service");
    let analyze = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        let output = command
            .args(arguments)
            .arg(&unit)
            .env("SYSTEMD_COLORS", "0")
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = analyze(&["--version"]).unwrap_or_default();
    // Each version has points of its own.
    if !version.starts_with("systemd 252 ") {
        eprintln!("skipped: the_security_score_that_operations_state_is_that_of_the_unit (not systemd 252)");
        return;
    }
    let said = analyze(&["security", "--offline=true", "--no-pager"]).unwrap_or_default();
    let score = said.split("Overall exposure level for funcd.service: ").nth(1);
    let score = score
        .and_then(|rest| rest.split(' ').next())
        .expect("it ends with the score");
    let operations = fs::read_to_string(root().join("docs/operations.md")).expect("it is in the checkout");
    assert!(
        operations.contains(&format!("(252) says **{score}**")),
        "it is {score}"
    );
}
