//! The threads that bindings are served on: made when the first instance with bindings starts, so that hosts without pay nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::bound::Bound;
use super::dial::Outside;
use super::http::guard::View;
use super::{Exits, Seed, Settings, Taking, Whose};
use crate::catalog::binding::{Binding, Target};
use crate::ingress::Shared;
use crate::ingress::inside::Inside;
use crate::name::FunctionName;

/// With so many it is looked for those of functions that are gone.
const REMEMBERED: usize = 1024;

/// Where bindings are served.
#[derive(Debug)]
pub struct Egress {
    most: usize,
    settings: Settings,
    /// How HTTP is served.
    shared: Arc<Shared>,
    bounds: RefCell<HashMap<(FunctionName, String), Arc<Bound>>>,
    /// Where each thread takes its seeds.
    started: RefCell<Vec<mpsc::UnboundedSender<Seed>>>,
    next: Cell<usize>,
}

impl Egress {
    /// On so many threads at most: one for each worker leaves none of them waiting for another's bindings.
    pub fn new(most: usize, settings: Settings, shared: Arc<Shared>) -> Egress {
        Egress {
            most: most.max(1),
            settings,
            shared,
            bounds: RefCell::default(),
            started: RefCell::default(),
            next: Cell::new(0),
        }
    }

    /// Serves the bindings of an instance at these listening sockets, in the order of its manifest, for as long as what is
    /// returned is kept.
    pub fn open(&self, whose: Whose, listeners: Vec<OwnedFd>, first: Taking) -> Exits {
        let (taking, takes) = watch::channel(first);
        let (function, instance) = (whose.function.clone(), whose.instance.id);
        let bindings = &whose.instance.revision.manifest.bindings;
        let (given, named) = (listeners.len(), bindings.len());
        if given < named {
            tracing::error!(%function, %instance, given, named, "sockets for its bindings are missing: raise the limit of open files");
        }
        let bounds = bindings.iter().map(|binding| self.bound(&function, binding));
        let seed = Seed {
            bounds: bounds.collect(),
            whose,
            listeners,
            taking: takes,
        };
        if let Err(error) = self.plant(seed) {
            tracing::error!(%function, %instance, %error, "no thread for its bindings: raise the limit of tasks of funcd");
        }
        Exits { taking }
    }

    /// What is known of a binding that carries HTTP, for all who have it.
    fn bound(&self, function: &FunctionName, binding: &Binding) -> Option<Arc<Bound>> {
        if let Target::Tcp(_) = binding.to {
            return None;
        }
        let mut bounds = self.bounds.borrow_mut();
        let key = (function.clone(), binding.name.clone());
        if let Some(bound) = bounds.get(&key).filter(|bound| bound.to == binding.to) {
            return Some(Arc::clone(bound));
        }
        if bounds.len() >= REMEMBERED {
            bounds.retain(|_, bound| Arc::strong_count(bound) > 1);
        }
        let bound = Bound::new(function, &binding.name, &binding.to);
        bounds.insert(key, Arc::clone(&bound));
        Some(bound)
    }

    /// What is known of a function's binding that carries HTTP, if it was ever opened.
    pub fn look(&self, function: &FunctionName, binding: &str) -> Option<View> {
        let key = (function.clone(), binding.to_owned());
        Some(self.bounds.borrow().get(&key)?.guard.view())
    }

    /// What one thread may: none takes the places of another.
    fn of_one(&self) -> Settings {
        Settings {
            connections: (self.settings.connections / self.most).max(1),
            ..self.settings.clone()
        }
    }

    fn plant(&self, seed: Seed) -> io::Result<()> {
        let mut started = self.started.borrow_mut();
        if started.len() < self.most {
            let shared = Arc::clone(&self.shared);
            let thread = start(started.len(), self.of_one(), shared)?;
            started.push(thread);
        }
        let at = self.next.get() % started.len();
        self.next.set(at + 1);
        // It could not begin, for want of descriptors perhaps: not all who come to it later are to go without.
        if started[at].is_closed() {
            started[at] = start(at, self.of_one(), Arc::clone(&self.shared))?;
        }
        started[at]
            .send(seed)
            .map_err(|_| io::Error::other("it has ended"))
    }
}

fn start(number: usize, settings: Settings, shared: Arc<Shared>) -> io::Result<mpsc::UnboundedSender<Seed>> {
    let (seeds, mut planted) = mpsc::unbounded_channel::<Seed>();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let thread = std::thread::Builder::new().name(format!("exits-{number}"));
    thread.spawn(move || {
        let runtime = runtime
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            // Dropping `planted` tells those who plant.
            Err(error) => {
                return tracing::error!(%error, "no runtime for bindings: raise the limit of open files");
            }
        };
        runtime.block_on(async move {
            let outside = Rc::new(Outside::new(settings));
            let inside = Inside::new(shared);
            while let Some(seed) = planted.recv().await {
                tokio::task::spawn_local(seed.serve(Rc::clone(&outside), inside.clone()));
            }
        });
    })?;
    Ok(seeds)
}
