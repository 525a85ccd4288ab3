//! docs/quickstart.md as a guest follows it: its blocks, to the letter. Only where the machine is is put in.

use std::process::Command;

use super::machine::Ports;

/// What stands for the machine's address in the document.
const MACHINE: &str = "203.0.113.7";

/// What the document says to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A file to write.
    File { name: String, body: String },
    /// Commands of which nothing but success is said.
    Script(String),
    /// A command and what it prints; `…` stands for anything.
    Typed { command: String, prints: String },
    /// The same on another machine.
    Elsewhere { command: String, prints: String },
}

/// Its steps, in order. Blocks of other languages are for readers.
///
/// # Errors
/// A block that is none of these.
pub(super) fn steps(document: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for block in document.split("```").skip(1).step_by(2) {
        let (head, body) = block.split_once('\n').ok_or("a block has lines")?;
        match head.split_once(' ').unwrap_or((head, "")) {
            ("sh", "") => steps.push(Step::Script(body.to_owned())),
            ("sh", name) => {
                let name = name
                    .strip_prefix("file=")
                    .ok_or_else(|| format!("what is {head}?"))?;
                steps.push(Step::File {
                    name: name.to_owned(),
                    body: body.to_owned(),
                });
            }
            ("console", place) => {
                for (command, prints) in commands(body) {
                    steps.push(match place {
                        "elsewhere" => Step::Elsewhere { command, prints },
                        _ => Step::Typed { command, prints },
                    });
                }
            }
            _ => {}
        }
    }
    Ok(steps)
}

fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, prints))) => {
                prints.push_str(line);
                prints.push('\n');
            }
            (None, None) => {}
        }
    }
    commands
}

/// The steps as a script for the guest, in which `file`, `script`, `typed` and `elsewhere` are functions of the suite.
pub(super) fn script(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        text += &match step {
            Step::File { name, body } => format!("file {} {}\n", quoted(name), quoted(body)),
            Step::Script(body) => format!("script {}\n", quoted(body)),
            Step::Typed { command, prints } => format!("typed {} {}\n", quoted(command), quoted(prints)),
            Step::Elsewhere { command, .. } => format!("elsewhere {number} {}\n", quoted(command)),
        };
    }
    text
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Does a step on this machine, which is another one than the guest.
///
/// # Errors
/// What it printed instead.
pub(super) fn elsewhere(step: Option<&Step>, ports: &Ports) -> Result<String, String> {
    let Some(Step::Elsewhere { command, prints }) = step else {
        return Err("the document has no such step".to_owned());
    };
    let mut typed = command.clone();
    for port in [80, 8080] {
        if let Some(here) = ports.of(port) {
            typed = typed.replace(&format!("{MACHINE}:{port}/"), &format!("127.0.0.1:{here}/"));
        }
    }
    let output = Command::new("bash").args(["-c", &typed]).output();
    let output = output.map_err(|why| format!("bash: {why}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() && fits(prints, &said) {
        true => Ok(said.trim_end().replace('\n', " ")),
        false => Err(format!("{typed}: {}, printed {said:?}", output.status)),
    }
}

/// Whether it says what it is to say, in which `…` stands for anything.
fn fits(expected: &str, said: &str) -> bool {
    let (expected, said) = (expected.trim_end(), said.trim_end());
    let Some((first, rest)) = expected.split_once('…') else {
        return expected == said;
    };
    let Some(mut left) = said.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match left.split_once(piece) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_must_be_what_is_said() {
        assert!(fits("active\n", "active\n"));
        assert!(!fits("active\n", "inactive\n"));
        assert!(fits("a … kept\n…\nz", "a b kept\nc\nz\n"));
        assert!(!fits("a … kept\n…\nz", "a b lost\nc\nz\n"));
        assert!(!fits("…\nz", "z\nand more"));
        assert!(fits("…", ""));
    }

    #[test]
    fn the_document_has_steps_of_each_kind() {
        let document = std::fs::read_to_string(crate::run::root().join("docs/quickstart.md")).unwrap();
        let steps = steps(&document).unwrap();
        let count = |is: fn(&Step) -> bool| steps.iter().filter(|step| is(step)).count();
        assert!(count(|step| matches!(step, Step::File { .. })) >= 2);
        assert!(count(|step| matches!(step, Step::Script(_))) >= 5);
        assert!(count(|step| matches!(step, Step::Typed { .. })) >= 10);
        assert!(count(|step| matches!(step, Step::Elsewhere { .. })) >= 2);
        assert!(script(&steps).contains("typed 'systemctl is-active funcd' 'active\n'"));
    }

    #[test]
    fn quotes_stay_quotes() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
