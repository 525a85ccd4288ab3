//! `funcd run` and `funcd rm`: put an executable into the functions folder, or take it out, in one step, and wait until
//! the host says what became of it. The folder is the only interface: `cp` and `rm` do the same without waiting.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use funcd_sandbox::spec::Digest;
use serde::Serialize;

use super::args::{Global, Rm, Run};
use super::exit::{Code, Failure};
use super::output::{GOOD, print, print_json, styled};
use crate::admin::client::Client;
use crate::admin::view::{ConfigView, FunctionView, Functions, State, Status};
use crate::config::Config;
use crate::name::{FunctionName, RevisionId};

/// How often the host is asked what became of it.
const POLL: Duration = Duration::from_millis(50);
/// What the host said before the change may be said again until it has looked; after this long it counts.
const STALE: Duration = Duration::from_secs(2);

/// The document of `run --json`.
#[derive(Debug, Serialize)]
struct Deployed<'a> {
    name: &'a str,
    revision: String,
    url: String,
}

pub(super) fn run(global: &Global, run: &Run) -> Result<(), Failure> {
    let client = super::client(global)?;
    let config = client.get::<ConfigView>("/v1/config")?.config;
    let before = look(&client, &run.name)?;
    let digest = put(&run.file, &config.functions, run.name.as_str())?;
    // A plain executable has no manifest text of its own.
    let revision = RevisionId::of(digest, "").to_string();
    let started = Instant::now();
    let verdict = wait(Duration::from_secs(run.timeout), || {
        let now = look(&client, &run.name)?;
        let fresh = now != before || started.elapsed() > STALE;
        Ok(judge(now.as_ref(), &revision, fresh))
    })?;
    match verdict {
        Some(Verdict::Live { route }) => {
            let url = url(&config, &route);
            let name = run.name.as_str();
            if global.json {
                return print_json(&Deployed { name, revision, url });
            }
            print(&format!(
                "{} {name} is live:\n  curl {url}\n",
                styled(GOOD, "ok:")
            ))
        }
        Some(Verdict::Refused(reason)) => {
            let reason = super::output::safe(&reason);
            Err(Failure::new(
                Code::Failure,
                format!("{} is refused: {reason}", run.name),
            ))
        }
        None => Err(Failure::new(
            Code::Failure,
            format!(
                "{} is in the folder, and the host has not taken it up within {} s: `funcd ls` shows what it waits for",
                run.name, run.timeout
            ),
        )),
    }
}

pub(super) fn rm(global: &Global, rm: &Rm) -> Result<(), Failure> {
    let client = super::client(global)?;
    let config = client.get::<ConfigView>("/v1/config")?.config;
    take_out(&config.functions, rm.name.as_str())?;
    let gone = wait(Duration::from_secs(rm.timeout), || {
        Ok(look(&client, &rm.name)?.is_none().then_some(()))
    })?;
    match gone {
        Some(()) if global.json => print_json(&serde_json::json!({ "removed": rm.name })),
        Some(()) => print(&format!("{} {} is gone\n", styled(GOOD, "ok:"), rm.name)),
        None => Err(Failure::new(
            Code::Failure,
            format!(
                "{} is out of the folder, and its requests have not ended within {} s: `funcd ps` shows them",
                rm.name, rm.timeout
            ),
        )),
    }
}

/// What became of an executable.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// New requests go to it.
    Live {
        /// The first of its routes.
        route: String,
    },
    /// The host does not want it: why.
    Refused(String),
}

/// What the host's words mean for a revision that was just put into the folder. `fresh`: they are from after that.
/// `None`: not decided yet.
fn judge(view: Option<&FunctionView>, revision: &str, fresh: bool) -> Option<Verdict> {
    let view = view?;
    let why = |reason: &Option<String>| {
        Verdict::Refused(reason.clone().unwrap_or_else(|| "no reason given".to_owned()))
    };
    match (view.status, &view.function) {
        (Status::Refused, _) => fresh.then(|| why(&view.reason)),
        (Status::Settling | Status::Removed, _) | (Status::Accepted, None) => None,
        (Status::Accepted, Some(function)) if function.revision == revision => match function.state {
            State::Failed => fresh.then(|| why(&function.reason)),
            State::Idle
            | State::Starting
            | State::Ready
            | State::Frozen
            | State::Draining
            | State::Backoff => {
                let route = function.routes.first().cloned();
                let route = route.unwrap_or_else(|| format!("/{}/", view.name));
                Some(Verdict::Live { route })
            }
        },
        // Another revision is live: the new one is being stored or started, or did not get ready.
        (Status::Accepted, Some(function)) => {
            let ours = function
                .rejected
                .as_ref()
                .filter(|rejected| rejected.revision == revision);
            ours.filter(|_| fresh)
                .map(|rejected| Verdict::Refused(rejected.reason.clone()))
        }
    }
}

fn look(client: &Client, name: &FunctionName) -> Result<Option<FunctionView>, Failure> {
    let functions: Functions = client.get("/v1/functions")?;
    let mut functions = functions.functions.into_iter();
    Ok(functions.find(|view| view.name == name.as_str()))
}

/// Asks until there is an answer; `None`: there was none in time.
fn wait<T>(
    at_most: Duration,
    mut ask: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// What to give to curl for a route: `/hello/`, or `img.example.com/thumbs` (then with its host).
fn url(config: &Config, route: &str) -> String {
    let mut address = config
        .listen
        .first()
        .copied()
        .unwrap_or(([127, 0, 0, 1], 8080).into());
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    match route.split_once('/') {
        Some(("", path)) => format!("http://{address}/{path}"),
        Some((host, path)) => format!("-H 'Host: {host}' http://{address}/{path}"),
        None => format!("-H 'Host: {route}' http://{address}/"),
    }
}

/// Copies `file` into `folder` as `name`: first under a name that the host ignores, then in one step. Gives the SHA-256
/// of what was copied.
fn put(file: &Path, folder: &Path, name: &str) -> Result<Digest, Failure> {
    let doing = |what: &str, path: &Path| format!("can't {what} {}", path.display());
    let mut source = File::open(file).map_err(|e| Failure::io(doing("read", file), &e))?;
    let kind = source
        .metadata()
        .map_err(|e| Failure::io(doing("read", file), &e))?;
    if !kind.is_file() {
        let what = format!("{} is not a file: give the path of an executable", file.display());
        return Err(Failure::new(Code::Failure, what));
    }
    let target = folder.join(name);
    if target.is_dir() {
        let what = format!(
            "{0} is a folder: copy the executable into it as its function.toml says, or `funcd rm {name}` first",
            target.display()
        );
        return Err(Failure::new(Code::Failure, what));
    }
    let temporary = Temporary(folder.join(format!(".{name}.{}.new", std::process::id())));
    let digest =
        copy(&mut source, &temporary.0).map_err(|e| Failure::io(doing("write", &temporary.0), &e))?;
    fs::rename(&temporary.0, &target).map_err(|e| Failure::io(doing("make", &target), &e))?;
    sync_folder(folder).map_err(|e| Failure::io(doing("sync", folder), &e))?;
    Ok(digest)
}

/// Removes a file that was not renamed away; after the rename there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn copy(source: &mut File, target: &Path) -> io::Result<Digest> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o700).open(target)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut chunk = vec![0; 128 * 1024];
    loop {
        let length = source.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        context.update(&chunk[..length]);
        file.write_all(&chunk[..length])?;
    }
    // Whatever the umask: who may read the folder may read the function, and only its owner may change it.
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()?;
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Digest(digest))
}

/// Takes an entry out of the folder in one step, then deletes it.
fn take_out(folder: &Path, name: &str) -> Result<(), Failure> {
    let entry = folder.join(name);
    let aside = folder.join(format!(".{name}.{}.old", std::process::id()));
    match fs::rename(&entry, &aside) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let what = format!(
                "there is no {name} in {}: `funcd ls` shows what there is",
                folder.display()
            );
            return Err(Failure::new(Code::Failure, what));
        }
        Err(e) => return Err(Failure::io(format_args!("can't remove {}", entry.display()), &e)),
    }
    let removed = match aside.symlink_metadata() {
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(&aside),
        Ok(_) => fs::remove_file(&aside),
        Err(e) => Err(e),
    };
    let synced = removed.and_then(|()| sync_folder(folder));
    synced.map_err(|e| {
        Failure::io(
            format_args!("{name} is out of service; can't delete {}", aside.display()),
            &e,
        )
    })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::config;
    use crate::admin::view::tests::state;
    use crate::admin::view::{FunctionState, Rejected};

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_executable_appears_whole_and_executable() {
        let (source, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = source.path().join("built");
        fs::write(&file, "abc").unwrap();
        fs::write(folder.path().join("hello"), "old").unwrap();
        let digest = put(&file, folder.path(), "hello").unwrap();
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let target = folder.path().join("hello");
        assert_eq!(fs::read(&target).unwrap(), b"abc");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(names(folder.path()), ["hello"]);
    }

    #[test]
    fn what_can_not_be_put_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("thumbs")).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "abc").unwrap();
        let over_a_folder = put(&file, folder.path(), "thumbs").unwrap_err();
        assert!(over_a_folder.message.contains("is a folder"), "{over_a_folder}");
        let from_a_folder = put(folder.path(), folder.path(), "x").unwrap_err();
        assert!(from_a_folder.message.contains("is not a file"), "{from_a_folder}");
        let from_nowhere = put(&folder.path().join("nothing"), folder.path(), "x").unwrap_err();
        assert_eq!(from_nowhere.code, Code::Failure);
        assert_eq!(names(folder.path()), ["file", "thumbs"]);
    }

    #[test]
    fn files_folders_and_links_are_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("precious"), "").unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        fs::write(folder.path().join("dir/function.toml"), "").unwrap();
        std::os::unix::fs::symlink(kept.path(), folder.path().join("link")).unwrap();
        for name in ["file", "dir", "link"] {
            take_out(folder.path(), name).unwrap();
        }
        assert!(names(folder.path()).is_empty());
        assert_eq!(names(kept.path()), ["precious"]);
        let again = take_out(folder.path(), "file").unwrap_err();
        assert!(again.message.contains("there is no file"), "{again}");
    }

    #[test]
    fn what_the_hosts_words_mean() {
        let view = |status, reason: Option<&str>, function| FunctionView {
            name: "hello".to_owned(),
            status,
            kind: None,
            reason: reason.map(str::to_owned),
            function,
        };
        let new = "ab".repeat(32);
        let live = Some(Verdict::Live {
            route: "/hello/".to_owned(),
        });
        let refused = |text: &str| Some(Verdict::Refused(text.to_owned()));
        let idle = || Some(state(State::Idle));
        let old = || {
            let revision = "cd".repeat(32);
            Some(FunctionState {
                revision,
                ..state(State::Ready)
            })
        };
        let rejected = || {
            let rejected = Rejected {
                revision: "ab".repeat(32),
                reason: "not ready in time".to_owned(),
            };
            old().map(|function| FunctionState {
                rejected: Some(rejected),
                ..function
            })
        };
        let failed = || {
            let reason = Some("exited with code 3".to_owned());
            Some(FunctionState {
                reason,
                ..state(State::Failed)
            })
        };
        let cases = [
            (None, true, None),
            (
                Some(view(Status::Settling, Some("being written"), old())),
                true,
                None,
            ),
            (Some(view(Status::Accepted, None, None)), true, None),
            (Some(view(Status::Accepted, None, old())), true, None),
            (Some(view(Status::Accepted, None, idle())), false, live),
            (
                Some(view(Status::Accepted, None, failed())),
                true,
                refused("exited with code 3"),
            ),
            (
                Some(view(Status::Accepted, None, rejected())),
                true,
                refused("not ready in time"),
            ),
            (
                Some(view(Status::Refused, Some("no"), old())),
                true,
                refused("no"),
            ),
            (Some(view(Status::Refused, Some("no"), old())), false, None),
        ];
        for (view, fresh, verdict) in cases {
            assert_eq!(judge(view.as_ref(), &new, fresh), verdict, "{view:?}");
        }
    }

    #[test]
    fn urls_to_curl() {
        let mut config = config();
        assert_eq!(url(&config, "/hello/"), "http://127.0.0.1:8080/hello/");
        config.listen = vec!["0.0.0.0:80".parse().unwrap()];
        assert_eq!(url(&config, "/hello/"), "http://127.0.0.1:80/hello/");
        assert_eq!(
            url(&config, "img.example.com/thumbs"),
            "-H 'Host: img.example.com' http://127.0.0.1:80/thumbs"
        );
    }
}
