//! A JSON API on SQLite: `GET /notes`, `POST /notes {"text": "…"}`, `GET /notes/1`, `DELETE /notes/1`.
//! The database is at `$NOTES_DB`; `function.toml` grants the folder that it is in. Without, it is in `/tmp`, which is
//! the function's own and ends with it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::{env, error, io};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use listenfd::ListenFd;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// The largest note, in bytes.
const MAX_NOTE: usize = 64 << 10;

type Database = Arc<Mutex<Connection>>;
type Failure = Box<dyn error::Error + Send + Sync>;

#[derive(Serialize)]
struct Note {
    id: i64,
    text: String,
    created: String,
}

#[derive(Deserialize)]
struct Draft {
    text: String,
}

impl Note {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Note> {
        Ok(Note {
            id: row.get(0)?,
            text: row.get(1)?,
            created: row.get(2)?,
        })
    }
}

fn open() -> rusqlite::Result<Connection> {
    let path = env::var("NOTES_DB").unwrap_or("/tmp/notes.db".into());
    let db = Connection::open(path)?;
    // Several instances may share the file: readers don't wait for a writer, and a writer waits for its turn.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL,
         created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')))",
    )?;
    Ok(db)
}

/// What SQLite says to one request. Blocks: not for the thread that serves connections.
fn ask(db: &Connection, method: &Method, path: &str, body: &[u8]) -> Result<(StatusCode, Value), Failure> {
    let columns = "SELECT id, text, created FROM notes";
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["notes"]) => {
            let mut statement = db.prepare(&format!("{columns} ORDER BY id"))?;
            let notes = statement
                .query_map([], Note::from_row)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok((StatusCode::OK, serde_json::to_value(notes)?))
        }
        ("POST", ["notes"]) => match serde_json::from_slice::<Draft>(body) {
            Ok(draft) => {
                let insert = "INSERT INTO notes (text) VALUES (?1) RETURNING id, text, created";
                let note = db.query_row(insert, [draft.text], Note::from_row)?;
                Ok((StatusCode::CREATED, serde_json::to_value(note)?))
            }
            Err(error) => Ok((StatusCode::BAD_REQUEST, json!({"error": error.to_string()}))),
        },
        ("GET", ["notes", id]) => {
            let note = db
                .query_row(&format!("{columns} WHERE id = ?1"), [id], Note::from_row)
                .optional()?;
            match note {
                Some(note) => Ok((StatusCode::OK, serde_json::to_value(note)?)),
                None => Ok((StatusCode::NOT_FOUND, json!({"error": "no such note"}))),
            }
        }
        ("DELETE", ["notes", id]) => match db.execute("DELETE FROM notes WHERE id = ?1", [id])? {
            0 => Ok((StatusCode::NOT_FOUND, json!({"error": "no such note"}))),
            _ => Ok((StatusCode::NO_CONTENT, Value::Null)),
        },
        (_, ["notes"] | ["notes", _]) => Ok((
            StatusCode::METHOD_NOT_ALLOWED,
            json!({"error": "use GET, POST or DELETE"}),
        )),
        _ => Ok((StatusCode::NOT_FOUND, json!({"error": "try /notes"}))),
    }
}

async fn respond(db: Database, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, MAX_NOTE).collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let asked = tokio::task::spawn_blocking(move || {
                let db = db.lock().map_err(|_| "an earlier request panicked")?;
                ask(&db, &head.method, head.uri.path(), &body)
            });
            asked.await.unwrap_or_else(|panic| Err(panic.into()))
        }
        Err(_) => {
            let error = json!({"error": format!("no more than {MAX_NOTE} bytes")});
            Ok((StatusCode::PAYLOAD_TOO_LARGE, error))
        }
    };
    let (status, value) = answer.unwrap_or_else(|error| {
        eprintln!("{error}"); // the caller needn't know, `funcd logs notes` shows it
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            json!({"error": "the database failed"}),
        )
    });
    let mut response = Response::default();
    if !value.is_null() {
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        *response.body_mut() = Full::from(format!("{value}\n"));
    }
    *response.status_mut() = status;
    Ok(response)
}

fn answer(db: &Database, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let db = db.clone();
    let service = service_fn(move |request| respond(db.clone(), request));
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
}

/// Accepts on the socket that funcd passes as descriptor 3; run by hand, on `$PORT` or 8080 of this machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let db = Arc::new(Mutex::new(open().map_err(io::Error::other)?));
    if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
        passed.set_nonblocking(true)?;
        let listener = UnixListener::from_std(passed)?;
        loop {
            answer(&db, listener.accept().await?.0);
        }
    }
    let port = env::var("PORT").unwrap_or("8080".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        answer(&db, listener.accept().await?.0);
    }
}
