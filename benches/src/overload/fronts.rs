//! The peers of `overload`: HAProxy and nginx before functions that were started by hand, each told how many requests at once those
//! bear. Each has a configuration and a folder of its own, and ends with its guard.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

use crate::client::Target;
use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::nginx::free_address;
use crate::quiet::cores;

/// They start in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Guard,
    _folder: TempDir,
}

impl Front {
    /// HAProxy: `places` requests at once for each of `sockets`; who finds none waits in its queue for `wait` at most.
    ///
    /// # Errors
    /// One that ends or does not answer; what it said is in the message.
    pub(crate) fn haproxy(
        program: &Path,
        sockets: &[PathBuf],
        places: usize,
        wait: Duration,
    ) -> Outcome<Front> {
        let servers = each(sockets, |number, socket| {
            format!("  server s{number} unix@{} maxconn {places}\n", socket.display())
        });
        start(program, &["-db", "-f"], |_, address| {
            format!(
                "global
  maxconn {most}
  nbthread {threads}
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 10s
  timeout queue {wait}ms
  timeout http-request 10s
listen work
  bind {address}
  balance leastconn
  http-reuse always
{servers}",
                most = most_connections(),
                threads = cores(),
                wait = wait.as_millis(),
            )
        })
    }

    /// nginx: `places` requests at once for each of `sockets`, and 503 for whoever finds none.
    ///
    /// # Errors
    /// As [`Front::haproxy`].
    pub(crate) fn nginx(program: &Path, sockets: &[PathBuf], places: usize) -> Outcome<Front> {
        let servers = each(sockets, |_, socket| {
            format!("    server unix:{} max_fails=0;\n", socket.display())
        });
        let all = places * sockets.len();
        let user = if nix::unistd::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        start(program, &["-e", "/dev/null", "-c"], |folder, address| {
            let folder = folder.display();
            format!(
                "daemon off; {user} worker_processes {workers}; pid {folder}/pid; error_log {folder}/log crit;
events {{ worker_connections {most}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  limit_conn_zone $server_name zone=places:1m;
  limit_conn_status 503;
  limit_conn_log_level info;
  upstream work {{
    zone work 256k;
    least_conn;
{servers}    keepalive {all};
    keepalive_requests 1000000000;
  }}
  server {{
    listen {address} backlog=4096;
    server_name work;
    location / {{
      limit_conn places {all};
      proxy_pass http://work;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
    }}
  }}
}}
",
                workers = cores(),
                most = most_connections(),
            )
        })
    }

    /// Its main process.
    pub(crate) fn id(&self) -> i32 {
        self.process.id()
    }
}

/// Each takes two descriptors at most, and no more of them may be opened than this process may.
fn most_connections() -> u64 {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
    (hard.saturating_sub(200) / 2).min(9000)
}

fn each(sockets: &[PathBuf], line: impl Fn(usize, &Path) -> String) -> String {
    sockets
        .iter()
        .enumerate()
        .map(|(number, socket)| line(number, socket))
        .collect()
}

fn start(
    program: &Path,
    flags: &[&str],
    configuration: impl FnOnce(&Path, SocketAddr) -> String,
) -> Outcome<Front> {
    let step = format!("starting {}", program.display());
    let folder = tempfile::tempdir().during(&step)?;
    let address = free_address()?;
    let file = folder.path().join("conf");
    fs::write(&file, configuration(folder.path(), address)).during(&step)?;
    let said = folder.path().join("said");
    let output = File::create(&said).during(&step)?;
    let child = Command::new(program)
        .args(flags)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(output.try_clone().during(&step)?)
        .stderr(output)
        .spawn()
        .during(&step)?;
    let mut process = Guard::child(child, Duration::from_secs(2));
    let target = Target::tcp(address, "/");
    let end = Instant::now() + PATIENCE;
    while let Err(error) = target.ask_once() {
        let ended = process.ended();
        if ended.is_some() || Instant::now() >= end {
            let said = fs::read_to_string(&said).unwrap_or_default();
            return Err(Failure(format!(
                "{step}: it does not answer ({error}; {ended:?}): {said}"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Front {
        address,
        process,
        _folder: folder,
    })
}
