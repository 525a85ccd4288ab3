//! `xtask package`: a Debian package, or an RPM, of an executable that is there. What is in it comes from that executable itself
//! (`funcd install`), so that both ways to install give the same files. The same input gives the same bytes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use crate::run::{Failed, epoch, root, succeed};

/// What `dpkg -i` runs, which must be in every package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Package {
    /// The executable [default: what `xtask dist` built]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the packages go [default: packages in the target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The version [default: that of the executable]; how an upgrade is tested
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// How it is compressed: Debian 11 can't read zstd
    #[arg(long, value_name = "HOW", default_value = "xz", value_parser = ["xz", "gzip", "none"])]
    compress: String,
    /// Build an RPM instead, with rpmbuild(8)
    #[arg(long)]
    rpm: bool,
    /// The architecture [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
}

impl Package {
    /// Builds the package and prints its path and size.
    ///
    /// # Errors
    /// What, where, why and what to do.
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| crate::run::target().join("packages"));
        fs::create_dir_all(&out).failed("make", &out)?;
        let stage = out.join(".stage");
        let made = self.build(&stage, &out);
        let _ = fs::remove_dir_all(&stage);
        let package = made?;
        let size = fs::metadata(&package).failed("read", &package)?.len();
        println!("{} ({:.2} MB)", package.display(), size as f64 / 1e6);
        Ok(ExitCode::SUCCESS)
    }

    fn build(&self, stage: &Path, out: &Path) -> Result<PathBuf, String> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => crate::dist::executable(&crate::dist::host_target()?),
        };
        if !binary.is_file() {
            return Err(format!(
                "{}: no such executable; `cargo run -p xtask -- dist` builds it",
                binary.display()
            ));
        }
        let binary = fs::canonicalize(&binary).failed("find", &binary)?;
        let version = match &self.version {
            Some(version) => version.clone(),
            None => version_of(&binary)?,
        };
        let arch = self.arch.as_deref().unwrap_or(std::env::consts::ARCH);
        let _ = fs::remove_dir_all(stage);
        fs::create_dir_all(stage).failed("make", stage)?;
        succeed(
            Command::new(&binary)
                .args(["install", "--prefix", "/usr", "--for-package", "--root"])
                .arg(stage)
                .stdout(Stdio::null()),
        )?;
        match self.rpm {
            true => crate::rpm::build(stage, out, (&version, arch), &self.compress),
            false => self.deb(stage, out, &version, arch),
        }
    }

    /// Makes a Debian package of the files.
    fn deb(&self, stage: &Path, out: &Path, version: &str, arch: &str) -> Result<PathBuf, String> {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        debianize(stage, version)?;
        let files = files(stage).failed("read", stage)?;
        let control = stage.join("DEBIAN");
        fs::create_dir(&control).failed("make", &control)?;
        let write = |name: &str, text: String| {
            let path = control.join(name);
            fs::write(&path, text).failed("write", &path)
        };
        let bytes: u64 = files
            .iter()
            .map(|path| fs::metadata(path).map_or(0, |meta| meta.size()))
            .sum();
        write("control", self::control(version, arch, bytes.div_ceil(1024)))?;
        write("conffiles", "/etc/funcd/funcd.toml\n".to_owned())?;
        write("md5sums", md5sums(stage, &files)?)?;
        for script in SCRIPTS {
            let (from, to) = (
                root().join("systemd/packaging").join(script),
                control.join(script),
            );
            fs::copy(&from, &to).failed("copy", &from)?;
        }
        set_modes_and_times(stage).failed("set the times of", stage)?;
        let deb = out.join(format!("funcd_{version}_{arch}.deb"));
        // One thread: the bytes do not depend on the machine.
        succeed(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "--threads-max=1", "--build"])
                .arg(format!("-Z{}", self.compress))
                .arg(stage)
                .arg(&deb)
                .env("SOURCE_DATE_EPOCH", epoch().to_string())
                .stdout(Stdio::null()),
        )?;
        Ok(deb)
    }
}

/// What `funcd version` says.
fn version_of(binary: &Path) -> Result<String, String> {
    let said = succeed(Command::new(binary).arg("version"))?;
    let version = said.trim().strip_prefix("funcd ").unwrap_or_default();
    match version.starts_with(|c: char| c.is_ascii_digit()) {
        true => Ok(version.to_owned()),
        false => Err(format!("{}: `funcd version` printed {said:?}", binary.display())),
    }
}

/// What Debian wants otherwise: its zsh looks elsewhere, man pages are compressed, and each package has its licence and changes.
fn debianize(stage: &Path, version: &str) -> Result<(), String> {
    let share = stage.join("usr/share");
    let zsh = share.join("zsh/vendor-completions");
    fs::rename(share.join("zsh/site-functions"), &zsh).failed("move", &zsh)?;
    for page in files(&share.join("man")).failed("read", &share)? {
        compress(&page)?;
    }
    let doc = share.join("doc/funcd");
    fs::create_dir_all(&doc).failed("make", &doc)?;
    let changes = doc.join("changelog");
    fs::copy(root().join("CHANGELOG.md"), &changes).failed("copy", &changes)?;
    compress(&changes)?;
    let date = succeed(
        Command::new("date")
            .args(["--utc", "--rfc-email", "--date"])
            .arg(format!("@{}", epoch())),
    )?;
    let of_package = doc.join("changelog.Debian");
    let text = format!(
        "funcd ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- funcd <funcd@users.noreply.github.com>  {date}"
    );
    fs::write(&of_package, text).failed("write", &of_package)?;
    compress(&of_package)?;
    let licence = |name: &str| fs::read_to_string(root().join(name)).failed("read", Path::new(name));
    let copyright = doc.join("copyright");
    let text = format!(
        "funcd is licensed under either of MIT or Apache-2.0 (/usr/share/common-licenses/Apache-2.0), at your option.\n\n{}",
        licence("LICENSE-MIT")?
    );
    fs::write(&copyright, text).failed("write", &copyright)
}

/// Compresses a file, always to the same bytes.
pub(crate) fn compress(path: &Path) -> Result<(), String> {
    succeed(
        Command::new("gzip")
            .args(["-9", "--no-name", "--force"])
            .arg(path),
    )
    .map(drop)
}

/// What dpkg(1) knows of the package.
fn control(version: &str, arch: &str, kibibytes: u64) -> String {
    format!(
        "Package: funcd\nVersion: {version}\nArchitecture: {arch}\nMaintainer: funcd <funcd@users.noreply.github.com>\n\
         Installed-Size: {kibibytes}\nRecommends: ca-certificates\nSection: net\nPriority: optional\nHomepage: https://github.com/funcd/funcd\n\
         Description: serverless process-per-function host for bare Linux\n \
         An executable copied into a folder answers HTTP: started on the first request,\n \
         confined to a sandbox of its own, scaled with load, restarted when it dies.\n"
    )
}

/// All files below a folder, sorted.
pub(crate) fn files(below: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        match path.symlink_metadata()?.is_dir() {
            true => all.extend(files(&path)?),
            false => all.push(path),
        }
    }
    all.sort();
    Ok(all)
}

/// What `dpkg --verify` compares with.
fn md5sums(stage: &Path, files: &[PathBuf]) -> Result<String, String> {
    let relative = |path: &PathBuf| path.strip_prefix(stage).map(Path::to_owned).unwrap_or_default();
    // The operator's files may change.
    let sealed = files.iter().map(relative).filter(|path| !path.starts_with("etc"));
    succeed(Command::new("md5sum").args(sealed).current_dir(stage))
}

/// Permissions whatever the umask was, and the one time of everything.
pub(crate) fn set_modes_and_times(at: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(at)?;
    if meta.is_dir() {
        for entry in fs::read_dir(at)? {
            set_modes_and_times(&entry?.path())?;
        }
    }
    let executes = meta.is_dir()
        || at.ends_with("usr/bin/funcd")
        || SCRIPTS
            .iter()
            .any(|script| at.ends_with(format!("DEBIAN/{script}")));
    fs::set_permissions(at, Permissions::from_mode(if executes { 0o755 } else { 0o644 }))?;
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch());
    fs::File::open(at)?.set_modified(then)
}
