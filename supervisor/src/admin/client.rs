//! The client of the admin API that the command line uses: blocking, one connection for each request. Never guesses:
//! every failure says which socket, why, and what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::view::{Document, Problem, VERSION};

/// An answer takes no longer than this, or something is wrong; streams are exempt.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer, in bytes; streams are exempt.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A client of the host whose admin socket is at a path.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no funcd answers at {}: {why}. Start one with `funcd serve`, or name its socket with --admin or FUNCD_ADMIN",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It stopped in the middle of an answer.
    #[error("the funcd at {} ended its answer: {why}. It may be starting again: try once more", path.display())]
    Ended {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody listens, and we may not ask.
    #[error(
        "no permission to use {}: {why}. Become root, or a member of the socket's group",
        path.display()
    )]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The host says no.
    #[error("{detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong, and what to do next.
        detail: String,
    },
    /// The answer makes no sense to this version.
    #[error("{} gave an answer that this version of funcd does not understand: {why}", path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What was done with a line of a stream failed.
    #[error(transparent)]
    Output(io::Error),
}

impl Client {
    /// A client of the host whose admin socket is at `path`. Does not connect yet.
    ///
    /// # Errors
    /// When the process can't have an epoll descriptor.
    pub fn new(path: &Path) -> io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Client {
            path: path.to_owned(),
            runtime,
        })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for a document.
    ///
    /// # Errors
    /// [`ClientError`]; anything but a success is [`ClientError::Refused`].
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let (status, body) = self.fetch(target)?;
        self.document(status, &body)
    }

    /// Asks for text, whatever the status.
    ///
    /// # Errors
    /// [`ClientError`], except [`ClientError::Refused`].
    pub fn text(&self, target: &str) -> Result<(StatusCode, String), ClientError> {
        let (status, body) = self.fetch(target)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Asks for lines and gives each to `each` as it comes, until the host ends the stream.
    ///
    /// # Errors
    /// [`ClientError`]; an error of `each` ends the stream and is [`ClientError::Output`].
    pub fn lines(
        &self,
        target: &str,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let response = self.within(TIMEOUT, self.send(Method::GET, target)).await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let bytes = self.within(TIMEOUT, self.collect(body)).await?;
                return Err(self.refused(status, &bytes));
            }
            let mut held: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| ClientError::Ended {
                    path: self.path.clone(),
                    why: e.to_string(),
                })?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                held.extend_from_slice(&data);
                let whole = held
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1);
                for line in held[..whole].split_inclusive(|byte| *byte == b'\n') {
                    each(line.trim_ascii_end()).map_err(ClientError::Output)?;
                }
                held.drain(..whole);
            }
            Ok(())
        })
    }

    fn fetch(&self, target: &str) -> Result<(StatusCode, Bytes), ClientError> {
        self.runtime.block_on(self.within(TIMEOUT, async {
            let response = self.send(Method::GET, target).await?;
            let status = response.status();
            Ok((status, self.collect(response.into_body()).await?))
        }))
    }

    /// Asks for a change, which may take as long as `within`; what became of it.
    ///
    /// # Errors
    /// [`ClientError`]; anything but a success is [`ClientError::Refused`].
    pub fn post<T: DeserializeOwned>(&self, target: &str, within: Duration) -> Result<T, ClientError> {
        let (status, body) = self.runtime.block_on(self.within(within, async {
            let response = self.send(Method::POST, target).await?;
            let status = response.status();
            Ok((status, self.collect(response.into_body()).await?))
        }))?;
        self.document(status, &body)
    }

    fn document<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
        if !status.is_success() {
            return Err(self.refused(status, body));
        }
        let document: Document<T> = serde_json::from_slice(body).map_err(|e| self.strange(e))?;
        match document.version {
            VERSION => Ok(document.body),
            other => Err(self.strange(format!("it has version {other}, and this is {VERSION}"))),
        }
    }

    async fn within<T>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", within.as_secs()))),
        }
    }

    async fn send(&self, method: Method, target: &str) -> Result<hyper::Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| match e.kind() {
                io::ErrorKind::PermissionDenied => self.denied(e),
                _ => self.unreachable(e),
            })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.unreachable(e))?;
        // Driven by the same thread while it waits for the answer; its error is the answer's error too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "funcd")
            .body(Empty::<Bytes>::new())
            .map_err(|e| self.strange(e))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| self.unreachable(e))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(e) => Err(self.unreachable(e)),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let detail = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("{} answered {status}", self.path.display()),
        };
        match status {
            StatusCode::FORBIDDEN => self.denied(detail),
            _ => ClientError::Refused { status, detail },
        }
    }

    fn unreachable(&self, why: impl ToString) -> ClientError {
        ClientError::Unreachable {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    fn denied(&self, why: impl ToString) -> ClientError {
        ClientError::Denied {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    fn strange(&self, why: impl ToString) -> ClientError {
        ClientError::Strange {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }
}
