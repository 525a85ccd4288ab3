//! The deadlines of one connection or stream, and the one timer that serves them all. Never closes anything itself.
//!
//! Setting a deadline is a store: the timer is armed only for what is earlier than what it is armed for already, and
//! looks again when it goes off. On a busy connection it is touched once per time-out, not once per request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::flaw::Flaw;

const NEVER: u64 = u64::MAX;

tokio::task_local! {
    /// The watch of the HTTP/2 stream whose task is running.
    pub(super) static STREAM: Arc<Watch>;
}

/// One deadline, in milliseconds of the watch's clock.
#[derive(Debug)]
pub(super) struct Deadline(AtomicU64);

impl Deadline {
    pub(super) fn clear(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Deadline {
    fn default() -> Deadline {
        Deadline(AtomicU64::new(NEVER))
    }
}

/// The deadlines of one connection (HTTP/1: and of its current request) or of one HTTP/2 stream. Its fields are
/// atomic because hyper wants connections that could change threads; they never do, so all accesses are relaxed.
#[derive(Debug)]
pub(super) struct Watch {
    epoch: Instant,
    /// What the timer saw last. A deadline counts as missed only once the timer has seen it.
    seen: AtomicU64,
    /// The connection's next request head must be complete by then.
    pub(super) connection: Deadline,
    /// The response head must be there by then.
    pub(super) head: Deadline,
    /// The client must have sent more of its body by then.
    pub(super) upload: Deadline,
    /// The client must have taken more of the response body by then.
    pub(super) download: Deadline,
    /// No request is there and none of its bytes has come (HTTP/1).
    pub(super) idle: AtomicBool,
    /// The request has a body and its end has not come.
    pub(super) uploading: AtomicBool,
    /// Bytes of the request body so far.
    pub(super) uploaded: AtomicU64,
    /// When the end of the request's body came, in microseconds of the watch's clock; 0: there was none, or it has not.
    upload_ended: AtomicU64,
    /// Why the request body ended early, as a number of `body::Fault`; 0: it did not.
    pub(super) fault: AtomicU8,
    heads: AtomicU32,
    flaw: AtomicU8,
    /// The last request of the connection whose answer has begun.
    decided: AtomicU32,
    switched: AtomicBool,
}

impl Watch {
    /// No deadlines; `epoch` lies in the past.
    pub(super) fn new(epoch: Instant) -> Arc<Watch> {
        Arc::new(Watch {
            epoch,
            seen: AtomicU64::new(0),
            connection: Deadline::default(),
            head: Deadline::default(),
            upload: Deadline::default(),
            download: Deadline::default(),
            idle: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            uploaded: AtomicU64::new(0),
            upload_ended: AtomicU64::new(0),
            fault: AtomicU8::new(0),
            heads: AtomicU32::new(0),
            flaw: AtomicU8::new(0),
            decided: AtomicU32::new(0),
            switched: AtomicBool::new(false),
        })
    }

    /// Sets a deadline of this watch.
    pub(super) fn set(&self, deadline: &Deadline, at: Instant) {
        // Rounded up: never early.
        let millis = (at.saturating_duration_since(self.epoch) + Duration::from_micros(999)).as_millis();
        deadline
            .0
            .store(u64::try_from(millis).unwrap_or(NEVER - 1), Ordering::Relaxed);
    }

    /// Whether the timer has seen this deadline pass.
    pub(super) fn missed(&self, deadline: &Deadline) -> bool {
        deadline.get() <= self.seen.load(Ordering::Relaxed)
    }

    /// Nothing within can end these: whoever polls the connection or stream drops it.
    fn is_over(&self) -> bool {
        self.missed(&self.connection) || self.missed(&self.download)
    }

    /// The next deadline that has not been seen to pass.
    fn next(&self) -> u64 {
        let seen = self.seen.load(Ordering::Relaxed);
        let all = [&self.connection, &self.head, &self.upload, &self.download];
        all.map(Deadline::get)
            .into_iter()
            .filter(|at| *at > seen)
            .min()
            .unwrap_or(NEVER)
    }

    fn look(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.seen.store(now, Ordering::Relaxed);
    }

    /// Lets a deadline be missed at the next poll, without a timer.
    #[cfg(any(test, fuzzing))]
    pub(super) fn expire(&self, deadline: &Deadline) {
        deadline.0.store(0, Ordering::Relaxed);
    }

    /// The end of the request's body came.
    pub(super) fn end_upload(&self) {
        self.uploading.store(false, Ordering::Relaxed);
        let micros = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.upload_ended.store(micros, Ordering::Relaxed);
    }

    /// From when on the function has all that was sent to it at `dispatched`, as far as its caller goes.
    pub(super) fn complete_at(&self, dispatched: Instant) -> Instant {
        let ended = Duration::from_micros(self.upload_ended.load(Ordering::Relaxed));
        dispatched.max(self.epoch + ended)
    }

    /// How long the function has had all that was sent to it at `dispatched` and not answered. `None` while the caller has still
    /// to send some of it: then it is the caller who takes its time.
    pub(super) fn unanswered_for(&self, dispatched: Instant, now: Instant) -> Option<Duration> {
        (!self.is_uploading()).then(|| now.saturating_duration_since(self.complete_at(dispatched)))
    }

    /// Forgets the last request's body. Its deadlines end with it.
    pub(super) fn begin_request(&self) {
        self.uploading.store(false, Ordering::Relaxed);
        self.uploaded.store(0, Ordering::Relaxed);
        self.upload_ended.store(0, Ordering::Relaxed);
        self.fault.store(0, Ordering::Relaxed);
    }

    /// Whether some of the request's body is still to come.
    pub(super) fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Relaxed)
    }

    /// The inspector has seen this many good heads, and then perhaps a flaw.
    pub(super) fn inspected(&self, heads: u32, flaw: Option<Flaw>) {
        self.heads.store(heads, Ordering::Relaxed);
        if let Some(flaw) = flaw {
            self.flaw.store(flaw as u8, Ordering::Relaxed);
        }
    }

    /// The inspector saw a flaw on this connection.
    pub(super) fn is_flawed(&self) -> bool {
        self.flaw.load(Ordering::Relaxed) != 0
    }

    /// The connection's n-th request is answered, and the protocol stays or changes.
    pub(super) fn decide(&self, n: u32, switched: bool) {
        self.decided.store(n, Ordering::Relaxed);
        self.switched.store(switched, Ordering::Relaxed);
    }

    /// Whether the protocol stays after the connection's n-th request.
    pub(super) fn is_decided(&self, n: u32) -> bool {
        self.decided.load(Ordering::Relaxed) >= n
    }

    /// Whether the connection speaks another protocol now.
    pub(super) fn has_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// What is wrong with the connection's n-th request (the first is 1), if it is not among the good ones.
    pub(super) fn flaw(&self, n: u32) -> Option<Flaw> {
        let heads = self.heads.load(Ordering::Relaxed);
        if n <= heads {
            None
        } else {
            Flaw::of(self.flaw.load(Ordering::Relaxed))
        }
    }
}

/// Polls the future until it ends, and also whenever one of the watch's deadlines passes. `None`: a deadline passed
/// that nothing within can handle. `before` is called before each poll.
pub(super) async fn guarded<F: Future>(
    watch: &Watch,
    mut future: Pin<&mut F>,
    mut before: impl FnMut(Pin<&mut F>),
) -> Option<F::Output> {
    let mut alarm = pin!(tokio::time::sleep_until(watch.epoch.into()));
    let mut armed = NEVER;
    poll_fn(|cx| {
        loop {
            if armed != NEVER && alarm.as_mut().poll(cx).is_ready() {
                armed = NEVER;
                watch.look();
            }
            if watch.is_over() {
                return Poll::Ready(None);
            }
            before(future.as_mut());
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let next = watch.next();
            if next >= armed {
                return Poll::Pending;
            }
            armed = next;
            alarm
                .as_mut()
                .reset((watch.epoch + Duration::from_millis(next)).into());
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_not_blamed_for_what_its_caller_has_yet_to_send() {
        let epoch = Instant::now() - Duration::from_secs(10);
        let watch = Watch::new(epoch);
        let (dispatched, now) = (epoch + Duration::from_secs(1), epoch + Duration::from_secs(20));
        assert_eq!(
            watch.unanswered_for(dispatched, now),
            Some(Duration::from_secs(19))
        );
        watch.uploading.store(true, Ordering::Relaxed);
        assert_eq!(watch.unanswered_for(dispatched, now), None);
        watch.end_upload();
        let waited = watch.unanswered_for(dispatched, now).unwrap();
        assert!(
            waited <= Duration::from_secs(10),
            "since the end of the body: {waited:?}"
        );
    }
}
