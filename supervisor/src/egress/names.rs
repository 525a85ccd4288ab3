//! Who is asked what a name means: `/etc/hosts`, then name servers (RFC 1035), as `/etc/resolv.conf` or the operator says. Keeps
//! no answer. What name servers say is read by the `domain` crate and believed in nothing but addresses and how long they hold.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Name, Question};
use domain::rdata::{A, Aaaa, AllRecordData};
use domain::resolv::StubResolver;
use domain::resolv::stub::Answer as Message;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};

/// The names of this host, and where its name servers stand.
const HOSTS: &str = "/etc/hosts";
const SERVERS: &str = "/etc/resolv.conf";
/// Addresses of one name, at most.
const MOST: usize = 32;

/// What a name means, and how long that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// In the order in which they are to be tried; at least one.
    pub(super) addresses: Vec<IpAddr>,
    /// For how long, as the servers say.
    pub(super) holds: Duration,
}

/// Why a name means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    /// Nobody is called so.
    #[error("there is no host of this name")]
    Unknown,
    /// It has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No name server says anything of use.
    #[error("no name server answers ({0}): look at `egress.nameservers`, or at /etc/resolv.conf")]
    Unanswered(String),
}

/// The files that must stay readable for names to be looked up, and the folders of those that are replaced when they change.
pub(super) fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = [HOSTS, SERVERS].map(PathBuf::from).into();
    if let Ok(real) = Path::new(SERVERS).canonicalize()
        && real.starts_with("/run")
        && let Some(folder) = real.parent().filter(|folder| *folder != Path::new("/run"))
    {
        files.push(folder.to_owned());
    }
    files
}

/// Asks.
#[derive(Debug)]
pub(super) struct Names {
    /// Instead of those of the file.
    servers: Vec<SocketAddr>,
    /// The file's text as it was read last, and who asks as it says.
    current: RefCell<Option<(String, Rc<Servers>)>>,
}

#[derive(Debug)]
struct Servers {
    stub: StubResolver,
    search: Vec<String>,
    ndots: usize,
}

impl Names {
    /// `servers`: those to ask instead of those of `/etc/resolv.conf`.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Names {
        Names {
            servers,
            current: RefCell::default(),
        }
    }

    /// What a name means now.
    pub(super) async fn ask(&self, name: &str) -> Result<Answer, NameError> {
        // Read each time: it is small, and changes.
        if let Ok(text) = std::fs::read_to_string(HOSTS)
            && let Some(addresses) = of_hosts(&text, name)
        {
            return Ok(Answer {
                addresses,
                holds: Duration::MAX,
            });
        }
        let servers = self.servers();
        let mut last = NameError::Unknown;
        for full in candidates(name, &servers.search, servers.ndots) {
            match ask(&servers.stub, &full).await {
                Ok(answer) => return Ok(answer),
                // What is said of the name as it stands tells more than what is said of it below a domain.
                Err(error) if full == name || last == NameError::Unknown => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    fn servers(&self) -> Rc<Servers> {
        let text = match self.servers.is_empty() {
            true => std::fs::read_to_string(SERVERS).ok(),
            false => Some(String::new()),
        };
        let mut current = self.current.borrow_mut();
        match (&*current, text) {
            (Some((known, servers)), Some(text)) if *known == text => Rc::clone(servers),
            // It is being replaced, or can't be read any more: what it said last is better than nothing.
            (Some((_, servers)), None) => Rc::clone(servers),
            (_, text) => {
                let text = text.unwrap_or_default();
                let servers = Rc::new(Servers::new(&text, &self.servers));
                *current = Some((text, Rc::clone(&servers)));
                servers
            }
        }
    }
}

impl Servers {
    fn new(text: &str, instead: &[SocketAddr]) -> Servers {
        let mut conf = ResolvConf::new();
        // What it can't read of the file it leaves out.
        let _ = conf.parse(&mut text.as_bytes());
        if !instead.is_empty() {
            let servers = instead.iter().map(|at| ServerConf::new(*at, Transport::UdpTcp));
            conf.servers = servers.collect();
        }
        let suffixes = conf.options.search.as_slice().iter();
        let search = suffixes.map(|suffix| suffix.to_string());
        let search = search
            .filter(|suffix| !suffix.is_empty() && suffix != ".")
            .collect();
        let ndots = conf.options.ndots.max(1);
        conf.options.timeout = conf.options.timeout.min(Duration::from_secs(5));
        conf.finalize();
        Servers {
            search,
            ndots,
            stub: StubResolver::from_conf(conf),
        }
    }
}

/// The names to ask for, in order (resolv.conf(5), `search` and `ndots`).
fn candidates(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    let below = search.iter().map(|suffix| format!("{name}.{suffix}"));
    match name.matches('.').count() >= ndots {
        true => std::iter::once(name.to_owned()).chain(below).collect(),
        false => below.chain([name.to_owned()]).collect(),
    }
}

/// What `/etc/hosts` (hosts(5)) says of a name.
fn of_hosts(text: &str, name: &str) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace();
        if let Some(Ok(address)) = words.next().map(str::parse)
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !found.contains(&address)
            && found.len() < MOST
        {
            found.push(address);
        }
    }
    (!found.is_empty()).then_some(found)
}

async fn ask(stub: &StubResolver, name: &str) -> Result<Answer, NameError> {
    // It was checked to be a name when the manifest was read; a domain behind it may make it too long.
    let name: Name<Vec<u8>> = name.parse().map_err(|_| NameError::Unknown)?;
    let question = |rtype| Question::new_in(name.clone(), rtype);
    let (v6, v4) = tokio::join!(stub.query(question(Rtype::AAAA)), stub.query(question(Rtype::A)));
    join(read(v6), read(v4))
}

/// The addresses of both kinds, by turns, so that a network which does not carry one of them costs one try each.
fn join(v6: Result<Answer, NameError>, v4: Result<Answer, NameError>) -> Result<Answer, NameError> {
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => {
            let holds = v6.holds.min(v4.holds);
            let (mut v6, mut v4) = (v6.addresses.into_iter(), v4.addresses.into_iter());
            let mut addresses = Vec::new();
            loop {
                match (v6.next(), v4.next()) {
                    (None, None) => break,
                    both => addresses.extend([both.0, both.1].into_iter().flatten()),
                }
            }
            Ok(Answer { addresses, holds })
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) => Ok(answer),
        (Err(error @ NameError::Unanswered(_)), Err(_)) | (Err(_), Err(error)) => Err(error),
    }
}

fn read(message: Result<Message, io::Error>) -> Result<Answer, NameError> {
    let message = message.map_err(|error| NameError::Unanswered(error.to_string()))?;
    let message = message.into_message();
    let rcode = message.header().rcode();
    if rcode == Rcode::NXDOMAIN {
        return Err(NameError::Unknown);
    } else if rcode != Rcode::NOERROR {
        return Err(NameError::Unanswered(format!("one says {rcode}")));
    }
    let broken = |_| NameError::Unanswered("one sends what is no answer".to_owned());
    let Some(canonical) = message.canonical_name() else {
        return Err(NameError::Unanswered(
            "one sends names that lead to themselves".to_owned(),
        ));
    };
    let (mut addresses, mut holds) = (Vec::new(), Duration::MAX);
    for record in message
        .answer()
        .map_err(&broken)?
        .limit_to_in::<AllRecordData<_, _>>()
    {
        let record = record.map_err(&broken)?;
        let address: Option<IpAddr> = match record.data() {
            AllRecordData::A(a) if *record.owner() == canonical => Some(A::addr(a).into()),
            AllRecordData::Aaaa(aaaa) if *record.owner() == canonical => Some(Aaaa::addr(aaaa).into()),
            AllRecordData::Cname(_) => None,
            _ => continue,
        };
        holds = holds.min(record.ttl().into_duration());
        addresses.extend(address.filter(|_| addresses.len() < MOST));
    }
    match addresses.is_empty() {
        true => Err(NameError::NoAddress),
        false => Ok(Answer { addresses, holds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_asked_first_and_by_whole_names() {
        let text =
            "127.0.0.1 localhost\n# 10.0.0.9 db\n10.0.0.5\tdb.internal DB # the database\n::1 db\nx db\n";
        let found = of_hosts(text, "db").unwrap();
        assert_eq!(found, ["10.0.0.5", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(of_hosts(text, "db.internal").unwrap().len(), 1);
        assert_eq!(of_hosts(text, "internal"), None);
    }

    #[test]
    fn short_names_are_looked_for_below_the_domains_first() {
        let search = ["a.test".to_owned(), "b.test".to_owned()];
        assert_eq!(candidates("db", &search, 1), ["db.a.test", "db.b.test", "db"]);
        assert_eq!(
            candidates("db.x", &search, 1),
            ["db.x", "db.x.a.test", "db.x.b.test"]
        );
        assert_eq!(candidates("db.x", &search, 2)[0], "db.x.a.test");
        assert_eq!(candidates("db", &[], 1), ["db"]);
    }

    #[test]
    fn both_kinds_of_addresses_are_tried_by_turns() {
        let answer = |addresses: &[&str], seconds| {
            Ok(Answer {
                addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
                holds: Duration::from_secs(seconds),
            })
        };
        let both = join(answer(&["::1", "::2"], 5), answer(&["10.0.0.1"], 3));
        assert_eq!(both, answer(&["::1", "10.0.0.1", "::2"], 3));
        assert_eq!(
            join(Err(NameError::NoAddress), answer(&["10.0.0.1"], 3)),
            answer(&["10.0.0.1"], 3)
        );
        let silent = || Err(NameError::Unanswered("x".to_owned()));
        assert_eq!(join(silent(), Err(NameError::NoAddress)), silent());
        assert_eq!(join(Err(NameError::NoAddress), silent()), silent());
    }

    #[test]
    fn the_file_of_the_system_names_servers_and_domains() {
        let servers = Servers::new(
            "nameserver 10.0.0.2\nsearch a.test b.test\noptions ndots:2\nnonsense\n",
            &[],
        );
        assert_eq!((servers.search.len(), servers.ndots), (2, 2));
        assert_eq!(servers.search[0].trim_end_matches('.'), "a.test");
        let none = Servers::new("", &[]);
        assert!(none.search.is_empty());
    }
}
