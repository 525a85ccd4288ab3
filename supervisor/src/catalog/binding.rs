//! Bindings as used: what a function may reach, and what it finds of that in its environment. Opens nothing.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::manifest::{Manifest, Retry};
use crate::name::FunctionName;

/// Bindings of one function, at most: with the port of a Lambda function's API they are what the launcher listens on.
pub const MAX_BINDINGS: usize = 16;

/// A declared downstream dependency: a port of 127.0.0.1 in the function's own network, forwarded to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// `[a-z][a-z0-9-]{0,31}`.
    pub name: String,
    /// The port on 127.0.0.1 at which the function finds it.
    pub port: u16,
    /// Where that leads.
    pub to: Target,
    /// How long a call may take: for TCP until its connection stands, for HTTP until the head of the answer is there.
    pub timeout: Duration,
    /// Connections (HTTP: requests) of one instance that may be open at once.
    pub concurrency: u32,
    /// Which HTTP requests may be sent again after the other side may have read them.
    pub retry: Retry,
}

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Bytes, both ways.
    Tcp(Endpoint),
    /// HTTP requests.
    Http {
        /// Whom they are sent to.
        endpoint: Endpoint,
        /// What stands before the path of each: empty, or `/` and more without `/` at its end.
        base: String,
    },
    /// HTTP requests to another function of this host.
    Function(FunctionName),
}

/// A place outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it is.
    pub host: Host,
    /// Its port; never 0.
    pub port: u16,
    /// Whether the supervisor speaks TLS with it; the function does not.
    pub tls: bool,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// To be looked up; lower case.
    Name(String),
    /// Known.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(endpoint) if endpoint.tls => write!(f, "tls://{endpoint}"),
            Target::Tcp(endpoint) => write!(f, "tcp://{endpoint}"),
            Target::Http { endpoint, base } => {
                let scheme = if endpoint.tls { "https" } else { "http" };
                write!(f, "{scheme}://{endpoint}{base}")
            }
            Target::Function(function) => write!(f, "function {function}"),
        }
    }
}

impl Binding {
    /// The beginning of its variables: `user-db` gives `USER_DB`.
    pub fn prefix(name: &str) -> String {
        name.to_ascii_uppercase().replace('-', "_")
    }

    /// The variables that tell the function of it: `NAME_ADDR`, and for HTTP `NAME_URL`.
    ///
    /// The URL holds no base: that is the supervisor's to add, so that a function can't leave it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let (prefix, port) = (Binding::prefix(&self.name), self.port);
        let address = (format!("{prefix}_ADDR"), format!("127.0.0.1:{port}"));
        match &self.to {
            Target::Tcp(_) => vec![address],
            Target::Http { .. } | Target::Function(_) => {
                vec![
                    address,
                    (format!("{prefix}_URL"), format!("http://127.0.0.1:{port}")),
                ]
            }
        }
    }
}

impl Manifest {
    /// Whether it has bindings that carry HTTP.
    pub fn makes_calls(&self) -> bool {
        let is_http = |binding: &Binding| !matches!(binding.to, Target::Tcp(_));
        self.bindings.iter().any(is_http)
    }
}
