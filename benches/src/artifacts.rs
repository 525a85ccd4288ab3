//! Builds what is measured, so that no stale program is. Never builds a peer: those are Debian's.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::failure::{During, Failure, Outcome};

/// The programs under measurement.
#[derive(Debug)]
pub(crate) struct Artifacts {
    /// The host.
    pub(crate) funcd: PathBuf,
    /// The static example function.
    pub(crate) hello: PathBuf,
    /// The static function that takes the CPU and the time that it is asked to.
    pub(crate) work: PathBuf,
    /// A static program that writes one byte.
    pub(crate) byte: PathBuf,
}

impl Artifacts {
    /// Takes what is given and builds the rest, release profile, from the sources that this program was built from.
    ///
    /// # Errors
    /// A build that fails; its own messages are on stderr.
    pub(crate) fn build(funcd: Option<PathBuf>, hello: Option<PathBuf>) -> Outcome<Artifacts> {
        let funcd = given_or(funcd, || cargo(&sources(), "funcd", &["--package", "funcd"]))?;
        let hello = given_or(hello, || example("hello", "hello"))?;
        let byte = given_or(None, || example("byte", "misbehaving"))?;
        let work = given_or(None, || example("work", "misbehaving"))?;
        Ok(Artifacts {
            funcd,
            hello,
            byte,
            work,
        })
    }

    /// One of `examples/misbehaving`, built when it is asked for.
    ///
    /// # Errors
    /// As [`Artifacts::build`].
    pub(crate) fn example(&self, name: &str) -> Outcome<PathBuf> {
        example(name, "misbehaving")
    }
}

fn example(name: &str, package: &str) -> Outcome<PathBuf> {
    let examples = sources().join("examples");
    let musl = format!("{}-unknown-linux-musl", env::consts::ARCH);
    cargo(&examples, name, &["--package", package, "--target", &musl])
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn given_or(given: Option<PathBuf>, build: impl FnOnce() -> Outcome<PathBuf>) -> Outcome<PathBuf> {
    let path = given.map_or_else(build, Ok)?;
    path.canonicalize().during(format!("finding {}", path.display()))
}

/// Builds the binary `name` in the workspace `folder`.
fn cargo(folder: &Path, name: &str, more: &[&str]) -> Outcome<PathBuf> {
    let step = format!("building {name} in {}", folder.display());
    let program = env::var_os("CARGO").unwrap_or("cargo".into());
    let built = Command::new(program)
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(["--bin", name])
        .args(more)
        // Cargo looks for `.cargo/config.toml` from here, not from the manifest.
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .during(&step)?;
    if !built.status.success() {
        return Err(Failure(format!("{step}: {}", built.status)));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    executable(&messages, name).ok_or_else(|| Failure(format!("{step}: cargo named no executable")))
}

/// The executable that cargo's messages name for the binary `name`.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    artifacts
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_of_the_binary_not_of_the_library() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"funcd"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"funcd"},"executable":"/t/funcd"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}"#,
            "\nnot json\n",
        );
        assert_eq!(executable(messages, "funcd"), Some(PathBuf::from("/t/funcd")));
        assert_eq!(executable(messages, "absent"), None);
    }
}
