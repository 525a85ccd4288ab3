//! Which contract an executable was written for, when its manifest does not say: by its name, by what lies beside it, by
//! the environment variables that its bytes mention. Pure but for reading; never runs anything.
//!
//! The first rule that holds wins; each says why, for `funcd ls`. A wrong guess is set right by `contract` in the manifest.

use std::io;

use funcd_sandbox::spec::Image;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::image::ReadAt;
use super::manifest::Contract;

/// Where the search ends: what an executable mentions is in its own code, not in what was packed behind it.
const MOST: u64 = 256 << 20;
/// Read at once.
const CHUNK: usize = 256 << 10;

/// A contract, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guess {
    /// Which.
    pub contract: Kind,
    /// Why, for people: it follows "because".
    pub why: String,
}

/// A contract as it can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// AWS Lambda's runtime API.
    Lambda,
    /// A socket as descriptor 3.
    Http,
    /// `$PORT`.
    Port,
    /// Fn's FDKs.
    Fn,
    /// A process for each request.
    Stdio,
    /// The same by RFC 3875.
    Cgi,
    /// HTTP on stdin and stdout, one request after the other.
    Ironhttp,
}

impl Default for Guess {
    fn default() -> Guess {
        Guess {
            contract: Kind::Http,
            why: "nothing in it says otherwise".to_owned(),
        }
    }
}

impl Guess {
    fn new(contract: Kind, why: impl Into<String>) -> Guess {
        Guess {
            contract,
            why: why.into(),
        }
    }

    /// For who meets a failure that a wrong guess may have made: to be appended to what failed.
    pub fn advice(&self) -> String {
        let name = self.contract().as_str();
        let why = &self.why;
        format!(
            "; it was taken for contract {name:?}, as {why}: set `contract` in its function.toml if that is wrong"
        )
    }

    /// As the manifest has it.
    pub fn contract(&self) -> Contract {
        match self.contract {
            Kind::Lambda => Contract::Lambda { invoke: false },
            Kind::Http => Contract::Http,
            Kind::Port => Contract::Port(8080),
            Kind::Fn => Contract::Fn,
            Kind::Stdio => Contract::Stdio,
            Kind::Cgi => Contract::Cgi,
            Kind::Ironhttp => Contract::Ironhttp,
        }
    }
}

/// What an executable mentions, and what that means: the first one counts.
const MENTIONS: [(&str, Kind); 14] = [
    ("AWS_LAMBDA_RUNTIME_API", Kind::Lambda),
    ("FN_LISTENER", Kind::Fn),
    ("LISTEN_FDS", Kind::Http),
    ("LISTEN_FDNAMES", Kind::Http),
    ("FUNCD_SOCKET", Kind::Http),
    // Kubeless's runtimes.
    ("FUNC_PORT", Kind::Port),
    ("GATEWAY_INTERFACE", Kind::Cgi),
    ("REQUEST_METHOD", Kind::Cgi),
    ("QUERY_STRING", Kind::Cgi),
    ("Http_Method", Kind::Stdio),
    ("Http_Query", Kind::Stdio),
    ("Http_Path", Kind::Stdio),
    ("REQUEST_URL", Kind::Stdio),
    ("HEADER_", Kind::Stdio),
];
/// What scripts say about a port that they are told, and about a socket that they are given.
const SCRIPTS: [(&str, Kind); 15] = [
    ("import fdk", Kind::Fn),
    ("from fdk", Kind::Fn),
    // Before gunicorn, which has no port to bind where it is told `-b :$PORT` and given a socket.
    ("$PORT", Kind::Port),
    ("${PORT", Kind::Port),
    ("env.PORT", Kind::Port),
    ("\"PORT\"", Kind::Port),
    ("'PORT'", Kind::Port),
    ("{PORT}", Kind::Port),
    // Google's Functions Framework listens there, but its own script says nothing of that.
    ("functions_framework", Kind::Port),
    // They take LISTEN_FDS or a descriptor, but their own scripts say nothing of that.
    ("gunicorn", Kind::Http),
    ("uvicorn", Kind::Http),
    ("fd: 3", Kind::Http),
    ("fileno=3", Kind::Http),
    ("fromfd(3", Kind::Http),
    ("fd://3", Kind::Http),
];
/// What a script writes that answers in HTTP itself; without a socket, that is its stdout.
const STATUS_LINE: &str = "HTTP/1.1 200 OK";
/// Where its requests come from then.
const STDIN: [&str; 2] = ["STDIN", "stdin"];
/// Files that Fn and OpenFaaS put beside a function.
pub const BESIDE: [&str; 4] = ["func.yaml", "func.yml", "stack.yml", "stack.yaml"];
/// Calls of programs that serve: in the names that a dynamic program wants of its libraries.
const SERVES: [&str; 3] = ["\0accept\0", "\0accept4\0", "\0listen\0"];

/// What a script or program is for, from its name, the names of the files beside it, and its bytes.
///
/// # Errors
/// Those of `read_at`.
pub fn guess(exec: &str, beside: &[&str], image: Image, size: u64, read_at: ReadAt<'_>) -> io::Result<Guess> {
    if exec == "bootstrap" {
        return Ok(Guess::new(Kind::Lambda, "it is called `bootstrap`"));
    }
    if exec.ends_with(".cgi") {
        return Ok(Guess::new(Kind::Cgi, "its name ends in .cgi"));
    }
    let found = Found::search(size.min(MOST), read_at)?;
    let mentioned = |(text, kind): &(&str, Kind)| {
        found
            .has(text)
            .then(|| Guess::new(*kind, format!("it mentions {text}")))
    };
    if let Some(guess) = MENTIONS.iter().find_map(mentioned) {
        return Ok(guess);
    }
    if image == Image::Script
        && let Some(guess) = SCRIPTS.iter().find_map(mentioned)
    {
        return Ok(guess);
    }
    if image != Image::Script && found.has("\0PORT\0") {
        return Ok(Guess::new(Kind::Port, "it mentions PORT"));
    }
    for (file, kind) in BESIDE
        .into_iter()
        .zip([Kind::Fn, Kind::Fn, Kind::Stdio, Kind::Stdio])
    {
        if beside.contains(&file) {
            return Ok(Guess::new(kind, format!("{file} lies beside it")));
        }
    }
    let serves = SERVES.iter().any(|call| found.has(call));
    let reads = STDIN.iter().any(|stdin| found.has(stdin));
    Ok(match image {
        Image::Script if reads && found.has(STATUS_LINE) => {
            let why = format!("it is a script that reads its stdin and writes {STATUS_LINE}");
            Guess::new(Kind::Ironhttp, why)
        }
        Image::Script => Guess::new(Kind::Stdio, "it is a script that mentions no way to be called"),
        Image::Dynamic if !serves => Guess::new(Kind::Stdio, "it is a program that accepts no connections"),
        Image::Dynamic | Image::Static => Guess::default(),
    })
}

/// Which of all texts a file has.
struct Found(Vec<&'static str>);

impl Found {
    fn search(size: u64, read_at: ReadAt<'_>) -> io::Result<Found> {
        let texts: Vec<&str> = [
            MENTIONS.map(|(text, _)| text).as_slice(),
            &SCRIPTS.map(|(text, _)| text),
            &SERVES,
            &STDIN,
            &["\0PORT\0", STATUS_LINE],
        ]
        .concat();
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut missing: Vec<_> = texts
            .into_iter()
            .map(|text| (text, memmem::Finder::new(text)))
            .collect();
        let mut found = Vec::new();
        let (mut buffer, mut offset, mut kept) = (vec![0; CHUNK], 0, 0);
        while offset < size && !missing.is_empty() {
            let most = (buffer.len() - kept).min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            let read = super::image::fill(read_at, offset, &mut buffer[kept..kept + most])?;
            if read == 0 {
                break;
            }
            offset += read as u64;
            let part = &buffer[..kept + read];
            missing.retain(|(text, finder)| {
                let is_there = finder.find(part).is_some();
                found.extend(is_there.then_some(*text));
                !is_there
            });
            // One may lie across the end.
            let tail = (kept + read).saturating_sub(longest)..kept + read;
            kept = tail.len();
            buffer.copy_within(tail, 0);
        }
        Ok(Found(found))
    }

    fn has(&self, text: &str) -> bool {
        self.0.contains(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess_of(exec: &str, beside: &[&str], image: Image, bytes: &[u8]) -> (Kind, String) {
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        let Guess { contract, why } = guess(exec, beside, image, bytes.len() as u64, &mut read).unwrap();
        (contract, why)
    }

    #[test]
    fn the_first_rule_that_holds_wins_and_says_why() {
        use Image::{Dynamic, Script, Static};
        type Case<'a> = (&'a str, &'a [&'a str], Image, &'a [u8], Kind, &'a str);
        let cases: [Case<'_>; 19] = [
            ("bootstrap", &[], Static, b"LISTEN_FDS", Kind::Lambda, "bootstrap"),
            ("x.cgi", &[], Script, b"#!/bin/sh", Kind::Cgi, ".cgi"),
            (
                "x",
                &[],
                Static,
                b"..FN_LISTENERLISTEN_FDS..",
                Kind::Fn,
                "FN_LISTENER",
            ),
            ("x", &[], Static, b"..LISTEN_FDS..", Kind::Http, "LISTEN_FDS"),
            ("x", &["stack.yml"], Script, b"echo $PORT", Kind::Port, "$PORT"),
            ("x", &[], Script, b"echo $QUERY_STRING", Kind::Cgi, "QUERY_STRING"),
            ("x", &[], Script, b"echo $Http_Path", Kind::Stdio, "Http_Path"),
            (
                "x",
                &["func.yaml"],
                Static,
                b"",
                Kind::Fn,
                "func.yaml lies beside",
            ),
            ("x", &[], Script, b"#!/bin/sh\nwc", Kind::Stdio, "script"),
            (
                "x",
                &[],
                Script,
                b"<STDIN>; print 'HTTP/1.1 200 OK",
                Kind::Ironhttp,
                "writes HTTP",
            ),
            (
                "x",
                &[],
                Script,
                b"'PORT' stdin HTTP/1.1 200 OK",
                Kind::Port,
                "'PORT'",
            ),
            (
                "x",
                &[],
                Dynamic,
                b"\0read\0write\0",
                Kind::Stdio,
                "accepts no connections",
            ),
            ("x", &[], Dynamic, b"\0accept4\0", Kind::Http, "nothing in it"),
            ("x", &[], Static, b"SUPPORT", Kind::Http, "nothing in it"),
            ("x", &[], Static, b"\0PORT\0", Kind::Port, "PORT"),
            ("x", &[], Script, b"getenv('FUNC_PORT')", Kind::Port, "FUNC_PORT"),
            (
                "x",
                &[],
                Script,
                b"exec gunicorn -b :$PORT m:a",
                Kind::Port,
                "$PORT",
            ),
            (
                "x",
                &[],
                Script,
                b"from gunicorn.app import x",
                Kind::Http,
                "gunicorn",
            ),
            (
                "x",
                &[],
                Script,
                b"from functions_framework._cli",
                Kind::Port,
                "functions_framework",
            ),
        ];
        for (exec, beside, image, bytes, kind, why) in cases {
            let (found, said) = guess_of(exec, beside, image, bytes);
            assert!(
                found == kind && said.contains(why),
                "{exec} {bytes:?}: {found:?} {said}"
            );
        }
    }

    #[test]
    fn what_lies_across_two_reads_is_found() {
        for at in CHUNK - 30..CHUNK + 30 {
            let mut bytes = vec![b'.'; 2 * CHUNK];
            bytes[at..at + 11].copy_from_slice(b"FN_LISTENER");
            assert_eq!(guess_of("x", &[], Image::Static, &bytes).0, Kind::Fn, "{at}");
        }
    }
}
