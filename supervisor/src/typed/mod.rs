//! What people type (TOML files, environment variables, flags) on its way to what is used: reads it, remembers where each
//! value stood, and says what is wrong with line, column and caret. Knows no key by name; changes no value.

pub mod error;
pub mod units;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

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
    layers.iter().find_map(|layer| {
        let value = get(&layer.typed)?;
        Some(Found {
            value: value.get_ref(),
            source: &layer.source,
            span: value.span(),
        })
    })
}
