//! Requests of which instances of a function died: noted by request paths when a connection ends, judged when `control` learns
//! that the process did. Costs one load of a flag while nobody is suspected. The rule is [`crate::admission::eject::Quarantine`].

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};

use crate::admission::eject::Quarantine;

/// An instance that dies later than this after a connection to it ended did not die of that request.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Connections that ended and whose instances may yet be known to have died, at most.
const MOST_CASUALTIES: usize = 256;
/// Ends of instances that are remembered for requests that are told of later.
const MOST_ENDS: usize = 32;
/// How often who was suspected long ago is forgotten.
const TIDY: Duration = Duration::from_secs(10);

/// What tells one request from another without its body: method, target, and the body's declared length and type. Cheap to
/// keep: the parts are shared with the request.
#[derive(Debug, Clone)]
pub struct Print {
    method: Method,
    target: Uri,
    length: Option<HeaderValue>,
    kind: Option<HeaderValue>,
}

impl Print {
    /// Of a request.
    pub fn of<B>(request: &Request<B>) -> Print {
        let headers = request.headers();
        Print {
            method: request.method().clone(),
            target: request.uri().clone(),
            length: headers.get(CONTENT_LENGTH).cloned(),
            kind: headers.get(CONTENT_TYPE).cloned(),
        }
    }

    fn hash(&self, quarantine: &Quarantine) -> u64 {
        let text = |value: &Option<HeaderValue>| {
            let text = value.as_ref().and_then(|value| value.to_str().ok());
            text.unwrap_or("").to_owned()
        };
        let target = self.target.path_and_query().map_or("", |target| target.as_str());
        let length = text(&self.length).parse().ok();
        quarantine.fingerprint(self.method.as_str(), target, length, &text(&self.kind))
    }
}

/// A request that is refused from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Method and path, without the query.
    pub what: String,
    /// The request that was the last one.
    pub request_id: String,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Pass,
    /// An instance died of the like of it, and whether another one just did is about to be known.
    Unclear,
    /// Refuse it.
    Refuse,
}

/// A connection that ended with a request on it.
#[derive(Debug)]
struct Casualty {
    instance: InstanceId,
    fingerprint: u64,
    at: Instant,
    told: Quarantined,
}

/// An instance that died.
#[derive(Debug)]
struct Death {
    instance: InstanceId,
    /// The requests in flight then.
    in_flight: u32,
    /// Who was blamed: a caller that tries again while the dead one is still listed killed it once.
    blamed: Vec<u64>,
}

/// The requests of which instances of one function died.
#[derive(Debug, Default)]
pub struct Poison {
    watches: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    quarantine: Quarantine,
    casualties: Vec<Casualty>,
    ends: VecDeque<Death>,
    tidied: Option<Instant>,
}

impl Poison {
    /// Whether any request is suspected: otherwise none needs to be looked at.
    pub fn watches(&self) -> bool {
        self.watches.load(Ordering::Relaxed)
    }

    /// What to do with it.
    pub fn judge(&self, print: &Print, now: Instant) -> Verdict {
        let mut state = self.lock();
        if now.saturating_duration_since(*state.tidied.get_or_insert(now)) >= TIDY {
            state.tidied = Some(now);
            state.quarantine.tidy(now);
            state.forget_casualties(now);
            let watches = !state.quarantine.is_empty() || !state.casualties.is_empty();
            self.watches.store(watches, Ordering::Relaxed);
        }
        let fingerprint = print.hash(&state.quarantine);
        if state.quarantine.is_quarantined(fingerprint, now) {
            return match state.quarantine.may_try(fingerprint, now) {
                true => Verdict::Pass,
                false => Verdict::Refuse,
            };
        }
        let is_open = |casualty: &Casualty| {
            casualty.fingerprint == fingerprint && now.saturating_duration_since(casualty.at) < AT_ONCE
        };
        let open = state
            .casualties
            .iter()
            .filter(|casualty| is_open(casualty))
            .count();
        match open + usize::from(state.quarantine.is_suspect(fingerprint)) {
            0 | 1 => Verdict::Pass,
            _ => Verdict::Unclear,
        }
    }

    /// It was answered: it is no killer.
    pub fn answered(&self, print: &Print) {
        let mut state = self.lock();
        let fingerprint = print.hash(&state.quarantine);
        state.quarantine.answered(fingerprint);
    }

    /// A connection ended with this request on it. Says whether the request is in quarantine from now on.
    pub fn broke(
        &self,
        instance: InstanceId,
        print: &Print,
        request_id: String,
        now: Instant,
    ) -> Option<Quarantined> {
        let mut state = self.lock();
        self.watches.store(true, Ordering::Relaxed);
        let casualty = Casualty {
            instance,
            fingerprint: print.hash(&state.quarantine),
            at: now,
            told: Quarantined {
                what: format!("{} {}", print.method, print.target.path()),
                request_id,
            },
        };
        // The instance's end may have been known first.
        if let Some(death) = state.ends.iter_mut().find(|death| death.instance == instance) {
            if death.blamed.contains(&casualty.fingerprint) {
                return None;
            }
            death.blamed.push(casualty.fingerprint);
            let others = death.in_flight.saturating_sub(1);
            return state.blame(casualty, others, now);
        }
        state.forget_casualties(now);
        let is_same =
            |other: &Casualty| other.instance == instance && other.fingerprint == casualty.fingerprint;
        if state.casualties.len() < MOST_CASUALTIES && !state.casualties.iter().any(is_same) {
            state.casualties.push(casualty);
        }
        None
    }

    /// An instance ended with so many requests in flight, besides those whose connections were seen to end: by itself, if it
    /// `died`. Gives the requests that are in quarantine from now on.
    pub fn ended(&self, instance: InstanceId, died: bool, in_flight: u32, now: Instant) -> Vec<Quarantined> {
        let mut state = self.lock();
        state.forget_casualties(now);
        let (its, others) = std::mem::take(&mut state.casualties)
            .into_iter()
            .partition::<Vec<_>, _>(|casualty| casualty.instance == instance);
        state.casualties = others;
        if !died {
            return Vec::new();
        }
        let all = in_flight.saturating_add(its.len() as u32);
        let blamed = its.iter().map(|casualty| casualty.fingerprint).collect();
        state.ends.push_back(Death {
            instance,
            in_flight: all,
            blamed,
        });
        if state.ends.len() > MOST_ENDS {
            state.ends.pop_front();
        }
        let mut blame = |casualty| state.blame(casualty, all.saturating_sub(1), now);
        its.into_iter().filter_map(&mut blame).collect()
    }

    /// Whether this instance, which has ended, died of a request that is in quarantine by now.
    pub fn was_killed(&self, instance: InstanceId, now: Instant) -> bool {
        let state = self.lock();
        let death = state.ends.iter().find(|death| death.instance == instance);
        death.is_some_and(|death| {
            let mut blamed = death.blamed.iter();
            blamed.any(|&fingerprint| state.quarantine.is_quarantined(fingerprint, now))
        })
    }

    /// Another revision is live, which may be mended.
    pub fn forget(&self) {
        *self.lock() = State::default();
        self.watches.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn blame(&mut self, casualty: Casualty, others: u32, now: Instant) -> Option<Quarantined> {
        let was = self.quarantine.is_quarantined(casualty.fingerprint, now);
        let is = self.quarantine.killed(casualty.fingerprint, others, now);
        (is && !was).then_some(casualty.told)
    }

    fn forget_casualties(&mut self, now: Instant) {
        self.casualties
            .retain(|casualty| now.saturating_duration_since(casualty.at) < AT_ONCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(target: &str) -> Print {
        Print::of(&Request::get(target).body(()).unwrap())
    }

    fn id(n: u64) -> InstanceId {
        InstanceId(n)
    }

    #[test]
    fn two_deaths_whoever_is_told_first_and_the_third_is_refused() {
        let (poison, now) = (Poison::default(), Instant::now());
        let boom = print("/boom?x=1");
        assert!(!poison.watches());
        assert_eq!(poison.broke(id(1), &boom, "a".into(), now), None);
        assert!(poison.watches());
        assert_eq!(poison.judge(&boom, now), Verdict::Pass, "one may be chance");
        assert_eq!(poison.ended(id(1), true, 0, now), []);
        // Here the end is known before the request's connection is seen to end.
        assert_eq!(poison.judge(&boom, now), Verdict::Pass);
        assert_eq!(poison.ended(id(2), true, 1, now), []);
        let told = Quarantined {
            what: "GET /boom".into(),
            request_id: "b".into(),
        };
        assert_eq!(poison.broke(id(2), &boom, "b".into(), now), Some(told));
        assert_eq!(poison.judge(&boom, now), Verdict::Refuse);
        assert_eq!(poison.judge(&print("/boom?x=2"), now), Verdict::Pass);
        let later = now + Quarantine::WHILE;
        assert_eq!(poison.judge(&boom, later), Verdict::Pass);
        assert!(!poison.watches(), "and then it costs nothing again");
    }

    #[test]
    fn who_died_of_what_is_in_quarantine_was_killed() {
        let (poison, now) = (Poison::default(), Instant::now());
        let boom = print("/boom");
        for (n, others) in [(1, 0), (2, 0), (3, 9), (4, 9)] {
            let fatal = match others {
                0 => boom.clone(),
                _ => print("/with-many-others"),
            };
            poison.broke(id(n), &fatal, "a".into(), now);
            poison.ended(id(n), true, others, now);
            assert_eq!(poison.was_killed(id(n), now), n == 2, "{n}");
        }
        poison.ended(id(5), true, 1, now);
        assert!(!poison.was_killed(id(5), now), "nobody is blamed");
    }

    #[test]
    fn the_second_waits_for_what_became_of_the_instance() {
        let (poison, now) = (Poison::default(), Instant::now());
        let boom = print("/boom");
        poison.broke(id(1), &boom, "a".into(), now);
        poison.ended(id(1), true, 0, now);
        poison.broke(id(2), &boom, "b".into(), now);
        assert_eq!(poison.judge(&boom, now), Verdict::Unclear);
        assert_eq!(poison.ended(id(2), true, 0, now).len(), 1);
        assert_eq!(poison.judge(&boom, now), Verdict::Refuse);
    }

    #[test]
    fn a_reset_a_stop_and_a_later_death_are_no_murder() {
        let (poison, now) = (Poison::default(), Instant::now());
        let get = print("/");
        for n in 0..9 {
            poison.broke(id(n), &get, "a".into(), now);
            match n % 2 {
                0 => assert_eq!(poison.ended(id(n), false, 0, now), []),
                _ => assert_eq!(poison.ended(id(n), true, 0, now + AT_ONCE), []),
            }
        }
        assert_eq!(poison.judge(&get, now + AT_ONCE), Verdict::Pass);
    }

    #[test]
    fn a_new_revision_is_given_every_request() {
        let (poison, now) = (Poison::default(), Instant::now());
        let boom = print("/boom");
        for n in 0..2 {
            poison.broke(id(n), &boom, "a".into(), now);
            poison.ended(id(n), true, 0, now);
        }
        assert_eq!(poison.judge(&boom, now), Verdict::Refuse);
        poison.forget();
        assert!(!poison.watches());
        assert_eq!(poison.judge(&boom, now), Verdict::Pass);
    }

    #[test]
    fn who_tries_again_at_the_dead_one_killed_it_once() {
        let (poison, now) = (Poison::default(), Instant::now());
        let get = print("/");
        for _ in 0..2 {
            assert_eq!(poison.broke(id(1), &get, "a".into(), now), None);
        }
        assert_eq!(poison.judge(&get, now), Verdict::Pass);
        assert_eq!(poison.ended(id(1), true, 0, now), []);
        assert_eq!(poison.broke(id(1), &get, "b".into(), now), None);
        assert_eq!(poison.judge(&get, now), Verdict::Pass);
    }

    #[test]
    fn an_answer_clears_it() {
        let (poison, now) = (Poison::default(), Instant::now());
        let get = print("/");
        for n in 0..4 {
            poison.broke(id(n), &get, "a".into(), now);
            assert_eq!(poison.ended(id(n), true, 0, now), []);
            poison.answered(&get);
        }
        assert_eq!(poison.judge(&get, now), Verdict::Pass);
    }

    #[test]
    fn one_in_a_while_is_sent_to_see_and_an_answer_ends_the_quarantine() {
        let (poison, now, get) = (Poison::default(), Instant::now(), print("/x"));
        for n in 1..=2 {
            poison.broke(id(n), &get, "r".to_owned(), now);
            poison.ended(id(n), true, 0, now);
        }
        assert_eq!(poison.judge(&get, now), Verdict::Refuse);
        let mut later = now + Quarantine::FIRST_TRY;
        assert_eq!(poison.judge(&get, later), Verdict::Pass);
        assert_eq!(poison.judge(&get, later), Verdict::Refuse, "one is enough");
        // It kills again and again: each time it is longer until the next.
        let mut wait = Quarantine::FIRST_TRY;
        for n in 3..10 {
            poison.broke(id(n), &get, "r".to_owned(), later);
            poison.ended(id(n), true, 0, later);
            wait = (2 * wait).min(Quarantine::LAST_TRY);
            let early = later + wait - Duration::from_millis(1);
            assert_eq!(poison.judge(&get, early), Verdict::Refuse, "{n}");
            later += wait;
            assert_eq!(poison.judge(&get, later), Verdict::Pass, "{n}");
        }
        assert_eq!(wait, Quarantine::LAST_TRY);
        // It does not.
        poison.answered(&get);
        assert_eq!(poison.judge(&get, later), Verdict::Pass);
    }
}
