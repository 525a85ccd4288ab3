//! Hands a request to a process of its own. Nothing is tried again once that process was told to execute.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use funcd_sandbox::exit::Exit;
use http::Request;
use http::header;
use hyper::body::Body;

use super::answer::{faulty, unavailable};
use super::body::{Fault, Origin, Upload};
use super::forward::{Answer, lease};
use super::respond::{Kind, Problem};
use super::terms::Terms;
use super::watch::Watch;
use crate::admission;
use crate::admission::door::Permit;
use crate::catalog::manifest::{Contract, Mode};
use crate::contract::process::{Process, Trouble};
use crate::contract::{cgi, stdio, variables};
use crate::function::handle::Function;
use crate::function::serving::Parent;
use crate::ledger::record::{Outcome, Record, Start};

/// So many processes that ended while they waited are passed over, one after the other.
const PASSED_OVER: u32 = 8;

/// Leases a process, gives it the request, and waits until `deadline` for what its contract takes for a head.
pub(super) async fn answer(
    function: &Arc<Function>,
    permit: Permit,
    request: Request<Upload>,
    (watch, record): (&Arc<Watch>, &RefCell<Record>),
    terms: &Terms,
) -> Result<Answer, Problem> {
    let deadline = terms.deadline;
    let (parts, mut upload) = request.into_parts();
    let manifest = Arc::clone(&function.live().revision.manifest);
    let length = upload.size_hint().exact();
    let Some(block) = variables::of(function.name.as_str(), &parts, length, &manifest.env) else {
        return Err(Problem::new(
            Kind::HeadTooLarge,
            "as environment variables, the request's head is larger than a process is given",
        ));
    };
    let mut passed_over = 0;
    let (lease, process) = loop {
        let mut lease = lease(function, record, None, deadline)
            .await
            .map_err(unavailable)?;
        lease.serves(|| Parent::of(&parts.headers, deadline, terms.class));
        let instance = lease.instance();
        record.borrow_mut().leases(instance.id.0, Start::Prepared);
        match Process::start(instance, &block, upload, deadline) {
            Ok(process) => {
                break (lease, process);
            }
            Err((_, back)) => {
                record.borrow_mut().fails(Outcome::Refused);
                upload = back;
                passed_over += 1;
            }
        }
        record.borrow_mut().begin_attempt();
        if passed_over > PASSED_OVER {
            return Err(Problem::new(
                Kind::ConnectionRefused,
                "its processes end before they are told to execute",
            ));
        }
    };
    let began = Instant::now();
    let answered = match manifest.contract {
        Contract::Cgi => cgi::answer(process).await,
        _ => {
            stdio::answer(
                process,
                &manifest.stdio,
                parts.headers.get(header::CONTENT_TYPE).cloned(),
            )
            .await
        }
    };
    match answered {
        Ok(response) => {
            let head = record.borrow_mut().answers();
            let took = head.saturating_duration_since(watch.complete_at(began));
            function.note_end(lease.instance(), admission::Outcome::Answered, Some(took));
            Ok(Answer {
                response: response.map(Origin::Process),
                via: None,
                lease,
                permit,
            })
        }
        Err(trouble) => {
            record.borrow_mut().fails(outcome(&trouble));
            function.note_end(lease.instance(), seen(&trouble), None);
            let is_classic = manifest.contract == Contract::Stdio && manifest.stdio.mode == Mode::Classic;
            let mut problem = problem(trouble, is_classic, Fault::of(watch));
            if let Some(found) = manifest.found.as_ref().filter(|_| is_of_contract(&problem)) {
                problem.detail = format!("{}{}", problem.detail, found.advice()).into();
            }
            Err(problem)
        }
    }
}

/// Whether another contract might have made a difference.
fn is_of_contract(problem: &Problem) -> bool {
    !matches!(
        problem.kind,
        Kind::Internal | Kind::BodyTooLarge | Kind::BadRequest | Kind::UploadStalled
    )
}

fn outcome(trouble: &Trouble) -> Outcome {
    match trouble {
        Trouble::NotStarted | Trouble::Host(_) => Outcome::Refused,
        Trouble::NotExecuted(_) | Trouble::Failed(_) => Outcome::Died,
        Trouble::TooLate => Outcome::TooLate,
        Trouble::TooMuch(_) | Trouble::Malformed(_) => Outcome::Malformed,
        Trouble::Upload => Outcome::BadBody,
    }
}

/// What admission makes of it.
fn seen(trouble: &Trouble) -> admission::Outcome {
    match trouble {
        // It said so itself, as a server does with a 500.
        Trouble::Failed(_) | Trouble::TooMuch(_) => admission::Outcome::Answered,
        Trouble::NotStarted | Trouble::NotExecuted(_) | Trouble::Malformed(_) | Trouble::Host(_) => {
            admission::Outcome::Failed
        }
        Trouble::TooLate => admission::Outcome::Dropped,
        Trouble::Upload => admission::Outcome::Abandoned,
    }
}

fn problem(trouble: Trouble, is_classic: bool, fault: Option<Fault>) -> Problem {
    match trouble {
        Trouble::Upload => faulty(fault.unwrap_or(Fault::Gone)),
        // As each of the watchdogs says it.
        Trouble::TooLate if is_classic => Problem::new(
            Kind::ExecTimeout,
            "its process was killed: it did not end within the function's time-out; raise `request.timeout` if it may take longer",
        ),
        Trouble::TooLate => Problem::new(
            Kind::ResponseTimeout,
            "its process was killed: no response within the function's time-out; raise `request.timeout` if it may take longer",
        ),
        Trouble::Failed(exit) => {
            Problem::new(Kind::FunctionFailed, format!("its process {exit}")).because(exit.reason())
        }
        Trouble::NotExecuted(exit) => {
            let step = match exit {
                Exit::Launch { step, .. } => step.as_str(),
                _ => "exec",
            };
            Problem::new(
                Kind::ConnectionTerminated,
                format!("its process could not be executed (step {step}): the host's log says why"),
            )
            .because("not-executed")
        }
        Trouble::TooMuch(most) => Problem::new(
            Kind::OutputTooLarge,
            format!(
                "its process wrote more than {most} bytes: raise stdio.output, or set stdio.mode = \"streaming\""
            ),
        ),
        Trouble::Malformed(what) => Problem::new(
            Kind::MalformedResponse,
            format!("what its process wrote is no response: {what}"),
        ),
        Trouble::NotStarted => Problem::new(
            Kind::ConnectionRefused,
            "its process ended before it was told to execute",
        ),
        Trouble::Host(why) => Problem::new(Kind::Internal, format!("can't talk to its process: {why}")),
    }
}
