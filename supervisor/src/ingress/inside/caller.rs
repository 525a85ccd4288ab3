//! A function that calls a sibling: who it is, what the call is a part of, and how deep.

use std::rc::Rc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::super::respond::{Kind, Problem};
use super::super::terms::Terms;
use super::outlet::{InFlight, Outlet};
use crate::catalog::binding::Target;
use crate::catalog::manifest::RequestBounds;
use crate::function::serving::{Origin, X_FUNCD_HOPS};
use crate::name::FunctionName;

/// Which function calls. Never what a stranger says, trusted or not.
pub(crate) const X_FUNCD_CALLER: HeaderName = HeaderName::from_static("x-funcd-caller");

/// So many functions may call each other for one request: enough for what somebody meant, and the end of a loop.
const MOST_HOPS: u8 = 16;

/// A function that calls a sibling.
#[derive(Debug)]
pub(crate) struct Caller {
    outlet: Rc<Outlet>,
    name: HeaderValue,
    origin: Origin,
}

impl Caller {
    /// From the head as it came; what that says nothing of is filled in from the request that the call is made for.
    pub(crate) fn of(outlet: Rc<Outlet>, headers: &mut HeaderMap) -> Caller {
        let origin = outlet.origin(headers);
        super::head::trace(headers, origin.parent.as_ref());
        let name = HeaderValue::try_from(outlet.bound.function.as_str());
        Caller {
            name: name.expect("a function's name is a valid header value"),
            origin,
            outlet,
        }
    }

    /// A place for the call.
    ///
    /// # Errors
    /// [`Kind::Loop`] when too many functions called each other already, [`Kind::BindingFull`].
    pub(in crate::ingress) fn enter(&self) -> Result<InFlight, Problem> {
        let (function, binding) = (&self.outlet.bound.function, &self.outlet.binding.name);
        if self.origin.hops >= MOST_HOPS {
            let detail = format!(
                "{MOST_HOPS} functions called each other for this request, the last is {function} through its binding \
                 {binding}: see which of them call in a circle"
            );
            return Err(Problem::new(Kind::Loop, detail));
        }
        self.outlet.enter()
    }

    /// Whom it calls.
    pub(crate) fn sibling(&self) -> &FunctionName {
        match &self.outlet.binding.to {
            Target::Function(sibling) => sibling,
            Target::Http { .. } | Target::Tcp(_) => &self.outlet.bound.function,
        }
    }

    /// There is no such function.
    pub(in crate::ingress) fn finds_nobody(&self) -> Problem {
        let (function, binding) = (&self.outlet.bound.function, &self.outlet.binding.name);
        let detail = format!(
            "there is no function {}, which the binding {binding} of {function} leads to: deploy it, or change the binding",
            self.sibling()
        );
        Problem::new(Kind::UnknownSibling, detail)
    }

    /// What the request that this one is made for leaves to it: its class, and what is left of its time.
    pub(in crate::ingress) fn terms(
        &self,
        headers: &HeaderMap,
        bounds: &RequestBounds,
        arrived: Instant,
    ) -> Terms {
        let parent = self.origin.parent.as_ref();
        let bounds = RequestBounds {
            priority: parent.map_or(bounds.priority, |parent| parent.class),
            ..bounds.clone()
        };
        let mut terms = Terms::of(headers, &bounds, false, arrived);
        terms.hurry(arrived + self.outlet.binding.timeout);
        if let Some(parent) = parent {
            terms.hurry(parent.deadline);
        }
        terms
    }

    /// For who loses first: all calls of a function are of one caller.
    pub(crate) fn name(&self) -> &HeaderValue {
        &self.name
    }

    /// Says in the head who calls, and how deep it is.
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        headers.insert(X_FUNCD_CALLER, self.name.clone());
        headers.insert(X_FUNCD_HOPS, HeaderValue::from(u16::from(self.origin.hops) + 1));
    }
}
