//! What people type (TOML files, environment variables, flags) on its way to what is used: reads it, remembers where each
//! value stood, and says what is wrong with line, column and caret. Knows no key by name; changes no value.

pub mod error;
pub mod units;

use std::fmt::Debug;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
pub use toml::Spanned;

pub use error::TypedError;

/// Where a text came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, as it is shown to people.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A command line flag, with its dashes.
    Flag(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Env(name) => write!(f, "environment variable {name}"),
            Place::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A text that somebody typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it stands.
    pub place: Place,
    /// The text.
    pub text: String,
}

impl Source {
    /// The text of a file.
    pub fn file(path: impl Into<PathBuf>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source {
            place: Place::File(path.into()),
            text: text.into(),
        })
    }

    /// Line and column of a byte offset; both count from 1, columns count characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// One source and what it says: `None` for every key that it does not mention.
#[derive(Debug, Clone)]
pub struct Layer<T> {
    /// Where it stands.
    pub source: Arc<Source>,
    /// What it says.
    pub typed: T,
}

impl<T: DeserializeOwned> Layer<T> {
    /// Reads a TOML text.
    ///
    /// # Errors
    /// [`TypedError`]: not TOML, an unknown key (with the nearest known one), a value of the wrong kind.
    pub fn parse(source: Arc<Source>) -> Result<Layer<T>, TypedError> {
        match toml::from_str(&source.text) {
            Ok(typed) => Ok(Layer { source, typed }),
            Err(error) => Err(error::from_toml(source, &error)),
        }
    }
}

impl<T> Layer<T> {
    /// A value of this layer, and where it stands.
    pub fn found<'a, U>(&'a self, value: &'a Spanned<U>) -> Found<'a, U> {
        Found {
            value: value.get_ref(),
            source: &self.source,
            span: value.span(),
        }
    }
}

/// A value, and where it stands.
#[derive(Debug, Clone)]
pub struct Found<'a, T> {
    /// The value.
    pub value: &'a T,
    /// The text that it stands in.
    pub source: &'a Arc<Source>,
    /// The bytes of the text that it is made of.
    pub span: Range<usize>,
}

impl<'a, T> Found<'a, T> {
    /// The value is not acceptable.
    pub fn refuse(&self, message: impl Into<String>, label: impl Into<String>) -> TypedError {
        TypedError::new(
            Arc::clone(self.source),
            self.span.clone(),
            message.into(),
            label.into(),
        )
    }

    /// A part of this value, in the same text.
    pub fn part<U>(&self, part: &'a Spanned<U>) -> Found<'a, U> {
        Found {
            value: part.get_ref(),
            source: self.source,
            span: part.span(),
        }
    }
}

/// The value of a key in the first layer that mentions it. Layers are given strongest first.
pub fn pick<'a, L, T>(
    layers: &'a [Layer<L>],
    get: impl Fn(&'a L) -> Option<&'a Spanned<T>>,
) -> Option<Found<'a, T>> {
    layers
        .iter()
        .find_map(|layer| Some(layer.found(get(&layer.typed)?)))
}

/// A whole number within a range, or its default.
///
/// # Errors
/// [`TypedError`] when it is out of range.
pub fn number<'a, L>(
    layers: &'a [Layer<L>],
    get: impl Fn(&'a L) -> Option<&'a Spanned<i64>>,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<u64, TypedError> {
    match pick(layers, get) {
        None => Ok(default),
        Some(found) => match u64::try_from(*found.value).ok().filter(|n| range.contains(n)) {
            Some(number) => Ok(number),
            None => Err(out_of_range(&found, range.start(), range.end())),
        },
    }
}

/// A size in bytes within a range, or its default.
///
/// # Errors
/// [`TypedError`] when it is out of range.
pub fn size<'a, L>(
    layers: &'a [Layer<L>],
    get: impl Fn(&'a L) -> Option<&'a Spanned<units::Size>>,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<u64, TypedError> {
    match pick(layers, get) {
        None => Ok(default),
        Some(found) if range.contains(&found.value.0) => Ok(found.value.0),
        Some(found) => {
            let show = |bytes: &u64| units::Size(*bytes).to_string();
            Err(out_of_range(&found, &show(range.start()), &show(range.end())))
        }
    }
}

/// A length of time within a range, or its default.
///
/// # Errors
/// [`TypedError`] when it is out of range.
pub fn span<'a, L>(
    layers: &'a [Layer<L>],
    get: impl Fn(&'a L) -> Option<&'a Spanned<units::Span>>,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Result<Duration, TypedError> {
    match pick(layers, get) {
        None => Ok(default),
        Some(found) if range.contains(&found.value.0) => Ok(found.value.0),
        Some(found) => Err(out_of_range(&found, range.start(), range.end())),
    }
}

fn out_of_range<T, R: Debug>(found: &Found<'_, T>, low: &R, high: &R) -> TypedError {
    let said = found.source.text.get(found.span.clone()).unwrap_or_default();
    let unquote = |text: String| text.replace('"', "");
    let (low, high) = (unquote(format!("{low:?}")), unquote(format!("{high:?}")));
    found.refuse(format!("{said} is out of range"), format!("from {low} to {high}"))
}
