//! `funcd.toml` as typed, and the list of its keys that environment variables and flags can set too.

use serde::Deserialize;

use crate::catalog::manifest_file::ManifestFile;
use crate::typed::Spanned;
use crate::typed::units::{Size, Span};

type Text = Option<Spanned<String>>;
type Texts = Option<Spanned<Vec<Spanned<String>>>>;
type Number = Option<Spanned<i64>>;

/// The file, or one environment variable or flag.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) functions: Text,
    pub(super) state: Text,
    pub(super) run: Text,
    pub(super) listen: Texts,
    pub(super) admin: Text,
    pub(super) admin_listen: Text,
    pub(super) workers: Number,
    pub(super) trusted: Texts,
    pub(super) user: Text,
    pub(super) uid_first: Number,
    pub(super) uid_count: Number,
    pub(super) read_roots: Texts,
    pub(super) write_roots: Texts,
    pub(super) secrets: Text,
    pub(super) degraded: Texts,
    pub(super) max_instances: Number,
    pub(super) standbys: Number,
    pub(super) brownout: Option<Spanned<bool>>,
    pub(super) journal: Option<Spanned<bool>>,
    pub(super) rescan: Option<Spanned<Span>>,
    pub(super) drain: Option<Spanned<Span>>,
    pub(super) client: ClientFile,
    pub(super) egress: EgressFile,
    pub(super) defaults: Option<ManifestFile>,
}

/// `[client]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientFile {
    pub(super) head_timeout: Option<Spanned<Span>>,
    pub(super) body_idle: Option<Spanned<Span>>,
    pub(super) idle: Option<Spanned<Span>>,
    pub(super) head_bytes: Option<Spanned<Size>>,
    pub(super) connections: Number,
}

/// `[egress]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EgressFile {
    pub(super) allow: Texts,
    pub(super) nameservers: Texts,
    pub(super) roots: Texts,
}

/// How a value without TOML around it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As it stands.
    Text,
    /// Parts between commas.
    List,
    /// A number where it looks like one.
    Number,
    /// `true` or `false`.
    Switch,
}

/// The keys that `FUNCD_<KEY>` can set (upper case, `.` as `_`), in the order of [`ConfigFile`].
pub(super) const KEYS: [(&str, Shape); 29] = [
    ("functions", Shape::Text),
    ("state", Shape::Text),
    ("run", Shape::Text),
    ("listen", Shape::List),
    ("admin", Shape::Text),
    ("admin_listen", Shape::Text),
    ("workers", Shape::Number),
    ("trusted", Shape::List),
    ("user", Shape::Text),
    ("uid_first", Shape::Number),
    ("uid_count", Shape::Number),
    ("read_roots", Shape::List),
    ("write_roots", Shape::List),
    ("secrets", Shape::Text),
    ("degraded", Shape::List),
    ("max_instances", Shape::Number),
    ("standbys", Shape::Number),
    ("brownout", Shape::Switch),
    ("journal", Shape::Switch),
    ("rescan", Shape::Text),
    ("drain", Shape::Text),
    ("client.head_timeout", Shape::Text),
    ("client.body_idle", Shape::Text),
    ("client.idle", Shape::Text),
    ("client.head_bytes", Shape::Number),
    ("client.connections", Shape::Number),
    ("egress.allow", Shape::List),
    ("egress.nameservers", Shape::List),
    ("egress.roots", Shape::List),
];

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("FUNCD_{}", key.to_ascii_uppercase().replace('.', "_"))
}

/// `key = value` as TOML: so that variables and flags are read and checked exactly as files are.
pub(super) fn as_toml(key: &str, shape: Shape, value: &str) -> String {
    let text = |part: &str| toml::Value::String(part.to_owned());
    let value = match shape {
        Shape::Text => text(value),
        Shape::List => {
            let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(text).collect())
        }
        Shape::Switch => value.parse().map_or_else(|_| text(value), toml::Value::Boolean),
        Shape::Number => value.parse().map_or_else(|_| text(value), toml::Value::Integer),
    };
    format!("{key} = {value}")
}
