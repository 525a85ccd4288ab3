//! Servers that nobody here wrote, as functions: each as its authors released it, told where to listen in its own way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use funcd_tests::artifacts::{gunicorn, uvicorn};
use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: Need = Need::Property("network");
    funcd_tests::tests!(suite, "clients", [
        uvicorn_serves_through_a_descriptor: &[Need::Uvicorn, Need::MountNamespaces],
        uvicorn_serves_through_port: &[Need::Uvicorn, Need::MountNamespaces, NETWORK],
        gunicorn_takes_the_port_by_itself: &[Need::Gunicorn, Need::MountNamespaces, NETWORK],
        caddy_serves_files_by_its_own_configuration: &[Need::Program("/usr/bin/caddy"), NETWORK],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("clients", |_| {})
}

/// Python and a machine that is busy with other tests take their time.
const PATIENT: &str = "[health]\nready_within = \"60s\"\n[request]\ntimeout = \"60s\"\n";

/// A folder that a function may read: what was installed, and this module of a user beside it.
fn granted(host: &Host, name: &str, installed: &Path, module: &str, code: &str) -> PathBuf {
    let volume = host.volume(name);
    let copied = Command::new("cp").arg("-rT").arg(installed).arg(&volume).status();
    assert!(copied.unwrap().success());
    fs::write(volume.join(module), code).unwrap();
    volume
}

/// Drops in the very script that pip installed.
fn python(host: &Host, name: &str, script: &Path, volume: &Path, manifest: &str) -> Response {
    let folder = volume.display();
    let granted = format!(
        "env = {{ PYTHONPATH = \"{folder}\", PYTHONDONTWRITEBYTECODE = \"1\" }}\n[sandbox]\nread = [\"{folder}\"]\n"
    );
    host.drop_folder(name, script, &format!("{manifest}{granted}{PATIENT}"));
    host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200)
}

/// What `funcd ls` says of a function: its contract, and why that.
pub(crate) fn found(host: &Host, name: &str) -> (String, String) {
    let listed = host.json(&["ls"]).unwrap();
    let all = listed["functions"].as_array().unwrap();
    let row = all.iter().find(|row| row["name"] == name);
    let row = row.unwrap_or_else(|| panic!("{name} is not in {listed}"));
    let text = |key: &str| row["function"][key].as_str().unwrap_or_default().to_owned();
    (text("contract"), text("because"))
}

/// An ASGI application: `/count` says how long a body is, `/pieces` answers in five of them, each when the last one was taken.
const ASGI: &str = "\
async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get('body', b'')), message.get('more_body', False)
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'x-path', scope['path'].encode())]})
    pieces = range(5) if scope['path'] == '/pieces' else [length]
    for piece in pieces:
        await send({'type': 'http.response.body', 'body': b'%d\\n' % piece, 'more_body': True})
    await send({'type': 'http.response.body', 'body': b''})
";

/// What the application does, behind whichever contract.
fn asgi_answers(host: &Host, name: &str) {
    let large = host.ask(&Request::post(&format!("/{name}/count"), vec![7; 3 << 20]));
    assert_eq!((large.status(), large.text().as_str()), (200, "3145728\n"));
    assert_eq!(large.header("x-path"), Some("/count"));
    assert_eq!(large.header("server"), Some("uvicorn"));
    let streamed = host.get_ok(&format!("/{name}/pieces"));
    assert_eq!(streamed.text(), "0\n1\n2\n3\n4\n");
    assert_eq!(streamed.header("transfer-encoding"), Some("chunked"));
}

fn uvicorn_serves_through_a_descriptor() {
    let host = host();
    let installed = uvicorn();
    let volume = granted(&host, "uvicorn-fd", &installed, "pieces.py", ASGI);
    let script = installed.join("bin/uvicorn");
    python(
        &host,
        "uvicorn-fd",
        &script,
        &volume,
        "exec = \"uvicorn\"\nargs = [\"--fd\", \"3\", \"pieces:app\"]\n",
    );
    asgi_answers(&host, "uvicorn-fd");
    let (contract, why) = found(&host, "uvicorn-fd");
    assert!(contract == "http" && why.contains("uvicorn"), "{contract}: {why}");
}

fn uvicorn_serves_through_port() {
    let host = host();
    let installed = uvicorn();
    let volume = granted(&host, "uvicorn-port", &installed, "pieces.py", ASGI);
    let script = installed.join("bin/uvicorn");
    python(
        &host,
        "uvicorn-port",
        &script,
        &volume,
        "exec = \"uvicorn\"\ncontract = \"port\"\nport = 9000\nargs = [\"--port\", \"9000\", \"pieces:app\"]\n",
    );
    asgi_answers(&host, "uvicorn-port");
}

fn gunicorn_takes_the_port_by_itself() {
    let host = host();
    let installed = gunicorn();
    let code = "def app(environ, start_response):\n    start_response('200 OK', [('X-Port', environ['SERVER_PORT'])])\n    \
                return [environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))]\n";
    let volume = granted(&host, "gunicorn-port", &installed, "back.py", code);
    let script = installed.join("bin/gunicorn");
    // No address: it reads `PORT`.
    let manifest = "exec = \"gunicorn\"\ncontract = \"port\"\nport = 9001\nargs = [\"back:app\"]\n";
    let answer = python(&host, "gunicorn-port", &script, &volume, manifest);
    assert_eq!(answer.header("x-port"), Some("9001"));
    let echo = host.ask(&Request::post("/gunicorn-port/", "there and back"));
    assert_eq!(echo.text(), "there and back");
}

fn caddy_serves_files_by_its_own_configuration() {
    let host = host();
    let volume = host.volume("caddy");
    fs::write(volume.join("page.html"), "<p>a line of many</p>\n".repeat(200)).unwrap();
    let folder = volume.display();
    fs::write(
        volume.join("Caddyfile"),
        format!(
            ":{{$PORT}} {{\n\troot * {folder}\n\tencode gzip\n\theader X-From caddy\n\trespond /healthz 204\n\tfile_server\n}}\n"
        ),
    )
    .unwrap();
    let manifest = format!(
        "contract = \"port\"\nargs = [\"run\", \"--adapter\", \"caddyfile\", \"--config\", \"{folder}/Caddyfile\"]\n\
         [sandbox]\nread = [\"{folder}\"]\n[health]\npath = \"/healthz\"\n"
    );
    host.drop_folder("caddy", Path::new("/usr/bin/caddy"), &manifest);
    host.wait_live("caddy");
    let page = host.get("/caddy/page.html");
    assert_eq!(
        page.status(),
        200,
        "{}",
        crate::programs::said(&host, &["logs", "caddy"])
    );
    assert_eq!(page.body.len(), 200 * 22);
    assert_eq!(page.header("x-from"), Some("caddy"));
    let part = host.ask(&Request::get("/caddy/page.html").header("range", "bytes=3-9"));
    assert_eq!((part.status(), part.text().as_str()), (206, "a line "));
    let small = host.ask(&Request::get("/caddy/page.html").header("accept-encoding", "gzip"));
    assert_eq!(small.header("content-encoding"), Some("gzip"));
    assert!(small.body.len() < 400 && small.body.starts_with(&[0x1f, 0x8b]));
    let tag = page.header("etag").unwrap().to_owned();
    let same = host.ask(&Request::get("/caddy/page.html").header("if-none-match", &tag));
    assert_eq!(same.status(), 304);
    assert_eq!(host.get("/caddy/missing").status(), 404);
}
