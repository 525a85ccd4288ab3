//! What is wrong with what somebody typed: one line for tables and logs, several with the place and a caret for people.
//! Control characters of the text never reach a terminal.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};

use super::{Place, Source};

/// What is wrong with what somebody typed. `Display` is one line: place, line, column, message, help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedError {
    source: Arc<Source>,
    span: Range<usize>,
    message: String,
    label: String,
    help: Option<String>,
}

impl TypedError {
    /// `message` says what is wrong; `label` stands beside the caret and may be empty.
    pub fn new(source: Arc<Source>, span: Range<usize>, message: String, label: String) -> TypedError {
        TypedError {
            source,
            span,
            message,
            label,
            help: None,
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> TypedError {
        self.help = Some(help.into());
        self
    }

    /// Where the text stands.
    pub fn place(&self) -> &Place {
        &self.source.place
    }

    /// Line and column, from 1; columns count characters.
    pub fn position(&self) -> (usize, usize) {
        self.source.position(self.span.start)
    }

    /// Several lines: the message, the place, the line with a caret, the help. `colour`: with ANSI colours.
    pub fn render(&self, colour: bool) -> String {
        let length = self.source.text.len();
        let start = self.span.start.min(length);
        let span = start..self.span.end.clamp(start, length);
        let mut caret = AnnotationKind::Primary.span(span);
        if !self.label.is_empty() {
            caret = caret.label(&self.label);
        }
        let snippet = Snippet::source(&self.source.text)
            .path(self.source.place.to_string())
            .annotation(caret);
        let mut group = Level::ERROR.primary_title(&self.message).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }
}

impl fmt::Display for TypedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source.place)?;
        if matches!(self.source.place, Place::File(_)) {
            let (line, column) = self.position();
            write!(f, ":{line}:{column}")?;
        }
        let mut line = format!(": {}", self.message);
        for more in [Some(&self.label), self.help.as_ref()].into_iter().flatten() {
            if !more.is_empty() {
                line.push_str("; ");
                line.push_str(more);
            }
        }
        line.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

impl std::error::Error for TypedError {}

/// What the TOML reader found wrong, in our words.
pub(super) fn from_toml(source: Arc<Source>, error: &toml::de::Error) -> TypedError {
    let span = error.span().unwrap_or(0..0);
    let said = error.message();
    let Some(rest) = said.strip_prefix("unknown field `") else {
        return TypedError::new(source, span, one_line(said), String::new());
    };
    let (key, rest) = rest.split_once('`').unwrap_or((rest, ""));
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let message = format!("unknown key `{}`", one_line(key));
    match nearest(key, &known) {
        Some(near) => TypedError::new(source, span, message, format!("did you mean `{near}`?")),
        None => {
            let help = format!("the keys here are {}", known.join(", "));
            TypedError::new(source, span, message, String::new()).help(help)
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// The known word that is nearest to a mistyped one, if one is near: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate));
    let (steps, candidate) = near.min_by_key(|(steps, _)| *steps)?;
    (steps <= (candidate.chars().count().max(3)) / 3 + usize::from(candidate.len() > 4)).then_some(candidate)
}

/// Edit distance with swaps of neighbours (optimal string alignment); words longer than 64 are far from everything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(65).collect(), b.chars().collect());
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["memory", "cpu", "pids", "tmp", "files"];
        for (word, near) in [
            ("memry", Some("memory")),
            ("mmeory", Some("memory")),
            ("Memory", Some("memory")),
            ("cpus", Some("cpu")),
            ("pid", Some("pids")),
            ("file", Some("files")),
            ("tempdir", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), near, "{word}");
        }
        assert_eq!(nearest(&"m".repeat(10_000), &known), None);
        assert_eq!(nearest("anything", &[]), None);
    }

    #[test]
    fn both_forms() {
        let source = Source::file("hello/function.toml", "exec = \"a\"\nargs = 7 # \u{1b}[31m\n");
        let error = TypedError::new(source, 18..19, "not a list".into(), "a number".into()).help("write [7]");
        assert_eq!(
            error.to_string(),
            "hello/function.toml:2:8: not a list; a number; write [7]"
        );
        let rendered = error.render(false);
        assert!(
            rendered.starts_with(
                "error: not a list\n --> hello/function.toml:2:8\n  |\n2 | args = 7 # ␛[31m\n  |        ^ a number\n"
            ),
            "{rendered}"
        );
        assert!(rendered.ends_with("help: write [7]"), "{rendered}");
        assert!(!rendered.contains('\u{1b}'));
        assert!(error.render(true).contains('\u{1b}'));
    }

    #[test]
    fn a_span_out_of_the_text_renders() {
        let source = Source::file("f", "é");
        for span in [0..9, 7..9, 1..1] {
            let error = TypedError::new(Arc::clone(&source), span, "m".into(), String::new());
            assert!(error.to_string().starts_with("f:1:"), "{error}");
        }
    }
}
