//! Calls the service: `grpc-client ADDRESS METHOD …`, with `say TEXT [NUMBER [TIMEOUT_MS]]`, `count TEXT NUMBER`, `collect TEXT…`,
//! `chat TEXT…`, `flood COUNT BYTES` (a chat of so many lines of so many bytes, said while the answers come), `stall CALLS
//! NUMBER` (so many counts of which it reads nothing until its stdin ends, and then all), `leave` (a chat that it walks out of), and
//! `load TEXT CALLERS`: says it again and again until its stdin ends, then how often with what result.
//!
//! Prints a line for each answer. A call that fails is printed as `CODE: message` with what came beside it, and the code is the
//! exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use grpc::{CHAT, COLLECT, COUNT, Line, SAY};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoStreamingRequest, Request, Status};
use tonic_prost::ProstCodec;

type Codec = ProstCodec<Line, Line>;

struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn say(&mut self, line: Line, timeout: Option<Duration>) -> Result<Line, Status> {
        self.ready().await?;
        let mut request = Request::new(line);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let said = self
            .0
            .unary(request, PathAndQuery::from_static(SAY), Codec::default());
        Ok(said.await?.into_inner())
    }

    async fn count(&mut self, line: Line) -> Result<(), Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(COUNT);
        let counted = self
            .0
            .server_streaming(Request::new(line), path, Codec::default());
        let mut lines = counted.await?.into_inner();
        while let Some(line) = lines.message().await? {
            println!("{} {}", line.number, line.text);
        }
        Ok(())
    }

    async fn collect(&mut self, lines: Vec<Line>) -> Result<Line, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(COLLECT);
        let lines = tokio_stream::iter(lines).into_streaming_request();
        Ok(self
            .0
            .client_streaming(lines, path, Codec::default())
            .await?
            .into_inner())
    }

    /// Says the next line only when the one before was answered: both streams are open at once.
    async fn chat(&mut self, texts: &[String], leave: bool) -> Result<(), Status> {
        self.ready().await?;
        let (say, lines) = mpsc::channel(1);
        let path = PathAndQuery::from_static(CHAT);
        let lines = ReceiverStream::new(lines).into_streaming_request();
        let mut answers = self
            .0
            .streaming(lines, path, Codec::default())
            .await?
            .into_inner();
        for text in texts {
            let (text, number) = (text.clone(), 0);
            let _ = say.send(Line { text, number }).await;
            let answer = answers.message().await?;
            println!("{}", answer.ok_or_else(|| Status::data_loss("no answer"))?.text);
        }
        if leave {
            return Ok(());
        }
        drop(say);
        match answers.message().await? {
            None => Ok(()),
            Some(line) => Err(Status::data_loss(format!("said nothing, was answered {line:?}"))),
        }
    }
}

impl Client {
    /// Begins many counts and reads none of them for a while; then how many lines came in all.
    async fn stall(&mut self, calls: u32, number: u32) -> Result<u64, Status> {
        let mut begun = Vec::new();
        for _ in 0..calls {
            self.ready().await?;
            let path = PathAndQuery::from_static(COUNT);
            let text = String::new();
            let line = Request::new(Line { text, number });
            let counted = self
                .0
                .server_streaming::<Line, Line, _>(line, path, Codec::default());
            begun.push(counted.await?.into_inner());
        }
        println!("begun");
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        let mut count = 0;
        for mut lines in begun {
            while lines.message().await?.is_some() {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Says many lines without waiting for their answers; the bytes of those.
    async fn flood(&mut self, lines: u32, bytes: usize) -> Result<u64, Status> {
        self.ready().await?;
        let text = "x".repeat(bytes);
        let said = tokio_stream::iter((0..lines).map(move |number| {
            let text = text.clone();
            Line { text, number }
        }));
        let path = PathAndQuery::from_static(CHAT);
        let chat = self
            .0
            .streaming(said.into_streaming_request(), path, Codec::default());
        let mut answers = chat.await?.into_inner();
        let mut count = 0;
        while let Some(line) = answers.message().await? {
            count += line.text.len() as u64;
        }
        Ok(count)
    }
}

async fn call(address: String, method: &str, rest: &[String]) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
    // Who reads nothing for a while must have room for what comes: small frames take more than what is in them.
    let endpoint = match method {
        "stall" => endpoint
            .initial_stream_window_size(16 << 10)
            .initial_connection_window_size(64 << 20),
        _ => endpoint,
    };
    let mut client = Client(tonic::client::Grpc::new(endpoint.connect_lazy()));
    let text = rest.first().cloned().unwrap_or_default();
    let number = |at: usize| rest.get(at).and_then(|number| number.parse::<u32>().ok());
    match method {
        "say" => {
            let line = Line {
                text,
                number: number(1).unwrap_or(0),
            };
            let timeout = number(2).map(|millis| Duration::from_millis(millis.into()));
            let said = client.say(line, timeout).await?;
            println!("{} {}", said.number, said.text);
        }
        "count" => {
            let number = number(1).unwrap_or(0);
            client.count(Line { text, number }).await?;
        }
        "collect" => {
            let line = |text: &String| Line {
                text: text.clone(),
                number: 0,
            };
            let lines: Vec<Line> = rest.iter().map(line).collect();
            let all = client.collect(lines).await?;
            println!("{} {}", all.number, all.text);
        }
        "chat" => client.chat(rest, false).await?,
        "flood" => {
            let (lines, bytes) = (number(0).unwrap_or(0), number(1).unwrap_or(0));
            println!("{}", client.flood(lines, bytes as usize).await?);
        }
        "stall" => {
            let (calls, count) = (number(0).unwrap_or(0), number(1).unwrap_or(0));
            println!("{}", client.stall(calls, count).await?);
        }
        "leave" => client.chat(&["in".to_owned()], true).await?,
        "load" => load(client, &text, number(1).unwrap_or(1)).await,
        _ => return Err(Status::invalid_argument(format!("no method {method:?}"))),
    }
    Ok(())
}

async fn load(client: Client, text: &str, callers: u32) {
    let (stop, stopped) = tokio::sync::watch::channel(());
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let mut client = Client(client.0.clone());
            let (stopped, text) = (stopped.clone(), text.to_owned());
            tokio::spawn(async move {
                let mut tally = BTreeMap::<String, u64>::new();
                while !stopped.has_changed().unwrap_or(true) {
                    let line = Line {
                        text: text.clone(),
                        number: 0,
                    };
                    let result = match client.say(line, None).await {
                        Ok(_) => "Ok".to_owned(),
                        Err(status) => format!("{:?}", status.code()),
                    };
                    *tally.entry(result).or_default() += 1;
                }
                tally
            })
        })
        .collect();
    let mut rest = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    drop(stop);
    let mut all = BTreeMap::<String, u64>::new();
    for caller in callers {
        for (result, count) in caller.await.unwrap_or_default() {
            *all.entry(result).or_default() += count;
        }
    }
    for (result, count) in all {
        println!("{result} {count}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(method)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: grpc-client ADDRESS say|count|collect|chat|flood|stall|leave|load …");
        return ExitCode::from(Code::InvalidArgument as u8);
    };
    let rest: Vec<String> = arguments.collect();
    match call(address, &method, &rest).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(status) => {
            println!("{:?}: {}", status.code(), status.message());
            for (name, value) in status.metadata().clone().into_headers().iter() {
                println!("{name}: {}", value.to_str().unwrap_or("?"));
            }
            ExitCode::from(status.code() as u8)
        }
    }
}
