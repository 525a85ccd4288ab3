//! Programs that others wrote and that functions are made of: fetched on the first run, each in one version, kept beside what
//! is tested. Never changes what they are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::artifacts::{cargo, folder, lock, run};

/// A package of PyPI or crates.io.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name there.
    pub name: &'static str,
    /// The one version that tests run.
    pub version: &'static str,
    /// A file of it, by which it is known to be there.
    file: &'static str,
}

/// A WSGI server that takes systemd's sockets, and `$PORT`.
pub const GUNICORN: Package = Package {
    name: "gunicorn",
    version: "27.0.1",
    file: "bin/gunicorn",
};
/// An ASGI server that takes a descriptor.
pub const UVICORN: Package = Package {
    name: "uvicorn",
    version: "0.54.0",
    file: "bin/uvicorn",
};
/// Fn's FDK for Python.
pub const FDK: Package = Package {
    name: "fdk",
    version: "0.1.128",
    file: "fdk/__init__.py",
};
/// The command that develops Lambda functions.
pub const CARGO_LAMBDA: Package = Package {
    name: "cargo-lambda",
    version: "1.9.2",
    file: "bin/cargo-lambda",
};
/// A server of files, of crates.io.
pub const STATIC_WEB_SERVER: Package = Package {
    name: "static-web-server",
    version: "2.44.1",
    file: "bin/static-web-server",
};

impl Package {
    /// The folder of this version.
    fn folder(&self) -> PathBuf {
        folder()
            .join("peers")
            .join(format!("{}-{}", self.name, self.version))
    }

    /// Whether it was fetched before.
    pub fn is_there(&self) -> bool {
        self.folder().join(self.file).exists()
    }

    /// Fetches it, or finds it there.
    fn get(&self, fetch: impl FnOnce(&PathBuf)) -> PathBuf {
        let folder = self.folder();
        if self.is_there() {
            return folder;
        }
        let _lock = lock(&folder);
        if !self.is_there() {
            fetch(&folder);
        }
        folder
    }

    fn by_pip(&self) -> PathBuf {
        self.get(|folder| {
            // Debian's own python3, which the sandbox shows, not one of a version manager in somebody's home.
            let mut pip = Command::new("/usr/bin/python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-compile", "--upgrade"]);
            pip.arg("--target").arg(folder);
            run(pip
                .arg(format!("{}=={}", self.name, self.version))
                .current_dir("/"));
        })
    }
}

/// The executable of static-web-server, built from crates.io as its authors released it.
pub fn static_web_server() -> PathBuf {
    let package = STATIC_WEB_SERVER;
    let folder = package.get(|folder| {
        eprintln!("building {} (minutes)", package.name);
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--no-default-features"]);
        install.args(["--version", package.version, package.name]);
        install.arg("--root").arg(folder);
        install.arg("--target-dir").arg(folder.join("build"));
        run(install.current_dir("/"));
        let _ = fs::remove_dir_all(folder.join("build"));
    });
    folder.join(package.file)
}

/// The folder that gunicorn is installed to as its authors released it; its script is `bin/gunicorn`.
pub fn gunicorn() -> PathBuf {
    GUNICORN.by_pip()
}

/// The folder that uvicorn is installed to as its authors released it; its script is `bin/uvicorn`.
pub fn uvicorn() -> PathBuf {
    UVICORN.by_pip()
}

/// The folder that Fn's FDK for Python is installed to as its authors released it.
pub fn fdk() -> PathBuf {
    FDK.by_pip()
}

/// The executable of cargo-lambda as its authors released it.
pub fn cargo_lambda() -> PathBuf {
    CARGO_LAMBDA.by_pip().join(CARGO_LAMBDA.file)
}
