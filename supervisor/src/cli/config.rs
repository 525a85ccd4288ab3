//! `funcd config`: what `serve` would use, and where each value comes from. Judges nothing itself.

use serde::Serialize;

use super::args::{ConfigCommand, Global, HostFlags};
use super::exit::{Code, Failure};
use super::output::{WARN, print, print_json, safe, styled, table};
use crate::config::{self, Environment, Flags, Loaded};

/// The document of `config check|show --json`.
#[derive(Debug, Serialize)]
struct Settings {
    settings: Vec<Setting>,
    /// Weakest first.
    files: Vec<String>,
    warnings: Vec<String>,
}

/// One value.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    /// As it would be typed in TOML.
    value: String,
    origin: String,
}

/// The configuration that `serve` uses with these flags, in this environment.
///
/// # Errors
/// [`Code::Config`], with the place of the mistake.
pub fn load(global: &Global, flags: &HostFlags) -> Result<Loaded, Failure> {
    let loaded = Environment::current().and_then(|mut environment| {
        // These choose what funcd itself logs; they are no keys of the configuration.
        for key in ["FUNCD_LOG", "FUNCD_LOG_FORMAT"] {
            environment.vars.remove(key);
        }
        config::load(&as_typed(global, flags), &environment)
    });
    // Styled always: what prints it knows whether that is wanted.
    loaded.map_err(|e| {
        Failure::new(
            Code::Config,
            format!("the configuration is wrong\n{}", e.render(true)),
        )
    })
}

fn as_typed(global: &Global, flags: &HostFlags) -> Flags {
    Flags {
        config: flags.config.clone(),
        functions: flags.functions.clone(),
        state: flags.state.clone(),
        run: flags.run.clone(),
        listen: flags.listen.iter().map(ToString::to_string).collect(),
        admin: global.admin.clone(),
        admin_listen: flags.admin_listen.map(|address| address.to_string()),
        workers: flags.workers.map(usize::from),
        degraded: flags.degraded.iter().map(ToString::to_string).collect(),
        trusted: flags.trusted.clone(),
        user: flags.user.clone(),
        secrets: flags.secrets.clone(),
        max_instances: flags.max_instances,
    }
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> Result<(), Failure> {
    let (ConfigCommand::Check(flags) | ConfigCommand::Show { flags, .. }) = command;
    let settings = settings(load(global, flags)?);
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

fn settings(loaded: Loaded) -> Settings {
    let setting = |row: config::Row| Setting {
        key: row.key,
        value: row.value,
        origin: row.origin.to_string(),
    };
    Settings {
        settings: loaded.rows.into_iter().map(setting).collect(),
        files: loaded
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect(),
        warnings: loaded.warnings,
    }
}

fn render(settings: &[Setting], origin: bool) -> String {
    let row = |setting: &Setting| {
        let mut row = vec![safe(&setting.key), safe(&setting.value)];
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
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

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

    #[test]
    fn each_flag_arrives_where_it_belongs() {
        let line = "funcd serve --config /c --functions /f --state /s --run /r --listen 127.0.0.1:1 --listen [::1]:2 \
                    --admin /a --admin-listen 127.0.0.1:3 --workers 4 --degraded P5 --trusted 10.0.0.0/8 --user me \
                    --max-instances 9 --secrets /x";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Serve(serve) = cli.command else {
            panic!()
        };
        let expected = Flags {
            config: Some("/c".into()),
            functions: Some("/f".into()),
            state: Some("/s".into()),
            run: Some("/r".into()),
            listen: vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()],
            admin: Some("/a".into()),
            admin_listen: Some("127.0.0.1:3".to_owned()),
            workers: Some(4),
            degraded: vec!["memory-limit".to_owned()],
            trusted: vec!["10.0.0.0/8".to_owned()],
            user: Some("me".to_owned()),
            secrets: Some("/x".into()),
            max_instances: Some(9),
        };
        assert_eq!(as_typed(&cli.global, &serve.flags), expected);
    }
}
