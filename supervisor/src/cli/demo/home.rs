//! The temporary home of the demo: made, furnished with copies of the examples, removed at the end. Never removes
//! what it did not make.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::mkdtemp;

use super::examples::Example;
use crate::cli::exit::Failure;

/// A function's `function.toml` asks for folders below this; in the demo they are in the home.
const GRANTED: &str = "/srv/";

/// What there is to try `thumbs` with.
const PICTURE: &[u8] = include_bytes!("picture.png");

/// A temporary home; removed on drop.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    count: usize,
}

impl Home {
    /// Makes an empty home below `$TMPDIR` or `/tmp`.
    ///
    /// # Errors
    /// Those of making folders and files.
    pub(super) fn make() -> Result<Home, Failure> {
        let template = std::env::temp_dir().join("funcd-demo-XXXXXX");
        let path = mkdtemp(&template).map_err(|e| {
            let what = format!(
                "can't make a home in {} (TMPDIR chooses another place)",
                std::env::temp_dir().display()
            );
            Failure::io(what, &e.into())
        })?;
        let home = Home { path, count: 0 };
        home.lay_out()
            .map_err(|e| Failure::io(format_args!("can't lay out {}", home.path.display()), &e))?;
        Ok(home)
    }

    fn lay_out(&self) -> io::Result<()> {
        // Others may walk through, as functions with uids of their own do to what they are granted, and see nothing.
        set_mode(&self.path, 0o711)?;
        for (name, mode) in [
            ("functions", 0o755),
            ("state", 0o755),
            ("run", 0o755),
            ("data", 0o711),
        ] {
            fs::create_dir(self.path.join(name))?;
            set_mode(&self.path.join(name), mode)?;
        }
        fs::write(self.picture(), PICTURE)?;
        set_mode(&self.picture(), 0o644)?;
        // JSON's strings are TOML's: quotes and backslashes of the path are escaped.
        let data = serde_json::to_string(&self.path.join("data")).map_err(io::Error::other)?;
        fs::write(self.config(), format!("write_roots = [{data}]\n"))
    }

    /// Copies the examples into the functions folder.
    ///
    /// # Errors
    /// Those of copying.
    pub(super) fn furnish(&mut self, examples: &[Example]) -> Result<(), Failure> {
        for example in examples {
            let copied = self.copy(example);
            copied.map_err(|e| Failure::io(format_args!("can't copy {}", example.path.display()), &e))?;
        }
        self.count = examples.len();
        Ok(())
    }

    fn copy(&self, example: &Example) -> io::Result<()> {
        let target = self.functions().join(&example.name);
        if example.path.is_dir() {
            fs::create_dir(&target)?;
            set_mode(&target, 0o755)?;
            for entry in fs::read_dir(&example.path)? {
                let entry = entry?.path();
                let name = entry.file_name().unwrap_or_default();
                match name == "function.toml" {
                    true => self.copy_manifest(&example.name, &entry, &target)?,
                    false if entry.is_file() => copy_executable(&entry, &target.join(name))?,
                    false => {}
                }
            }
            return Ok(());
        }
        match &example.manifest {
            None => copy_executable(&example.path, &target),
            Some(manifest) => {
                fs::create_dir(&target)?;
                set_mode(&target, 0o755)?;
                copy_executable(&example.path, &target.join(&example.name))?;
                self.copy_manifest(&example.name, manifest, &target)
            }
        }
    }

    /// A manifest that grants `/srv/<name>` gets a folder of that name in the home instead.
    fn copy_manifest(&self, name: &str, from: &Path, folder: &Path) -> io::Result<()> {
        let text = fs::read_to_string(from)?;
        let granted = format!("{GRANTED}{name}");
        let data = self.path.join("data").join(name);
        if text.contains(&granted) {
            fs::create_dir(&data)?;
            // Whatever uid the function gets; as /tmp, what one made another can't remove.
            set_mode(&data, 0o1777)?;
        }
        let target = folder.join("function.toml");
        fs::write(&target, text.replace(&granted, &data.display().to_string()))?;
        set_mode(&target, 0o644)
    }

    /// How many functions were copied.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The home itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The functions folder.
    pub(super) fn functions(&self) -> PathBuf {
        self.path.join("functions")
    }

    /// The socket of the admin API.
    pub(super) fn admin(&self) -> PathBuf {
        self.path.join("run/admin.sock")
    }

    /// A PNG of 240 by 160 pixels.
    pub(super) fn picture(&self) -> PathBuf {
        self.path.join("picture.png")
    }

    fn config(&self) -> PathBuf {
        self.path.join("funcd.toml")
    }

    /// What tells `funcd serve` to live here.
    pub(super) fn flags(&self) -> Vec<PathBuf> {
        let flag = |name: &str, value: PathBuf| [PathBuf::from(name), value];
        let flags = [
            flag("--config", self.config()),
            flag("--functions", self.functions()),
            flag("--state", self.path.join("state")),
            flag("--run", self.path.join("run")),
            flag("--admin", self.admin()),
        ];
        flags.into_iter().flatten().collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let path = self.path.display();
        if mounted_below(&self.path) {
            anstream::eprintln!("something is still mounted below {path}: left as it is");
            return;
        }
        if let Err(e) = fs::remove_dir_all(&self.path) {
            anstream::eprintln!("can't remove {path}: {e}");
        }
    }
}

/// Whether removing the folder could reach into another file system. When that can't be told: yes.
fn mounted_below(folder: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return true;
    };
    // The fifth field is where it is mounted; see proc_pid_mountinfo(5).
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| Path::new(place).starts_with(folder))
}

fn copy_executable(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    set_mode(to, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn furnished_and_removed() {
        let source = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = source.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let example = |name: &str, path: PathBuf, manifest| Example {
            name: name.to_owned(),
            path,
            manifest,
        };
        file("thumbs/thumbs", "elf");
        file("thumbs/function.toml", "[scale]\n");
        let grant = "env = { NOTES_DB = \"/srv/notes/notes.db\" }\n[sandbox]\nwrite = [\"/srv/notes\"]\n";
        let examples = [
            example("hello", file("hello", "elf"), None),
            example("notes", file("notes", "elf"), Some(file("notes.toml", grant))),
            example("thumbs", source.path().join("thumbs"), None),
        ];
        let mut home = Home::make().unwrap();
        home.furnish(&examples).unwrap();
        assert_eq!(home.count(), 3);
        let path = home.path().to_owned();
        for name in ["hello", "notes/notes", "thumbs/thumbs"] {
            let mode = path
                .join("functions")
                .join(name)
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o755, "{name}");
        }
        let manifest = fs::read_to_string(path.join("functions/notes/function.toml")).unwrap();
        let data = path.join("data/notes");
        assert!(
            manifest.contains(&format!("write = [{:?}]", data.display().to_string())),
            "{manifest}"
        );
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_mount_point_is_noticed() {
        assert!(mounted_below(Path::new("/proc")));
        let dir = tempfile::tempdir().unwrap();
        assert!(!mounted_below(dir.path()));
    }
}
