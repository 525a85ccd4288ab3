//! A caller that sees every byte: HTTP/1.1 over TCP or a Unix socket, by hand, so that tests can also say it wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

/// A byte stream in both directions.
trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// A connection to a server.
pub struct Connection {
    stream: BufReader<Box<dyn Both>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// A request to be.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its status.
    pub status: u16,
    /// Its headers, in order, as they were written.
    pub headers: Vec<(String, String)>,
}

/// A whole response.
#[derive(Clone)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its body, without the framing.
    pub body: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// The statuses of the 1xx responses before it.
    pub interim: Vec<u16>,
}

/// The first characters of something that may be long.
fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
    if bytes.len() > 600 {
        format!("{text}… ({} bytes)", bytes.len())
    } else {
        text
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&short(self.head().as_bytes()))
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Response {
            head,
            body,
            trailers,
            interim,
        } = self;
        write!(f, "{interim:?} {head:?} {:?} {trailers:?}", short(body))
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// A POST of these bytes.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Request {
        Request {
            body: body.into(),
            ..Request::new("POST", target)
        }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// The head as it is sent: `Host` and `Content-Length` are added when they were not given.
    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            head += "Host: funcd.test\r\n";
        }
        if !self.has("transfer-encoding") && !self.has("content-length") && !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

impl Head {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every header of a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

impl Response {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Its body as text; what isn't UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    ///
    /// # Panics
    /// When it isn't.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

impl Connection {
    /// Connects over TCP. A read that takes longer than [`crate::patience`] fails.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn tcp(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(crate::patience()))?;
        stream.set_write_timeout(Some(crate::patience()))?;
        Ok(Connection {
            stream: BufReader::new(Box::new(stream)),
        })
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn unix(path: &Path) -> io::Result<Connection> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(crate::patience()))?;
        Ok(Connection {
            stream: BufReader::new(Box::new(stream)),
        })
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads exactly as many bytes.
    ///
    /// # Errors
    /// Those of `read`, and an early end.
    pub fn read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads to the end of the connection; a reset is an end too.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// Sends a request, reads its response.
    ///
    /// # Errors
    /// Those of `read` and `write`, and what isn't HTTP. A server may answer before it was sent everything: the answer
    /// counts.
    pub fn ask(&mut self, request: &Request) -> io::Result<Response> {
        let sent = self
            .write(request.head().as_bytes())
            .and_then(|()| self.write(&request.body));
        match self.response(&request.method) {
            Ok(response) => Ok(response),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    /// Sends the head of a request only.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn send_head(&mut self, request: &Request) -> io::Result<()> {
        self.write(request.head().as_bytes())
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// Those of `read`, and an early end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| invalid("a line that isn't UTF-8"))
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(format!("header {line:?}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads one head.
    ///
    /// # Errors
    /// Those of `read`, and what isn't HTTP.
    pub fn head(&mut self) -> io::Result<Head> {
        let line = self.line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("status line {line:?}")))?;
        Ok(Head {
            status,
            headers: self.fields()?,
        })
    }

    /// Reads the size of the next chunk and its bytes: empty is the last.
    ///
    /// # Errors
    /// Those of `read`, and what isn't a chunk.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let size = size.map_err(|_| invalid(format!("chunk size {line:?}")))?;
        let bytes = self.read(size)?;
        if size > 0 && !self.line()?.is_empty() {
            return Err(invalid("a chunk longer than it said"));
        }
        Ok(bytes)
    }

    /// Reads a whole response to a request with this method.
    ///
    /// # Errors
    /// Those of `read`, and what isn't HTTP, a body that breaks off among it.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        let mut head = self.head()?;
        while (100..200).contains(&head.status) && head.status != 101 {
            interim.push(head.status);
            head = self.head()?;
        }
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        let length = head.header("content-length").map(str::to_owned);
        if method == "HEAD" || matches!(head.status, 101 | 204 | 304) {
        } else if head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                body.extend(chunk);
            }
            trailers = self.fields()?;
        } else if let Some(length) = length {
            let length = length
                .parse()
                .map_err(|_| invalid(format!("content-length {length:?}")))?;
            body = self.read(length)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(Response {
            head,
            body,
            trailers,
            interim,
        })
    }
}
