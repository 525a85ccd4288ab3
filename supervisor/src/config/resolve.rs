//! From the layers as typed to the configuration as used: all defaults and all ranges, in one place. Reads no file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::file::ConfigFile;
use super::layers::{self, Typed};
use super::{ClientBounds, Config, ConfigError, EgressSettings, Environment, Loaded, Origin, show};
use crate::catalog::manifest::Defaults;
use crate::catalog::manifest_check;
use crate::egress::Allowed;
use crate::typed::units::{Cidr, Span};
use crate::typed::{self, Found, Layer, Place, Spanned, TypedError};

/// Unix socket paths end at 108 bytes, a NUL included (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// The launcher hands the configuration to the supervisor in one message of 64 KiB, beside other things.
const MAX_JSON: usize = 48 * 1024;
/// Not given to any system or container range by systemd's table (UIDS-GIDS): 1879048192 to 2147352575 is free.
const UID_FIRST: u64 = 1_900_000_000;

/// Checks all values.
///
/// # Errors
/// [`ConfigError`] at the first mistake.
pub(super) fn resolve(read: Typed, environment: &Environment) -> Result<Loaded, ConfigError> {
    let mut keys = Keys {
        layers: &read.layers,
        environment,
        origins: BTreeMap::new(),
    };
    let homes = Homes::of(environment);
    let state = keys.path("state", |f| f.state.as_ref(), homes.state)?;
    let run = keys.path("run", |f| f.run.as_ref(), homes.run)?;
    let none = |key, flag| {
        ConfigError::Other(format!(
            "there is no {key} folder: neither HOME nor the XDG variables are set; use {flag} DIR"
        ))
    };
    let state = state.ok_or_else(|| none("state", "--state"))?;
    let run = run.unwrap_or_else(|| state.join("run"));
    let below_state = |name| Some(state.join(name));
    let functions = keys.path("functions", |f| f.functions.as_ref(), below_state("functions"))?;
    let admin = keys.path("admin", |f| f.admin.as_ref(), Some(run.join("admin.sock")))?;
    let admin = admin.expect("it has a default");
    let usual = homes.secrets.unwrap_or_else(|| state.join("secrets"));
    let secrets = keys.path("secrets", |f| f.secrets.as_ref(), Some(usual))?;
    let defaults = keys.defaults()?;
    let config = Config {
        functions: functions.expect("it has a default"),
        listen: keys.listen()?,
        admin: short_enough(admin)?,
        admin_listen: keys.admin_listen()?,
        workers: to_usize(keys.number(
            "workers",
            |f| f.workers.as_ref(),
            1..=1024,
            environment.cores as u64,
        )?),
        trusted: keys.trusted()?,
        user: keys.user()?,
        uid_first: to_u32(keys.number(
            "uid_first",
            |f| f.uid_first.as_ref(),
            1000..=4_000_000_000,
            UID_FIRST,
        )?),
        uid_count: to_u32(keys.number("uid_count", |f| f.uid_count.as_ref(), 1..=1 << 24, 1 << 16)?),
        read_roots: keys.roots(
            "read_roots",
            |f| f.read_roots.as_ref(),
            &["/usr", "/opt", "/srv", "/etc/ssl"],
            &state,
        )?,
        write_roots: keys.roots("write_roots", |f| f.write_roots.as_ref(), &["/srv"], &state)?,
        secrets: secrets.expect("it has a default"),
        degraded: keys.degraded()?,
        max_instances: to_usize(keys.number(
            "max_instances",
            |f| f.max_instances.as_ref(),
            1..=1 << 20,
            4096,
        )?),
        brownout: keys
            .find("brownout", |f| f.brownout.as_ref())
            .is_none_or(|found| *found.value),
        journal: keys
            .find("journal", |f| f.journal.as_ref())
            .is_some_and(|found| *found.value),
        standbys: to_usize(keys.number("standbys", |f| f.standbys.as_ref(), 0..=64, 8)?),
        client: keys.client()?,
        egress: keys.egress()?,
        rescan: keys.span("rescan", |f| f.rescan.as_ref(), MILLI..=HOUR, secs(30))?,
        drain: keys.span("drain", |f| f.drain.as_ref(), Duration::ZERO..=HOUR, secs(30))?,
        defaults: toml::to_string(&defaults).expect("a table that was read can be written"),
        state,
        run,
    };
    let json = serde_json::to_vec(&config).map_or(0, |json| json.len());
    if json > MAX_JSON {
        return Err(ConfigError::Other(format!(
            "the configuration has {json} bytes as JSON, at most {MAX_JSON} are handed to the supervisor: shorten [defaults]"
        )));
    }
    let rows = show::rows(&config, &defaults, &keys.origins);
    Ok(Loaded {
        config,
        rows,
        files: read.files,
        warnings: read.warnings,
    })
}

/// The default folders of this user.
struct Homes {
    state: Option<(PathBuf, Origin)>,
    run: Option<(PathBuf, Origin)>,
    secrets: Option<PathBuf>,
}

impl Homes {
    fn of(environment: &Environment) -> Homes {
        // Set by systemd (StateDirectory=, RuntimeDirectory=); a list when there are several, ours is the first.
        let given = |name: &str| {
            let value = environment.vars.get(name)?;
            let path = PathBuf::from(value.split(':').next()?);
            path.is_absolute().then(|| (path, Origin::Env(name.to_owned())))
        };
        let plain = |path: PathBuf| (path, Origin::Default);
        let (state, run) = if environment.euid == 0 {
            (Some("/var/lib/funcd".into()), Some("/run/funcd".into()))
        } else {
            let runtime = environment.vars.get("XDG_RUNTIME_DIR").map(PathBuf::from);
            let state = layers::xdg(environment, "XDG_STATE_HOME", ".local/state");
            let below = |folder: PathBuf| folder.join("funcd");
            (
                state.map(below),
                runtime.filter(|path| path.is_absolute()).map(below),
            )
        };
        let secrets = match environment.euid {
            0 => Some("/etc/funcd/secrets".into()),
            _ => {
                layers::xdg(environment, "XDG_CONFIG_HOME", ".config").map(|home| home.join("funcd/secrets"))
            }
        };
        Homes {
            secrets,
            state: given("STATE_DIRECTORY").or(state.map(plain)),
            run: given("RUNTIME_DIRECTORY").or(run.map(plain)),
        }
    }
}

/// What a default can be: known here, or where it was found.
trait DefaultPath {
    fn with_origin(self) -> Option<(PathBuf, Origin)>;
}

impl DefaultPath for Option<(PathBuf, Origin)> {
    fn with_origin(self) -> Option<(PathBuf, Origin)> {
        self
    }
}

impl DefaultPath for Option<PathBuf> {
    fn with_origin(self) -> Option<(PathBuf, Origin)> {
        self.map(|path| (path, Origin::Default))
    }
}

/// Picks values, and writes down where each was set.
struct Keys<'a> {
    layers: &'a [Layer<ConfigFile>],
    environment: &'a Environment,
    origins: BTreeMap<String, Origin>,
}

type Get<'a, T> = fn(&'a ConfigFile) -> Option<&'a Spanned<T>>;
type Texts = Vec<Spanned<String>>;

impl<'a> Keys<'a> {
    fn find<T>(&mut self, key: &str, get: Get<'a, T>) -> Option<Found<'a, T>> {
        let found = typed::pick(self.layers, get)?;
        let origin = Origin::of(&found.source.place, found.source.position(found.span.start));
        self.origins.insert(key.to_owned(), origin);
        Some(found)
    }

    fn number(
        &mut self,
        key: &str,
        get: Get<'a, i64>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, TypedError> {
        self.find(key, get);
        typed::number(self.layers, get, range, default)
    }

    fn span(
        &mut self,
        key: &str,
        get: Get<'a, Span>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Result<Duration, TypedError> {
        self.find(key, get);
        typed::span(self.layers, get, range, default)
    }

    fn path(
        &mut self,
        key: &str,
        get: Get<'a, String>,
        default: impl DefaultPath,
    ) -> Result<Option<PathBuf>, TypedError> {
        match (self.find(key, get), default.with_origin()) {
            (Some(found), _) => self.absolute(&found).map(Some),
            (None, Some((path, origin))) => {
                self.origins.insert(key.to_owned(), origin);
                Ok(Some(path))
            }
            (None, None) => Ok(None),
        }
    }

    /// Relative paths of flags and variables begin in the working directory; in a file they would depend on who reads it.
    fn absolute(&self, found: &Found<'_, String>) -> Result<PathBuf, TypedError> {
        let path = PathBuf::from(found.value);
        if found.value.is_empty() || found.value.contains('\0') {
            return Err(found.refuse("this is not a path", ""));
        }
        match found.source.place {
            Place::File(_) if path.is_relative() => Err(found.refuse(
                format!("{:?} is a relative path", found.value),
                "write an absolute one",
            )),
            Place::File(_) | Place::Env(_) | Place::Flag(_) => Ok(self.environment.cwd.join(path)),
        }
    }

    fn listen(&mut self) -> Result<Vec<SocketAddr>, TypedError> {
        let Some(found) = self.find("listen", |f| f.listen.as_ref()) else {
            return Ok(vec![SocketAddr::from(([127, 0, 0, 1], 8080))]);
        };
        let mut addresses = Vec::new();
        for part in found.value {
            let part = found.part(part);
            let address = socket_address(&part)?;
            if address.port() != 0 && addresses.contains(&address) {
                return Err(part.refuse(format!("{address} is there twice"), ""));
            }
            addresses.push(address);
        }
        match addresses.len() {
            1..=64 => Ok(addresses),
            0 => Err(found.refuse(
                "`listen` is empty: nobody could call",
                "write for example [\"127.0.0.1:8080\"]",
            )),
            _ => Err(found.refuse("more than 64 addresses", "")),
        }
    }

    fn admin_listen(&mut self) -> Result<Option<SocketAddr>, TypedError> {
        let Some(found) = self.find("admin_listen", |f| f.admin_listen.as_ref()) else {
            return Ok(None);
        };
        let address = socket_address(&found)?;
        if !address.ip().is_loopback() {
            let message = format!("{address} is not a loopback address: metrics have no access control");
            return Err(found.refuse(message, "use 127.0.0.1 or [::1]"));
        }
        Ok(Some(address))
    }

    fn trusted(&mut self) -> Result<Vec<String>, TypedError> {
        let Some(found) = self.find("trusted", |f| f.trusted.as_ref()) else {
            return Ok(Vec::new());
        };
        let networks = found.value.iter().map(|part| {
            let network = Cidr::parse(part.get_ref());
            let network = network.map_err(|why| found.part(part).refuse(why, ""))?;
            Ok(network.to_string())
        });
        networks.collect()
    }

    fn user(&mut self) -> Result<String, TypedError> {
        let Some(found) = self.find("user", |f| f.user.as_ref()) else {
            return Ok("funcd".into());
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let name = found.value;
        if name.is_empty() || name.len() > 32 || !name.chars().all(good) || name.starts_with('-') {
            return Err(found.refuse(format!("{name:?} is not a user name"), ""));
        }
        if name == "root" {
            return Err(found.refuse("the supervisor never runs as root", "name an unprivileged user"));
        }
        Ok(name.clone())
    }

    fn roots(
        &mut self,
        key: &str,
        get: Get<'a, Texts>,
        default: &[&str],
        state: &std::path::Path,
    ) -> Result<Vec<PathBuf>, TypedError> {
        let Some(found) = self.find(key, get) else {
            let volumes = state.join("volumes");
            return Ok(default.iter().map(PathBuf::from).chain([volumes]).collect());
        };
        let parts = found.value.iter().map(|part| self.absolute(&found.part(part)));
        parts.collect()
    }

    fn degraded(&mut self) -> Result<Vec<funcd_sandbox::property::Property>, TypedError> {
        match self.find("degraded", |f| f.degraded.as_ref()) {
            None => Ok(Vec::new()),
            Some(found) => manifest_check::properties(&found),
        }
    }

    fn client(&mut self) -> Result<ClientBounds, TypedError> {
        self.find("client.head_bytes", |f| f.client.head_bytes.as_ref());
        Ok(ClientBounds {
            head_timeout: self.span(
                "client.head_timeout",
                |f| f.client.head_timeout.as_ref(),
                MILLI..=HOUR,
                secs(10),
            )?,
            body_idle: self.span(
                "client.body_idle",
                |f| f.client.body_idle.as_ref(),
                MILLI..=24 * HOUR,
                secs(30),
            )?,
            idle: self.span(
                "client.idle",
                |f| f.client.idle.as_ref(),
                MILLI..=24 * HOUR,
                secs(60),
            )?,
            // hyper's own buffer is never smaller than 8 KiB.
            head_bytes: to_usize(typed::size(
                self.layers,
                |f| f.client.head_bytes.as_ref(),
                8 << 10..=1 << 20,
                64 << 10,
            )?),
            connections: to_usize(self.number(
                "client.connections",
                |f| f.client.connections.as_ref(),
                1..=1 << 20,
                10_000,
            )?),
        })
    }

    fn egress(&mut self) -> Result<EgressSettings, TypedError> {
        let mut settings = EgressSettings::default();
        if let Some(found) = self.find("egress.allow", |f| f.egress.allow.as_ref()) {
            for part in found.value {
                Allowed::parse(part.get_ref()).map_err(|why| found.part(part).refuse(why, ""))?;
                settings.allow.push(part.get_ref().clone());
            }
        }
        if let Some(found) = self.find("egress.nameservers", |f| f.egress.nameservers.as_ref()) {
            for part in found.value {
                let part = found.part(part);
                let alone = part.value.parse().map(|ip: IpAddr| SocketAddr::from((ip, 53)));
                let server = alone.or_else(|_| part.value.parse());
                let label = "write for example \"10.0.0.2\" or \"10.0.0.2:53\"";
                let server = server.map_err(|_| {
                    part.refuse(format!("{:?} is not a name server's address", part.value), label)
                })?;
                settings.nameservers.push(server);
            }
        }
        if let Some(found) = self.find("egress.roots", |f| f.egress.roots.as_ref()) {
            let files = found.value.iter().map(|part| self.absolute(&found.part(part)));
            settings.roots = files.collect::<Result<_, _>>()?;
        }
        Ok(settings)
    }

    /// `[defaults]` of all files, merged key by key, and checked as a manifest.
    fn defaults(&mut self) -> Result<toml::Table, TypedError> {
        let mut sections = Vec::new();
        let mut merged = toml::Table::new();
        for layer in self.layers.iter().rev() {
            let Some(section) = &layer.typed.defaults else {
                continue;
            };
            sections.insert(
                0,
                Layer {
                    source: layer.source.clone(),
                    typed: section.clone(),
                },
            );
            let table: toml::Table = toml::from_str(&layer.source.text).expect("it was read before");
            if let Some(toml::Value::Table(section)) = table.get("defaults") {
                merge(&mut merged, section);
            }
            let spans = DeTable::parse(&layer.source.text).expect("it was read before");
            if let Some(section) = spans.get_ref().get("defaults") {
                self.leaves("defaults", section, layer);
            }
        }
        Defaults::of_layers(sections)?;
        Ok(merged)
    }

    fn leaves(&mut self, key: &str, value: &Spanned<DeValue<'_>>, layer: &Layer<ConfigFile>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (name, value) in table {
                    self.leaves(&format!("{key}.{}", name.get_ref()), value, layer);
                }
            }
            _ => {
                let origin = Origin::of(&layer.source.place, layer.source.position(value.span().start));
                self.origins.insert(key.to_owned(), origin);
            }
        }
    }
}

/// Lays `over` over `under`, table by table.
fn merge(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

fn socket_address(found: &Found<'_, String>) -> Result<SocketAddr, TypedError> {
    found.value.parse().map_err(|_| {
        let message = format!("{:?} is not an address with a port", found.value);
        found.refuse(message, "write for example \"127.0.0.1:8080\" or \"[::]:8080\"")
    })
}

fn short_enough(admin: PathBuf) -> Result<PathBuf, ConfigError> {
    let length = admin.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(ConfigError::Other(format!(
            "admin: {} has {length} bytes, and a socket's path at most {MAX_SOCKET_PATH}: use --admin or --run with a shorter one",
            admin.display()
        )));
    }
    Ok(admin)
}

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("the range was checked")
}

fn to_u32(n: u64) -> u32 {
    u32::try_from(n).expect("the range was checked")
}
