//! The connections of one worker that many requests use at once: found, made by one request for all that wait, dropped when they
//! rest for too long. Never sends anything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use funcd_sandbox::spec::InstanceId;
use tokio::sync::Notify;

use super::channel::Channel;
use super::pool::{IDLE, Pool};
use crate::function::instance::Instance;

/// The connections of one worker that many requests use at once.
#[derive(Default)]
pub(super) struct Channels(HashMap<InstanceId, Entry>);

/// Those to one instance.
struct Entry {
    instance: Arc<Instance>,
    open: Vec<Rc<Channel>>,
    /// One is being made: who waits is told when that has ended.
    making: Option<Rc<Notify>>,
}

/// What there is for one more request.
enum Found {
    Channel(Rc<Channel>),
    Wait(Rc<Notify>),
    Make,
}

impl Channels {
    fn find(&mut self, instance: &Arc<Instance>) -> Found {
        let entry = self.0.entry(instance.id).or_insert_with(|| Entry {
            instance: Arc::clone(instance),
            open: Vec::new(),
            making: None,
        });
        let now = Instant::now();
        // One that is worn out goes with the last of its streams: callers who give up thousands a second would leave many.
        entry.open.retain(|channel| {
            let spent = channel.is_worn(now) && channel.rests().is_some();
            !spent && !channel.has_ended()
        });
        if let Some(channel) = entry.open.iter().find(|channel| channel.has_room(now)) {
            return Found::Channel(Rc::clone(channel));
        }
        match &entry.making {
            Some(making) => Found::Wait(Rc::clone(making)),
            None => {
                entry.making = Some(Rc::default());
                Found::Make
            }
        }
    }

    /// Closes what rests for too long, and all of instances that are gone. Streams that are open go on.
    pub(super) fn drop_stale(&mut self, now: Instant) {
        self.0.retain(|_, entry| {
            let gone = !entry.instance.is_accepting();
            entry.open.retain(|channel| {
                let rested = channel.rests();
                let stale = rested.is_some_and(|since| gone || now.saturating_duration_since(since) >= IDLE);
                !stale && !channel.has_ended()
            });
            !entry.open.is_empty() || entry.making.is_some()
        });
    }
}

/// Ends the wait of others, however the attempt to make a connection ended.
struct Making<'a> {
    pool: &'a RefCell<Pool>,
    id: InstanceId,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut pool = self.pool.borrow_mut();
        let making = pool
            .channels
            .0
            .get_mut(&self.id)
            .and_then(|entry| entry.making.take());
        if let Some(making) = making {
            making.notify_waiters();
        }
    }
}

/// A connection with room for one more request, and whether others have used it; made with `make` if there is none. `certain`: one
/// that is known to be open, for a request that can't be sent again.
///
/// # Errors
/// Those of `make`.
pub(super) async fn channel<E>(
    pool: &RefCell<Pool>,
    instance: &Arc<Instance>,
    (certain, deadline): (bool, Instant),
    make: impl AsyncFnOnce() -> Result<Rc<Channel>, E>,
) -> Result<(Rc<Channel>, bool), E> {
    loop {
        let found = pool.borrow_mut().channels.find(instance);
        match found {
            Found::Channel(channel) if certain && channel.is_closed() => channel.give_up(),
            Found::Channel(channel) => return Ok((channel, true)),
            Found::Wait(making) => {
                if tokio::time::timeout_at(deadline.into(), making.notified())
                    .await
                    .is_err()
                {
                    // It is told so in the same way.
                    return make().await.map(|made| (made, false));
                }
            }
            Found::Make => break,
        }
    }
    let id = instance.id;
    let making = Making { pool, id };
    let made = make().await?;
    if let Some(entry) = pool.borrow_mut().channels.0.get_mut(&id)
        && instance.is_accepting()
    {
        entry.open.push(Rc::clone(&made));
    }
    drop(making);
    Ok((made, false))
}
