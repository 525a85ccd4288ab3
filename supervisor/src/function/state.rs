//! The life of one instance's place, as a pure step: every state answers every event. Effects happen in `control`.
//!
//! ```text
//!                                        Frozen (Freeze, and back by Wanted; to Draining as Ready does)
//!            Wanted               Answered  ▲ ▼         Retire
//!   Idle ───────────▶ Starting ───────────▶ Ready ───────────────▶ Draining ──Exited──▶ Idle
//!    ▲                 │   ▲ Late             │ Exited               Finishing → Stopping → Killing
//!    │          Exited │   └─────── Backoff ◀─┤ (Drained or Late moves on)
//!    └──── Late ─── Failed ◀──────────────────┘
//! ```

use std::time::{Duration, Instant};

/// Where one place stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing runs.
    Idle,
    /// Launched, or about to be; not known to answer yet. Killed at `until`.
    Starting {
        /// When it is late.
        until: Instant,
    },
    /// It answers.
    Ready,
    /// All of it is stopped where it is, and it gets no request before it goes on.
    Frozen,
    /// It gets no new request and is on its way out.
    Draining {
        /// How far.
        phase: Drain,
        /// When the next phase begins whatever happens.
        until: Instant,
    },
    /// It ended, and is started again at `until`.
    Backoff {
        /// When.
        until: Instant,
    },
    /// It ended too often: requests are refused at once until then.
    Failed {
        /// Until when.
        until: Instant,
    },
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Waits for its leases to end.
    Finishing,
    /// SIGTERM was sent.
    Stopping,
    /// SIGKILL was sent to all of it.
    Killing,
}

/// What happens to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody needs it running.
    Wanted,
    /// It answered: a probe or a response head.
    Answered,
    /// Its process ended, or never began; with what the backoff says is next.
    Exited(AfterExit),
    /// It is idle, replaced or removed, or the host stops.
    Retire,
    /// No lease is left.
    Drained,
    /// Nobody asked it for long.
    Freeze,
    /// The host starts too many again already: not before then.
    Postponed(Instant),
    /// The state's own deadline has passed.
    Late,
}

/// What is next after a process ended that was not asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExit {
    /// Start again now.
    Restart,
    /// Start again then.
    Wait(Instant),
    /// Refuse requests until then.
    GiveUp(Instant),
}

/// What `control` does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask the launcher for a process.
    Launch,
    /// Stop all of it where it is.
    Freeze,
    /// Let it go on, and give leases of it again.
    Thaw,
    /// Give no more leases of it.
    Withdraw,
    /// Send SIGTERM to its main process.
    Terminate,
    /// Kill all of it.
    Kill,
}

/// How long each state may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From launch to ready.
    pub ready_within: Duration,
    /// From the beginning of a drain to SIGTERM, while leases remain.
    pub finish_within: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_within: Duration,
}

/// A kill that nothing came of is repeated after this. The kernel can't refuse it, but the message may be lost with
/// a supervisor.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// What the place is after `event`, and what to do about it, in order.
pub fn step(state: State, event: Event, bounds: &Bounds, now: Instant) -> (State, &'static [Action]) {
    use Drain::{Finishing, Killing, Stopping};
    let starting = State::Starting {
        until: now + bounds.ready_within,
    };
    let killing = State::Draining {
        phase: Killing,
        until: now + KILL_AGAIN,
    };
    let after_exit = |after: AfterExit| match after {
        AfterExit::Restart => (starting, &[Action::Withdraw, Action::Launch] as &'static [Action]),
        AfterExit::Wait(until) => (State::Backoff { until }, &[Action::Withdraw] as _),
        AfterExit::GiveUp(until) => (State::Failed { until }, &[Action::Withdraw] as _),
    };
    match (state, event) {
        (State::Idle, Event::Wanted) => (starting, &[Action::Launch]),
        (
            State::Idle,
            Event::Answered
            | Event::Exited(_)
            | Event::Retire
            | Event::Drained
            | Event::Freeze
            | Event::Postponed(_)
            | Event::Late,
        ) => (state, &[]),

        (State::Starting { .. }, Event::Answered) => (State::Ready, &[]),
        (State::Starting { .. } | State::Ready | State::Frozen, Event::Exited(after)) => after_exit(after),
        (State::Starting { .. } | State::Ready, Event::Retire) => (
            State::Draining {
                phase: Finishing,
                until: now + bounds.finish_within,
            },
            &[Action::Withdraw],
        ),
        // It stays Starting until its end is reported, so that a late start counts as a failed one.
        (State::Starting { .. }, Event::Late) => (
            State::Starting {
                until: now + KILL_AGAIN,
            },
            &[Action::Withdraw, Action::Kill],
        ),
        (State::Starting { .. }, Event::Wanted | Event::Drained | Event::Freeze | Event::Postponed(_)) => {
            (state, &[])
        }

        (State::Ready, Event::Freeze) => (State::Frozen, &[Action::Freeze]),
        (
            State::Ready,
            Event::Wanted | Event::Answered | Event::Drained | Event::Postponed(_) | Event::Late,
        ) => (state, &[]),

        (State::Frozen, Event::Wanted) => (State::Ready, &[Action::Thaw]),
        // Frozen it would not hear that it is to stop.
        (State::Frozen, Event::Retire) => (
            State::Draining {
                phase: Finishing,
                until: now + bounds.finish_within,
            },
            &[Action::Thaw, Action::Withdraw],
        ),
        (
            State::Frozen,
            Event::Answered | Event::Drained | Event::Freeze | Event::Postponed(_) | Event::Late,
        ) => (state, &[]),

        (State::Draining { .. }, Event::Exited(_)) => (State::Idle, &[]),
        (State::Draining { phase: Finishing, .. }, Event::Drained | Event::Late) => (
            State::Draining {
                phase: Stopping,
                until: now + bounds.stop_within,
            },
            &[Action::Terminate],
        ),
        (
            State::Draining {
                phase: Stopping | Killing,
                ..
            },
            Event::Late,
        ) => (killing, &[Action::Kill]),
        (
            State::Draining {
                phase: Stopping | Killing,
                ..
            },
            Event::Drained,
        ) => (state, &[]),
        (
            State::Draining { .. },
            Event::Wanted | Event::Answered | Event::Retire | Event::Freeze | Event::Postponed(_),
        ) => (state, &[]),

        (State::Backoff { .. }, Event::Late) => (starting, &[Action::Launch]),
        (State::Backoff { .. } | State::Failed { .. }, Event::Retire) => (State::Idle, &[]),
        (State::Backoff { .. }, Event::Postponed(until)) => (State::Backoff { until }, &[]),
        (
            State::Backoff { .. },
            Event::Wanted | Event::Answered | Event::Exited(_) | Event::Drained | Event::Freeze,
        ) => (state, &[]),

        (State::Failed { until }, Event::Wanted) if now >= until => (starting, &[Action::Launch]),
        // The refusal is lifted; the next request starts it once more.
        (State::Failed { .. }, Event::Late) => (State::Idle, &[]),
        (
            State::Failed { .. },
            Event::Wanted
            | Event::Answered
            | Event::Exited(_)
            | Event::Drained
            | Event::Freeze
            | Event::Postponed(_),
        ) => (state, &[]),
    }
}

impl State {
    /// When [`Event::Late`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            State::Idle | State::Ready | State::Frozen => None,
            State::Starting { until }
            | State::Draining { until, .. }
            | State::Backoff { until }
            | State::Failed { until } => Some(until),
        }
    }

    /// Whether a process exists or was asked for.
    pub fn has_process(&self) -> bool {
        match self {
            State::Starting { .. } | State::Ready | State::Frozen | State::Draining { .. } => true,
            State::Idle | State::Backoff { .. } | State::Failed { .. } => false,
        }
    }

    /// The one word that users see.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Starting { .. } => "starting",
            State::Ready => "ready",
            State::Frozen => "frozen",
            State::Draining { .. } => "draining",
            State::Backoff { .. } => "backoff",
            State::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        ready_within: Duration::from_secs(10),
        finish_within: Duration::from_secs(30),
        stop_within: Duration::from_secs(3),
    };

    fn states(now: Instant) -> [State; 9] {
        let until = now + Duration::from_secs(1);
        [
            State::Idle,
            State::Starting { until },
            State::Ready,
            State::Frozen,
            State::Draining {
                phase: Drain::Finishing,
                until,
            },
            State::Draining {
                phase: Drain::Stopping,
                until,
            },
            State::Draining {
                phase: Drain::Killing,
                until,
            },
            State::Backoff { until },
            State::Failed { until },
        ]
    }

    fn events(now: Instant) -> [Event; 10] {
        let later = now + Duration::from_secs(2);
        [
            Event::Wanted,
            Event::Answered,
            Event::Exited(AfterExit::Restart),
            Event::Exited(AfterExit::Wait(later)),
            Event::Exited(AfterExit::GiveUp(later)),
            Event::Retire,
            Event::Drained,
            Event::Freeze,
            Event::Postponed(later),
            Event::Late,
        ]
    }

    #[test]
    fn a_process_is_launched_only_where_none_exists() {
        let now = Instant::now();
        for state in states(now) {
            for event in events(now) {
                let (after, actions) = step(state, event, &BOUNDS, now);
                let exited = matches!(event, Event::Exited(_));
                let launched = actions.contains(&Action::Launch);
                assert!(!launched || exited || !state.has_process(), "{state:?} {event:?}");
                assert!(
                    !launched || matches!(after, State::Starting { .. }),
                    "{state:?} {event:?}"
                );
                // What has a process afterwards had one before, or was just given one.
                assert!(
                    !after.has_process() || launched || (state.has_process() && !exited),
                    "{state:?} {event:?}"
                );
            }
        }
    }

    #[test]
    fn a_process_is_never_forgotten() {
        let now = Instant::now();
        for state in states(now).into_iter().filter(State::has_process) {
            for event in events(now).into_iter().filter(|e| !matches!(e, Event::Exited(_))) {
                let (after, _) = step(state, event, &BOUNDS, now);
                assert!(after.has_process(), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_drain_always_ends() {
        let now = Instant::now();
        for start in [State::Starting { until: now }, State::Ready, State::Frozen] {
            let (mut state, actions) = step(start, Event::Retire, &BOUNDS, now);
            assert_eq!(actions.last(), Some(&Action::Withdraw));
            let mut sent = Vec::new();
            let mut at = now;
            for _ in 0..3 {
                at = state.deadline().unwrap();
                let (next, actions) = step(state, Event::Late, &BOUNDS, at);
                sent.extend_from_slice(actions);
                state = next;
            }
            assert_eq!(sent, [Action::Terminate, Action::Kill, Action::Kill]);
            assert_eq!(
                step(state, Event::Exited(AfterExit::Restart), &BOUNDS, at),
                (State::Idle, &[] as _)
            );
        }
    }

    #[test]
    fn a_late_start_is_killed_and_counts_as_an_exit() {
        let now = Instant::now();
        let (state, _) = step(State::Idle, Event::Wanted, &BOUNDS, now);
        let late = now + BOUNDS.ready_within;
        assert_eq!(state.deadline(), Some(late));
        let (state, actions) = step(state, Event::Late, &BOUNDS, late);
        assert_eq!(actions, [Action::Withdraw, Action::Kill]);
        let then = late + Duration::from_secs(1);
        let (state, _) = step(state, Event::Exited(AfterExit::Wait(then)), &BOUNDS, late);
        assert_eq!(state, State::Backoff { until: then });
        assert_eq!(step(state, Event::Late, &BOUNDS, then).1, [Action::Launch]);
    }

    #[test]
    fn only_what_answers_is_frozen_and_nothing_leaves_that_without_a_thaw_but_its_end() {
        let now = Instant::now();
        for state in states(now) {
            let (after, actions) = step(state, Event::Freeze, &BOUNDS, now);
            assert_eq!(
                actions.contains(&Action::Freeze),
                state == State::Ready,
                "{state:?}"
            );
            assert_eq!(
                after == State::Frozen,
                matches!(state, State::Ready | State::Frozen)
            );
        }
        for event in events(now) {
            let (after, actions) = step(State::Frozen, event, &BOUNDS, now);
            let leaves = after != State::Frozen && !matches!(event, Event::Exited(_));
            assert_eq!(actions.first() == Some(&Action::Thaw), leaves, "{event:?}");
        }
    }

    #[test]
    fn failed_refuses_until_its_time_and_then_tries_once_more() {
        let now = Instant::now();
        let until = now + Duration::from_secs(30);
        let failed = State::Failed { until };
        assert_eq!(step(failed, Event::Wanted, &BOUNDS, now), (failed, &[] as _));
        assert_eq!(step(failed, Event::Late, &BOUNDS, until).0, State::Idle);
        assert_eq!(step(failed, Event::Wanted, &BOUNDS, until).1, [Action::Launch]);
    }
}
