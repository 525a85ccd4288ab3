//! What a guest is given: the product, the example functions, the scripts that test them. One tar archive, made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::guide::{self, Step};
use super::run;
use crate::run::{root, target};

/// The example functions that the guests' tests use.
const EXAMPLES: [&str; 6] = ["hello", "echo", "hog", "crash", "slow", "forkbomb"];

/// The version of the package that guests upgrade to.
const NEXT: &str = "99.0.0";

/// What a guest is given.
#[derive(Debug)]
pub(super) struct Payload {
    /// A tar archive.
    pub(super) archive: PathBuf,
    /// The steps of docs/quickstart.md, of which some are done here.
    pub(super) guide: Vec<Step>,
}

/// Makes it.
///
/// # Errors
/// The step that failed, and what it said.
pub(super) fn stage(folder: &Path, binary: Option<&Path>) -> Result<Payload, String> {
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
    let binary = match binary {
        Some(binary) => binary.to_owned(),
        None => build(&triple)?,
    };
    package(&binary, &product)?;
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
    let document = root().join("docs/quickstart.md");
    let text = fs::read_to_string(&document).map_err(|why| format!("{}: {why}", document.display()))?;
    let guide = guide::steps(&text).map_err(|why| format!("{}: {why}", document.display()))?;
    fs::write(staged.join("quickstart.sh"), guide::script(&guide))
        .map_err(|why| format!("quickstart.sh: {why}"))?;
    let archive = folder.join("payload.tar");
    // Whole sectors: the guest reads a drive.
    run(Command::new("tar")
        .args(["--record-size=1M", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&staged)
        .arg("."))?;
    Ok(Payload { archive, guide })
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

/// The executable that is packaged: static, as it is shipped, but built with the release profile; `dist` takes several times
/// longer and differs in nothing that is looked at here. Without what only a debugger reads.
fn build(triple: &str) -> Result<PathBuf, String> {
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "funcd",
        "--locked",
        "--target",
        triple,
    ]))?;
    let built = target().join(triple).join("release/funcd");
    let stripped = target().join("vm/funcd");
    strip(&built, &stripped)?;
    Ok(stripped)
}

/// `xtask package`: `funcd.deb`, and `funcd-next.deb`, which is the same but for its version, so that there is something to
/// upgrade to.
fn package(binary: &Path, product: &Path) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|why| format!("this executable: {why}"))?;
    let out = product.join("out");
    run(Command::new(this)
        .args(["package", "--binary"])
        .arg(binary)
        .arg("--out")
        .arg(&out))?;
    let made = fs::read_dir(&out).ok().into_iter().flatten().flatten();
    let deb = made
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| format!("{}: xtask package made no package", out.display()))?;
    let unpacked = out.join("next");
    run(Command::new("dpkg-deb")
        .arg("--raw-extract")
        .args([&deb, &unpacked]))?;
    run(Command::new("sed")
        .args(["-i", &format!("s/^Version: .*/Version: {NEXT}/")])
        .arg(unpacked.join("DEBIAN/control")))?;
    // Packed by nothing: it is unpacked again a minute later.
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&unpacked, &product.join("funcd-next.deb")]))?;
    fs::rename(&deb, product.join("funcd.deb"))
        .and_then(|()| fs::remove_dir_all(&out))
        .map_err(|why| format!("{}: {why}", deb.display()))
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
