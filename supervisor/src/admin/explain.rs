//! What confines a function, item by item, and where each comes from: `funcd explain-sandbox`. Made from the very spec that the
//! launcher is asked with; shows names of variables and secrets, and never a value.

use std::path::Path;

use funcd_sandbox::property::Property;
use funcd_sandbox::rlimit;
use funcd_sandbox::seccomp::{self, Answer};
use funcd_sandbox::spec::{CREDENTIALS, EXCHANGE, Image, Socket, Spec, System};
use funcd_sandbox::system;
use serde::{Deserialize, Serialize};

use super::view::Doctor;
use crate::catalog::binding::Binding;
use crate::catalog::manifest::Defaults;
use crate::catalog::manifest_file::ManifestFile;
use crate::catalog::view::{Asks, View};
use crate::config::Config;
use crate::function::handle::Revision;
use crate::function::start;
use crate::name::FunctionName;
use crate::typed::units::Size;
use crate::typed::{Layer, Place, Source, Spanned, pick};

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The function.
    pub function: String,
    /// Its revision; none for a file that was never deployed.
    pub revision: Option<String>,
    /// Everything, in order.
    pub items: Vec<Item>,
    /// The system calls that are allowed, or answered otherwise than by `EPERM`.
    pub calls: Vec<Call>,
}

/// One thing that it has, or is kept from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// `files`, `network`, `limits`, `identity`, `environment`, `calls` or `properties`.
    pub section: String,
    /// What.
    pub name: String,
    /// How.
    pub value: String,
    /// Where it comes from.
    pub from: String,
}

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// `allowed`, `checked` (some arguments are) or `absent` (as if the kernel had none).
    pub answer: String,
}

const PROFILE: &str = "default profile";

/// What confines a revision of a function on a host.
pub fn explain(
    name: &FunctionName,
    revision: &Revision,
    config: &Config,
    doctor: &Doctor,
    deployed: bool,
) -> Explanation {
    let spec = start::spec(name, revision);
    let view = revision.wanted.view(revision.manifest.system);
    let origins = Origins::of(revision, config);
    let mut items = Items::default();
    items.files(&spec, &view, &revision.wanted.asks, &origins);
    items.network(&spec, &revision.manifest.bindings, &origins);
    items.limits(&spec, doctor, &origins);
    items.identity(config, doctor);
    items.environment(&spec, &origins);
    items.properties(doctor, &spec);
    let calls: Vec<Call> = seccomp::calls()
        .map(|(name, answer)| call(name, answer))
        .collect();
    let count = |answer: &str| {
        calls
            .iter()
            .filter(|call| call.answer == answer)
            .count()
            .to_string()
    };
    items.add("calls", "allowed", count("allowed"), PROFILE);
    items.add("calls", "allowed with some arguments", count("checked"), PROFILE);
    items.add(
        "calls",
        "answered ENOSYS",
        format!("{}, and all newer than funcd", count("absent")),
        PROFILE,
    );
    items.add("calls", "all others", "EPERM", PROFILE);
    items.add("calls", "of other architectures", "killed by SIGSYS", PROFILE);
    Explanation {
        function: name.to_string(),
        revision: deployed.then(|| revision.id.to_string()),
        items: items.0,
        calls,
    }
}

fn call(name: &str, answer: Answer) -> Call {
    let answer = match answer {
        Answer::Allowed => "allowed",
        Answer::Checked => "checked",
        Answer::Absent => "absent",
    };
    Call {
        name: name.to_owned(),
        answer: answer.to_owned(),
    }
}

#[derive(Default)]
struct Items(Vec<Item>);

impl Items {
    fn add(
        &mut self,
        section: &str,
        name: impl Into<String>,
        value: impl Into<String>,
        from: impl Into<String>,
    ) {
        self.0.push(Item {
            section: section.to_owned(),
            name: name.into(),
            value: value.into(),
            from: from.into(),
        });
    }

    fn files(&mut self, spec: &Spec, view: &View, asks: &Asks, origins: &Origins) {
        const SEEN: &str = "read, execute (bind: ro, nosuid, nodev)";
        let mut file =
            |name: &Path, value: &str, from: &str| self.add("files", name.display().to_string(), value, from);
        let tmp = Size(spec.limits.tmp_bytes);
        file("/".as_ref(), "read (tmpfs: ro, nosuid, noexec)", PROFILE);
        file(
            "/tmp".as_ref(),
            &format!("read, write, at most {tmp} (tmpfs: nosuid, nodev, noexec)"),
            PROFILE,
        );
        file(
            "/dev".as_ref(),
            "null, zero, full, random, urandom; shm is /tmp",
            PROFILE,
        );
        if spec.has_own_network() {
            let loopback = "read: localhost is 127.0.0.1 and ::1, nothing else";
            file("/etc/hosts".as_ref(), loopback, "for a network of its own");
        }
        if spec.image != Image::Static {
            file(
                "/proc".as_ref(),
                "its own processes only (proc: ro, subset=pid)",
                "for dynamic executables and scripts",
            );
        }
        if spec.image == Image::Script {
            file(
                Path::new("/function").join(&spec.function).as_ref(),
                SEEN,
                "the executable, for its interpreter",
            );
        }
        match (&spec.system, &view.whole) {
            (System::Whole, why) => {
                let why = why.clone().unwrap_or_default();
                let from = match asks {
                    Asks::Nothing => why,
                    _ => format!("{why}: all of the system"),
                };
                system::known().iter().for_each(|path| file(path, SEEN, &from));
            }
            (System::Parts { .. }, _) => {
                view.parts
                    .iter()
                    .for_each(|part| file(&part.path, SEEN, &part.why));
                for (path, target) in &view.links {
                    file(
                        path,
                        &format!("symlink to {}", target.display()),
                        "leads to what is above",
                    );
                }
            }
        }
        let read = origins.at(|f| f.sandbox.read.as_ref());
        spec.read.iter().for_each(|path| file(path, SEEN, &read));
        let write = origins.at(|f| f.sandbox.write.as_ref());
        let writable = "read, write (bind: nosuid, nodev, noexec)";
        spec.write.iter().for_each(|path| file(path, writable, &write));
        let secrets = origins.at(|f| f.secrets.as_ref());
        for name in &spec.secrets {
            let path = Path::new(CREDENTIALS).join(name);
            file(
                &path,
                "read (ramfs of this instance: ro, nosuid, nodev, noexec)",
                &secrets,
            );
        }
    }

    fn network(&mut self, spec: &Spec, bindings: &[Binding], origins: &Origins) {
        let contract = origins.at(|f| f.contract.as_ref());
        let mut reachable = Vec::new();
        match spec.socket {
            Socket::Unix => self.add("network", "descriptor 3", "a listening Unix socket", contract),
            Socket::None => {
                // Those of the bindings come after its own.
                let own = spec.ports.len().saturating_sub(bindings.len());
                for port in &spec.ports[..own] {
                    let what = format!("port {port}");
                    let how = "where it asks funcd for its requests, in a network of its own";
                    self.add("network", what, how, contract.clone());
                }
                reachable.extend(["that port", "itself"]);
            }
            Socket::Pipes => {
                let how = "pipes: requests and answers";
                self.add("network", "descriptors 0 and 1", how, contract);
            }
            Socket::Directory => {
                self.add("network", EXCHANGE, "where it binds a Unix socket", contract);
            }
            Socket::Port(port) => {
                let how = "listens itself, in a network of its own";
                self.add("network", format!("port {port}"), how, contract);
                reachable.push("itself");
            }
        }
        for binding in bindings {
            let name = format!("binding {}", binding.name);
            let value = format!(
                "127.0.0.1:{} leads to {}, and nowhere else",
                binding.port, binding.to
            );
            self.add("network", name, value, origins.binding(&binding.name));
        }
        if !bindings.is_empty() {
            reachable.push("its bindings");
            if !reachable.contains(&"itself") {
                reachable.push("itself");
            }
        }
        let reachable = match reachable.is_empty() {
            true => "nothing, not even 127.0.0.1".to_owned(),
            false => format!(
                "{}, over 127.0.0.1",
                reachable
                    .join(", and ")
                    .replacen(", and ", ", ", reachable.len().saturating_sub(2))
            ),
        };
        self.add("network", "reachable", reachable, PROFILE);
        self.add(
            "network",
            "sockets",
            "UNIX, INET and INET6; no raw ones, no netlink, no fast open",
            PROFILE,
        );
    }

    fn limits(&mut self, spec: &Spec, doctor: &Doctor, origins: &Origins) {
        let limits = &spec.limits;
        // What is asked for and not enforced must not read like what is.
        let kept = |property, value: String| match is_kept(doctor, property) {
            true => value,
            false => format!("{value}: NOT ENFORCED, `{property}` is missing"),
        };
        let mut limit = |name: &str, value: String, from: String| self.add("limits", name, value, from);
        let memory = Size(limits.memory_bytes).to_string();
        limit(
            "memory",
            kept(Property::MemoryLimit, format!("{memory}, swap included")),
            origins.at(|f| f.limits.memory.as_ref()),
        );
        let cores = f64::from(limits.cpu_millis) / 1000.0;
        limit(
            "cpu",
            kept(Property::CpuLimit, format!("{cores} cores")),
            origins.at(|f| f.limits.cpu.as_ref()),
        );
        let (share, from) = match limits.cpu_idle {
            true => (
                "idle: only what no other function wants, as `request.priority` is bulk",
                origins.at(|f| f.request.priority.as_ref()),
            ),
            false => ("as every other function", "default".to_owned()),
        };
        limit("cpu share", share.to_owned(), from);
        limit(
            "pids",
            kept(
                Property::PidLimit,
                format!("{} processes and threads", limits.pids),
            ),
            origins.at(|f| f.limits.pids.as_ref()),
        );
        limit(
            "tmp",
            Size(limits.tmp_bytes).to_string(),
            origins.at(|f| f.limits.tmp.as_ref()),
        );
        for (resource, value) in rlimit::limits(limits) {
            let name = rlimit::name(resource);
            let from = match name {
                "RLIMIT_NOFILE" => origins.at(|f| f.limits.files.as_ref()),
                "RLIMIT_FSIZE" => origins.at(|f| f.limits.tmp.as_ref()),
                "RLIMIT_NPROC" => "default profile, where no cgroup counts".to_owned(),
                _ => PROFILE.to_owned(),
            };
            limit(name, value.to_string(), from);
        }
    }

    fn identity(&mut self, config: &Config, doctor: &Doctor) {
        let last = config.uid_first.saturating_add(config.uid_count - 1);
        let (uids, from) = match is_kept(doctor, Property::Privileges) {
            true => (
                format!("one of {} to {last}, of this function alone", config.uid_first),
                "configuration: uid_first, uid_count",
            ),
            false => (
                "NOT ITS OWN: those that the launcher runs as, as all functions".to_owned(),
                "funcd doctor: `privileges` is missing",
            ),
        };
        self.add("identity", "uid, gid", uids, from);
        self.add("identity", "groups", "none", PROFILE);
        self.add(
            "identity",
            "capabilities",
            "none, and none can be gained (no_new_privs, securebits locked)",
            PROFILE,
        );
        self.add("identity", "keyring", "a new one", PROFILE);
    }

    fn environment(&mut self, spec: &Spec, origins: &Origins) {
        for (name, _) in &spec.env {
            let from = match name.as_str() {
                "CREDENTIALS_DIRECTORY" => "secrets are given".to_owned(),
                _ => origins.variable(name).unwrap_or_else(|| "funcd".to_owned()),
            };
            self.add("environment", name, "set", from);
        }
        if spec.socket == Socket::Unix {
            self.add("environment", "LISTEN_PID", "set", "funcd");
        }
    }

    fn properties(&mut self, doctor: &Doctor, spec: &Spec) {
        for property in &doctor.properties {
            let accepted = property.accepted || spec.degraded.contains(&property.name);
            let value = match (&property.mechanism, accepted) {
                (Some(mechanism), _) => mechanism.clone(),
                (None, true) => "MISSING, and accepted".to_owned(),
                (None, false) => "MISSING: starts are refused".to_owned(),
            };
            let from = match spec.degraded.contains(&property.name) {
                true => "funcd doctor; the manifest accepts that it may be missing",
                false => "funcd doctor",
            };
            self.add(
                "properties",
                format!("{} {}", property.code, property.name),
                value,
                from,
            );
        }
    }
}

fn is_kept(doctor: &Doctor, property: Property) -> bool {
    let found = doctor.properties.iter().find(|view| view.name == property);
    found.is_some_and(|view| view.kept)
}

/// Where the values of a manifest stand.
struct Origins(Vec<Layer<ManifestFile>>);

impl Origins {
    fn of(revision: &Revision, config: &Config) -> Origins {
        let own = Layer::parse(Source::file("function.toml", &revision.manifest_text)).ok();
        let defaults = Defaults::parse(&config.defaults).map(|defaults| defaults.layers().to_vec());
        Origins(own.into_iter().chain(defaults.unwrap_or_default()).collect())
    }

    fn at<'a, T: 'a>(&'a self, get: impl Fn(&'a ManifestFile) -> Option<&'a Spanned<T>>) -> String {
        match pick(&self.0, get) {
            Some(found) => place(found.source, found.span.start),
            None => "default".to_owned(),
        }
    }

    fn binding(&self, name: &str) -> String {
        let found = self.0.iter().find_map(|layer| {
            let (key, _) = layer
                .typed
                .bindings
                .iter()
                .find(|(key, _)| key.get_ref() == name)?;
            Some(place(&layer.source, key.span().start))
        });
        found.unwrap_or_else(|| "default".to_owned())
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|layer| {
            let (key, _) = layer.typed.env.iter().find(|(key, _)| key.get_ref() == name)?;
            Some(place(&layer.source, key.span().start))
        })
    }
}

fn place(source: &Source, at: usize) -> String {
    let (line, _) = source.position(at);
    match &source.place {
        Place::File(path) => format!("{} line {line}", path.display()),
        Place::Env(name) => format!("environment {name}"),
        Place::Flag(name) => format!("flag {name}"),
    }
}
