//! From an HTTP request to an event, payload format 2.0, as API Gateway's HTTP APIs and function URLs send it. Pure: what it
//! says depends on its arguments alone.

use std::borrow::Cow;
use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::base64;

/// What of a request is about its way to the function and not of it, so that no event holds it.
pub(super) const INTERNAL: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, super::DEADLINE];

/// The event of a request, as JSON.
pub(super) fn event(parts: &Parts, body: &[u8], function: &str, now: SystemTime) -> Vec<u8> {
    let field = |name: HeaderName| parts.headers.get(name).map(text).unwrap_or_default();
    let host = field(header::HOST);
    let domain = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(&*host, |(domain, _)| domain);
    let prefix = domain.split('.').next().unwrap_or(domain);
    let at = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let query = parts.uri.query().unwrap_or("");
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": parts.uri.path(),
        "rawQueryString": query,
        "headers": headers(&parts.headers),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": function,
            "domainName": domain,
            "domainPrefix": prefix,
            "http": {
                "method": parts.method.as_str(),
                "path": parts.uri.path(),
                "protocol": "HTTP/1.1",
                "sourceIp": source(&field(super::X_FORWARDED_FOR)),
                "userAgent": field(header::USER_AGENT),
            },
            "requestId": field(super::X_REQUEST_ID),
            "routeKey": "$default",
            "stage": "$default",
            "time": at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            "timeEpoch": at.as_millisecond(),
        },
        "isBase64Encoded": false,
    });
    let cookies = cookies(&parts.headers);
    if !cookies.is_empty() {
        event["cookies"] = cookies.into();
    }
    if !query.is_empty() {
        event["queryStringParameters"] = Value::Object(parameters(query));
    }
    if !body.is_empty() {
        let plain = is_text(&parts.headers).then(|| std::str::from_utf8(body).ok());
        match plain.flatten() {
            Some(plain) => event["body"] = plain.into(),
            None => {
                event["body"] = base64::encode(body).into();
                event["isBase64Encoded"] = true.into();
            }
        }
    }
    serde_json::to_vec(&event).expect("maps with string keys are JSON")
}

/// A field's value as text: what is no UTF-8 was meant as Latin-1 (RFC 9110, 5.5).
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => value
            .as_bytes()
            .iter()
            .map(|&byte| char::from(byte))
            .collect::<String>()
            .into(),
    }
}

/// The caller: what the nearest proxy said, which is funcd itself.
fn source(forwarded_for: &str) -> &str {
    forwarded_for.rsplit(',').next().unwrap_or("").trim()
}

/// Names in lower case, values of the same name joined; cookies have a place of their own.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let wanted = |name: &&HeaderName| **name != header::COOKIE && !INTERNAL.contains(name);
    let one = |name: &HeaderName| {
        let values: Vec<_> = headers.get_all(name).iter().map(text).collect();
        (name.as_str().to_owned(), values.join(",").into())
    };
    headers.keys().filter(wanted).map(one).collect()
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let all = headers.get_all(header::COOKIE).iter().map(text);
    let each = all.flat_map(|field| {
        let pairs = field.split(';').map(|pair| pair.trim().to_owned());
        pairs.collect::<Vec<_>>()
    });
    each.filter(|pair| !pair.is_empty()).collect()
}

/// Decoded; values of the same name joined.
fn parameters(query: &str) -> Map<String, Value> {
    let mut parameters = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        match parameters.get_mut(&*decode(name)) {
            Some(Value::String(values)) => {
                values.push(',');
                values.push_str(&value);
            }
            _ => {
                parameters.insert(decode(name).into_owned(), value.into());
            }
        }
    }
    parameters
}

/// The text behind `%xx` and `+`; a `%` without two digits stays.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match (first, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, ..]) if let Some(byte) = hex(*high, *low) => {
                rest = &after[2..];
                byte
            }
            (&other, _) => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Whether a body goes into the event as it is: only for these types; all else, also without a type or from a form, is base64.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).map(text) else {
        return false;
    };
    // An encoded body is bytes, whatever they stand for.
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind.starts_with("text/")
        || matches!(
            kind.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        )
}

/// A trace as X-Ray calls it, from a `traceparent`.
pub(super) fn trace_id(traceparent: &HeaderValue) -> Option<HeaderValue> {
    let mut parts = traceparent.to_str().ok()?.split('-');
    let (_, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    let (time, rest) = trace.split_at_checked(8)?;
    HeaderValue::try_from(format!("Root=1-{time}-{rest};Parent={parent};Sampled={sampled}")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::Request;

    use super::*;

    fn event_of(request: Request<&[u8]>) -> Value {
        let (parts, body) = request.into_parts();
        let now = UNIX_EPOCH + Duration::from_millis(1_584_039_838_123);
        serde_json::from_slice(&event(&parts, body, "greeter", now)).unwrap()
    }

    #[test]
    fn every_field_is_where_the_format_says() {
        let request = Request::post("/a%20b/c?q=1&q=two%2C&%20x=+&flag&bad=%zz")
            .header("host", "greeter.example.com:8080")
            .header("X-Thing", "one")
            .header("x-thing", "two")
            .header("cookie", "a=1; b=\"2\"")
            .header("cookie", "c=3;")
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "curl/8")
            .header("x-request-id", "id-7")
            .header("x-forwarded-for", "192.0.2.9, 10.1.2.3")
            .header("connection", "close")
            .header("transfer-encoding", "chunked")
            .header(super::super::DEADLINE, "1");
        let expected = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/a%20b/c",
            "rawQueryString": "q=1&q=two%2C&%20x=+&flag&bad=%zz",
            "cookies": ["a=1", "b=\"2\"", "c=3"],
            "headers": {
                "host": "greeter.example.com:8080",
                "x-thing": "one,two",
                "content-type": "application/json; charset=utf-8",
                "user-agent": "curl/8",
                "x-request-id": "id-7",
                "x-forwarded-for": "192.0.2.9, 10.1.2.3",
            },
            "queryStringParameters": {"q": "1,two,", " x": " ", "flag": "", "bad": "%zz"},
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "greeter",
                "domainName": "greeter.example.com",
                "domainPrefix": "greeter",
                "http": {
                    "method": "POST",
                    "path": "/a%20b/c",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "10.1.2.3",
                    "userAgent": "curl/8",
                },
                "requestId": "id-7",
                "routeKey": "$default",
                "stage": "$default",
                "time": "12/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_584_039_838_123_u64,
            },
            "body": "{\"é\":1}",
            "isBase64Encoded": false,
        });
        assert_eq!(event_of(request.body("{\"é\":1}".as_bytes()).unwrap()), expected);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let event = event_of(Request::get("/").body(&[][..]).unwrap());
        for absent in ["body", "cookies", "queryStringParameters"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
        assert_eq!(event["rawQueryString"], "");
        assert_eq!(event["isBase64Encoded"], false);
    }

    #[test]
    fn bodies_are_base64_but_for_a_few_types() {
        for (kind, body, plain) in [
            (Some("text/plain"), &b"hello"[..], true),
            (Some("TEXT/html; charset=x"), b"hello", true),
            (Some("application/json"), b"{}", true),
            (Some("application/xml"), b"<a/>", true),
            (Some("application/javascript"), b"1", true),
            (Some("application/json"), b"\xff", false),
            (Some("application/x-www-form-urlencoded"), b"a=b", false),
            (Some("application/problem+json"), b"{}", false),
            (Some("image/png"), b"\x89PNG", false),
            (None, b"hello", false),
        ] {
            let mut request = Request::post("/");
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let event = event_of(request.body(body).unwrap());
            assert_eq!(event["isBase64Encoded"], !plain, "{kind:?}");
            let expected = match plain {
                true => String::from_utf8_lossy(body).into_owned(),
                false => base64::encode(body),
            };
            assert_eq!(event["body"], expected, "{kind:?}");
        }
        let packed = Request::post("/").header("content-type", "text/plain");
        let packed = packed.header("content-encoding", "gzip").body(&b"x"[..]).unwrap();
        assert_eq!(event_of(packed)["isBase64Encoded"], true);
    }

    #[test]
    fn values_that_are_no_utf8_are_latin_1() {
        let mut request = Request::get("/").body(&[][..]).unwrap();
        let value = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        request.headers_mut().insert("x-name", value);
        assert_eq!(event_of(request)["headers"]["x-name"], "café");
    }

    #[test]
    fn traces_are_translated() {
        let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(
            trace_id(&parent).unwrap(),
            "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"
        );
        assert_eq!(trace_id(&HeaderValue::from_static("00-0af-b7-zz")), None);
    }
}
