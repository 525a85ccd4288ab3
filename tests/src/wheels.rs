//! Packages of PyPI as their authors released them, each with all that it needs, for `pip install` without a network: fetched on
//! the first run, in one version, kept beside what is tested. Never installs one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::artifacts::{folder, lock, run};

/// Google's Functions Framework, and with it Flask and gunicorn.
pub const FUNCTIONS_FRAMEWORK: &str = "functions-framework==3.10.2";
/// A WSGI server.
pub const GUNICORN: &str = "gunicorn==27.0.1";
/// Fn's FDK.
pub const FDK: &str = "fdk==0.1.128";

fn kept(package: &str) -> PathBuf {
    folder().join("peers/wheels").join(package)
}

/// Whether a package was fetched before.
pub(crate) fn are_there(package: &str) -> bool {
    kept(package).exists()
}

/// A folder with a package and all that it needs; `package` is `name==version`.
///
/// # Panics
/// When it is not there yet and can't be fetched.
pub fn wheels(package: &str) -> PathBuf {
    let wheels = kept(package);
    if wheels.exists() {
        return wheels;
    }
    let peers = folder().join("peers");
    let _lock = lock(&peers);
    if !wheels.exists() {
        // Renamed when it is whole: what was broken off leaves nothing that looks like it.
        let made = tempfile::tempdir_in(&peers).expect("the target directory is writable");
        run(Command::new("/usr/bin/python3")
            .args(["-m", "pip", "wheel", "--quiet", "--wheel-dir"])
            .arg(made.path())
            .arg(package)
            .current_dir("/"));
        fs::create_dir_all(peers.join("wheels")).expect("the target directory is writable");
        fs::rename(made.keep(), &wheels).expect("the target directory is writable");
    }
    wheels
}
