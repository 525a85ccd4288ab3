//! The configuration as `funcd config show` prints it. Reads and checks nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Config, Origin, Row};
use crate::typed::units::Size;

/// Every key with its value and origin.
pub(super) fn rows(config: &Config, defaults: &toml::Table, origins: &BTreeMap<String, Origin>) -> Vec<Row> {
    let text = |text: &dyn std::fmt::Display| toml::Value::String(text.to_string()).to_string();
    let span = |span: Duration| text(&format!("{span:?}"));
    fn list<T>(parts: &[T], show: impl Fn(&T) -> String) -> String {
        format!("[{}]", parts.iter().map(show).collect::<Vec<_>>().join(", "))
    }
    let path = |path: &PathBuf| text(&path.display());
    let client = &config.client;
    let values = [
        ("functions", path(&config.functions)),
        ("state", path(&config.state)),
        ("run", path(&config.run)),
        ("listen", list(&config.listen, |address| text(address))),
        ("admin", path(&config.admin)),
        (
            "admin_listen",
            config
                .admin_listen
                .map_or("(none)".into(), |address| text(&address)),
        ),
        ("workers", config.workers.to_string()),
        ("trusted", list(&config.trusted, |network| text(network))),
        ("user", text(&config.user)),
        ("uid_first", config.uid_first.to_string()),
        ("uid_count", config.uid_count.to_string()),
        ("read_roots", list(&config.read_roots, path)),
        ("write_roots", list(&config.write_roots, path)),
        ("secrets", path(&config.secrets)),
        ("degraded", list(&config.degraded, |property| text(property))),
        ("max_instances", config.max_instances.to_string()),
        ("standbys", config.standbys.to_string()),
        ("brownout", config.brownout.to_string()),
        ("journal", config.journal.to_string()),
        ("rescan", span(config.rescan)),
        ("drain", span(config.drain)),
        ("client.head_timeout", span(client.head_timeout)),
        ("client.body_idle", span(client.body_idle)),
        ("client.idle", span(client.idle)),
        ("client.head_bytes", text(&Size(client.head_bytes as u64))),
        ("client.connections", client.connections.to_string()),
        (
            "egress.allow",
            list(&config.egress.allow, |allowed| text(allowed)),
        ),
        (
            "egress.nameservers",
            list(&config.egress.nameservers, |address| text(address)),
        ),
        ("egress.roots", list(&config.egress.roots, path)),
    ];
    let mut all: Vec<(String, String)> = values.map(|(key, value)| (key.to_owned(), value)).into();
    flatten("defaults", defaults, &mut all);
    let row = |(key, value): (String, String)| Row {
        origin: origins.get(&key).cloned().unwrap_or(Origin::Default),
        key,
        value,
    };
    all.into_iter().map(row).collect()
}

fn flatten(key: &str, table: &toml::Table, all: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let key = format!("{key}.{name}");
        match value {
            toml::Value::Table(table) => flatten(&key, table, all),
            value => all.push((key, value.to_string())),
        }
    }
}
