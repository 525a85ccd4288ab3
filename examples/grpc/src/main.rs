//! A gRPC service. With funcd it needs a route, because callers of gRPC can't put a prefix before the name of the service.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use grpc::{CHAT, COLLECT, COUNT, Line, NAME, SAY};
use listenfd::ListenFd;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

type Lines = ReceiverStream<Result<Line, Status>>;

/// The service: how many calls are under way.
#[derive(Clone, Default)]
struct Talk {
    underway: Arc<AtomicU32>,
}

/// One call under way. Ends when it is answered, and when nobody waits for it any more.
struct Underway(Arc<AtomicU32>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Talk {
    fn begin(&self) -> Underway {
        self.underway.fetch_add(1, Ordering::SeqCst);
        Underway(Arc::clone(&self.underway))
    }

    /// What was said, said again; some words mean something.
    async fn say(self, request: Request<Line>) -> Result<Response<Line>, Status> {
        let deadline = request.metadata().get("grpc-timeout").cloned();
        let mut line = request.into_inner();
        match line.text.as_str() {
            "fail" => return Err(Status::failed_precondition("as asked: 100 %")),
            "deadline" => line.text = format!("{deadline:?}"),
            "underway" => line.number = self.underway.load(Ordering::SeqCst),
            "wait" => {
                let _underway = self.begin();
                tokio::time::sleep(Duration::from_millis(line.number.into())).await;
            }
            _ => {}
        }
        Ok(Response::new(line))
    }

    /// As many lines as were asked for.
    async fn count(self, request: Request<Line>) -> Result<Response<Lines>, Status> {
        let line = request.into_inner();
        let (lines, answer) = mpsc::channel(4);
        let underway = self.begin();
        tokio::spawn(async move {
            let _underway = underway;
            for number in 1..=line.number {
                let text = line.text.clone();
                if lines.send(Ok(Line { text, number })).await.is_err() {
                    // Nobody listens any more.
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    /// All that was said, in one.
    async fn collect(self, request: Request<Streaming<Line>>) -> Result<Response<Line>, Status> {
        let mut lines = request.into_inner();
        let mut all = Line::default();
        while let Some(line) = lines.message().await? {
            all.text.push_str(&line.text);
            all.number += 1;
        }
        Ok(Response::new(all))
    }

    /// Each line again, as it comes.
    async fn chat(self, request: Request<Streaming<Line>>) -> Result<Response<Lines>, Status> {
        let mut said = request.into_inner();
        let (lines, answer) = mpsc::channel(4);
        let underway = self.begin();
        tokio::spawn(async move {
            let _underway = underway;
            while let Some(line) = said.message().await.transpose() {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

impl NamedService for Talk {
    const NAME: &'static str = NAME;
}

impl Service<http::Request<Body>> for Talk {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let talk = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Line, Line>::default());
            Ok(match request.uri().path() {
                SAY => {
                    grpc.unary(service_fn(|asked| talk.clone().say(asked)), request)
                        .await
                }
                COUNT => {
                    let count = service_fn(|asked| talk.clone().count(asked));
                    grpc.server_streaming(count, request).await
                }
                COLLECT => {
                    let collect = service_fn(|asked| talk.clone().collect(asked));
                    grpc.client_streaming(collect, request).await
                }
                CHAT => {
                    grpc.streaming(service_fn(|asked| talk.clone().chat(asked)), request)
                        .await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Accepts on the socket that funcd passes as descriptor 3, else on `$PORT` of all addresses, as Cloud Run wants it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().add_service(Talk::default());
    if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
        passed.set_nonblocking(true)?;
        let listener = UnixListener::from_std(passed)?;
        server
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await?;
    } else {
        let port: u16 = std::env::var("PORT").unwrap_or("8080".into()).parse()?;
        server.serve(([0, 0, 0, 0], port).into()).await?;
    }
    Ok(())
}
