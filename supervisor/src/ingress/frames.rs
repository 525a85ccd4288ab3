//! Follows the frames of an HTTP/2 connection, with a caller or with an instance, beside the h2 crate, by their headers alone. Pure: time is an argument.
//!
//! h2 bounds what costs memory: streams, resets, header lists, CONTINUATION, small DATA. It answers any number of pings
//! and settings, and reads any number of frames that change nothing: those cost the caller nothing and the host a
//! core. They are paid for here out of a credit that time and honest traffic fill. And what h2 refuses by itself is seen
//! in what it writes, to be counted.

use std::time::{Duration, Instant};

/// How long a frame's header is (RFC 9113, 4.1).
const HEADER: usize = 9;
/// As much of a payload as says why (6.4, 6.8): the last stream and the code of GOAWAY.
const LONGEST: usize = HEADER + 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// A frame that no endpoint may send: a PING on a stream. h2 answers it with GOAWAY and ends the connection.
pub(super) const POISON: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x01funcdend";

/// The credit of a new connection, and the most it can have.
const CREDIT: u32 = 2000;
/// Frames that cost nothing, each second.
const PER_SECOND: u32 = 200;
/// What a request pays for: its window updates, priorities and reset.
const PER_HEADERS: u32 = 4;
/// One window update and a ping for each of these many bytes of bodies, either way.
const PER_BYTES: usize = 2048;
/// After the credit is spent and the connection was told to end, so many frames are waited for.
const GRACE: u32 = 100;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
    /// Of RST_STREAM and GOAWAY.
    code: u32,
}

/// Finds the frames in a stream of bytes that comes in pieces.
#[derive(Debug)]
struct Follower {
    part: [u8; LONGEST],
    have: usize,
    /// Bytes that belong to nothing that is looked at.
    skip: usize,
}

impl Follower {
    /// `skip` bytes come before the first frame.
    fn new(skip: usize) -> Follower {
        Follower {
            part: [0; LONGEST],
            have: 0,
            skip,
        }
    }

    /// The next frame that is known after these bytes, and what is left of them.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            self.skip(bytes);
            if bytes.is_empty() {
                return None;
            }
            let wanted = self.wanted();
            let taken = (wanted - self.have).min(bytes.len());
            self.part[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            *bytes = &bytes[taken..];
            // The header may ask for more.
            if self.have == self.wanted() {
                let frame = self.frame();
                self.skip = HEADER + frame.length - self.have;
                self.have = 0;
                return Some(frame);
            }
        }
    }

    fn skip(&mut self, bytes: &mut &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
    }

    fn wanted(&self) -> usize {
        if self.have < HEADER {
            return HEADER;
        }
        let Frame { kind, length, .. } = self.frame();
        HEADER
            + match kind {
                RST_STREAM => length.min(4),
                GOAWAY => length.min(8),
                _ => 0,
            }
    }

    fn frame(&self) -> Frame {
        let part = &self.part;
        let code = match part[3] {
            RST_STREAM => [part[9], part[10], part[11], part[12]],
            _ => [part[13], part[14], part[15], part[16]],
        };
        Frame {
            kind: part[3],
            flags: part[4],
            length: usize::from(part[0]) << 16 | usize::from(part[1]) << 8 | usize::from(part[2]),
            code: u32::from_be_bytes(code),
        }
    }

    /// Nothing of the next frame has come.
    fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// What to do with bytes from the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let them pass.
    Pass,
    /// Let these many pass, and then say what ends the connection.
    EndAfter(usize),
    /// It doesn't let itself be told.
    Cut,
}

/// What came of frames that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A stream, with this reason.
    Stream(&'static str),
    /// The connection.
    Connection(&'static str),
}

/// The frames of one connection, both ways.
#[derive(Debug)]
pub(super) struct Frames {
    incoming: Follower,
    outgoing: Follower,
    credit: u32,
    /// Bytes that have not made up a credit yet.
    bytes: usize,
    filled: Instant,
    overdrawn: u32,
    /// Streams that were reset towards the other end.
    resets: u32,
}

impl Frames {
    /// At the start of a connection, before the `preface` bytes.
    pub(super) fn new(preface: usize, now: Instant) -> Frames {
        Frames {
            incoming: Follower::new(preface),
            outgoing: Follower::new(0),
            credit: CREDIT,
            bytes: 0,
            filled: now,
            overdrawn: 0,
            resets: 0,
        }
    }

    /// At the start of a connection to an instance, which is the other way round: the `preface` bytes go out.
    pub(super) fn to_instance(preface: usize, now: Instant) -> Frames {
        Frames {
            outgoing: Follower::new(preface),
            ..Frames::new(0, now)
        }
    }

    /// Takes bytes from the other end.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) -> Verdict {
        let mut left = bytes;
        loop {
            self.incoming.skip(&mut left);
            let between = self.incoming.is_between();
            let start = bytes.len() - left.len();
            let Some(frame) = self.incoming.next(&mut left) else {
                return Verdict::Pass;
            };
            let free = match frame.kind {
                DATA if frame.length > 0 => {
                    self.earn_bytes(frame.length);
                    true
                }
                DATA => frame.flags & END_STREAM != 0,
                HEADERS => {
                    self.earn(PER_HEADERS);
                    true
                }
                // h2 bounds these itself.
                CONTINUATION | GOAWAY => true,
                _ => false,
            };
            if free || self.pay(now) {
                continue;
            }
            self.overdrawn += 1;
            // Only between two frames can something else be said; a frame that began in the bytes before is past that.
            if between {
                return Verdict::EndAfter(start);
            }
            if self.overdrawn > GRACE {
                return Verdict::Cut;
            }
        }
    }

    /// Takes bytes that went to the other end, and says what they refuse.
    pub(super) fn wrote(&mut self, bytes: &[u8], mut refused: impl FnMut(Refused)) {
        self.earn_bytes(bytes.len());
        let mut left = bytes;
        while let Some(frame) = self.outgoing.next(&mut left) {
            match frame.kind {
                HEADERS => self.earn(PER_HEADERS),
                RST_STREAM => {
                    self.resets = self.resets.saturating_add(1);
                    if let Some(reason) = reason(frame.code) {
                        refused(Refused::Stream(reason));
                    }
                }
                GOAWAY => {
                    let flood = (self.overdrawn > 0).then_some("http2-flood");
                    if let Some(reason) = flood.or(reason(frame.code)) {
                        refused(Refused::Connection(reason));
                    }
                }
                _ => {}
            }
        }
    }

    /// How many streams were reset towards the other end since the last look.
    pub(super) fn take_resets(&mut self) -> u32 {
        std::mem::take(&mut self.resets)
    }

    fn pay(&mut self, now: Instant) -> bool {
        if self.credit == 0 {
            let waited = now.saturating_duration_since(self.filled);
            let earned = waited.min(Duration::from_secs(60)).as_millis() as u32 * PER_SECOND / 1000;
            if earned > 0 {
                self.filled = now;
                self.earn(earned);
            }
        }
        match self.credit.checked_sub(1) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }

    fn earn(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT);
    }

    fn earn_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PER_BYTES {
            self.earn(u32::try_from(2 * self.bytes / PER_BYTES).unwrap_or(CREDIT));
            self.bytes %= PER_BYTES;
        }
    }
}

/// The name of an error code that says that the caller did wrong (RFC 9113, 7).
fn reason(code: u32) -> Option<&'static str> {
    Some(match code {
        1 => "http2-protocol-error",
        3 => "http2-flow-control-error",
        4 => "http2-settings-timeout",
        6 => "http2-frame-size-error",
        7 => "http2-refused-stream",
        9 => "http2-compression-error",
        11 => "http2-enhance-your-calm",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let header = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        [&header[..], payload].concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let stream = [
            frame(HEADERS, 4, b"abc"),
            frame(RST_STREAM, 0, &[0, 0, 0, 8]),
            frame(GOAWAY, 0, b"\0\0\0\x01\0\0\0\x0bdebug"),
            frame(DATA, END_STREAM, b""),
        ]
        .concat();
        for piece in 1..=stream.len() {
            let mut follower = Follower::new(0);
            let mut found = vec![];
            for mut bytes in stream.chunks(piece) {
                while let Some(frame) = follower.next(&mut bytes) {
                    let code = matches!(frame.kind, RST_STREAM | GOAWAY).then_some(frame.code);
                    found.push((frame.kind, frame.length, code));
                }
            }
            let expected = [(1, 3, None), (3, 4, Some(8)), (7, 13, Some(11)), (0, 0, None)];
            assert_eq!(found, expected, "by {piece}");
            assert!(follower.is_between());
        }
    }

    #[test]
    fn what_costs_nothing_is_paid_for() {
        let start = Instant::now();
        for cheap in [
            frame(6, 0, &[0; 8]),
            frame(4, 0, &[]),
            frame(2, 0, &[0; 5]),
            frame(8, 0, &[0, 0, 0, 1]),
            frame(3, 0, &[0; 4]),
            frame(0, 0, &[]),
            frame(0xee, 0, &[]),
        ] {
            let mut frames = Frames::new(3, start);
            assert_eq!(frames.read(b"pre", start), Verdict::Pass);
            for _ in 0..CREDIT {
                assert_eq!(frames.read(&cheap, start), Verdict::Pass);
            }
            // Time pays for some.
            let later = start + Duration::from_secs(1);
            for _ in 0..PER_SECOND {
                assert_eq!(frames.read(&cheap, later), Verdict::Pass);
            }
            let honest = frame(HEADERS, 4, b"abc");
            assert_eq!(
                frames.read(&[&honest[..], &cheap, &cheap, &cheap, &cheap].concat(), later),
                Verdict::Pass
            );
            // Between two frames it can be told.
            let both = [
                &frame(DATA, END_STREAM | 8, b"")[..],
                &frame(CONTINUATION, 0, b"abc"),
                &cheap,
            ]
            .concat();
            assert_eq!(frames.read(&both, later), Verdict::EndAfter(21));
        }
    }

    #[test]
    fn who_cuts_its_frames_is_cut_off() {
        let start = Instant::now();
        let mut frames = Frames::new(0, start);
        let ping = frame(6, 0, &[0; 8]);
        let verdicts = std::iter::repeat_n(&ping, 4000).flat_map(|ping| {
            let (head, rest) = ping.split_at(5);
            [frames.read(head, start), frames.read(rest, start)]
        });
        let mut told = verdicts.skip_while(|verdict| *verdict == Verdict::Pass);
        assert_eq!(told.next(), Some(Verdict::Cut));
    }

    #[test]
    fn bodies_pay_for_their_window_updates() {
        let start = Instant::now();
        let mut frames = Frames::new(0, start);
        let update = frame(8, 0, &[0, 0, 0, 1]);
        for _ in 0..10 * CREDIT {
            frames.wrote(&[0; PER_BYTES], |_| ());
            assert_eq!(frames.read(&update, start), Verdict::Pass);
        }
    }

    #[test]
    fn what_is_refused_is_told() {
        let mut frames = Frames::new(0, Instant::now());
        let mut told = vec![];
        let bytes = [
            frame(RST_STREAM, 0, &[0, 0, 0, 1]),
            frame(RST_STREAM, 0, &[0, 0, 0, 0]),
            frame(GOAWAY, 0, &[0, 0, 0, 0, 0, 0, 0, 11]),
            frame(GOAWAY, 0, &[0; 8]),
        ];
        frames.wrote(&bytes.concat(), |refused| told.push(refused));
        let expected = [
            Refused::Stream("http2-protocol-error"),
            Refused::Connection("http2-enhance-your-calm"),
        ];
        assert_eq!(told, expected);
    }

    proptest! {
        #[test]
        fn never_panics(stream in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
            let now = Instant::now();
            let mut frames = Frames::new(0, now);
            for bytes in stream.chunks(piece) {
                frames.read(bytes, now);
                frames.wrote(bytes, |_| ());
            }
        }
    }
}
