//! The program that this launcher is, and the one that lies in its place by now. Never executes either.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Host, LauncherError, supervisor};

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
    pub(super) fn next(&self, strangers: &Strangers) -> Result<OwnedFd, String> {
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
        if ![0, me, self.owner].contains(&meta.uid()) || strangers.are(meta.uid()) {
            return refuse(&format!("belongs to uid {}", meta.uid()));
        }
        if meta.mode() & 0o020 != 0 && strangers.are(meta.gid()) {
            return refuse(&format!("may be written by gid {}", meta.gid()));
        }
        if let Some(folder) = self.folder_of_others(strangers) {
            let folder = folder.display();
            return Err(format!(
                "{path}: others can put something else there, as {folder} is theirs to write: make it root's own"
            ));
        }
        if file.read_exact(&mut magic).is_err() || magic != *b"\x7fELF" {
            return refuse("is no ELF executable");
        }
        Ok(file.into())
    }
}

/// Who must not be able to say what runs as the launcher: what is compromised first.
#[derive(Debug)]
pub(super) struct Strangers {
    supervisor: Option<(u32, u32)>,
    functions: std::ops::Range<u32>,
}

impl Strangers {
    /// Without privileges all have the launcher's own uid, and nobody is one.
    pub(super) fn of(host: &Host) -> Strangers {
        let last = host.uid_first.saturating_add(host.uid_count);
        Strangers {
            supervisor: host.supervisor,
            functions: host.uid_first..if host.supervisor.is_some() {
                last
            } else {
                host.uid_first
            },
        }
    }

    /// Whether a uid or gid is that of one.
    fn are(&self, id: u32) -> bool {
        self.functions.contains(&id) || self.supervisor.is_some_and(|(uid, gid)| [uid, gid].contains(&id))
    }
}

impl Image {
    /// A folder on the way to the program in which somebody else can rename.
    fn folder_of_others(&self, strangers: &Strangers) -> Option<PathBuf> {
        let me = nix::unistd::geteuid().as_raw();
        let path = fs::canonicalize(&self.path).ok()?;
        let others = |folder: &&Path| {
            let Ok(meta) = fs::metadata(folder) else {
                return false;
            };
            // In a user namespace root is nobody that can be told from others.
            let is_known = strangers.supervisor.is_none() || [0, me, self.owner].contains(&meta.uid());
            let owned = is_known && !strangers.are(meta.uid());
            // In a sticky folder (/tmp) everybody renames what is their own.
            let everybody = meta.mode() & 0o1002 == 0o002;
            let group = meta.mode() & 0o1020 == 0o020 && strangers.are(meta.gid());
            !owned || everybody || group
        };
        path.ancestors().skip(1).find(others).map(Path::to_owned)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn what_those_who_are_compromised_first_could_have_put_there_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (dir.path().join("bin"), dir.path().join("bin/funcd"));
        fs::create_dir(&folder).unwrap();
        fs::write(&path, "\x7fELF").unwrap();
        let image = Image {
            path: path.clone(),
            program: File::open(&path).unwrap().into(),
            owner: 0,
        };
        let strangers = Strangers {
            supervisor: Some((4242, 4343)),
            functions: 5000..6000,
        };
        let set = |at: &Path, mode, (uid, gid)| {
            chown(at, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        };
        // Each with its control.
        for (of_file, of_folder, why) in [
            ((0o775, (0, 0)), (0o755, (0, 0)), None),
            ((0o775, (0, 50)), (0o2775, (0, 50)), None),
            ((0o755, (0, 4343)), (0o755, (0, 4343)), None),
            ((0o775, (0, 4343)), (0o755, (0, 0)), Some("by gid 4343")),
            ((0o755, (4242, 0)), (0o755, (0, 0)), Some("belongs to uid 4242")),
            ((0o755, (5005, 0)), (0o755, (0, 0)), Some("belongs to uid 5005")),
            (
                (0o755, (0, 0)),
                (0o755, (4242, 0)),
                Some("put something else there"),
            ),
            (
                (0o755, (0, 0)),
                (0o775, (0, 5005)),
                Some("put something else there"),
            ),
            ((0o755, (0, 0)), (0o777, (0, 0)), Some("put something else there")),
        ] {
            set(&path, of_file.0, of_file.1);
            set(&folder, of_folder.0, of_folder.1);
            let refused = image.next(&strangers).err();
            match why {
                None => assert_eq!(refused, None),
                Some(why) => assert!(
                    refused.as_ref().is_some_and(|said| said.contains(why)),
                    "{why}: {refused:?}"
                ),
            }
        }
    }
}
