//! funcd's own log: to stderr, for people on a terminal, one plain or JSON line per event elsewhere.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A line of text; with colours on a terminal.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

impl Format {
    /// What the flag says, else what `FUNCD_LOG_FORMAT` says, else text.
    ///
    /// # Errors
    /// When the variable is neither `text` nor `json`: what to do about it.
    pub fn choose(flag: Option<Format>, variable: Option<&str>) -> Result<Format, String> {
        match (flag, variable) {
            (Some(format), _) => Ok(format),
            (None, None | Some("" | "text")) => Ok(Format::Text),
            (None, Some("json")) => Ok(Format::Json),
            (None, Some(other)) => Err(format!("FUNCD_LOG_FORMAT is {other:?}: use text or json")),
        }
    }
}

/// Starts funcd's own log. What is written is chosen by `FUNCD_LOG`, else `RUST_LOG`, as `tracing` filters; without
/// either: information and worse. A second call changes nothing.
pub fn start(format: Format) {
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(|key| std::env::var(key).ok()))
        .with_writer(std::io::stderr)
        // It would be told on stderr as well, and the failure of that is a panic: a full disk must not end the supervisor.
        .log_internal_errors(false)
        .with_ansi(colours);
    // An error means that a log was started already, as in tests: that one stays.
    let _ = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

fn filter(env: impl Fn(&str) -> Option<String>) -> EnvFilter {
    let chosen = ["FUNCD_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|key| env(key).filter(|value| !value.is_empty()));
    // A filter that can't be read must not stop the host: its good parts are used.
    EnvFilter::new(chosen.as_deref().unwrap_or("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_chosen_by_flag_then_variable() {
        assert_eq!(Format::choose(None, None), Ok(Format::Text));
        assert_eq!(Format::choose(None, Some("json")), Ok(Format::Json));
        assert_eq!(Format::choose(Some(Format::Text), Some("json")), Ok(Format::Text));
        assert!(
            Format::choose(None, Some("xml"))
                .unwrap_err()
                .contains("text or json")
        );
    }

    #[test]
    fn our_own_variable_goes_before_the_general_one() {
        let with = |pairs: &'static [(&str, &str)]| {
            let find = move |key: &str| {
                pairs
                    .iter()
                    .find(|(k, _)| *k == key)
                    .map(|(_, v)| (*v).to_owned())
            };
            filter(find).to_string()
        };
        assert_eq!(with(&[]), "info");
        assert_eq!(with(&[("RUST_LOG", "warn")]), "warn");
        assert_eq!(with(&[("RUST_LOG", "warn"), ("FUNCD_LOG", "debug")]), "debug");
        assert_eq!(with(&[("RUST_LOG", "warn"), ("FUNCD_LOG", "")]), "warn");
    }
}
