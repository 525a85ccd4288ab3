//! `stdio`: what a process writes to stdout is the answer. As OpenFaaS's classic watchdog and of-watchdog's `streaming` and
//! `serializing` modes have it; IronFunctions' default format is the same with variables of its own.

use bytes::{Bytes, BytesMut};
use funcd_sandbox::exit::Exit;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;

use super::process::{Output, Process, Trouble};
use crate::catalog::manifest::{Mode, Stdio};

/// The answer of a process to a request whose body was of this type.
///
/// # Errors
/// [`Trouble`].
pub async fn answer<B: Body<Data = Bytes> + Unpin>(
    mut process: Process<B>,
    stdio: &Stdio,
    asked: Option<HeaderValue>,
) -> Result<Response<Output<B>>, Trouble> {
    let output = match stdio.mode {
        // The first of its output shows that it runs.
        Mode::Streaming => match process.output().await? {
            Some(first) => Output::stream(first, process),
            None => {
                executed(&process.end().await?)?;
                Output::Whole(Bytes::new())
            }
        },
        Mode::Classic | Mode::Serializing => {
            let mut all = BytesMut::new();
            while let Some(piece) = process.output().await? {
                if (all.len() + piece.len()) as u64 > stdio.output {
                    return Err(Trouble::TooMuch(stdio.output));
                }
                all.extend_from_slice(&piece);
            }
            let exit = process.end().await?;
            executed(&exit)?;
            if exit != (Exit::Code { code: 0 }) {
                return Err(Trouble::Failed(exit));
            }
            Output::Whole(all.freeze())
        }
    };
    let mut response = Response::new(output);
    *response.status_mut() = StatusCode::OK;
    let own = stdio
        .content_type
        .as_deref()
        .and_then(|own| HeaderValue::from_str(own).ok());
    let content_type = own.or(match stdio.mode {
        Mode::Classic => asked,
        Mode::Streaming | Mode::Serializing => Some(HeaderValue::from_static("application/octet-stream")),
    });
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

/// Whether it came to run at all.
pub(super) fn executed(exit: &Exit) -> Result<(), Trouble> {
    match exit {
        Exit::Launch { .. } => Err(Trouble::NotExecuted(exit.clone())),
        _ => Ok(()),
    }
}
