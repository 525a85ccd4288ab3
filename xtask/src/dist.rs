//! `xtask dist`: what is shipped, one static executable. Where it is built, and when, leaves no trace in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::run::{Failed, epoch, root, succeed, target};

/// What it may weigh, in bytes.
const LIMIT: u64 = 12_000_000;

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Dist {
    /// For which machine [default: this one, with musl]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Build it again from a copy of the sources in another folder, and compare
    #[arg(long)]
    check_reproducible: bool,
}

impl Dist {
    /// Builds it and prints its path, size and digest.
    ///
    /// # Errors
    /// What, where, why and what to do.
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let triple = self.target.clone().map_or_else(host_target, Ok)?;
        build(&root(), &target(), &triple)?;
        let executable = executable(&triple);
        let bytes = fs::read(&executable).failed("read", &executable)?;
        println!("{} ({:.2} MB)", executable.display(), bytes.len() as f64 / 1e6);
        print!("sha256 {}", succeed(Command::new("sha256sum").arg(&executable))?);
        if bytes.len() as u64 > LIMIT {
            return Err(format!(
                "it is larger than {} MB: see what grew with cargo-bloat",
                LIMIT / 1_000_000
            ));
        }
        if self.check_reproducible {
            let folder = target().join("reproduce");
            let again = reproduce(&folder, &triple);
            let same = again.as_ref().is_ok_and(|again| *again == bytes);
            if same {
                let _ = fs::remove_dir_all(&folder);
                println!(
                    "reproducible: a build in {} gave the same bytes",
                    folder.display()
                );
            } else {
                again?;
                return Err(format!(
                    "a build in {} gave other bytes: compare them with diffoscope",
                    folder.display()
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The target of static executables for this machine.
///
/// # Errors
/// When this machine is none that funcd runs on.
pub(crate) fn host_target() -> Result<String, String> {
    match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => Ok(format!("{arch}-unknown-linux-musl")),
        other => Err(format!("funcd knows x86_64 and aarch64, not {other}")),
    }
}

/// Where the executable for a target is.
pub(crate) fn executable(triple: &str) -> PathBuf {
    target().join(triple).join("dist/funcd")
}

/// Builds the sources of a folder.
fn build(sources: &Path, target: &Path, triple: &str) -> Result<(), String> {
    let sources = fs::canonicalize(sources).failed("find", sources)?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    // Paths get into panics' messages: those of this machine are replaced by names.
    let mut remap = vec![format!("--remap-path-prefix={}=funcd", sources.display())];
    remap.extend(home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--locked",
            "--profile",
            "dist",
            "-p",
            "funcd",
            "--bin",
            "funcd",
            "--target",
            triple,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(&sources)
        .env("CARGO_ENCODED_RUSTFLAGS", remap.join("\u{1f}"))
        .env("SOURCE_DATE_EPOCH", epoch().to_string())
        // It knows nothing of this checkout.
        .env("FUNCD_SHIPPED", "1");
    // C code (ring): its compiler writes paths too. Only a cross compiler is one of its own name.
    let flags = format!("-ffile-prefix-map={}=funcd", sources.display());
    cargo.env(format!("CFLAGS_{}", triple.replace('-', "_")), flags);
    succeed(&mut cargo).map(drop)
}

/// The bytes of a build from a copy of the sources, with a target folder of its own.
fn reproduce(folder: &Path, triple: &str) -> Result<Vec<u8>, String> {
    let sources = folder.join("elsewhere/sources");
    let _ = fs::remove_dir_all(&sources);
    fs::create_dir_all(&sources).failed("make", &sources)?;
    // What git knows, as it is now: neither target folders nor what lies about.
    let listed = succeed(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root()),
    )?;
    for name in listed.lines() {
        let (from, to) = (root().join(name), sources.join(name));
        if !from.is_file() {
            continue;
        }
        let parent = to.parent().unwrap_or(&sources);
        fs::create_dir_all(parent).failed("make", parent)?;
        fs::copy(&from, &to).failed("copy", &from)?;
    }
    let target = folder.join("another-target");
    build(&sources, &target, triple)?;
    let built = target.join(triple).join("dist/funcd");
    fs::read(&built).failed("read", &built)
}
