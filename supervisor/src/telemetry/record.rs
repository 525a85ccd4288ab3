//! One line of a function's log, as kept on disk, sent over the admin API and printed.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was read: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Whose it is.
    pub function: String,
    /// Which instance wrote it; absent for what funcd itself says about the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// The short name of the revision that the instance runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Where it was written to.
    pub stream: Stream,
    /// The line went on: the next record of the same instance and stream continues it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// The text, escaped (see [`super::escape::escape`]).
    pub line: String,
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// The instance's standard output.
    Stdout,
    /// The instance's standard error.
    Stderr,
    /// Not by the function: funcd says something about it.
    Platform,
}

impl Stream {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Platform => "platform",
        }
    }
}

impl fmt::Display for Record {
    /// For people: time, instance, stream, text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.function)?;
        if let Some(instance) = self.instance {
            write!(f, "[{instance}]")?;
        }
        let more = if self.continues { "\u{2026}" } else { "" };
        write!(f, " {}: {}{more}", self.stream.as_str(), self.line)
    }
}

/// A point in time as RFC 3339 in UTC with milliseconds, as all of funcd writes it.
pub fn rfc3339(time: SystemTime) -> String {
    // Outside the years -9999 to 9999: a broken clock should not stop a log.
    let stamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{stamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_have_milliseconds_and_are_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn json_leaves_out_what_does_not_apply() {
        let record = Record {
            time: rfc3339(SystemTime::UNIX_EPOCH),
            function: "hello".to_owned(),
            instance: None,
            revision: None,
            stream: Stream::Platform,
            continues: false,
            line: "instance 7 ended: out of memory".to_owned(),
        };
        let json = serde_json::to_string(&record).unwrap();
        let expected = r#"{"time":"1970-01-01T00:00:00.000Z","function":"hello","stream":"platform","line":"instance 7 ended: out of memory"}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert_eq!(
            record.to_string(),
            "1970-01-01T00:00:00.000Z hello platform: instance 7 ended: out of memory"
        );
    }
}
