//! The threads that desks live on: made when the first Lambda function starts, so that hosts without one pay nothing.

use std::cell::RefCell;
use std::io;

use tokio::sync::{mpsc, watch};

use super::Api;
use super::desk::{Desk, Setting};

/// What makes a desk on its thread.
struct Seed {
    setting: Setting,
    messages: mpsc::UnboundedReceiver<super::Message>,
    asked: watch::Sender<bool>,
    closed: watch::Receiver<bool>,
}

/// The threads.
#[derive(Debug)]
pub struct Threads {
    most: usize,
    /// Where each takes its seeds.
    started: RefCell<Vec<mpsc::UnboundedSender<Seed>>>,
    next: std::cell::Cell<usize>,
}

impl Threads {
    /// So many threads at most: one for each worker leaves none of them waiting for another's desks.
    pub fn new(most: usize) -> Threads {
        Threads {
            most: most.max(1),
            started: RefCell::default(),
            next: std::cell::Cell::new(0),
        }
    }

    /// A desk for a new instance. One whose thread can't be made is closed from the beginning.
    pub fn open(&self, setting: Setting) -> Api {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (has_asked, asked) = watch::channel(false);
        let (close, closed) = watch::channel(false);
        let seed = Seed {
            setting,
            messages: inbox,
            asked: has_asked,
            closed,
        };
        if let Err(error) = self.plant(seed) {
            tracing::error!(%error, "can't make a thread for Lambda functions: raise the limit of tasks of funcd");
            close.send_replace(true);
        }
        Api {
            messages,
            asked,
            closed: close,
        }
    }

    fn plant(&self, seed: Seed) -> io::Result<()> {
        let mut started = self.started.borrow_mut();
        if started.len() < self.most {
            let thread = start(started.len())?;
            started.push(thread);
        }
        let at = self.next.get() % started.len();
        self.next.set(at + 1);
        started[at]
            .send(seed)
            .map_err(|_| io::Error::other("it has ended"))
    }
}

fn start(number: usize) -> io::Result<mpsc::UnboundedSender<Seed>> {
    let (seeds, mut planted) = mpsc::unbounded_channel::<Seed>();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    std::thread::Builder::new().name(format!("desks-{number}")).spawn(move || {
        let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            // Dropping `planted` tells those who plant.
            Err(error) => return tracing::error!(%error, "no runtime for Lambda functions: raise the limit of open files"),
        };
        runtime.block_on(async move {
            while let Some(seed) = planted.recv().await {
                let desk = Desk::new(seed.setting, seed.asked);
                tokio::task::spawn_local(desk.run(seed.messages, seed.closed));
            }
        });
    })?;
    Ok(seeds)
}
