//! HTTP/2 frame by frame, so that a caller can say what no library would.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals, nothing compressed (RFC 7541, 6.2.2): any bytes.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = vec![];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (5.1).
            let mut rest = text.len();
            if rest < 127 {
                block.push(rest as u8);
            } else {
                block.push(127);
                rest -= 127;
                while rest >= 128 {
                    block.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
            block.extend(*text);
        }
    }
    block
}

/// The fields of a good GET.
pub(crate) fn get(path: &str) -> Vec<(&[u8], &[u8])> {
    vec![
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"h"),
        (b":path", path.as_bytes()),
    ]
}

/// What came of a stream or of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// A response head with this status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was told to end with this code.
    GoAway(u32),
    /// The connection has ended.
    End,
}

/// A caller that has sent its preface.
pub(crate) struct Caller {
    pub(crate) stream: TcpStream,
    /// What has come, by stream; the connection is 0.
    pub(crate) came: HashMap<u32, Came>,
    /// Bytes of bodies by stream.
    pub(crate) bodies: HashMap<u32, usize>,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr) -> Caller {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut caller = Caller {
            stream,
            came: HashMap::new(),
            bodies: HashMap::new(),
        };
        // No dynamic table, so that a status is a literal; and what the host says is acknowledged ahead.
        let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        let preface = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &settings[..],
            &frame(SETTINGS, 1, 0, &[]),
        ]
        .concat();
        assert!(caller.send(&preface));
        caller
    }

    /// Whether it could be written.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A request with these fields and no body.
    pub(crate) fn ask(&mut self, stream: u32, fields: &[(&[u8], &[u8])]) -> bool {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields)))
    }

    /// Reads until something came of this stream, or of the connection.
    pub(crate) fn outcome(&mut self, stream: u32) -> Came {
        loop {
            if let Some(came) = self.came.get(&stream).or(self.came.get(&0)) {
                return *came;
            }
            self.read();
        }
    }

    /// Reads until the connection has ended; the last that it said.
    pub(crate) fn ended(&mut self) -> Came {
        let mut last = Came::End;
        loop {
            match self.came.get(&0) {
                Some(Came::End) => return last,
                Some(told) => last = *told,
                None => {}
            }
            self.read();
        }
    }

    /// Reads one frame.
    pub(crate) fn read(&mut self) {
        let mut header = [0; 9];
        if let Err(error) = self.stream.read_exact(&mut header) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "nothing came for too long"
            );
            self.came.insert(0, Came::End);
            return;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let mut payload = vec![0; length];
        if self.stream.read_exact(&mut payload).is_err() {
            self.came.insert(0, Came::End);
            return;
        }
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match header[3] {
            HEADERS => {
                self.came.entry(stream).or_insert(Came::Status(status(&payload)));
            }
            DATA => *self.bodies.entry(stream).or_default() += length,
            RST_STREAM => {
                // An answer that came first is the outcome: a body that nobody wants is reset behind it.
                self.came.entry(stream).or_insert(Came::Reset(number(0)));
            }
            GOAWAY => {
                self.came.insert(0, Came::GoAway(number(4)));
            }
            _ => {}
        }
    }
}

/// The status, which stands first: indexed, or a literal with an indexed name (RFC 7541, 6 and appendix A).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come before.
    let block = match block[0] & 0xe0 {
        0x20 => &block[1..],
        _ => block,
    };
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        _ => {
            assert!(matches!(block[0], 0x08 | 0x18 | 0x48), "{:x}", block[0]);
            let length = usize::from(block[1] & 0x7f);
            match block[1] & 0x80 {
                0 => std::str::from_utf8(&block[2..2 + length])
                    .unwrap()
                    .parse()
                    .unwrap(),
                _ => digits(&block[2..2 + length]),
            }
        }
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B): 0, 1 and 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let take = |from: usize, count: usize| {
            bits[from..from + count]
                .iter()
                .fold(0, |all, bit| all << 1 | u16::from(*bit))
        };
        let five = take(at, 5);
        let digit = if five <= 2 {
            at += 5;
            five
        } else {
            at += 6;
            take(at - 6, 6) - 0b01_1001 + 3
        };
        number = number * 10 + digit;
    }
    number
}
