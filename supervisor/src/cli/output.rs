//! What commands print: a table for people or a document for programs. Standard output only; colours only where they
//! are wanted (a terminal, `NO_COLOR`, `CLICOLOR_FORCE`).

use std::io::{self, Write};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use funcd_sandbox::property::Property;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::exit::Failure;
use crate::admin::view::Document;
use crate::telemetry::escape::escape;

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something to know.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// A command to type, a heading.
pub const STRONG: Style = Style::new().bold();

/// The text in a style; whether the style is shown is decided when it is printed.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints text as it is, styles included where they are wanted.
///
/// # Errors
/// [`Failure::output`].
pub fn print(text: &str) -> Result<(), Failure> {
    write(&mut anstream::stdout().lock(), text).map_err(|e| Failure::output(&e))
}

/// Prints a document in one line.
///
/// # Errors
/// [`Failure::output`].
pub fn print_json<T: Serialize>(body: &T) -> Result<(), Failure> {
    let text =
        serde_json::to_string(&Document::new(body)).expect("documents have string keys and no failing field");
    write(&mut io::stdout().lock(), &(text + "\n")).map_err(|e| Failure::output(&e))
}

/// Writes text, and sees at once whether the reader is gone.
///
/// # Errors
/// Those of writing.
pub fn write(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What functions run without, below a table that shows them; nothing when nothing is missing.
pub fn degraded_note(degraded: &[Property]) -> String {
    if degraded.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = degraded.iter().map(|property| property.as_str()).collect();
    format!(
        "\n{} functions run without {}, which was accepted; `funcd doctor` says why\n",
        styled(WARN, "note:"),
        names.join(", ")
    )
}

/// Columns with a heading, aligned, without borders. Cells may be styled, and are shown as they are: give untrusted
/// text through [`safe`].
pub fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| width(cell))
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(&widths) {
            line += cell;
            line.extend(std::iter::repeat_n(' ', column + 2 - width(cell)));
        }
        line.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// How many places the text takes on a terminal; styles take none.
fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text)
        .map(UnicodeWidthStr::width)
        .sum()
}

/// Text of others, made safe for a terminal.
pub fn safe(text: &str) -> String {
    escape(text.as_bytes())
}

/// How long ago a point in time (RFC 3339) was, for people: `12s`, `5m`, `3h`, `2d`.
pub fn age(since: &str, now: SystemTime) -> String {
    let Ok(since) = since.parse::<jiff::Timestamp>() else {
        return safe(since);
    };
    let elapsed = now.duration_since(SystemTime::from(since)).unwrap_or_default();
    match elapsed.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The first 12 digits of a revision, for people.
pub fn short(revision: &str) -> String {
    safe(&revision.chars().take(12).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ages_for_people() {
        let since = "2026-01-01T00:00:00.000Z";
        let start = SystemTime::from(since.parse::<jiff::Timestamp>().unwrap());
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7200, "2h"),
            (200_000, "2d"),
        ] {
            assert_eq!(age(since, start + Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(since, start - Duration::from_secs(5)), "0s");
        assert_eq!(age("\x1b[31m", start), r"\x1b[31m");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), String::new()],
        ];
        assert_eq!(table(&["NAME", "N"], rows), "NAME  N\na     1\nlong\n");
    }
}
