//! What of a head goes through, what stays, what is added. Pure: chance and the peer are arguments.
//!
//! Hop-by-hop fields end here (RFC 9110, 7.6.1), in both directions. What says who called, how and for what is
//! stripped unless the peer is trusted, and then said anew. `X-Request-Id` and `traceparent` are kept if well-formed:
//! they claim nothing about the caller.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};
use rand::Rng;

use super::ids::{RequestId, X_REQUEST_ID, is_traceparent, mint_traceparent};

const FORWARDED: HeaderName = header::FORWARDED;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What functions are told of a host that is short of something: 35 to 100, the more the worse. Never what a caller says.
pub(super) const X_FUNCD_BROWNOUT: HeaderName = HeaderName::from_static("x-funcd-brownout");
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the connection knows about its peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its address, for `X-Forwarded-For`.
    pub(super) address: HeaderValue,
    /// Its address, for `for=` of `Forwarded`.
    node: String,
    /// Whether its own forwarding fields are believed.
    pub(super) trusted: bool,
    /// The last host and the `Forwarded` that it made: a connection rarely changes hosts.
    last: Option<(HeaderValue, HeaderValue)>,
}

impl Peer {
    pub(super) fn new(address: std::net::IpAddr, trusted: bool) -> Peer {
        let node = match address {
            std::net::IpAddr::V4(address) => format!("for={address}"),
            std::net::IpAddr::V6(address) => format!("for=\"[{address}]\""),
        };
        Peer {
            address: HeaderValue::try_from(address.to_string()).expect("an address is a valid header value"),
            node,
            trusted,
            last: None,
        }
    }

    /// `Forwarded` for this host, which must be valid.
    fn forwarded(&mut self, host: Option<&HeaderValue>) -> HeaderValue {
        let Some(host) = host else {
            return value(format!("{};proto=http", self.node));
        };
        if let Some((known, forwarded)) = &self.last
            && known == host
        {
            return forwarded.clone();
        }
        let text = host.to_str().expect("checked to be visible ASCII");
        let forwarded = value(format!("{};host=\"{text}\";proto=http", self.node));
        self.last = Some((host.clone(), forwarded.clone()));
        forwarded
    }
}

/// What a request's head says to the proxy, taken out of it before it is rewritten.
#[derive(Debug)]
pub(super) struct Asked {
    /// The protocol to change to; never `h2c`, which would carry requests past the routes.
    pub(super) upgrade: Option<HeaderValue>,
    /// `TE: trailers`.
    trailers: bool,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHead {
    /// No tunnels.
    Connect,
    /// Neither a path nor an absolute URI.
    Target,
    /// HTTP/1.1 without a host.
    NoHost,
    /// More than one host, or one that is none.
    Host,
    /// `Expect` of something else than `100-continue`.
    Expectation,
}

/// The host that the request is for, with its port; checked. An absolute target beats the field (RFC 9112, 3.2.2).
pub(super) fn check(parts: &Parts) -> Result<Option<HeaderValue>, BadHead> {
    if parts.method == Method::CONNECT {
        return Err(BadHead::Connect);
    }
    if !parts.uri.path().starts_with('/') {
        return Err(BadHead::Target);
    }
    if let Some(expected) = parts.headers.get(header::EXPECT)
        && !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(BadHead::Expectation);
    }
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(BadHead::Host);
    }
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| BadHead::Host)?;
        return if is_host(host.as_bytes()) {
            Ok(Some(host))
        } else {
            Err(BadHead::Host)
        };
    }
    match field {
        Some(host) if is_host(host.as_bytes()) => Ok(Some(host.clone())),
        Some(_) => Err(BadHead::Host),
        None if parts.version == Version::HTTP_10 => Ok(None),
        None => Err(BadHead::NoHost),
    }
}

/// A registered name, address or bracketed address with an optional port (RFC 3986, 3.2.2, without user information).
fn is_host(host: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    !host.is_empty() && host.len() <= 262 && host.iter().all(good)
}

/// The host without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// The target that the function sees: origin form, `strip` bytes shorter.
pub(super) fn rewrite_target(uri: &Uri, strip: usize) -> Uri {
    let whole = uri.path_and_query().map_or("/", |target| target.as_str());
    if strip == 0 && uri.authority().is_none() {
        return uri.clone();
    }
    let rest = &whole[strip..];
    let target = if rest.starts_with('/') {
        bytes::Bytes::copy_from_slice(rest.as_bytes())
    } else {
        // `/name` and `/name?query`: the function's root.
        ["/", rest].concat().into()
    };
    Uri::from_maybe_shared(target).expect("a valid target's tail behind a slash is a valid target")
}

/// Takes out of a request's head what ends here, and all that only a trusted peer may say.
pub(super) fn strip_request(headers: &mut HeaderMap, version: Version, trusted: bool) -> Asked {
    let mut doomed = Vec::new();
    let (mut upgrade, mut trailers, mut cookies) = (false, false, 0);
    for (name, value) in &*headers {
        match name.as_str() {
            "connection" => {
                upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade"));
                doomed.extend(named(value));
                doomed.push(name.clone());
            }
            "te" => {
                trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case("trailers"));
                doomed.push(name.clone());
            }
            "cookie" => cookies += 1,
            "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "x-funcd-brownout"
            | "x-funcd-caller"
            | "x-funcd-hops" => doomed.push(name.clone()),
            claim if is_claim(claim) && (!trusted || claim.contains('_')) => doomed.push(name.clone()),
            _ => {}
        }
    }
    let protocol = headers.remove(header::UPGRADE);
    let protocol = protocol.filter(|protocol| {
        upgrade
            && version == Version::HTTP_11
            && tokens(protocol).all(|token| !token.to_ascii_lowercase().starts_with("h2c"))
    });
    for name in doomed {
        headers.remove(name);
    }
    if cookies > 1 {
        join(headers, &header::COOKIE, "; ");
    }
    Asked {
        upgrade: protocol,
        trailers,
    }
}

/// Beginnings of such fields, behind `x-`. The last three are what Google's hosts take away from strangers, and so what functions
/// written for those believe: cron and tasks, and who has logged in.
const CLAIMS: [&str; 5] = [
    "forwarded-",
    "funcd-",
    "appengine-",
    "cloudtasks-",
    "goog-authenticated-user-",
];

/// Fields by which a peer says who called, how and for what; with `_` for `-` too, because CGI-like servers can't
/// tell the two apart.
fn is_claim(name: &str) -> bool {
    let claim = |name: &str| match name.strip_prefix("x-") {
        None => name == "forwarded",
        Some(name) => name == "real-ip" || CLAIMS.iter().any(|beginning| name.starts_with(beginning)),
    };
    if !name.contains('_') {
        return claim(name);
    }
    let name = name.replace('_', "-");
    claim(&name)
        || matches!(
            name.as_str(),
            "content-length"
                | "host"
                | "grpc-timeout"
                | "proxy"
                | "traceparent"
                | "tracestate"
                | "transfer-encoding"
                | "x-request-id"
                | "x-request-timeout-ms"
        )
}

/// Fields that a `Connection` field names, which end with it. Not those that a caller could hurt the function with by
/// taking them away.
fn named(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    let names = tokens(connection).filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok());
    names.filter(|name| {
        ![
            header::AUTHORIZATION,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::COOKIE,
            header::HOST,
            // By which a function tells that it has a request that is sent again.
            IDEMPOTENCY_KEY,
        ]
        .contains(name)
    })
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or("")
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// What funcd itself has to say in a request's head.
pub(super) struct Said<'a> {
    /// What was stripped of the path.
    pub(super) prefix: Option<&'a HeaderValue>,
    pub(super) id: &'a RequestId,
    pub(super) asked: &'a Asked,
}

/// Says in the head what the function should know: who called, for which host, under which prefix and ids.
pub(super) fn add_request(
    headers: &mut HeaderMap,
    peer: &mut Peer,
    host: Option<HeaderValue>,
    said: Said<'_>,
    chance: &mut impl Rng,
) {
    let Said { prefix, id, asked } = said;
    let forwarded = peer.forwarded(host.as_ref());
    if peer.trusted {
        extend(headers, X_FORWARDED_FOR, peer.address.clone());
        extend(headers, FORWARDED, forwarded);
        if let Some(host) = &host {
            headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        }
        headers
            .entry(X_FORWARDED_PROTO)
            .or_insert(HeaderValue::from_static("http"));
    } else {
        headers.insert(X_FORWARDED_FOR, peer.address.clone());
        headers.insert(FORWARDED, forwarded);
        if let Some(host) = &host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(prefix) = prefix {
        // Behind a trusted proxy that stripped a prefix of its own, the caller's path had both.
        let outer = headers
            .get(&X_FORWARDED_PREFIX)
            .map(|outer| [outer.as_bytes(), prefix.as_bytes()].concat());
        let both = outer.and_then(|both| HeaderValue::from_bytes(&both).ok());
        headers.insert(X_FORWARDED_PREFIX, both.unwrap_or_else(|| prefix.clone()));
    }
    headers.insert(
        header::HOST,
        host.unwrap_or(HeaderValue::from_static("localhost")),
    );
    identify(headers, id, asked, chance);
}

/// Says in the head which request it is and of which trace, and what was asked of the next hop.
pub(super) fn identify(headers: &mut HeaderMap, id: &RequestId, asked: &Asked, chance: &mut impl Rng) {
    headers.insert(X_REQUEST_ID, id.0.clone());
    if !headers
        .get(&TRACEPARENT)
        .is_some_and(|parent| is_traceparent(parent.as_bytes()))
    {
        // A state without its parent means nothing.
        headers.remove(TRACESTATE);
        headers.insert(TRACEPARENT, mint_traceparent(chance));
    }
    if asked.trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &asked.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

/// Appends to a list field, in one line.
fn extend(headers: &mut HeaderMap, name: HeaderName, last: HeaderValue) {
    headers.append(name.clone(), last);
    join(headers, &name, ", ");
}

fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &str) {
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1 {
        let joined = HeaderValue::from_bytes(&all.join(separator.as_bytes()));
        headers.insert(
            name,
            joined.expect("valid values joined by visible ASCII are valid"),
        );
    }
}

/// Takes out of a response's head what ends here. A switch of protocols keeps its `Upgrade`.
pub(super) fn strip_response(headers: &mut HeaderMap, switching: bool) {
    let mut doomed = Vec::new();
    let (mut encoded, mut lengths, mut good) = (switching, 0, true);
    for (name, value) in &*headers {
        match name.as_str() {
            // Looked at here because hyper doesn't where the status says that there is no body.
            "content-length" => {
                let digits = value.as_bytes();
                lengths += 1;
                good &= !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
                good &= headers.get(header::CONTENT_LENGTH) == Some(value);
            }
            "connection" => {
                doomed.extend(named(value).filter(|name| !(switching && name == header::UPGRADE)));
                doomed.push(name.clone());
            }
            "transfer-encoding" => {
                encoded = true;
                doomed.push(name.clone());
            }
            "keep-alive" | "proxy-connection" | "proxy-authenticate" | "te" => doomed.push(name.clone()),
            "upgrade" if !switching => doomed.push(name.clone()),
            _ => {}
        }
    }
    for name in doomed {
        headers.remove(name);
    }
    if encoded || !good {
        // The encoding was what counted (RFC 9112, 6.3), and the length is of something else; a switch has none.
        headers.remove(header::CONTENT_LENGTH);
    } else if lengths > 1
        && let Some(length) = headers.get(header::CONTENT_LENGTH).cloned()
    {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    if switching {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Takes out of a trailer, of either direction, what ends here, what frames or routes a message, and what says who
/// called: a reader that merges trailers into the head would believe it.
pub(super) fn strip_trailer(trailer: &mut HeaderMap) {
    let doomed: Vec<HeaderName> = trailer
        .keys()
        .filter(|name| {
            let name = name.as_str();
            is_claim(name)
                || matches!(
                    name,
                    "authorization"
                        | "connection"
                        | "content-length"
                        | "cookie"
                        | "expect"
                        | "grpc-timeout"
                        | "host"
                        | "keep-alive"
                        | "proxy"
                        | "proxy-authenticate"
                        | "proxy-authorization"
                        | "proxy-connection"
                        | "set-cookie"
                        | "te"
                        | "traceparent"
                        | "tracestate"
                        | "trailer"
                        | "transfer-encoding"
                        | "upgrade"
                        | "x-request-id"
                        | "x-request-timeout-ms"
                )
        })
        .cloned()
        .collect();
    for name in doomed {
        trailer.remove(name);
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("made of an address and a checked host")
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
