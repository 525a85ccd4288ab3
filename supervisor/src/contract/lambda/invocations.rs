//! The invocations of one instance: which wait for it to ask, which it works on, who waits for their answers. One thread; never
//! does I/O.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, mpsc, oneshot};

/// Pieces of a streamed response that wait for the caller to take them; each is what one read brought, 64 KiB at most.
const PIECES: usize = 4;

/// What a function is to do.
#[derive(Debug)]
pub(super) struct Invocation {
    /// Names it, for the answer.
    pub(super) id: String,
    /// What it is told beside that: deadline, trace, context.
    pub(super) said: HeaderMap,
    pub(super) event: Bytes,
    /// When an answer comes too late.
    pub(super) deadline: Instant,
}

/// What became of an invocation.
#[derive(Debug)]
pub(super) enum Answer {
    /// A response as a whole.
    Whole(Bytes),
    /// A response that is still being written: its content type, and its pieces.
    Stream(Option<http::HeaderValue>, mpsc::Receiver<Piece>),
    /// The function says that it failed: the document that it wrote about that.
    Failed(Bytes),
    /// Its response was larger than any may be.
    TooLarge,
    /// The instance has ended.
    Ended,
}

/// A piece of a streamed response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// Without it, what came was not all.
    End,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwanted {
    /// Nothing of this name was ever given out, or it was answered already.
    Unknown,
    /// An answer to it is being read on another connection.
    Underway,
}

/// The invocations of one instance.
#[derive(Debug)]
pub(super) struct Invocations {
    state: RefCell<State>,
    /// So many are worked on at once.
    places: usize,
    /// The first is worked on: somebody has to look at the deadlines again.
    pub(super) begun: Notify,
    /// Somebody does.
    pub(super) is_watched: Cell<bool>,
}

#[derive(Debug)]
struct State {
    /// To be given out, the oldest first.
    waiting: VecDeque<(Invocation, oneshot::Sender<Answer>)>,
    /// Who asks for one.
    pollers: VecDeque<oneshot::Sender<Invocation>>,
    running: HashMap<String, Running>,
    chance: SmallRng,
    has_ended: bool,
}

#[derive(Debug)]
struct Running {
    /// Gone while an answer is being read, and after.
    answer: Option<oneshot::Sender<Answer>>,
    deadline: Instant,
    /// The caller has the head of its response, or will: how long the rest takes is between the two.
    is_streamed: bool,
    /// It was told that this one is late.
    is_told: bool,
}

impl Invocations {
    pub(super) fn new(places: usize, chance: SmallRng) -> Rc<Invocations> {
        Rc::new(Invocations {
            state: RefCell::new(State {
                waiting: VecDeque::new(),
                pollers: VecDeque::new(),
                running: HashMap::new(),
                chance,
                has_ended: false,
            }),
            places,
            begun: Notify::new(),
            is_watched: Cell::new(false),
        })
    }

    /// A name for an invocation: a random UUID (RFC 9562, version 4), which nobody can guess.
    pub(super) fn name(&self) -> String {
        let random: u128 = self.state.borrow_mut().chance.random();
        let bits = random & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
        let digits = format!("{bits:032x}");
        let parts = [
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        ];
        parts.join("-")
    }

    /// The function is to do this. Dropping what is given back says that nobody waits any more: one that was not given out yet
    /// is forgotten then, when its turn comes.
    pub(super) fn offer(&self, invocation: Invocation) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        if !state.has_ended {
            state.waiting.push_back((invocation, answer));
        }
        drop(state);
        self.match_up();
        answered
    }

    /// The function asks for something to do.
    pub(super) fn ask(&self) -> oneshot::Receiver<Invocation> {
        let (give, given) = oneshot::channel();
        self.state.borrow_mut().pollers.push_back(give);
        self.match_up();
        given
    }

    /// Nobody asks any more: who does is asking somebody else.
    pub(super) fn forget_pollers(&self) {
        self.state.borrow_mut().pollers.clear();
    }

    /// Gives out what waits to who asks.
    fn match_up(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.waiting.retain(|(_, answer)| !answer.is_closed());
        state.pollers.retain(|poller| !poller.is_closed());
        while state.running.len() < self.places
            && !state.waiting.is_empty()
            && let Some(poller) = state.pollers.pop_front()
        {
            let (invocation, answer) = state.waiting.pop_front().expect("it is not empty");
            let (id, deadline) = (invocation.id.clone(), invocation.deadline);
            match poller.send(invocation) {
                Ok(()) => {
                    let running = Running {
                        answer: Some(answer),
                        deadline,
                        is_streamed: false,
                        is_told: false,
                    };
                    state.running.insert(id, running);
                    if !self.is_watched.replace(true) {
                        self.begun.notify_one();
                    }
                }
                Err(invocation) => state.waiting.push_front((invocation, answer)),
            }
        }
    }

    /// The function begins to answer: only so is what it sends worth reading. Whoever holds the claim has to keep it or give it
    /// back by dropping it.
    ///
    /// # Errors
    /// [`Unwanted`].
    pub(super) fn claim(self: &Rc<Self>, id: &str) -> Result<Claim, Unwanted> {
        let mut state = self.state.borrow_mut();
        let running = state.running.get_mut(id).ok_or(Unwanted::Unknown)?;
        let answer = running.answer.take().ok_or(Unwanted::Underway)?;
        Ok(Claim {
            invocations: Rc::clone(self),
            id: id.to_owned(),
            answer: Some(answer),
        })
    }

    /// How many it works on.
    pub(super) fn running(&self) -> usize {
        self.state.borrow().running.len()
    }

    /// When the first of those that it works on is late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let state = self.state.borrow();
        let open = state
            .running
            .values()
            .filter(|running| !running.is_streamed && !running.is_told);
        open.map(|running| running.deadline).min()
    }

    /// Those that it should have answered by now, in whole or by a stream that has begun; each is told once.
    pub(super) fn overdue(&self, now: Instant) -> Vec<String> {
        let mut state = self.state.borrow_mut();
        let mut late = Vec::new();
        for (id, running) in &mut state.running {
            if !running.is_streamed && !running.is_told && running.deadline <= now {
                running.is_told = true;
                late.push(id.clone());
            }
        }
        late
    }

    /// The instance has ended: nobody will answer.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.has_ended = true;
        state.pollers.clear();
        let waiting = std::mem::take(&mut state.waiting)
            .into_iter()
            .map(|(_, answer)| answer);
        let running = std::mem::take(&mut state.running).into_values();
        let answers: Vec<_> = waiting
            .chain(running.filter_map(|running| running.answer))
            .collect();
        drop(state);
        for answer in answers {
            let _ = answer.send(Answer::Ended);
        }
    }
}

/// The right to answer one invocation.
#[derive(Debug)]
pub(super) struct Claim {
    invocations: Rc<Invocations>,
    id: String,
    answer: Option<oneshot::Sender<Answer>>,
}

impl Claim {
    /// Answers as a whole; the invocation is done.
    pub(super) fn answer(mut self, answer: Answer) {
        if let Some(waiting) = self.answer.take() {
            let _ = waiting.send(answer);
        }
    }

    /// Begins to answer: what goes into the channel goes to the caller. The invocation is done when both are dropped.
    pub(super) fn stream(&mut self, content_type: Option<http::HeaderValue>) -> mpsc::Sender<Piece> {
        let (pieces, taken) = mpsc::channel(PIECES);
        if let Some(waiting) = self.answer.take() {
            let _ = waiting.send(Answer::Stream(content_type, taken));
        }
        if let Some(running) = self.invocations.state.borrow_mut().running.get_mut(&self.id) {
            running.is_streamed = true;
        }
        pieces
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.invocations.state.borrow_mut();
        match self.answer.take() {
            // What was sent broke off: it may be sent again.
            Some(answer) if !state.has_ended => {
                if let Some(running) = state.running.get_mut(&self.id) {
                    running.answer = Some(answer);
                }
                return;
            }
            Some(answer) => drop(answer.send(Answer::Ended)),
            None => {
                state.running.remove(&self.id);
            }
        }
        drop(state);
        self.invocations.match_up();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;

    use super::*;

    fn invocations(places: usize) -> Rc<Invocations> {
        Invocations::new(places, SmallRng::seed_from_u64(1))
    }

    fn offer(invocations: &Invocations, id: &str) -> oneshot::Receiver<Answer> {
        invocations.offer(Invocation {
            id: id.to_owned(),
            said: HeaderMap::new(),
            event: Bytes::new(),
            deadline: Instant::now(),
        })
    }

    fn given(asked: &mut oneshot::Receiver<Invocation>) -> Option<String> {
        asked.try_recv().ok().map(|invocation| invocation.id)
    }

    #[test]
    fn names_are_uuids() {
        let invocations = invocations(1);
        let (one, other) = (invocations.name(), invocations.name());
        assert_ne!(one, other);
        for name in [one, other] {
            let lengths: Vec<_> = name.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{name}");
            assert!(
                name.as_bytes()[14] == b'4' && b"89ab".contains(&name.as_bytes()[19]),
                "{name}"
            );
        }
    }

    #[test]
    fn whoever_asks_first_gets_what_came_first_and_no_more_than_there_are_places() {
        let invocations = invocations(2);
        let (mut early, mut late, mut last) = (invocations.ask(), invocations.ask(), invocations.ask());
        let _answers: Vec<_> = ["a", "b", "c"].map(|id| offer(&invocations, id)).into();
        assert_eq!(given(&mut early).as_deref(), Some("a"));
        assert_eq!(given(&mut late).as_deref(), Some("b"));
        assert_eq!(given(&mut last), None, "both places are taken");
        invocations.claim("a").unwrap().answer(Answer::TooLarge);
        assert_eq!(given(&mut last).as_deref(), Some("c"));
    }

    #[test]
    fn who_left_gets_nothing_and_what_nobody_waits_for_is_not_given_out() {
        let invocations = invocations(8);
        drop(invocations.ask());
        drop(offer(&invocations, "a"));
        let _b = offer(&invocations, "b");
        assert_eq!(given(&mut invocations.ask()).as_deref(), Some("b"));
    }

    #[test]
    fn each_is_answered_once_by_its_name() {
        let invocations = invocations(1);
        let mut answer = offer(&invocations, "a");
        assert!(
            matches!(invocations.claim("a"), Err(Unwanted::Unknown)),
            "not given out yet"
        );
        let _asked = invocations.ask();
        assert!(matches!(invocations.claim("b"), Err(Unwanted::Unknown)));
        let claim = invocations.claim("a").unwrap();
        assert!(matches!(invocations.claim("a"), Err(Unwanted::Underway)));
        drop(claim);
        let claim = invocations.claim("a").expect("the first broke off");
        claim.answer(Answer::Whole("yes".into()));
        assert!(matches!(answer.try_recv(), Ok(Answer::Whole(body)) if body == "yes"));
        assert!(
            matches!(invocations.claim("a"), Err(Unwanted::Unknown)),
            "a second answer"
        );
        assert_eq!(invocations.running(), 0);
    }

    #[test]
    fn a_stream_holds_its_place_until_it_ends() {
        let invocations = invocations(1);
        let mut answer = offer(&invocations, "a");
        let _asked = invocations.ask();
        let mut claim = invocations.claim("a").unwrap();
        let pieces = claim.stream(None);
        let Ok(Answer::Stream(None, mut taken)) = answer.try_recv() else {
            panic!("it has begun");
        };
        assert_eq!(invocations.running(), 1);
        assert!(matches!(invocations.claim("a"), Err(Unwanted::Underway)));
        pieces.try_send(Piece::End).unwrap();
        drop((pieces, claim));
        assert_eq!(taken.try_recv(), Ok(Piece::End));
        assert_eq!(invocations.running(), 0);
    }

    #[test]
    fn the_end_of_the_instance_answers_all() {
        let invocations = invocations(2);
        let _asked = [invocations.ask(), invocations.ask()];
        let mut answers = ["a", "b", "c"].map(|id| offer(&invocations, id));
        let claim = invocations.claim("b").unwrap();
        invocations.end();
        drop(claim);
        for answer in &mut answers {
            assert!(matches!(answer.try_recv(), Ok(Answer::Ended)));
        }
        assert!(offer(&invocations, "d").try_recv().is_err(), "closed at once");
    }

    #[test]
    fn what_is_late_is_told_once_also_when_nobody_waits_for_it() {
        let invocations = invocations(2);
        let now = Instant::now();
        let _asked = [invocations.ask(), invocations.ask()];
        drop(offer(&invocations, "gone"));
        drop(offer(&invocations, "a"));
        assert!(invocations.next_deadline().unwrap() >= now);
        assert_eq!(
            invocations.overdue(now - Duration::from_secs(9)),
            Vec::<String>::new()
        );
        // An answer that is being read is none yet.
        let _claim = invocations.claim("a").unwrap();
        let mut late = invocations.overdue(Instant::now());
        late.sort();
        assert_eq!(late, ["a", "gone"]);
        assert_eq!(invocations.next_deadline(), None);
        assert!(invocations.overdue(Instant::now()).is_empty());
    }
}
