//! `funcd install` and `funcd uninstall`: this one program brings all that belongs to it. Doing it again changes nothing;
//! what operators wrote and functions keep stays.

mod apply;
mod layout;
mod system;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::Serialize;

use super::args::{Global, Install, Place, Uninstall};
use super::exit::{Code, Failure};
use super::output::{print, print_json, styled};
use apply::{Did, Target};
use layout::{ETC, Layout, STATE};

/// Says which files a package brought.
const OF_DPKG: &str = "/var/lib/dpkg/info/funcd.list";

/// The document of `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Whether nothing of it was done.
    dry_run: bool,
    paths: Vec<Row>,
    /// Programs of the system that were run.
    ran: Vec<String>,
    /// What else there is to know, and what to do next.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    path: PathBuf,
    did: Did,
}

impl Report {
    fn add(&mut self, path: &Path, did: Did) {
        self.paths.push(Row {
            path: path.to_owned(),
            did,
        });
    }

    fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Runs a program of the system, unless it is only told.
    fn run(&mut self, command: &[&str]) -> Result<(), Failure> {
        if !self.dry_run {
            system::run(command).map_err(|why| Failure::new(Code::Failure, why))?;
        }
        self.ran.push(command.join(" "));
        Ok(())
    }

    fn show(&self, global: &Global) -> Result<(), Failure> {
        if global.json {
            return print_json(self);
        }
        let mut text = String::new();
        for Row { path, did } in self.paths.iter().filter(|row| row.did != Did::Unchanged) {
            text += &format!("{:9} {}\n", did.as_str(), path.display());
        }
        let unchanged = self.paths.iter().filter(|row| row.did == Did::Unchanged).count();
        if unchanged > 0 {
            text += &format!("unchanged {unchanged} others\n");
        }
        for command in &self.ran {
            text += &format!("ran       {command}\n");
        }
        for note in &self.notes {
            text += &format!("{} {note}\n", styled(super::output::WARN, "note:"));
        }
        if self.dry_run {
            text += "nothing was changed, as --dry-run was given\n";
        }
        print(&text)
    }
}

pub(super) fn install(global: &Global, command: &Install) -> Result<(), Failure> {
    let program = std::fs::read("/proc/self/exe").map_err(|e| Failure::io("can't read this program", &e))?;
    let report = put(
        command,
        &program,
        !is_live(&command.place) || system::has_systemd(),
    )?;
    report.show(global)
}

/// Files first, then what makes the system see them.
fn put(command: &Install, program: &[u8], with_systemd: bool) -> Result<Report, Failure> {
    let place = &command.place;
    check(place)?;
    let target = Target {
        root: &place.root,
        dry_run: place.dry_run,
    };
    let layout = Layout::new(&place.prefix, with_systemd, command.for_package);
    let mut report = Report {
        dry_run: place.dry_run,
        ..Report::default()
    };
    let failed = |path: &Path| {
        let path = target.at(path);
        move |e: io::Error| failed("write", &path, &e)
    };
    let put = |file: &layout::File, report: &mut Report| {
        let content = file.content.as_deref().unwrap_or(program);
        let did = target.file(&file.path, content, file.mode, file.is_theirs);
        report.add(&file.path, did.map_err(failed(&file.path))?);
        Ok::<(), Failure>(())
    };
    let (executable, others) = layout
        .files
        .split_first()
        .expect("the executable is always there");
    put(executable, &mut report)?;
    for folder in &layout.folders {
        let did = target.folder(folder).map_err(failed(folder))?;
        report.add(folder, did);
    }
    for file in others {
        put(file, &mut report)?;
    }
    if is_live(place) {
        introduce(&mut report, &layout, with_systemd)?;
    }
    Ok(report)
}

/// Makes the running system see what was installed. Starts nothing: that is for who installs to say.
fn introduce(report: &mut Report, layout: &Layout, with_systemd: bool) -> Result<(), Failure> {
    let sysusers = layout.files.iter().find(|file| {
        file.path
            .parent()
            .is_some_and(|folder| folder.ends_with("sysusers.d"))
    });
    let sysusers = sysusers.map_or(PathBuf::new(), |file| file.path.clone());
    if !report.dry_run {
        let ran = system::make_user(&sysusers).map_err(|why| Failure::new(Code::Failure, why))?;
        report.ran.extend(ran);
    }
    if !with_systemd {
        report.note("systemd does not run here, so no unit was installed: have your service manager run `funcd serve`");
    } else {
        report.run(&["systemctl", "daemon-reload"])?;
        report.note(match system::is_serving() {
            true => "next: `systemctl reload funcd` puts this program in place of the one that runs",
            false => "next: `systemctl enable --now funcd`",
        });
    }
    Ok(())
}

pub(super) fn uninstall(global: &Global, command: &Uninstall) -> Result<(), Failure> {
    let report = take(command, system::has_systemd())?;
    report.show(global)
}

fn take(command: &Uninstall, has_systemd: bool) -> Result<Report, Failure> {
    let place = &command.place;
    check(place)?;
    let target = Target {
        root: &place.root,
        dry_run: place.dry_run,
    };
    let mut report = Report {
        dry_run: place.dry_run,
        ..Report::default()
    };
    let executable = layout::executable(&place.prefix);
    // Another one's units and data are not ours to remove. The executable goes last: as long as it is there, this can be done again.
    if !target.at(&executable).exists() {
        report.note(format!(
            "there is no {}, so nothing was removed; --prefix says where it was installed",
            executable.display()
        ));
        return Ok(report);
    }
    if place.prefix == Path::new("/usr") && target.at(Path::new(OF_DPKG)).exists() {
        let what = "this funcd came as a package: remove it with `apt remove funcd`";
        return Err(Failure::new(Code::Failure, what));
    }
    let units = layout::service(&place.prefix);
    let started_by_units = std::fs::read_to_string(target.at(&units))
        .is_ok_and(|unit| unit.contains(&format!("ExecStart={} ", executable.display())));
    let layout = Layout::new(&place.prefix, started_by_units, false);
    if is_live(place) {
        if has_systemd && started_by_units {
            report.run(&["systemctl", "disable", "--now", "funcd.socket", "funcd.service"])?;
        }
        if !place.dry_run && system::is_serving() {
            let what = "a host still answers at /run/funcd/admin.sock: stop it, then uninstall again";
            return Err(Failure::new(Code::Failure, what));
        }
    }
    for file in layout.files.iter().rev().filter(|file| !file.is_theirs) {
        let removed = target
            .remove(&file.path)
            .map_err(|e| failed("remove", &target.at(&file.path), &e))?;
        if let Some(did) = removed {
            report.add(&file.path, did);
        }
    }
    for folder in [ETC, STATE].map(Path::new) {
        if !target.at(folder).exists() {
            continue;
        }
        if command.purge {
            target
                .remove(folder)
                .map_err(|e| failed("remove", &target.at(folder), &e))?;
            report.add(folder, Did::Removed);
        } else {
            report.add(folder, Did::Kept);
        }
    }
    if is_live(place) {
        if has_systemd && started_by_units {
            report.run(&["systemctl", "daemon-reload"])?;
        }
        report.note("the user funcd stays, so that nobody else gets its uid: `userdel funcd` removes it");
    }
    Ok(report)
}

/// Whether it is the system that runs.
fn is_live(place: &Place) -> bool {
    place.root == Path::new("/")
}

fn check(place: &Place) -> Result<(), Failure> {
    let usage = |what: String| Err(Failure::new(Code::Usage, what));
    if !place.prefix.is_absolute() {
        return usage(format!(
            "--prefix {}: not an absolute path",
            place.prefix.display()
        ));
    }
    if let Some(hidden) = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"]
        .into_iter()
        .find(|hidden| place.prefix.starts_with(hidden))
    {
        return usage(format!(
            "--prefix {}: the service sees nothing below {hidden} (ProtectHome=, PrivateTmp=); /usr/local is a good place",
            place.prefix.display()
        ));
    }
    if !place.root.is_dir() {
        return usage(format!(
            "--root {}: there is no such folder",
            place.root.display()
        ));
    }
    if is_live(place) && !place.dry_run && !geteuid().is_root() {
        let what =
            "only root may change the system: run it with sudo, look with --dry-run, or give --root DIR";
        return Err(Failure::new(Code::Permission, what));
    }
    Ok(())
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    let fix = match e.kind() {
        ErrorKind::ReadOnlyFilesystem => "; the file system is mounted read-only: choose another --prefix",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room, then do it again",
        ErrorKind::PermissionDenied => "; run it as root",
        _ => "",
    };
    let stays = if what == "write" {
        "; what was there stays as it was"
    } else {
        ""
    };
    Failure::io(format_args!("can't {what} {}{stays}{fix}", path.display()), e)
}
