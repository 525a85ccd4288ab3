//! Leaves made ahead: a start takes one and waits for nothing. Refilled between events, never during a start.

use std::io;
use std::rc::Rc;

use super::{Ceiling, Dirs, Leaf};

/// How many leaves wait: enough for a burst of first requests, few enough to cost nothing.
const SIZE: usize = 8;

/// Leaves made ahead.
#[derive(Debug)]
pub(crate) struct Pool {
    dirs: Rc<Dirs>,
    ready: Vec<Leaf>,
    next: u64,
    last: Option<Ceiling>,
    /// Set by a start, cleared by a failure: what fails is tried again by the next start, not in a loop.
    wanted: bool,
}

impl Pool {
    pub(super) fn new(dirs: Rc<Dirs>) -> Pool {
        Pool {
            dirs,
            ready: Vec::new(),
            next: 1,
            last: None,
            wanted: true,
        }
    }

    /// Goes on where the launcher before was.
    pub(super) fn again(dirs: Rc<Dirs>, next: u64) -> Pool {
        Pool {
            next,
            ..Pool::new(dirs)
        }
    }

    /// The number of the next leaf.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Removes those that wait: the next launcher makes its own.
    pub(crate) fn clear(&mut self) {
        for leaf in self.ready.drain(..) {
            // One that stays is removed with the subtree.
            let _ = leaf.remove();
        }
    }

    /// A leaf with these limits: a ready one, with the limits already written if the start before asked for the same.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(crate) fn take(&mut self, ceiling: Ceiling) -> io::Result<Leaf> {
        self.last = Some(ceiling);
        self.wanted = true;
        let mut leaf = match self.ready.pop() {
            Some(leaf) => leaf,
            None => self.make()?,
        };
        if let Err(e) = leaf.limit(ceiling) {
            let _ = leaf.remove();
            return Err(e);
        }
        Ok(leaf)
    }

    /// Whether [`Pool::refill`] has something to do.
    pub(crate) fn is_low(&self) -> bool {
        self.wanted && self.ready.len() < SIZE
    }

    /// Makes one leaf.
    ///
    /// # Errors
    /// Those of the kernel; the next start tries again and tells.
    pub(crate) fn refill(&mut self) -> io::Result<()> {
        let mut leaf = match self.make() {
            Ok(leaf) => leaf,
            Err(e) => {
                self.wanted = false;
                return Err(e);
            }
        };
        if let Some(ceiling) = self.last {
            // A limit that the kernel refuses is reported by the start that needs it.
            let _ = leaf.limit(ceiling);
        }
        self.ready.push(leaf);
        Ok(())
    }

    fn make(&mut self) -> io::Result<Leaf> {
        let number = self.next;
        self.next += 1;
        Leaf::create(Rc::clone(&self.dirs), number)
    }
}
