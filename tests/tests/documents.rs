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
    for folder in ["tests/tests", "sandbox/tests", "supervisor/tests"] {
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
