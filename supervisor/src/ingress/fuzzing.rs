//! Doors through which the fuzz targets reach what is private here. Built for them, and in tests, so that they don't
//! rot unseen.

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Request, Uri};
use hyper::body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::body::Upload;
use super::inspect::Inspector;
use super::pool::Upstream;
use super::route::Routes;
use super::watch::Watch;
use super::{exchange, headers};
use crate::catalog::manifest::{Defaults, Manifest, RoutePattern};
use crate::function::handle::{Function, Revision};
use crate::function::instance::Stream;
use crate::name::{FunctionName, RevisionId};

/// As small as the configuration allows.
const HEAD_BYTES: usize = 8 * 1024;

/// How many heads the inspector passes in a stream that comes in pieces of this size, or what it says.
pub fn framing(stream: &[u8], piece: usize) -> Result<u32, &'static str> {
    let mut inspector = Inspector::new(HEAD_BYTES);
    for bytes in stream.chunks(piece) {
        let (fed, flaw) = inspector.feed(bytes);
        if let Some(flaw) = flaw {
            return Err(flaw.slug());
        }
        if fed.looked_at < bytes.len() {
            // What follows is for the answer to decide.
            return Ok(inspector.heads());
        }
    }
    Ok(inspector.heads())
}

/// Where the first head ends, if it passes.
pub fn first_head(stream: &[u8]) -> Option<usize> {
    let mut inspector = Inspector::new(HEAD_BYTES);
    for (at, byte) in stream.iter().enumerate() {
        if inspector.feed(std::slice::from_ref(byte)).1.is_some() {
            return None;
        }
        if inspector.heads() == 1 {
            return Some(at + 1);
        }
    }
    None
}

/// What a route did with a request.
#[derive(Debug)]
pub struct Routed {
    /// The path as it came.
    pub path: String,
    /// The part that matched.
    pub prefix: String,
    /// The target that the function sees.
    pub target: String,
}

/// Routes a request to a function with this route; without a path the function has the default one and is called `f`.
pub fn routed(route_host: &str, route_path: &str, host: &str, target: &str) -> Option<Routed> {
    let name = FunctionName::parse("f").expect("a name");
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let text = match (route_host, route_path) {
        (_, "") => String::new(),
        ("", path) => format!("[[route]]\npath = {}\n", quoted(path)),
        (host, path) => format!("[[route]]\nhost = {}\npath = {}\n", quoted(host), quoted(path)),
    };
    let manifest = Manifest::read(&name, Path::new("f"), Some(&text), &Defaults::default()).ok()?;
    let patterns: Vec<RoutePattern> = manifest.routes.clone();
    let revision = Revision {
        id: RevisionId(funcd_sandbox::spec::Digest([0; 32])),
        artifact: funcd_sandbox::spec::Digest([0; 32]),
        image: funcd_sandbox::spec::Image::Static,
        wanted: crate::catalog::view::Wanted::default(),
        manifest: Arc::new(manifest),
        manifest_text: text,
    };
    let (control, _) = tokio::sync::mpsc::unbounded_channel();
    let routes = Routes::new([(Function::new(name, Arc::new(revision), control), patterns)]);

    let uri: Uri = target.parse().ok()?;
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    request
        .headers_mut()
        .insert(http::header::HOST, HeaderValue::from_str(host).ok()?);
    let (parts, ()) = request.into_parts();
    let host = headers::check(&parts).ok()?;
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let found = routes.find(host.map(headers::without_port), parts.uri.path())?;
    Some(Routed {
        path: parts.uri.path().to_owned(),
        prefix: found.prefix.to_owned(),
        target: headers::rewrite_target(&parts.uri, found.strip).to_string(),
    })
}

/// What came of an instance's answer.
#[derive(Debug)]
pub struct Answered {
    /// The head as the caller gets it.
    pub head: http::response::Parts,
    /// The body came to its end.
    pub complete: bool,
    /// The connection would be used again.
    pub reusable: bool,
    /// Bytes behind the response that were read already.
    pub left: usize,
}

/// Lets an instance answer a GET with these bytes, and then be silent or close. `None`: no head came of it.
pub fn answered(answer: &[u8], closes: bool) -> Option<Answered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime")
        .block_on(exchange_with(answer, closes))
}

async fn exchange_with(answer: &[u8], closes: bool) -> Option<Answered> {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut upstream = Upstream::over(Stream::Unix(ours)).await.ok()?;
    let watch = Watch::new(Instant::now());
    let mut request = Request::new(Upload::none(&watch));
    let host = HeaderValue::from_static("h");
    request.headers_mut().insert(http::header::HOST, host);
    let answering = async {
        // Only once the request is there.
        let _ = theirs.read(&mut [0; 1024]).await;
        let _ = theirs.write_all(answer).await;
        if closes {
            let _ = theirs.shutdown().await;
        }
        settled().await;
        // Silence is what the head's deadline is for.
        watch.expire(&watch.head);
        // Nobody else wakes the other side.
        tokio::task::yield_now().await;
    };
    let (response, ()) = tokio::join!(exchange::exchange(&mut upstream, request, &watch), answering);
    let (mut head, mut body) = response.ok()?.into_parts();
    headers::strip_response(&mut head.headers, false);
    let mut complete = false;
    let mut silence = 0;
    while silence < 3 {
        let frame = poll_fn(|cx| {
            let _ = upstream.poll(cx);
            Poll::Ready(Pin::new(&mut body).poll_frame(cx))
        });
        match frame.await {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(ended) => {
                complete = ended.is_none();
                break;
            }
            Poll::Pending => {
                silence += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    let open = upstream.is_open(true).await;
    Some(Answered {
        head,
        complete,
        reusable: complete && open,
        left: upstream.into_stream().1.len(),
    })
}

/// What was written to a socket has arrived at the other end: the reactor was asked.
async fn settled() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}
