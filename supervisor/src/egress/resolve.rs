//! What names of bound places mean, remembered for as long as that holds, and for a while longer when nobody can be asked. Each
//! name is asked for once at a time, however many connections wait for it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::names::{Answer, NameError, Names};

/// A name is asked for again after this at the latest, however long its servers say that the answer holds: what moves is followed
/// within half a minute.
const LONGEST: Duration = Duration::from_secs(30);
/// And not before this, however short: a name that holds for no time is not asked for with each connection.
const SHORTEST: Duration = Duration::from_secs(1);
/// While nobody says what a name means, the last answer is good for so long.
const LAST_GOOD: Duration = Duration::from_secs(600);
/// Who has a last answer waits no longer than this for a newer one.
const PATIENCE: Duration = Duration::from_millis(500);
/// One name's question takes no longer.
const QUESTION: Duration = Duration::from_secs(10);
/// Names that are remembered before those that nobody asked for lately are forgotten.
const MOST: usize = 1024;

type Asked = Pin<Box<dyn Future<Output = Result<Answer, NameError>>>>;
type Ask = Box<dyn Fn(String) -> Asked>;

/// Looks names up, for one thread.
pub(super) struct Resolver(Rc<Inner>);

struct Inner {
    ask: Ask,
    known: RefCell<HashMap<String, Known>>,
}

/// What is known of a name.
struct Known {
    last: Result<Vec<IpAddr>, NameError>,
    fresh_until: Instant,
    /// Until when an answer of addresses may be used although it is not fresh.
    good_until: Instant,
    /// Who waits for the question that is under way.
    asking: Option<Rc<Notify>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    pub(super) fn new(names: Names) -> Resolver {
        let names = Rc::new(names);
        Resolver::asking(Box::new(move |name| {
            let names = Rc::clone(&names);
            Box::pin(async move { names.ask(&name).await })
        }))
    }

    fn asking(ask: Ask) -> Resolver {
        Resolver(Rc::new(Inner {
            ask,
            known: RefCell::default(),
        }))
    }

    /// The addresses of a name, in the order in which they are to be tried; at least one.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        loop {
            let now = Instant::now();
            let (asking, last_good) = {
                let mut known = self.0.known.borrow_mut();
                if !known.contains_key(name) && known.len() >= MOST {
                    known.retain(|_, known| known.asking.is_some() || known.good_until > now);
                }
                let known = known.entry(name.to_owned()).or_insert_with(|| Known {
                    last: Err(NameError::Unknown),
                    fresh_until: now,
                    good_until: now,
                    asking: None,
                });
                if known.asking.is_none() && known.fresh_until > now {
                    return known.last.clone();
                }
                let asking = match &known.asking {
                    Some(asking) => Rc::clone(asking),
                    None => {
                        let asking = Rc::new(Notify::new());
                        known.asking = Some(Rc::clone(&asking));
                        tokio::task::spawn_local(Rc::clone(&self.0).ask(name.to_owned()));
                        asking
                    }
                };
                let good = known
                    .last
                    .as_ref()
                    .ok()
                    .filter(|_| known.good_until > now)
                    .cloned();
                (asking, good)
            };
            let answered = asking.notified();
            match last_good {
                None => answered.await,
                Some(addresses) => {
                    if timeout_at(now + PATIENCE, answered).await.is_err() {
                        return Ok(addresses);
                    }
                }
            }
        }
    }
}

impl Inner {
    /// Asks for a name and writes down what came of it. A task of its own: who began to ask may go away meanwhile.
    async fn ask(self: Rc<Self>, name: String) {
        let answer = tokio::time::timeout(QUESTION, (self.ask)(name.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err(NameError::Unanswered("in time".to_owned())));
        let mut known = self.known.borrow_mut();
        let Some(known) = known.get_mut(&name) else { return };
        known.note(answer, &name, Instant::now());
        if let Some(asking) = known.asking.take() {
            asking.notify_waiters();
        }
    }
}

impl Known {
    fn note(&mut self, answer: Result<Answer, NameError>, name: &str, now: Instant) {
        match answer {
            Ok(answer) => {
                let holds = answer.holds.clamp(SHORTEST, LONGEST);
                self.last = Ok(answer.addresses);
                self.fresh_until = now + holds;
                self.good_until = now + LAST_GOOD;
            }
            Err(error) => {
                self.fresh_until = now + SHORTEST;
                // Servers that say that there is no such host any more are believed (RFC 8767, section 4).
                let silent = matches!(error, NameError::Unanswered(_));
                match silent && self.last.is_ok() && self.good_until > now {
                    true => {
                        tracing::warn!(name, %error, "a name can't be looked up again; what it meant last is used for up to ten minutes");
                    }
                    false => self.last = Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A resolver whose name servers say what is in the cell, `delay` later; and how often they were asked.
    struct Story {
        resolver: Resolver,
        says: Rc<RefCell<Result<Answer, NameError>>>,
        delay: Rc<Cell<Duration>>,
        asked: Rc<Cell<u32>>,
    }

    fn story() -> Story {
        let says = Rc::new(RefCell::new(answer(1, 5)));
        let (delay, asked) = (Rc::new(Cell::new(Duration::ZERO)), Rc::new(Cell::new(0)));
        let ask: Ask = Box::new({
            let (says, delay, asked) = (Rc::clone(&says), Rc::clone(&delay), Rc::clone(&asked));
            move |_| {
                asked.set(asked.get() + 1);
                let (says, delay) = (says.borrow().clone(), delay.get());
                Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    says
                })
            }
        });
        Story {
            resolver: Resolver::asking(ask),
            says,
            delay,
            asked,
        }
    }

    fn answer(last: u8, seconds: u64) -> Result<Answer, NameError> {
        Ok(Answer {
            addresses: vec![IpAddr::from([10, 0, 0, last])],
            holds: Duration::from_secs(seconds),
        })
    }

    impl Story {
        async fn last(&self) -> Result<u8, NameError> {
            let addresses = self.resolver.addresses("a.test").await?;
            match addresses[..] {
                [IpAddr::V4(v4)] => Ok(v4.octets()[3]),
                _ => panic!("{addresses:?}"),
            }
        }

        fn say(&self, answer: Result<Answer, NameError>) {
            *self.says.borrow_mut() = answer;
        }
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn an_answer_is_kept_for_as_long_as_it_holds_and_half_a_minute_at_most() {
        let story = story();
        assert_eq!((story.last().await, story.asked.get()), (Ok(1), 1));
        story.say(answer(2, 86_400));
        after(4).await;
        assert_eq!((story.last().await, story.asked.get()), (Ok(1), 1));
        after(2).await;
        assert_eq!((story.last().await, story.asked.get()), (Ok(2), 2));
        story.say(answer(3, 0));
        after(29).await;
        assert_eq!((story.last().await, story.asked.get()), (Ok(2), 2));
        after(2).await;
        assert_eq!((story.last().await, story.asked.get()), (Ok(3), 3));
        assert_eq!(
            (story.last().await, story.asked.get()),
            (Ok(3), 3),
            "not with each connection"
        );
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn many_who_wait_ask_once() {
        let story = story();
        story.delay.set(Duration::from_secs(2));
        let (one, two, three) = tokio::join!(story.last(), story.last(), story.last());
        assert_eq!((one, two, three, story.asked.get()), (Ok(1), Ok(1), Ok(1), 1));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn the_last_answer_outlives_its_servers_for_a_while() {
        let story = story();
        assert_eq!(story.last().await, Ok(1));
        let gone = NameError::Unanswered("gone".to_owned());
        story.say(Err(gone.clone()));
        after(10).await;
        assert_eq!(story.last().await, Ok(1));
        // Servers that say nothing at all don't keep anybody waiting.
        story.delay.set(Duration::from_secs(3600));
        after(10).await;
        let start = Instant::now();
        assert_eq!((story.last().await, start.elapsed()), (Ok(1), PATIENCE));
        story.delay.set(Duration::ZERO);
        after(QUESTION.as_secs() + 1).await;
        assert_eq!(story.last().await, Ok(1));
        after(700).await;
        assert_eq!(story.last().await, Err(gone));
        story.say(answer(4, 5));
        after(2).await;
        assert_eq!(story.last().await, Ok(4), "and when they are back, all is well");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_host_that_its_servers_say_is_gone_is_gone() {
        for said in [NameError::Unknown, NameError::NoAddress] {
            let story = story();
            assert_eq!(story.last().await, Ok(1));
            story.say(Err(said.clone()));
            after(10).await;
            assert_eq!(story.last().await, Err(said));
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_asked_and_went_away_leaves_the_question_to_the_others() {
        let story = story();
        story.delay.set(Duration::from_secs(2));
        let gone = tokio::time::timeout(Duration::from_secs(1), story.last()).await;
        assert!(gone.is_err());
        assert_eq!((story.last().await, story.asked.get()), (Ok(1), 1));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_question_that_is_never_answered_ends() {
        let story = story();
        story.delay.set(Duration::from_secs(3600));
        assert_eq!(
            story.last().await,
            Err(NameError::Unanswered("in time".to_owned()))
        );
    }
}
