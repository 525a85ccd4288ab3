//! `funcd explain-sandbox`: everything that confines a function, and where each comes from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use funcd_sandbox::probe::Grade;
use funcd_sandbox::spec::Digest;

use super::args::{Explain, Global, HostFlags};
use super::exit::{Code, Failure};
use super::output::{STRONG, print, print_json, safe, short, styled, table};
use crate::admin::explain::{Explanation, explain};
use crate::admin::host;
use crate::catalog::manifest::{Defaults, Manifest};
use crate::catalog::view::{self, Wanted};
use crate::catalog::{elf, image};
use crate::function::handle::Revision;
use crate::name::{FunctionName, RevisionId};

pub(super) fn run(
    global: &Global,
    command: &Explain,
    probe: fn() -> (Vec<Grade>, Option<u32>),
) -> Result<(), Failure> {
    let explanation = match FunctionName::parse(&command.target) {
        Ok(name) if command.manifest.is_none() => {
            super::client(global)?.get(&format!("/v1/functions/{name}/sandbox"))?
        }
        _ => of_file(global, command, probe)?,
    };
    match global.json {
        true => print_json(&explanation),
        false => print(&render(&explanation, command.calls)),
    }
}

/// Of a file that was not deployed, with the configuration that a host started by this user would have.
fn of_file(
    global: &Global,
    command: &Explain,
    probe: fn() -> (Vec<Grade>, Option<u32>),
) -> Result<Explanation, Failure> {
    let path = Path::new(&command.target);
    let failed = |e: std::io::Error| Failure::io(format!("can't read {}", path.display()), &e);
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut read_at = |offset: u64, buffer: &mut [u8]| file.read_at(buffer, offset);
    let image = image::image(size, &mut read_at).map_err(failed)?;
    let refused = |reason: String| Failure::new(Code::Failure, format!("{}: {reason}", path.display()));
    let image = image.map_err(|refusal| refused(refusal.reason))?;
    let mut head = [0; 256];
    let length = file.read_at(&mut head, 0).map_err(failed)?;
    let needs = elf::needs(&mut read_at).map_err(failed)?;
    let asks = view::asks(image, &head[..length], needs);

    let config = super::config::load(global, &HostFlags::default())?.config;
    let wrong = |e: crate::typed::TypedError| Failure::new(Code::Config, e.to_string());
    let defaults = Defaults::parse(&config.defaults).map_err(wrong)?;
    let text = match &command.manifest {
        None => None,
        Some(path) => {
            let failed = |e: std::io::Error| Failure::io(format!("can't read {}", path.display()), &e);
            Some(std::fs::read_to_string(path).map_err(failed)?)
        }
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = FunctionName::parse(&stem).or_else(|_| FunctionName::parse("function"));
    let name = name.expect("the second is a name");
    let place = command.manifest.as_deref().unwrap_or(Path::new("function.toml"));
    let manifest = Manifest::read(&name, place, text.as_deref(), &defaults).map_err(wrong)?;
    let manifest_text = text.unwrap_or_default();
    let artifact = Digest([0; 32]);
    let revision = Revision {
        id: RevisionId::of(artifact, &manifest_text),
        artifact,
        image,
        wanted: Wanted::new(asks),
        manifest: Arc::new(manifest),
        manifest_text,
    };
    let (grades, landlock_abi) = probe();
    let doctor = host::doctor(
        &grades,
        landlock_abi,
        &config.degraded,
        nix::unistd::geteuid().is_root(),
    );
    Ok(explain(&name, &revision, &config, &doctor, false))
}

fn render(explanation: &Explanation, calls: bool) -> String {
    let revision = explanation.revision.as_deref().map(short);
    let revision = revision.map_or("not deployed".to_owned(), |revision| {
        format!("revision {revision}")
    });
    let mut text = format!("{}, {revision}\n", styled(STRONG, safe(&explanation.function)));
    let mut items = explanation.items.as_slice();
    while let Some(first) = items.first() {
        let count = items
            .iter()
            .take_while(|item| item.section == first.section)
            .count();
        let (section, rest) = items.split_at(count);
        let heading = first.section.to_uppercase();
        let rows = section
            .iter()
            .map(|item| vec![safe(&item.name), safe(&item.value), safe(&item.from)]);
        text += &format!("\n{}", table(&[&heading, "", "FROM"], rows));
        items = rest;
    }
    if calls {
        for (answer, what) in [
            ("allowed", "allowed"),
            ("checked", "allowed with some arguments"),
            ("absent", "answered ENOSYS"),
        ] {
            let names = explanation.calls.iter().filter(|call| call.answer == answer);
            let names: Vec<String> = names.map(|call| safe(&call.name)).collect();
            text += &format!("\n{}: {}\n", styled(STRONG, what), names.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::explain::{Call, Item};

    #[test]
    fn sections_are_tables_and_calls_are_shown_when_asked_for() {
        let item = |section: &str, name: &str| Item {
            section: section.to_owned(),
            name: name.to_owned(),
            value: "read".to_owned(),
            from: "function.toml line 3".to_owned(),
        };
        let explanation = Explanation {
            function: "hello".to_owned(),
            revision: None,
            items: vec![
                item("files", "/a\x1b"),
                item("files", "/b"),
                item("limits", "memory"),
            ],
            calls: vec![Call {
                name: "read".to_owned(),
                answer: "allowed".to_owned(),
            }],
        };
        let plain = |calls| anstream::adapter::strip_str(&render(&explanation, calls)).to_string();
        let expected = "\
hello, not deployed

FILES         FROM
/a\\x1b  read  function.toml line 3
/b      read  function.toml line 3

LIMITS        FROM
memory  read  function.toml line 3
";
        assert_eq!(plain(false), expected);
        assert!(plain(true).contains("\nallowed: read\n"), "{}", plain(true));
    }
}
