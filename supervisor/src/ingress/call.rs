//! One request as a stream of a [`Channel`]: its head, its body as the other end takes it, its answer. Polled in the request's
//! own task; dropped, it resets the stream, which is how the function learns that nobody waits any more. Never sends twice.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::header::{self, HeaderValue};
use http::uri::{Scheme, Uri};
use http::{Request, Response, Version};
use hyper::body::Body;

use super::body::Upload;
use super::channel::{Channel, Open, Tongue};
use super::exchange::{Broken, Gone};
use super::received::Received;
use super::watch::Watch;

/// How a stream ended that may have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The connection ended; `clean`: after all that was sent on it had been read.
    Connection { clean: bool },
    /// It never said anything.
    Mute,
    /// The function reset the stream.
    Reset(Reason),
    /// It answers in HTTP/1.
    Http1,
    /// It floods the connection.
    Floods,
    /// What it sent is not HTTP/2.
    Malformed(Option<Reason>),
}

impl Death {
    fn of(error: &h2::Error, channel: &Channel) -> Death {
        match channel.tongue() {
            Tongue::Http1 => Death::Http1,
            Tongue::Floods => Death::Floods,
            Tongue::Silent if error.is_io() => Death::Mute,
            _ if error.is_reset() && error.is_remote() => {
                Death::Reset(error.reason().unwrap_or(Reason::NO_ERROR))
            }
            _ if error.is_io() || error.is_remote() => Death::Connection {
                // What h2 says of an end without an error of the socket.
                clean: error
                    .get_io()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe),
            },
            _ => Death::Malformed(error.reason()),
        }
    }

    /// Whether what came was no answer at all.
    pub(super) fn is_malformed(self) -> bool {
        matches!(self, Death::Http1 | Death::Floods | Death::Malformed(_))
    }
}

/// One request on its way, and what is left of its body.
pub(super) struct Call {
    send: SendStream<Bytes>,
    /// `None`: nothing of it is needed any more.
    upload: Option<Upload>,
    /// Some of it is still to be sent.
    sending: bool,
    /// Taken from the caller, and not yet taken by the function.
    held: Bytes,
    /// `held` is the last of the body.
    last: bool,
    // Dropped after the stream: a place that is free has nothing of this request.
    _open: Open,
}

impl Call {
    /// Sends what the function takes of the body. Ready: there is no more to be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(upload) = self.upload.as_mut().filter(|_| self.sending) {
            let (send, held, last) = (&mut self.send, &mut self.held, &mut self.last);
            ready!(pump(send, upload, held, last, cx));
            self.sending = false;
            self.held = Bytes::new();
        }
        Poll::Ready(())
    }

    /// The head is there: nothing will have to be sent again.
    fn is_answered(&mut self) {
        match &mut self.upload {
            Some(upload) if self.sending => upload.forget(),
            _ => self.upload = None,
        }
    }
}

/// Moves a body. Ready: to its end, or to that of the stream.
fn pump(
    send: &mut SendStream<Bytes>,
    upload: &mut Upload,
    held: &mut Bytes,
    last: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if !held.is_empty() {
            let room = match ready!(send.poll_capacity(cx)) {
                Some(Ok(room)) => room.min(held.len()),
                // The function wants no more of it, or the stream has ended: its answer says which.
                Some(Err(_)) | None => return Poll::Ready(()),
            };
            let piece = held.split_to(room);
            let ends = *last && held.is_empty();
            if send.send_data(piece, ends).is_err() || ends {
                return Poll::Ready(());
            }
            continue;
        }
        match ready!(Pin::new(&mut *upload).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    *last = upload.is_end_stream();
                    send.reserve_capacity(data.len());
                    if data.is_empty() && *last {
                        let _ = send.send_data(data, true);
                        return Poll::Ready(());
                    }
                    *held = data;
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let _ = send.send_trailers(trailers);
                    return Poll::Ready(());
                }
            },
            None => {
                let _ = send.send_data(Bytes::new(), true);
                return Poll::Ready(());
            }
            Some(Err(_)) => {
                send.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            }
        }
    }
}

/// Sends the request and what the function takes of its body, until there is a head.
pub(super) async fn exchange(
    channel: &Rc<Channel>,
    request: Request<Upload>,
    watch: &Watch,
) -> Result<(Response<Received>, Call), Broken> {
    let mut sender = channel.sender();
    let ready = poll_fn(|cx| sender.poll_ready(cx)).await.is_ok();
    let ends = request.body().is_end_stream();
    let sent = match ready {
        true => sender.send_request(head(&request), ends).ok(),
        false => None,
    };
    let Some((mut response, send)) = sent else {
        channel.give_up();
        return Err(Broken::NotWritten(Box::new(request)));
    };
    let (parts, mut upload) = request.into_parts();
    upload.remember();
    let mut call = Call {
        send,
        upload: Some(upload),
        sending: !ends,
        held: Bytes::new(),
        last: false,
        _open: Rc::clone(channel).open(),
    };
    let answered = poll_fn(|cx| {
        let _ = call.poll(cx);
        match Pin::new(&mut response).poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered.map(|response| {
                let (head, stream) = response.into_parts();
                let received = Received::new(stream, &head.headers, cx);
                Response::from_parts(head, received)
            }))),
            Poll::Pending if watch.missed(&watch.head) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match answered.await {
        None => Err(Broken::TooLate),
        Some(Ok(response)) => {
            call.is_answered();
            Ok((response, call))
        }
        Some(Err(error)) => {
            let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
            // Streams up to the last one that a GOAWAY names go on.
            let gone = error.is_go_away();
            if gone {
                channel.give_up();
            }
            if !error.is_remote() || !(refused || gone) {
                return Err(Broken::Died(Gone::Http2(Death::of(&error, channel))));
            }
            let rewound = call.upload.take().and_then(Upload::rewind);
            Err(Broken::Undone {
                back: rewound.map(|upload| Box::new(Request::from_parts(parts, upload))),
                leaves: gone,
            })
        }
    }
}

/// The head as HTTP/2 has it: what HTTP/1 says of the connection is left out, and the host is a part of the target.
fn head(request: &Request<Upload>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    let mut headers = request.headers().clone();
    let host = headers.remove(header::HOST);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    *head.headers_mut() = headers;
    let target = host.and_then(|host| absolute(&host, request.uri()));
    *head.version_mut() = match target {
        Some(_) => Version::HTTP_2,
        // Without a host: h2 takes it for one of HTTP/1 that is passed on.
        None => Version::HTTP_11,
    };
    *head.uri_mut() = target.unwrap_or_else(|| request.uri().clone());
    head
}

fn absolute(host: &HeaderValue, target: &Uri) -> Option<Uri> {
    let path = target.path_and_query()?.clone();
    let whole = Uri::builder().scheme(Scheme::HTTP).authority(host.as_bytes());
    whole.path_and_query(path).build().ok()
}
