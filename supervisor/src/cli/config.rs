//! `funcd config`: what `serve` would use, and where each value comes from.

use super::args::{ConfigCommand, Global, HostFlags};
use super::exit::Failure;
use super::output::{WARN, print, print_json, safe, styled, table};
use super::{Setting, Settings};

pub(super) fn run(
    global: &Global,
    command: &ConfigCommand,
    load: fn(&Global, &HostFlags) -> Result<Settings, Failure>,
) -> Result<(), Failure> {
    let (ConfigCommand::Check(flags) | ConfigCommand::Show { flags, .. }) = command;
    let settings = load(global, flags)?;
    for warning in &settings.warnings {
        anstream::eprintln!("{} {}", styled(WARN, "warning:"), safe(warning));
    }
    if global.json {
        return print_json(&settings);
    }
    match command {
        ConfigCommand::Check(_) => print("The configuration is good.\n"),
        ConfigCommand::Show { origin, .. } => print(&render(&settings.settings, *origin)),
    }
}

fn render(settings: &[Setting], origin: bool) -> String {
    let row = |setting: &Setting| {
        let mut row = vec![setting.key.clone(), safe(&setting.value)];
        if origin {
            row.push(safe(&setting.origin));
        }
        row
    };
    let heading: &[&str] = if origin {
        &["KEY", "VALUE", "ORIGIN"]
    } else {
        &["KEY", "VALUE"]
    };
    table(heading, settings.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_shown_when_asked_for() {
        let settings = [Setting {
            key: "listen".to_owned(),
            value: r#"["127.0.0.1:8080"]"#.to_owned(),
            origin: "default".to_owned(),
        }];
        let plain = "KEY     VALUE\nlisten  [\"127.0.0.1:8080\"]\n";
        assert_eq!(render(&settings, false), plain);
        let with = "KEY     VALUE               ORIGIN\nlisten  [\"127.0.0.1:8080\"]  default\n";
        assert_eq!(render(&settings, true), with);
    }
}
