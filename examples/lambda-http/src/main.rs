//! A function written for AWS Lambda with the crate of AWS: the same source, the same executable, on funcd.
//!
//! Asks, one after the other, for what callers send; `/` greets, `/visits` counts in a cookie, `/pixel` is an image, `/fail`
//! reports an error.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Error, Request, RequestExt, Response, run, service_fn};
use serde_json::json;

/// A PNG of one pixel.
const PIXEL: [u8; 67] = [
    0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0,
    0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 10, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0, 1,
    0, 0, 5, 0, 1, 0x0d, 0x0a, 0x2d, 0xb4, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    run(service_fn(answer)).await
}

async fn answer(request: Request) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        "/visits" => {
            let cookies = request
                .headers()
                .get("cookie")
                .and_then(|cookie| cookie.to_str().ok());
            let visits = cookies.into_iter().flat_map(|cookies| cookies.split(';'));
            let visits = visits.filter_map(|pair| pair.trim().strip_prefix("visits=")?.parse::<u32>().ok());
            let visits = visits.max().unwrap_or(0) + 1;
            let response = Response::builder()
                .header("set-cookie", format!("visits={visits}; HttpOnly"))
                .header("set-cookie", "seen=yes")
                .body(format!("visit {visits}\n").into())?;
            Ok(response)
        }
        "/pixel" => {
            let response = Response::builder().header("content-type", "image/png");
            Ok(response.body(Body::Binary(PIXEL.to_vec()))?)
        }
        "/length" => Ok(Response::new(format!("{}\n", request.body().len()).into())),
        "/fail" => Err("nobody can do this".into()),
        "/" => {
            let name = request.query_string_parameters();
            let name = name.first("name").unwrap_or("world");
            let response = Response::builder().header("content-type", "application/json");
            Ok(response.body(json!({"hello": name}).to_string().into())?)
        }
        _ => Ok(Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Body::Empty)?),
    }
}
