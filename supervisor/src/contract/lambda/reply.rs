//! From what a function answers to an HTTP response: payload format 2.0, and the prelude of a streamed response. Pure.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::base64;

/// What ends the prelude of a streamed response.
const MARK: [u8; 8] = [0; 8];

/// Why an answer can't become a response: what is wrong with it, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// The response for a whole answer.
///
/// # Errors
/// [`Malformed`]: it is no JSON, or says what no response can be.
pub(super) fn whole(answer: Bytes) -> Result<Response<Bytes>, Malformed> {
    let mut fields = match serde_json::from_slice::<Value>(&answer) {
        Ok(Value::Object(fields)) if fields.contains_key("statusCode") => fields,
        // Anything else is the body itself, down to the quotes of a bare string.
        Ok(_) => {
            let mut response = Response::new(answer);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            return Ok(response);
        }
        Err(_) if answer.is_empty() => return Ok(Response::new(answer)),
        Err(error) => return malformed(format!("its answer is no JSON: {error}")),
    };
    let encoded = match fields.get("isBase64Encoded") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => return malformed(format!("isBase64Encoded is {}", kind(other))),
    };
    let body = match fields.remove("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(body)) if encoded => match base64::decode(&body) {
            Some(body) => body.into(),
            None => return malformed("its body is not the base64 that isBase64Encoded promises"),
        },
        Some(Value::String(body)) => body.into(),
        // As API Gateway has it: an object where a string belongs is an error of the function.
        Some(other) => return malformed(format!("its body is {}, and not a string", kind(&other))),
    };
    let mut response = head(&fields)?.map(|()| body);
    if !response.body().is_empty() {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
    }
    Ok(response)
}

/// Splits what has come of a streamed response into its head and the first bytes of its body. `None`: the head goes on.
///
/// # Errors
/// [`Malformed`]: what stands before the mark is no head.
pub(super) fn prelude(come: &[u8]) -> Result<Option<(Response<()>, usize)>, Malformed> {
    // Eight NULs can't be part of JSON, and nothing of the body comes before them.
    let Some(end) = memchr::memmem::find(come, &MARK) else {
        return Ok(None);
    };
    let fields = match serde_json::from_slice::<Value>(&come[..end]) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return malformed(format!("the head of its stream is {}", kind(&other))),
        Err(error) => return malformed(format!("the head of its stream is no JSON: {error}")),
    };
    let mut response = head(&fields)?;
    response
        .headers_mut()
        .entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    Ok(Some((response, end + MARK.len())))
}

/// Status, fields and cookies.
fn head(fields: &Map<String, Value>) -> Result<Response<()>, Malformed> {
    let mut response = Response::new(());
    *response.status_mut() = status(fields.get("statusCode"))?;
    let headers = response.headers_mut();
    let many = object(fields, "multiValueHeaders")?;
    for (name, value) in object(fields, "headers")?.into_iter().flatten() {
        // Some libraries write both: the one that can say more counts.
        let said_below = many.is_some_and(|many| many.keys().any(|other| other.eq_ignore_ascii_case(name)));
        if !said_below {
            add(headers, name, value)?;
        }
    }
    for (name, value) in many.into_iter().flatten() {
        add(headers, name, value)?;
    }
    match fields.get("cookies") {
        None | Some(Value::Null) => {}
        Some(cookies @ Value::Array(_)) => add(headers, header::SET_COOKIE.as_str(), cookies)?,
        Some(other) => return malformed(format!("cookies is {}, and not a list", kind(other))),
    }
    Ok(response)
}

fn status(given: Option<&Value>) -> Result<StatusCode, Malformed> {
    let number = match given {
        // Of a stream: it need not say.
        None | Some(Value::Null) => Some(200),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let number = number.filter(|number| (200..=599).contains(number));
    match number.and_then(|number| StatusCode::from_u16(u16::try_from(number).ok()?).ok()) {
        Some(status) => Ok(status),
        None => malformed("its statusCode is no status of a final response: 200 to 599"),
    }
}

fn object<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Malformed> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => malformed(format!("{key} is {}, and not an object", kind(other))),
    }
}

/// Adds a field; a list is a field for each value. What frames a message is funcd's, and what it says to itself is not theirs.
fn add(headers: &mut HeaderMap, name: &str, value: &Value) -> Result<(), Malformed> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return malformed(format!("{:?} is not the name of a header", shortened(name)));
    };
    let ours = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ];
    if ours.contains(&name) || super::is_word(&name) {
        return Ok(());
    }
    let mut push = |value: &str| match HeaderValue::try_from(value) {
        Ok(value) => {
            headers.append(name.clone(), value);
            Ok(())
        }
        Err(_) => malformed(format!(
            "the value of the header {name} has characters that none may have"
        )),
    };
    match value {
        Value::Null => Ok(()),
        Value::String(text) => push(text),
        Value::Number(number) => push(&number.to_string()),
        Value::Bool(truth) => push(if *truth { "true" } else { "false" }),
        Value::Array(values) => values.iter().try_for_each(|value| match value {
            Value::String(text) => push(text),
            Value::Number(number) => push(&number.to_string()),
            other => malformed(format!("a value of the header {name} is {}", kind(other))),
        }),
        Value::Object(_) => malformed(format!("the value of the header {name} is an object")),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole_of(answer: &str) -> Result<Response<Bytes>, Malformed> {
        whole(Bytes::copy_from_slice(answer.as_bytes()))
    }

    #[track_caller]
    fn refused(answer: &str, why: &str) {
        let error = whole_of(answer).unwrap_err().to_string();
        assert!(error.contains(why), "{answer}: {error}");
    }

    fn fields(response: &Response<Bytes>) -> Vec<(&str, &str)> {
        let all = response.headers().iter();
        all.map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn an_object_with_a_status_is_a_response() {
        let response = whole_of(
            r#"{"statusCode":201,"headers":{"X-A":"1","content-length":"9","x-n":7,"x-b":true,"x-l":["p","q"],"x-0":null},
               "cookies":["a=1; Secure","b=2"],"body":"made","isBase64Encoded":false}"#,
        )
        .unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.body(), "made");
        let mut all = fields(&response);
        all.sort_unstable();
        assert_eq!(
            all,
            [
                ("content-type", "application/json"),
                ("set-cookie", "a=1; Secure"),
                ("set-cookie", "b=2"),
                ("x-a", "1"),
                ("x-b", "true"),
                ("x-l", "p"),
                ("x-l", "q"),
                ("x-n", "7"),
            ]
        );
    }

    #[test]
    fn what_has_no_status_is_the_body() {
        for answer in ["{\"a\":1}", "\"text\"", "[1, 2]", "null", "3"] {
            let response = whole_of(answer).unwrap();
            assert_eq!(
                (response.status().as_u16(), response.body()),
                (200, &Bytes::copy_from_slice(answer.as_bytes()))
            );
            assert_eq!(fields(&response), [("content-type", "application/json")]);
        }
        assert!(whole_of("").unwrap().body().is_empty());
    }

    #[test]
    fn bytes_come_as_base64() {
        let response =
            whole_of(r#"{"statusCode":"200","headers":{"content-type":"image/png"},"body":"iVBORw==","isBase64Encoded":true}"#)
                .unwrap();
        assert_eq!(response.body(), &b"\x89PNG"[..]);
        assert_eq!(fields(&response), [("content-type", "image/png")]);
    }

    #[test]
    fn of_two_ways_to_write_headers_the_one_that_says_more_counts() {
        let response = whole_of(
            r#"{"statusCode":204,"headers":{"Vary":"a","x-one":"1"},"multiValueHeaders":{"vary":["a","b"]},"body":null}"#,
        )
        .unwrap();
        assert_eq!(fields(&response), [("x-one", "1"), ("vary", "a"), ("vary", "b")]);
    }

    #[test]
    fn what_no_response_can_be_is_refused() {
        refused("{\"statusCode\":", "no JSON");
        refused("\u{0}", "no JSON");
        for status in [
            "0", "99", "101", "600", "-1", "1e9", "2.5", "\"ok\"", "[]", "true",
        ] {
            refused(&format!("{{\"statusCode\":{status}}}"), "statusCode");
        }
        refused(r#"{"statusCode":200,"body":{}}"#, "body is an object");
        refused(
            r#"{"statusCode":200,"body":"!","isBase64Encoded":true}"#,
            "base64",
        );
        refused(r#"{"statusCode":200,"isBase64Encoded":"yes"}"#, "isBase64Encoded");
        refused(r#"{"statusCode":200,"headers":[]}"#, "headers is a list");
        refused(r#"{"statusCode":200,"headers":{"a b":"c"}}"#, "name of a header");
        refused(
            r#"{"statusCode":200,"headers":{"a":"b\r\nc: d"}}"#,
            "value of the header a",
        );
        refused(r#"{"statusCode":200,"headers":{"a":{}}}"#, "is an object");
        refused(r#"{"statusCode":200,"cookies":"a=1"}"#, "cookies");
    }

    #[test]
    fn what_funcd_says_to_itself_is_not_for_functions_to_say() {
        let answer = format!(
            "{{\"statusCode\":200,\"headers\":{{\"{}\":\"1\",\"{}\":\"2\",\"transfer-encoding\":\"x\"}}}}",
            super::super::PROBLEM,
            super::super::DETAIL
        );
        assert_eq!(fields(&whole_of(&answer).unwrap()), []);
    }

    #[test]
    fn a_stream_begins_with_its_head() {
        let come = b"{\"statusCode\":202,\"headers\":{\"x\":[\"a\",\"b\"]},\"cookies\":[\"c=1\"]}\0\0\0\0\0\0\0\0body\0";
        let (response, at) = prelude(come).unwrap().unwrap();
        assert_eq!(&come[at..], b"body\0");
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers().get_all("x").iter().count(), 2);
        assert_eq!(response.headers()["set-cookie"], "c=1");
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        for end in 0..at {
            assert!(prelude(&come[..end]).unwrap().is_none(), "cut at {end}");
        }
        assert!(prelude(b"nonsense\0\0\0\0\0\0\0\0").is_err());
        assert!(prelude(b"[]\0\0\0\0\0\0\0\0").is_err());
        assert_eq!(prelude(b"{}\0\0\0\0\0\0\0\0").unwrap().unwrap().0.status(), 200);
    }
}
