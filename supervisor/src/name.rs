//! Names: parsed once, valid ever after.

use std::fmt;
use std::sync::Arc;

use funcd_sandbox::spec::Digest;
use serde::{Deserialize, Serialize};

/// A function's name: `[a-z0-9][a-z0-9-]{0,62}`, so that it is a file name, a host label and a path segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Arc<str>);

/// Why a name is not a function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a function name: use 1 to 63 of a-z, 0-9 and '-', and don't begin with '-'")]
pub struct BadName {
    /// What was given.
    pub name: String,
}

impl FunctionName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BadName`], which says what a name looks like.
    pub fn parse(text: &str) -> Result<FunctionName, BadName> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > 63 || text.starts_with('-') || !text.bytes().all(good) {
            return Err(BadName {
                name: text.to_owned(),
            });
        }
        Ok(FunctionName(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for FunctionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FunctionName {
    type Error = BadName;
    fn try_from(text: String) -> Result<FunctionName, BadName> {
        FunctionName::parse(&text)
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> String {
        name.0.as_ref().to_owned()
    }
}

/// Names one immutable executable plus its manifest: the SHA-256 over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionId(pub Digest);

impl RevisionId {
    /// The revision of this stored executable under this manifest text (empty for a plain executable).
    pub fn of(artifact: Digest, manifest: &str) -> RevisionId {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&artifact.0);
        context.update(manifest.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        RevisionId(Digest(digest))
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0.to_string()[..12].to_owned()
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(63);
        for good in ["a", "0", "hello", "a-b-", &long] {
            assert_eq!(FunctionName::parse(good).unwrap().as_str(), good);
        }
        let longer = "a".repeat(64);
        for bad in ["", "-a", "A", "a_b", "a.b", "../x", "a/b", "a\0", "é", &longer] {
            assert!(FunctionName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_revision_is_named_by_both_its_parts() {
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        assert_ne!(RevisionId::of(one, ""), RevisionId::of(two, ""));
        assert_ne!(RevisionId::of(one, ""), RevisionId::of(one, "args = []"));
        assert_eq!(RevisionId::of(one, "x"), RevisionId::of(one, "x"));
    }
}
