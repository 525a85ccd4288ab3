//! The warm peer: nginx with one worker, between TCP on loopback and the same Unix-socket server.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Target;
use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::{process, procfs};

/// It starts in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx with a master and a configuration of its own.
#[derive(Debug)]
pub(crate) struct Nginx {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The one worker.
    pub(crate) worker: i32,
    _master: Guard,
    _folder: TempDir,
}

impl Nginx {
    /// Starts `program` before the server on `upstream`.
    ///
    /// # Errors
    /// An nginx that ends or does not answer; its error log is in the message.
    pub(crate) fn start(program: &Path, upstream: &Path) -> Outcome<Nginx> {
        let folder = tempfile::tempdir().during("making a folder for nginx")?;
        let address = free_address()?;
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration(folder.path(), address, upstream))
            .during(format!("writing {}", file.display()))?;
        let child = Command::new(program)
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .during(format!("starting {}", program.display()))?;
        let mut master = Guard::child(child, Duration::from_secs(2));
        let target = Target::tcp(address, "/hello/");
        let end = Instant::now() + PATIENCE;
        while let Err(error) = target.ask_once() {
            let ended = master.ended();
            if ended.is_some() || Instant::now() >= end {
                let log = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
                return Err(Failure(format!(
                    "nginx does not answer ({error}; {ended:?}): {log}"
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let tree = procfs::tree(master.id(), &process::table());
        let [_, worker] = tree[..] else {
            return Err(Failure(format!(
                "nginx has processes {tree:?}, not a master and a worker"
            )));
        };
        Ok(Nginx {
            address,
            worker,
            _master: master,
            _folder: folder,
        })
    }
}

/// A port that was free a moment ago: nginx can't be given a listening socket of ours.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .during("finding a free port")
}

fn configuration(folder: &Path, address: SocketAddr, upstream: &Path) -> String {
    let folder = folder.display();
    // The temporary folder is only for its owner, so root's worker stays root.
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "daemon off; {user} worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream hello {{ server unix:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location /hello/ {{
      proxy_pass http://hello/;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
    }}
  }}
}}
",
        upstream = upstream.display(),
    )
}
