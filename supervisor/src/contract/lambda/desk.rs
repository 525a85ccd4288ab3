//! One instance's desk: accepts the connections of its process and those of workers, and sees that nothing is late.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::environment::REGION;
use super::invocations::Invocations;
use super::link::Link;
use super::{Message, invoke, runtime_api};
use crate::function::handle::{Revision, ToControl};
use crate::name::FunctionName;

/// How often it is looked for invocations that are late, at least, while there are any: one that waited may be due earlier than
/// those before it.
const LOOK: Duration = Duration::from_millis(250);
/// Connections of a function's process beyond one for each place: extensions, and those that are about to be closed.
const MORE_CONNECTIONS: usize = 16;
/// The largest head of a request from the function's process, and the largest piece of a body.
const BUFFER: usize = 64 << 10;
/// What a function does wrong again and again is written to the log once in this time.
const SELDOM: Duration = Duration::from_secs(1);

/// What a desk is for.
#[derive(Debug, Clone)]
pub struct Setting {
    function: String,
    instance: InstanceId,
    arn: HeaderValue,
    places: usize,
    timeout: Duration,
    invoke: bool,
    control: mpsc::UnboundedSender<ToControl>,
}

impl Setting {
    /// For an instance of a revision; what is wrong with it is told to `control`. `invoke`: whether it takes raw invocations.
    pub fn new(
        function: &FunctionName,
        (id, revision): (InstanceId, &Revision),
        invoke: bool,
        control: mpsc::UnboundedSender<ToControl>,
    ) -> Setting {
        let manifest = &revision.manifest;
        let region = manifest.env.iter().find(|(name, _)| name == "AWS_REGION");
        let region = region.map_or(REGION, |(_, region)| region);
        let arn = |region: &str| format!("arn:aws:lambda:{region}:000000000000:function:{function}");
        let arn = HeaderValue::try_from(arn(region));
        Setting {
            function: function.to_string(),
            instance: id,
            arn: arn.unwrap_or(HeaderValue::from_static("arn:aws:lambda")),
            places: manifest.scale.concurrency as usize,
            timeout: manifest.request.timeout,
            invoke,
            control,
        }
    }
}

/// One instance's desk, as its tasks share it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) function: String,
    instance: InstanceId,
    pub(super) arn: HeaderValue,
    pub(super) timeout: Duration,
    pub(super) invoke: bool,
    places: usize,
    pub(super) invocations: Rc<Invocations>,
    asked: watch::Sender<bool>,
    control: mpsc::UnboundedSender<ToControl>,
    complained: Cell<Option<Instant>>,
    held: Cell<u64>,
    /// Another supervisor is asked from now on.
    pub(super) has_left: Cell<bool>,
    /// The connections on which the process waits for something to do.
    waiting: RefCell<HashMap<u64, (Link, AbortHandle)>>,
    next_connection: Cell<u64>,
}

/// A connection of the process, as the requests on it see it.
#[derive(Debug)]
pub(super) struct Asking {
    number: u64,
    link: Link,
    task: RefCell<Option<AbortHandle>>,
}

impl Asking {
    /// The process waits on it for something to do, until what is given back is dropped.
    pub(super) fn waits<'d>(&self, desk: &'d Desk) -> Waits<'d> {
        if let Some(task) = &*self.task.borrow() {
            desk.waiting
                .borrow_mut()
                .insert(self.number, (self.link.clone(), task.clone()));
        }
        Waits(desk, self.number)
    }
}

/// While the process waits on a connection.
pub(super) struct Waits<'d>(&'d Desk, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
    }
}

impl Desk {
    pub(super) fn new(setting: Setting, asked: watch::Sender<bool>) -> Rc<Desk> {
        Rc::new(Desk {
            invocations: Invocations::new(setting.places, SmallRng::from_os_rng()),
            function: setting.function,
            instance: setting.instance,
            arn: setting.arn,
            timeout: setting.timeout,
            invoke: setting.invoke,
            places: setting.places,
            asked,
            control: setting.control,
            complained: Cell::new(None),
            held: Cell::new(0),
            has_left: Cell::new(false),
            waiting: RefCell::default(),
            next_connection: Cell::new(0),
        })
    }

    /// Serves until the instance has ended.
    pub(super) async fn run(
        self: Rc<Self>,
        mut messages: mpsc::UnboundedReceiver<Message>,
        mut closed: watch::Receiver<bool>,
    ) {
        let (mut callers, mut processes) = (JoinSet::new(), JoinSet::new());
        let mut listener = None;
        loop {
            let room = processes.len() < self.places + MORE_CONNECTIONS;
            let watched = self.invocations.is_watched.get();
            tokio::select! {
                biased;
                // Also when nobody holds its other end any more.
                _ = closed.wait_for(|closed| *closed) => break,
                message = messages.recv() => match message {
                    Some(Message::Caller(stream)) => {
                        callers.spawn_local(Rc::clone(&self).serve_caller(stream));
                    }
                    Some(Message::Listen(fd)) => match listen(fd.into()) {
                        Ok(listening) => listener = Some(listening),
                        Err(error) => tracing::error!(function = self.function, instance = %self.instance, %error, "can't listen for a Lambda function"),
                    },
                    Some(Message::Passed(fd)) => match Link::passed(fd) {
                        Ok(link) => self.serve_process(&mut processes, link),
                        Err(error) => self.complain(format_args!("a connection can't be taken over: {error}")),
                    },
                    Some(Message::Yield(reply)) => {
                        listener = None;
                        let _ = reply.send(self.leave());
                    }
                    None => break,
                },
                accepted = accept(&listener), if room => match accepted {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        self.serve_process(&mut processes, Link::new(stream));
                    }
                    // Out of descriptors, which others give back: not at once again.
                    Err(error) => {
                        self.complain(format_args!("a connection can't be accepted: {error}"));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
                Some(_) = callers.join_next() => {}
                Some(_) = processes.join_next() => {}
                () = self.invocations.begun.notified(), if !watched => {}
                () = self.late(), if watched => self.look(),
            }
        }
        // Whoever waits for an answer is told before the connections go.
        self.invocations.end();
        drop(processes);
        while callers.join_next().await.is_some() {}
    }

    /// Waits until one may be late. The worker notices a little later, so that the place of one that is not answered is not given
    /// to the next request.
    async fn late(&self) {
        let look = Instant::now() + LOOK;
        let at = self
            .invocations
            .next_deadline()
            .map_or(look, |deadline| deadline.min(look));
        tokio::time::sleep_until(at.into()).await;
    }

    /// A function that does not answer in time is not waited for: as its like elsewhere, it ends.
    fn look(&self) {
        for id in self.invocations.overdue(Instant::now()) {
            tracing::warn!(
                function = self.function,
                instance = %self.instance,
                invocation = id,
                "a Lambda function did not answer by the deadline: this instance ends; raise `request.timeout` if it may take longer"
            );
            let _ = self.control.send(ToControl::Overdue(self.instance));
        }
        self.invocations.is_watched.set(self.invocations.running() > 0);
    }

    fn serve_process(self: &Rc<Self>, processes: &mut JoinSet<()>, link: Link) {
        let number = self.next_connection.replace(self.next_connection.get() + 1);
        let asking = Rc::new(Asking {
            number,
            link: link.clone(),
            task: RefCell::default(),
        });
        let (desk, shared) = (Rc::clone(self), Rc::clone(&asking));
        let task = processes.spawn_local(async move {
            let service =
                service_fn(|request| runtime_api::answer(Rc::clone(&desk), Rc::clone(&shared), request));
            let mut server = http1::Builder::new();
            server.half_close(false).max_buf_size(BUFFER);
            // What is wrong with the connection is the process's own business.
            let _ = server.serve_connection(TokioIo::new(link), service).await;
        });
        *asking.task.borrow_mut() = Some(task);
    }

    /// Another supervisor is asked from now on. What the process waits on goes there as it is; all else ends with its next answer.
    fn leave(&self) -> Vec<OwnedFd> {
        self.has_left.set(true);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        // Nothing may be given out on them any more.
        self.invocations.forget_pollers();
        let pass = |(link, task): (Link, AbortHandle)| {
            let fd = link.pass();
            task.abort();
            fd.ok()
        };
        waiting.into_values().filter_map(pass).collect()
    }

    async fn serve_caller(self: Rc<Self>, stream: std::os::unix::net::UnixStream) {
        let Ok(stream) = UnixStream::from_std(stream) else {
            return;
        };
        let service = service_fn(|request| invoke::invoke(Rc::clone(&self), request));
        let mut server = http1::Builder::new();
        // A worker that hangs up says that its caller is gone.
        server
            .half_close(false)
            .max_header_size(2 * BUFFER)
            .max_buf_size(2 * BUFFER);
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }

    /// The process asks for a request: it is ready.
    pub(super) fn note_asked(&self) {
        self.asked
            .send_if_modified(|asked| !std::mem::replace(asked, true));
    }

    pub(super) fn has_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// The function says that it could not do what it was asked for.
    pub(super) fn failed(&self, id: &str, document: &[u8]) {
        let said = Said::of(document);
        tracing::warn!(
            function = self.function,
            instance = %self.instance,
            invocation = id,
            error_type = said.kind(),
            error_message = said.message(),
            "a Lambda function reported an error"
        );
    }

    /// The function says that it can't work at all.
    pub(super) fn init_failed(&self, document: &[u8]) {
        let said = Said::of(document);
        tracing::warn!(
            function = self.function,
            instance = %self.instance,
            error_type = said.kind(),
            error_message = said.message(),
            "a Lambda function failed in its init phase"
        );
    }

    /// The function does something wrong: one line in a while.
    pub(super) fn complain(&self, what: fmt::Arguments<'_>) {
        let now = Instant::now();
        let last = self.complained.get();
        if last.is_some_and(|last| now.saturating_duration_since(last) < SELDOM) {
            self.held.set(self.held.get() + 1);
            return;
        }
        self.complained.set(Some(now));
        tracing::warn!(
            function = self.function,
            instance = %self.instance,
            what = %what,
            others = self.held.take(),
            "a Lambda function breaks its contract; one line a second is written, `others` were not"
        );
    }
}

/// What a function says of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    error_type: String,
    error_message: String,
}

impl Said {
    /// As much as can be understood.
    fn of(document: &[u8]) -> Said {
        serde_json::from_slice(document).unwrap_or_else(|_| Said {
            error_type: String::new(),
            error_message: String::from_utf8_lossy(document).into_owned(),
        })
    }

    fn kind(&self) -> String {
        self.error_type.chars().take(128).collect()
    }

    fn message(&self) -> String {
        self.error_message.chars().take(1024).collect()
    }
}

fn listen(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn accept(listener: &Option<tokio::net::TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}
