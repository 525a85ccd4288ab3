//! POST a PNG or JPEG to `/?w=200&h=100`, get a PNG that fits into that. Try: `curl --data-binary @photo.jpg
//! 'localhost:8080/thumbs/?w=200' -o small.png`

use std::convert::Infallible;
use std::io::{self, Cursor};
use std::{env, error};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use image::imageops::FilterType;
use image::{ImageError, ImageFormat, ImageReader, Limits};
use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// The largest upload, in bytes.
const MAX_BODY: usize = 16 << 20;
/// The largest side of an image, in pixels, in and out.
const MAX_SIDE: u32 = 10_000;
/// The most memory that one decoded image may take, in bytes: a small file may hold a huge picture.
const MAX_DECODED: u64 = 64 << 20;

/// Why there is no thumbnail: the status, and a line for the caller.
type Refusal = (StatusCode, String);

/// The `w` and `h` of the query: the box that the thumbnail fits into. One of them is enough.
fn wanted(query: &str) -> Result<(u32, u32), Refusal> {
    let bad = |text: &str| {
        (
            StatusCode::BAD_REQUEST,
            format!("{text}; say for example /?w=200&h=100"),
        )
    };
    let (mut width, mut height) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let side = match key {
            "w" => &mut width,
            "h" => &mut height,
            _ => return Err(bad(&format!("unknown parameter {key:?}"))),
        };
        match value.parse() {
            Ok(pixels @ 1..=MAX_SIDE) => *side = Some(pixels),
            _ => return Err(bad(&format!("{key} is not a number from 1 to {MAX_SIDE}"))),
        }
    }
    match (width, height) {
        (None, None) => Err(bad("neither w nor h is given")),
        (w, h) => Ok((w.unwrap_or(MAX_SIDE), h.unwrap_or(MAX_SIDE))),
    }
}

/// Decodes, scales down (never up) and encodes as PNG. All CPU: not for the thread that serves connections.
fn shrink(upload: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Refusal> {
    let refuse = |error: ImageError| match error {
        ImageError::Unsupported(_) => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send a PNG or a JPEG".to_owned(),
        ),
        ImageError::Limits(_) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a picture of more than {MAX_SIDE} pixels a side, or {MAX_DECODED} bytes decoded"),
        ),
        other => (StatusCode::BAD_REQUEST, format!("not a whole picture: {other}")),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::new(Cursor::new(upload))
        .with_guessed_format()
        .map_err(|error| refuse(error.into()))?;
    reader.limits(limits);
    let picture = reader.decode().map_err(refuse)?;
    let (width, height) = (width.min(picture.width()), height.min(picture.height()));
    let mut png = Cursor::new(Vec::new());
    picture
        .resize(width, height, FilterType::Triangle)
        .write_to(&mut png, ImageFormat::Png)
        .map_err(refuse)?;
    Ok(png.into_inner())
}

async fn thumbnail(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    if request.method() != Method::POST {
        return Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "POST a PNG or a JPEG to /?w=200".to_owned(),
        ));
    }
    let (width, height) = wanted(request.uri().query().unwrap_or_default())?;
    let upload = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(
            |error: Box<dyn error::Error + Send + Sync>| match error.is::<LengthLimitError>() {
                true => (
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("more than {MAX_BODY} bytes"),
                ),
                false => (StatusCode::BAD_REQUEST, format!("the upload broke off: {error}")),
            },
        )?
        .to_bytes();
    tokio::task::spawn_blocking(move || shrink(&upload, width, height))
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match thumbnail(request).await {
        Ok(png) => (StatusCode::OK, "image/png", png),
        Err((status, reason)) => (status, "text/plain", format!("{reason}\n").into_bytes()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, header::HeaderValue::from_static("POST"));
    }
    Ok(response)
}

fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(respond)));
}

/// Accepts on the socket that funcd passes as descriptor 3; run by hand, on `$PORT` or 8080 of this machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
        passed.set_nonblocking(true)?;
        let listener = UnixListener::from_std(passed)?;
        loop {
            answer(listener.accept().await?.0);
        }
    }
    let port = env::var("PORT").unwrap_or("8080".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        answer(listener.accept().await?.0);
    }
}
