//! The program that this launcher is, and the one that lies in its place by now. Never executes either.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{LauncherError, supervisor};

/// The program of this process.
#[derive(Debug)]
pub(super) struct Image {
    /// Where it was started from: where the next one is looked for.
    pub(super) path: PathBuf,
    /// To be executed again, whatever lies there by now.
    pub(super) program: OwnedFd,
    owner: u32,
}

impl Image {
    /// Of this process. `path`: where the launcher before found it; else it is worked out.
    ///
    /// # Errors
    /// Without /proc.
    pub(super) fn of_this_process(path: Option<PathBuf>) -> Result<Image, LauncherError> {
        let failed = |source| LauncherError::Kernel {
            what: "looking for its own program in /proc",
            source,
        };
        let myself = Path::new("/proc/self/exe");
        let program = supervisor::open_path(myself).map_err(failed)?;
        let owner = fs::metadata(myself).map_err(failed)?.uid();
        let path = match path {
            Some(path) => path,
            None => where_from().map_err(failed)?,
        };
        Ok(Image { path, program, owner })
    }

    /// Opens what lies at its path by now.
    ///
    /// # Errors
    /// Why it is not fit to take this one's place.
    pub(super) fn next(&self, supervisor: Option<u32>) -> Result<OwnedFd, String> {
        let path = self.path.display();
        let refuse = |what: &str| {
            Err(format!(
                "{path} {what}: put an executable of funcd there, owned by root"
            ))
        };
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) => {
                return Err(format!(
                    "{path} can't be opened: {e}: put an executable of funcd there"
                ));
            }
        };
        let meta = file
            .metadata()
            .map_err(|e| format!("{path} can't be looked at: {e}"))?;
        let me = nix::unistd::geteuid().as_raw();
        let mut magic = [0; 4];
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            return refuse("is not executable");
        }
        if meta.mode() & 0o002 != 0 {
            return refuse("may be written by everybody");
        }
        if ![0, me, self.owner].contains(&meta.uid()) || (me == 0 && supervisor == Some(meta.uid())) {
            return refuse(&format!("belongs to uid {}", meta.uid()));
        }
        if file.read_exact(&mut magic).is_err() || magic != *b"\x7fELF" {
            return refuse("is no ELF executable");
        }
        Ok(file.into())
    }
}

/// As it was typed, if that leads here: a symbolic link may lead elsewhere later. Otherwise where it lies.
fn where_from() -> std::io::Result<PathBuf> {
    let lies = std::env::current_exe()?;
    let typed = std::env::args_os().next().map(PathBuf::from);
    let typed = typed.filter(|typed| typed.components().count() > 1);
    let typed = typed.and_then(|typed| std::path::absolute(typed).ok());
    let leads_here = |typed: &PathBuf| fs::canonicalize(typed).is_ok_and(|real| real == lies);
    Ok(typed.filter(leads_here).unwrap_or(lies))
}
