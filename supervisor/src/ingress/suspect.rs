//! A request that instances may die of, on its way: refused if two did, noted when its connection ends without an answer. Costs
//! four shared references for each request, and a hash only while somebody is suspected. The rule is
//! [`crate::admission::eject::Quarantine`].

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use http::Request;

use super::body::{Fault, Upload};
use super::exchange::{Broken, Sent};
use super::respond::{Kind, Problem};
use super::watch::Watch;
use crate::function::handle::Function;
use crate::function::instance::Instance;
use crate::function::poison::Print;
use crate::function::report::tell_quarantined;
use crate::ledger::record::Record;

/// What is remembered of a request that was sent.
pub(super) struct Suspect(Print);

impl Suspect {
    pub(super) fn of(request: &Request<Upload>) -> Suspect {
        Suspect(Print::of(request))
    }

    /// To be asked before each attempt: the one before may have been the second.
    pub(super) async fn check(&self, function: &Function) -> Result<(), Problem> {
        if !function.poison().watches() || !function.is_poison(&self.0).await {
            return Ok(());
        }
        let detail = "two of the function's instances died of a request like this; it is refused for five minutes after the last";
        Err(Problem::new(Kind::Quarantined, detail))
    }

    /// To be told of each attempt: the instance may have died of it; whether it did, `control` will know.
    pub(super) fn note(
        &self,
        function: &Function,
        instance: &Instance,
        (exchanged, watch): (&Result<Sent, Broken>, &Arc<Watch>),
        record: &RefCell<Record>,
    ) {
        match exchanged {
            Ok(_) if function.poison().watches() => function.poison().answered(&self.0),
            Err(Broken::Died(gone)) if gone.is_end() => {
                if Fault::of(watch).is_some() {
                    return;
                }
                let id = record.borrow().id.to_text();
                let told = function.poison().broke(instance.id, &self.0, id, Instant::now());
                if let Some(quarantined) = told {
                    tell_quarantined(function.name.as_str(), &quarantined);
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
}
