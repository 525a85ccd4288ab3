//! Sends a call to its target and waits for the head of the answer. What nobody can have read is sent once more; what the target may
//! have read only if that is safe and there is budget; what took too long never is.

use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;

use super::super::answer::faulty;
use super::super::body::{Fault, Upload};
use super::super::exchange::again;
use super::super::respond::{Kind, Problem};
use super::super::terms::Terms;
use super::call::Call;
use super::{NoWire, Outlet};
use crate::admission::breaker::Call as Came;
use crate::egress::http::guard::{Open, Place};
use crate::egress::http::pool::{Link, pop_open};
use crate::ingress::Broken;

/// A connection must stand within this, or within the call's time-out if that is shorter.
const CONNECT: Duration = Duration::from_secs(2);

/// A response head and all that its body needs.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) link: Box<Link<Upload>>,
    pub(super) place: Place,
}

/// Sends it, and waits until the deadline for the head.
pub(super) async fn forward(
    call: &Call,
    mut place: Place,
    mut request: Request<Upload>,
    terms: &Terms,
) -> Result<Answer, Problem> {
    let (outlet, watch) = (&*call.outlet, &call.watch);
    if terms.keeps_body(&request) {
        match request.body_mut().keep().await {
            Some(Ok(())) => {}
            Some(Err(fault)) => return Err(faulty(fault)),
            None => return Err(too_late(outlet)),
        }
    }
    let mut retries = 0;
    loop {
        let began = Instant::now();
        let repeatable = terms.may_repeat(request.method(), request.body().is_at_hand(), retries);
        let mut link = match pop_open(&outlet.pool, !repeatable).await {
            Some(link) => link,
            None => match dial(outlet, terms.deadline).await {
                Ok(link) => link,
                Err(no_wire) => {
                    let came = match no_wire {
                        NoWire::TooLate(_) => late(began, call, terms),
                        // The host's own fault, or the operator's.
                        NoWire::Host(_) | NoWire::Forbidden(_) => Came::Nothing,
                        NoWire::Refused(_) | NoWire::Name(_) | NoWire::Tls(_) => Came::Failed,
                    };
                    note(call, &mut place, came);
                    if matches!(no_wire, NoWire::Refused(_)) && may_retry(outlet, &place, &mut retries) {
                        continue;
                    }
                    return Err(unreachable(outlet, no_wire));
                }
            },
        };
        let spare = repeatable.then(|| again(&request)).flatten();
        let dispatched = Instant::now();
        if !terms.say_left(request.headers_mut(), dispatched) {
            return Err(too_late(outlet));
        }
        let mut underway = Underway {
            place: Some(place),
            call,
            dispatched,
        };
        let sent = link.exchange(request, || watch.missed(&watch.head)).await;
        place = underway.place.take().expect("it was put there above");
        match sent {
            Ok(response) => {
                let took = watch.complete_at(dispatched).elapsed();
                let came = match response.status().is_server_error() {
                    true => Came::Failed,
                    false if took > outlet.slow() => Came::Slow,
                    false => Came::Good,
                };
                note(call, &mut place, came);
                return Ok(Answer {
                    response,
                    link,
                    place,
                });
            }
            // The target closed a connection that it was idle on: as if it had not been there.
            Err(Broken::NotWritten(back)) if link.reused => request = *back,
            Err(Broken::NotWritten(back)) => {
                note(call, &mut place, Came::Failed);
                if !may_retry(outlet, &place, &mut retries) {
                    return Err(ended(outlet, None));
                }
                request = *back;
            }
            // As above, but the request is spent: another like it is at hand, or it can't be sent again.
            Err(Broken::Died(_)) if link.reused && !link.may_be_read() && spare.is_some() => {
                request = spare.expect("it was just seen");
            }
            Err(Broken::Died(error)) => {
                if let Some(fault) = Fault::of(watch) {
                    return Err(faulty(fault));
                }
                note(call, &mut place, Came::Failed);
                let malformed = error.as_ref().is_some_and(hyper::Error::is_parse);
                match spare.filter(|_| !malformed) {
                    Some(spare) if may_retry(outlet, &place, &mut retries) => request = spare,
                    _ => return Err(ended(outlet, error.as_ref())),
                }
            }
            Err(Broken::TooLate) => {
                if let Some(fault) = Fault::of(watch) {
                    return Err(faulty(fault));
                }
                note(call, &mut place, late(dispatched, call, terms));
                return Err(too_late(outlet));
            }
        }
    }
}

/// An attempt whose function may leave: how long there was no answer is known then, too. Or a target that hangs would never be
/// noticed by functions that wait less than the binding's time-out.
struct Underway<'a> {
    place: Option<Place>,
    call: &'a Call,
    dispatched: Instant,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some(place) = &mut self.place {
            let slow = self.dispatched.elapsed() > self.call.outlet.slow();
            let came = if slow { Came::Slow } else { Came::Nothing };
            note(self.call, place, came);
        }
    }
}

/// What it says of the target that there was no answer in time. Nothing, where the function was in a hurry or slow itself.
fn late(began: Instant, call: &Call, terms: &Terms) -> Came {
    let waited = began.elapsed();
    if call.watch.is_uploading() {
        Came::Nothing
    } else if terms.deadline >= call.arrived + call.outlet.binding.timeout || waited >= CONNECT {
        Came::Failed
    } else if waited > call.outlet.slow() {
        Came::Slow
    } else {
        Came::Nothing
    }
}

/// Tells the breaker, and who watches it.
pub(super) fn note(call: &Call, place: &mut Place, came: Came) {
    if let Some(changed) = place.ended(came, Instant::now(), call.chance()) {
        call.outlet.bound.note(changed);
    }
}

fn may_retry(outlet: &Outlet, place: &Place, retries: &mut u32) -> bool {
    if *retries > 0 || outlet.is_once() {
        return false;
    }
    let granted = place.may_retry(Instant::now());
    outlet.bound.metrics.retried(granted);
    *retries += 1;
    granted
}

async fn dial(outlet: &Outlet, deadline: Instant) -> Result<Box<Link<Upload>>, NoWire> {
    let until = deadline.min(Instant::now() + CONNECT);
    let wire = (outlet.dial)(until).await?;
    Link::over(wire)
        .await
        .map_err(|error| NoWire::Host(error.to_string()))
}

/// How a binding is called where it is complained of.
fn named(outlet: &Outlet) -> String {
    format!("the binding {} to {}", outlet.binding.name, outlet.bound.to)
}

pub(super) fn is_open(outlet: &Outlet, Open(until): Open) -> Problem {
    let detail = format!(
        "half of the last calls through {} failed or were slow, so none is sent for a moment; it is tried again by itself",
        named(outlet)
    );
    Problem {
        retry_after: Some(until.saturating_duration_since(Instant::now())),
        ..Problem::new(Kind::BindingOpen, detail)
    }
}

fn unreachable(outlet: &Outlet, why: NoWire) -> Problem {
    let (kind, next) = match why {
        NoWire::Refused(_) => (Kind::BindingRefused, "see that it runs and listens there"),
        NoWire::Name(_) => (
            Kind::BindingName,
            "see that the name is right and that this host can look it up",
        ),
        NoWire::Forbidden(_) => (
            Kind::BindingForbidden,
            "the operator decides where bindings may lead",
        ),
        NoWire::TooLate(_) => (
            Kind::BindingConnect,
            "see that it runs and that no firewall is in between",
        ),
        NoWire::Tls(_) => (
            Kind::BindingTls,
            "see that it has a certificate of that name which this host believes",
        ),
        NoWire::Host(_) => (Kind::Internal, "see what this host is short of"),
    };
    Problem::new(kind, format!("{} can't connect: {why}; {next}", named(outlet)))
}

fn too_late(outlet: &Outlet) -> Problem {
    let detail = format!(
        "no head of an answer through {} within {} ms, or within what the request that it was made for had left",
        named(outlet),
        outlet.binding.timeout.as_millis()
    );
    Problem::new(Kind::BindingTimeout, detail)
}

fn ended(outlet: &Outlet, error: Option<&hyper::Error>) -> Problem {
    match error.filter(|error| error.is_parse()) {
        Some(error) => Problem::new(
            Kind::BindingMalformed,
            format!(
                "what came through {} is no HTTP/1.1 answer: {error}",
                named(outlet)
            ),
        ),
        None => Problem::new(
            Kind::BindingEnded,
            format!(
                "the target closed the connection of {} before it answered",
                named(outlet)
            ),
        ),
    }
}
