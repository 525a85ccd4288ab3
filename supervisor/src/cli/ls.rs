//! `funcd ls`: every entry of the folder, and why some are no functions.

use super::args::Global;
use super::exit::Failure;
use super::output::{BAD, GOOD, WARN, degraded_note, print, print_json, safe, short, styled, table};
use crate::admin::view::{FunctionView, Functions, State, Status};

pub(super) fn run(global: &Global) -> Result<(), Failure> {
    let functions: Functions = super::client(global)?.get("/v1/functions")?;
    match global.json {
        true => print_json(&functions),
        false => print(&render(&functions)),
    }
}

fn render(functions: &Functions) -> String {
    if functions.functions.is_empty() {
        return "The functions folder is empty: copy an executable into it, or `funcd run NAME FILE`.\n"
            .to_owned();
    }
    let mut text = table(
        &["NAME", "STATUS", "STATE", "REVISION", "ROUTES"],
        functions.functions.iter().map(row),
    );
    for function in &functions.functions {
        if let Some(found) = found(function) {
            text += &format!("\n{}: {}\n", safe(&function.name), safe(&found));
        }
        for reason in reasons(function) {
            text += &format!("\n{}: {}\n", safe(&function.name), safe(reason));
        }
    }
    text + &degraded_note(&functions.degraded)
}

fn row(view: &FunctionView) -> Vec<String> {
    let style = match view.status {
        Status::Accepted => GOOD,
        Status::Settling | Status::Removed => WARN,
        Status::Refused => BAD,
    };
    let mut row = vec![safe(&view.name), styled(style, view.status.as_str())];
    row.extend(match &view.function {
        Some(function) => [
            function.state.as_str().to_owned(),
            short(&function.revision),
            safe(&function.routes.join(" ")),
        ],
        None => ["-", "-", "-"].map(str::to_owned),
    });
    row
}

/// Which contract was found out, and why, unless it is the one that most have.
fn found(view: &FunctionView) -> Option<String> {
    let function = view
        .function
        .as_ref()
        .filter(|function| function.contract != "http")?;
    let because = function.because.as_ref()?;
    Some(format!("contract {}, as {because}", function.contract))
}

/// Why an entry is refused or awaited, why its function does not run, and why its newest revision is not live.
/// And what is wrong with where it leads.
fn reasons(view: &FunctionView) -> impl Iterator<Item = &str> {
    let function = view.function.as_ref();
    let trouble = function.filter(|f| matches!(f.state, State::Backoff | State::Failed));
    let rejected = function.and_then(|f| f.rejected.as_ref());
    let of_function = trouble.and_then(|f| f.reason.as_deref());
    let of_revision = rejected.map(|rejected| rejected.reason.as_str());
    let bindings = function.into_iter().flat_map(|f| &f.bindings);
    let of_bindings = bindings.filter_map(|binding| binding.problem.as_deref());
    view.reason
        .as_deref()
        .into_iter()
        .chain(of_function)
        .chain(of_revision)
        .chain(of_bindings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::BindingView;
    use crate::admin::view::tests::state;

    #[test]
    fn refused_entries_come_with_their_reason() {
        let broken = FunctionView {
            name: "bro\x1bken".to_owned(),
            status: Status::Refused,
            kind: Some("not-executable".to_owned()),
            reason: Some("it is not executable: chmod +x it".to_owned()),
            function: None,
        };
        let mut failed = state(State::Failed);
        failed.reason = Some("exited with code 3".to_owned());
        failed.bindings = vec![BindingView {
            name: "users".to_owned(),
            target: "function users".to_owned(),
            breaker: None,
            in_flight: 0,
            problem: Some("its binding users leads nowhere".to_owned()),
        }];
        let hello = FunctionView {
            name: "hello".to_owned(),
            status: Status::Accepted,
            kind: None,
            reason: None,
            function: Some(failed),
        };
        let functions = Functions {
            functions: vec![broken, hello],
            degraded: vec![funcd_sandbox::property::Property::MemoryLimit],
        };
        let expected = "\
NAME        STATUS    STATE   REVISION      ROUTES
bro\\x1bken  refused   -       -             -
hello       accepted  failed  abababababab  /hello/

bro\\x1bken: it is not executable: chmod +x it

hello: exited with code 3

hello: its binding users leads nowhere

note: functions run without memory-limit, which was accepted; `funcd doctor` says why
";
        assert_eq!(
            anstream::adapter::strip_str(&render(&functions)).to_string(),
            expected
        );
    }
}
