//! What a guest is given: the product, the example functions, the scripts that test them. One tar archive, made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{root, run, target};

/// The example functions that the guests' tests use.
const EXAMPLES: [&str; 6] = ["hello", "echo", "hog", "crash", "slow", "forkbomb"];

/// Makes it: the archive's path.
///
/// # Errors
/// The step that failed, and what it said.
pub(super) fn stage(folder: &Path, deb: Option<&Path>) -> Result<PathBuf, String> {
    let staged = folder.join("payload");
    let _ = fs::remove_dir_all(&staged);
    let bin = staged.join("bin");
    let product = staged.join("product");
    for folder in [&bin, &product] {
        fs::create_dir_all(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
    }
    let scripts = root().join("tests/vm");
    for name in ["guest.sh", "lib.sh", "suites"] {
        copy(&scripts.join(name), &staged)?;
    }
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "funcd",
        "--locked",
        "--target",
        &triple,
    ]))?;
    strip(
        &target().join(&triple).join("release/funcd"),
        &product.join("funcd"),
    )?;
    copy(&root().join("systemd"), &product)?;
    if let Some(deb) = deb {
        copy(deb, &product.join("funcd.deb"))?;
    }
    let examples = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(_) => target().join("examples"),
        None => root().join("examples/target"),
    };
    run(cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            &triple,
            "--target-dir",
        ])
        .arg(&examples)
        .current_dir(root().join("examples")))?;
    for name in EXAMPLES {
        strip(
            &examples.join(&triple).join("release").join(name),
            &bin.join(name),
        )?;
    }
    attacks(&staged)?;
    let archive = folder.join("payload.tar");
    // Whole sectors: the guest reads a drive.
    run(Command::new("tar")
        .args(["--record-size=1M", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&staged)
        .arg("."))?;
    Ok(archive)
}

/// The attacks, as the last run of the tests built them; without one the guest says that they are skipped. They run
/// against the product, so the funcd that was built for the tests stays here.
fn attacks(staged: &Path) -> Result<(), String> {
    let built = target().join("blackbox");
    if !built.join("attacks").exists() {
        return Ok(());
    }
    let artifacts = staged.join("artifacts");
    fs::create_dir_all(&artifacts).map_err(|why| format!("{}: {why}", artifacts.display()))?;
    strip(&built.join("attacks"), &artifacts.join("attacks"))?;
    for name in ["bin", "examples"] {
        copy(&built.join(name), &artifacts)?;
    }
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .current_dir(root())
        .arg("--quiet")
        .env_remove("CARGO_BUILD_TARGET");
    cargo
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    run(Command::new("cp").arg("-r").args([from, to])).map(drop)
}

/// Copies an executable without what only a debugger reads.
fn strip(from: &Path, to: &Path) -> Result<(), String> {
    run(Command::new("strip").arg("-o").args([to, from])).map(drop)
}
