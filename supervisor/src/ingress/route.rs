//! Which function a request goes to: an immutable table, built anew on each change. Pure.
//!
//! A function without routes of its own answers `/<name>/…`, found by one hash lookup. Routes of manifests match by
//! host (exact, then `*.` wildcard with the longest suffix, then any) and within a host by the longest path prefix in
//! whole segments. Paths are compared as they came: nothing is decoded, no dot segment is resolved.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use http::HeaderValue;

use crate::admission::Reason;
use crate::admission::route::{RouteLimit, RoutePlace};
use crate::catalog::manifest::{Contract, RoutePattern};
use crate::function::handle::Function;
use crate::name::FunctionName;

/// The table. Replaced as a whole; workers keep a reference until the next request sees the new one.
#[derive(Debug, Default)]
pub struct Routes {
    defaults: HashMap<FunctionName, Arc<Target>>,
    /// All of them, for each other.
    named: HashMap<FunctionName, Arc<Target>>,
    exact: HashMap<Box<str>, Paths>,
    /// By suffix with its leading dot, the longest first.
    wildcard: Vec<(Box<str>, Paths)>,
    any: Paths,
    conflicts: Vec<Conflict>,
}

/// Where a route leads.
#[derive(Debug)]
pub struct Target {
    /// The function.
    pub function: Arc<Function>,
    /// `X-Forwarded-Prefix`, when a prefix is stripped.
    pub(super) prefix: Option<HeaderValue>,
    /// How many requests may be in flight by it; `None`: as many as the function takes.
    limit: Option<Arc<RouteLimit>>,
}

impl Target {
    fn of(function: &Arc<Function>) -> Target {
        Target {
            function: Arc::clone(function),
            prefix: None,
            limit: None,
        }
    }

    /// A place for a request that came this way; `None`: it needs none.
    ///
    /// # Errors
    /// [`Reason::RouteLimit`].
    pub(super) fn enter(&self) -> Result<Option<RoutePlace>, Reason> {
        let Some(limit) = &self.limit else {
            return Ok(None);
        };
        limit.enter().map(Some).ok_or(Reason::RouteLimit)
    }
}

/// Two functions that ask for the same route: the first by name has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{winner} and {loser} both ask for {route}: {winner} has it; change `[[route]]` of one of them")]
pub struct Conflict {
    /// The host and path.
    pub route: String,
    /// Who has it.
    pub winner: FunctionName,
    /// Who has not.
    pub loser: FunctionName,
}

/// What a request matched.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// Where it leads.
    pub target: &'a Arc<Target>,
    /// Bytes of the path to strip before forwarding.
    pub strip: usize,
    /// The part of the path that matched.
    pub prefix: &'a str,
}

/// Routes of one host, by path without trailing slash.
#[derive(Debug, Default)]
struct Paths {
    by_path: HashMap<Box<str>, Arc<Target>>,
    /// The most segments that any of them has: a caller's path is not looked at beyond.
    depth: usize,
}

impl Routes {
    /// The table of these functions, each with the routes of its manifest. Of two equal routes the function that is
    /// first by name has it; [`Routes::conflicts`] tells.
    pub fn new(functions: impl IntoIterator<Item = (Arc<Function>, Vec<RoutePattern>)>) -> Routes {
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let mut routes = Routes::default();
        for (function, patterns) in functions {
            if function.live().revision.manifest.contract == (Contract::Lambda { invoke: true }) {
                routes.invoke(&function);
            }
            let target = Arc::new(Target::of(&function));
            routes.named.insert(function.name.clone(), Arc::clone(&target));
            let limits = function.route_limits(&patterns);
            if patterns.is_empty() {
                let prefix = HeaderValue::try_from(format!("/{}", function.name));
                let prefix = Some(prefix.expect("a function's name is a valid header value"));
                let name = function.name.clone();
                let target = Target {
                    prefix,
                    ..Target::of(&function)
                };
                routes.defaults.insert(name, Arc::new(target));
                continue;
            }
            for (pattern, limit) in patterns.iter().zip(limits) {
                match limit {
                    None => routes.add(pattern, &target),
                    limit => {
                        let target = Target {
                            limit,
                            ..Target::of(&function)
                        };
                        routes.add(pattern, &Arc::new(target));
                    }
                }
            }
        }
        routes
            .wildcard
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        routes
    }

    /// Where the SDKs of AWS send events, by the function's name.
    fn invoke(&mut self, function: &Arc<Function>) {
        let target = Arc::new(Target::of(function));
        let pattern = RoutePattern {
            host: None,
            path: format!("/2015-03-31/functions/{}/invocations", function.name),
            limit: None,
        };
        self.add(&pattern, &target);
    }

    fn add(&mut self, pattern: &RoutePattern, target: &Arc<Target>) {
        let paths = match pattern.host.as_deref() {
            None | Some("*") => &mut self.any,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => {
                    let at = self.wildcard.iter().position(|(known, _)| **known == *suffix);
                    let at = at.unwrap_or_else(|| {
                        self.wildcard.push((suffix.into(), Paths::default()));
                        self.wildcard.len() - 1
                    });
                    &mut self.wildcard[at].1
                }
                None => self.exact.entry(host.into()).or_default(),
            },
        };
        if let Some(winner) = paths.insert(&pattern.path, target) {
            self.conflicts.push(Conflict {
                route: format!("{}{}", pattern.host.as_deref().unwrap_or("*"), pattern.path),
                winner,
                loser: target.function.name.clone(),
            });
        }
    }

    /// A function by its name, whatever its routes.
    pub fn named(&self, name: &FunctionName) -> Option<&Arc<Target>> {
        self.named.get(name)
    }

    /// Routes that two functions ask for.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The route of a request: `host` without port in any case, `path` as it came.
    pub fn find<'a>(&'a self, host: Option<&str>, path: &'a str) -> Option<Match<'a>> {
        if let Some(host) = host
            && let Some(found) = self.find_by_host(host, path)
        {
            return Some(found);
        }
        let any = self.any.find(path);
        match self.find_default(path) {
            // A function's own name beats an equal route of another one: nobody can take it away.
            Some(own) if any.is_none_or(|any| any.prefix.len() <= own.prefix.len()) => Some(own),
            _ => any,
        }
    }

    fn find_by_host<'a>(&'a self, host: &str, path: &'a str) -> Option<Match<'a>> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return None;
        }
        // The dot of a fully qualified name: the same host.
        let host = host.strip_suffix('.').unwrap_or(host);
        let lower;
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => {
                lower = host.to_ascii_lowercase();
                lower.as_str()
            }
            false => host,
        };
        let exact = self.exact.get(host).and_then(|paths| paths.find(path));
        exact.or_else(|| {
            let mut wildcards = self.wildcard.iter();
            wildcards.find_map(|(suffix, paths)| {
                let label = host.strip_suffix(&**suffix)?;
                if label.is_empty() { None } else { paths.find(path) }
            })
        })
    }

    fn find_default<'a>(&'a self, path: &'a str) -> Option<Match<'a>> {
        let rest = path.strip_prefix('/')?;
        let name = &rest[..rest.find('/').unwrap_or(rest.len())];
        let target = self.defaults.get(name)?;
        let strip = 1 + name.len();
        Some(Match {
            target,
            strip,
            prefix: &path[..strip],
        })
    }
}

impl Paths {
    /// Says who has the path already.
    fn insert(&mut self, path: &str, target: &Arc<Target>) -> Option<FunctionName> {
        let path = path.trim_end_matches('/');
        match self.by_path.entry(path.into()) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(target));
                self.depth = self.depth.max(path.matches('/').count());
                None
            }
            Entry::Occupied(entry) => {
                let holder = &entry.get().function;
                (!Arc::ptr_eq(holder, &target.function)).then(|| holder.name.clone())
            }
        }
    }

    fn find<'a>(&'a self, path: &'a str) -> Option<Match<'a>> {
        if self.by_path.is_empty() || !path.starts_with('/') {
            return None;
        }
        let mut found = self.at(path, 0);
        let slashes = path.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([path.len()]);
        for end in ends.take(self.depth) {
            found = self.at(path, end).or(found);
        }
        found
    }

    fn at<'a>(&'a self, path: &'a str, end: usize) -> Option<Match<'a>> {
        let prefix = &path[..end];
        let target = self.by_path.get(prefix)?;
        Some(Match {
            target,
            strip: 0,
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    use crate::ingress::tests::manifest;

    fn function(name: &str, routes: &[(Option<&str>, &str)]) -> (Arc<Function>, Vec<RoutePattern>) {
        let revision = crate::ingress::tests::revision(0, manifest());
        let (control, _) = tokio::sync::mpsc::unbounded_channel();
        let function = Function::new(FunctionName::parse(name).unwrap(), revision, control);
        let pattern = |(host, path): &(Option<&str>, &str)| RoutePattern {
            host: host.map(str::to_owned),
            path: (*path).to_owned(),
            limit: None,
        };
        (function, routes.iter().map(pattern).collect())
    }

    fn found(routes: &Routes, host: Option<&str>, path: &str) -> Option<(String, usize)> {
        let found = routes.find(host, path)?;
        assert!(path.starts_with(found.prefix));
        Some((found.target.function.name.to_string(), found.strip))
    }

    #[test]
    fn a_function_answers_below_its_name() {
        let routes = Routes::new([function("hello", &[]), function("hello-2", &[])]);
        let table = [
            ("/hello", Some(("hello", 6))),
            ("/hello/", Some(("hello", 6))),
            ("/hello/a/../b", Some(("hello", 6))),
            ("/hello-2/x", Some(("hello-2", 8))),
            ("/", None),
            ("//hello", None),
            ("/hell", None),
            ("/hello-3", None),
            ("/Hello", None),
            ("/hell%6f", None),
            ("*", None),
            ("", None),
        ];
        for (path, expected) in table {
            let expected = expected.map(|(name, strip)| (name.to_owned(), strip));
            assert_eq!(found(&routes, Some("any.example"), path), expected, "{path}");
        }
    }

    #[test]
    fn host_before_path_and_the_longest_of_each() {
        let routes = Routes::new([
            function("exact", &[(Some("img.example.com"), "/")]),
            function("exact-deep", &[(Some("img.example.com"), "/a/b/")]),
            function("wide", &[(Some("*.example.com"), "/a")]),
            function("wider", &[(Some("*.com"), "/")]),
            function("any", &[(None, "/a/b/c"), (None, "/named/deep")]),
            function("named", &[]),
        ]);
        let table = [
            ("img.example.com", "/a", "exact"),
            ("IMG.example.com", "/a/bc", "exact"),
            ("img.example.com.", "/a", "exact"),
            ("x.y.Example.com.", "/a", "wide"),
            ("img.example.com", "/a/b", "exact-deep"),
            ("img.example.com", "/a/b/c", "exact-deep"),
            ("x.y.example.com", "/a/z", "wide"),
            ("x.y.example.com", "/ab", "wider"),
            ("example.com", "/a", "wider"),
            ("other.org", "/a/b/c/d", "any"),
            ("other.org", "/named/x", "named"),
            ("other.org", "/named/deep/x", "any"),
        ];
        for (host, path, expected) in table {
            let name = found(&routes, Some(host), path).map(|(name, _)| name);
            assert_eq!(name.as_deref(), Some(expected), "{host}{path}");
        }
        assert_eq!(found(&routes, Some("other.org"), "/a/b"), None);
        assert_eq!(found(&routes, None, "/a/b/c").unwrap().0, "any");
        assert!(routes.conflicts().is_empty());
    }

    #[test]
    fn equal_routes_go_to_the_first_by_name() {
        let routes = Routes::new([
            function("b", &[(None, "/same/")]),
            function("a", &[(None, "/same"), (None, "/own")]),
            function("own", &[]),
        ]);
        assert_eq!(found(&routes, None, "/same").unwrap().0, "a");
        assert_eq!(found(&routes, None, "/own").unwrap().0, "own");
        let [conflict] = routes.conflicts() else {
            panic!("{:?}", routes.conflicts());
        };
        assert_eq!((conflict.winner.as_str(), conflict.loser.as_str()), ("a", "b"));
    }
}
