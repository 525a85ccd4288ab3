//! Where the examples of the demo come from: a folder that was named, the installed package, or the sources that this
//! program was built from. Copies nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::exit::{Code, Failure};
use crate::cli::output::{STRONG, styled};

/// The examples, in the order in which they are built and shown.
const NAMES: [&str; 4] = ["hello", "notes", "thumbs", "ticker"];

/// One function of the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Example {
    /// Its name.
    pub(super) name: String,
    /// Its executable, or the folder with its executable and `function.toml`.
    pub(super) path: PathBuf,
    /// A `function.toml` that goes with an executable.
    pub(super) manifest: Option<PathBuf>,
}

/// The folder that this program was built in, for who runs it from a checkout. What is shipped (`xtask dist`) knows of none: it is
/// the same wherever it was built, and never builds what somebody puts at a path of another machine.
const PACKAGE: Option<&str> = match option_env!("FUNCD_SHIPPED") {
    Some(_) => None,
    None => Some(env!("CARGO_MANIFEST_DIR")),
};

/// Finds the examples, and builds them if that is what it takes.
///
/// # Errors
/// When there are none: says what was looked for.
pub(super) fn find(named: Option<&Path>) -> Result<Vec<Example>, Failure> {
    if let Some(folder) = named {
        let examples = of_folder(folder)?;
        return match examples.is_empty() {
            false => Ok(examples),
            true => {
                let what = format!(
                    "there is no executable in {}: --examples names a folder of them",
                    folder.display()
                );
                Err(Failure::new(Code::Failure, what))
            }
        };
    }
    let installed = installed_folders();
    for folder in &installed {
        if folder.is_dir() {
            let examples = of_folder(folder)?;
            if !examples.is_empty() {
                return Ok(examples);
            }
        }
    }
    let sources = PACKAGE.map(|package| Path::new(package).with_file_name("examples"));
    if let Some(sources) = sources
        .as_ref()
        .filter(|sources| sources.join("Cargo.toml").is_file())
    {
        return build(sources);
    }
    let looked: Vec<String> = installed
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    let and = sources.map_or_else(String::new, |sources| {
        format!(", and the sources of funcd are not at {}", sources.display())
    });
    let what = format!(
        "there are no examples in {}{and}: name a folder of executables with --examples DIR",
        looked.join(" or ")
    );
    Err(Failure::new(Code::Failure, what))
}

/// Where a package puts them: beside this program's own place, and in the system's.
fn installed_folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("lib/funcd/examples")));
    beside
        .into_iter()
        .chain([PathBuf::from("/usr/lib/funcd/examples")])
        .collect()
}

/// A folder in the shape of the functions folder. Hidden entries are left out; the host judges the others.
fn of_folder(folder: &Path) -> Result<Vec<Example>, Failure> {
    let failed = |e: std::io::Error| Failure::io(format_args!("can't read {}", folder.display()), &e);
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_function = path.is_file() || path.join("function.toml").is_file();
        if is_function && !name.starts_with('.') {
            examples.push(Example {
                name,
                path,
                manifest: None,
            });
        }
    }
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(examples)
}

/// Builds the examples as static executables for this machine.
fn build(sources: &Path) -> Result<Vec<Example>, Failure> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    add_target(sources, &target)?;
    let built = sources.join("target");
    let mut command = Command::new(&cargo);
    command
        .args(["build", "--release", "--target", &target])
        .arg("--target-dir")
        .arg(&built);
    for name in NAMES {
        command.args(["--package", name]);
    }
    anstream::eprintln!(
        "{} the examples in {}",
        styled(STRONG, "building"),
        sources.display()
    );
    run(command.current_dir(sources), "build the examples")?;
    let release = built.join(&target).join("release");
    let example = |name: &str| {
        let manifest = sources.join(name).join("function.toml");
        Example {
            name: name.to_owned(),
            path: release.join(name),
            manifest: manifest.is_file().then_some(manifest),
        }
    };
    Ok(NAMES.map(example).into())
}

/// Makes sure that Rust's library for static executables is there.
fn add_target(sources: &Path, target: &str) -> Result<(), Failure> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", target])
        .current_dir(sources);
    let known = ask.stderr(Stdio::null()).output();
    let folder = known.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    if folder.is_ok_and(|folder| folder.is_dir()) {
        return Ok(());
    }
    anstream::eprintln!("{} Rust's target {target}", styled(STRONG, "adding"));
    let mut add = Command::new("rustup");
    add.args(["target", "add", target]).current_dir(sources);
    run(
        &mut add,
        &format!("add Rust's target {target} (by hand: rustup target add {target})"),
    )
}

/// Runs a command that shows its own progress.
fn run(command: &mut Command, what: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let what = format!("can't {what}: {program} ended with {status}; its messages are above");
            Err(Failure::new(Code::Failure, what))
        }
        Err(e) => {
            let what = format!(
                "can't {what}: {program}: {e}; install Rust from https://rustup.rs, or use --examples DIR"
            );
            Err(Failure::new(Code::Failure, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_gives_its_executables_and_function_folders() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hello"), "").unwrap();
        fs::write(dir.path().join(".hidden"), "").unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::create_dir(dir.path().join("thumbs")).unwrap();
        fs::write(dir.path().join("thumbs/function.toml"), "").unwrap();
        let names: Vec<String> = find(Some(dir.path()))
            .unwrap()
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, ["hello", "thumbs"]);
    }

    #[test]
    fn an_empty_or_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        assert!(find(Some(dir.path())).unwrap_err().message.contains(&path));
        assert!(
            find(Some(&dir.path().join("no")))
                .unwrap_err()
                .message
                .contains(&path)
        );
    }
}
