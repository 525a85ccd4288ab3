//! Cuts a stream of bytes into lines of bounded length. Pure; never holds more than one line.

/// The longest line that is kept in one piece, in bytes.
pub const MAX_LINE: usize = 8 * 1024;

/// A line, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes, without the newline (and without a carriage return before it).
    pub bytes: &'a [u8],
    /// The line goes on in the next piece.
    pub continues: bool,
}

/// Cuts a stream into lines; a line longer than [`MAX_LINE`] is split, and its pieces are marked.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The beginning of a line whose end has not arrived.
    held: Vec<u8>,
}

impl Splitter {
    /// Takes the next bytes and gives each line that they complete to `each`.
    pub fn feed(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Piece<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end], each);
            let line = self.held.strip_suffix(b"\r").unwrap_or(&self.held);
            each(Piece {
                bytes: line,
                continues: false,
            });
            self.held.clear();
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, each);
    }

    /// The stream has ended: gives what is left of a line without newline to `each`.
    pub fn finish(&mut self, each: &mut dyn FnMut(Piece<'_>)) {
        self.give(false, each);
    }

    /// Somebody else reads on: gives what is left of a line to `each`, as one that continues.
    pub fn leave(&mut self, each: &mut dyn FnMut(Piece<'_>)) {
        self.give(true, each);
    }

    fn give(&mut self, continues: bool, each: &mut dyn FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            each(Piece {
                bytes: &held,
                continues,
            });
        }
    }

    fn take(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Piece<'_>)) {
        while self.held.len() + bytes.len() > MAX_LINE {
            let (head, rest) = bytes.split_at(MAX_LINE - self.held.len());
            self.held.extend_from_slice(head);
            let cut = whole_characters(&self.held);
            each(Piece {
                bytes: &self.held[..cut],
                continues: true,
            });
            self.held.drain(..cut);
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
    }
}

/// How many of the bytes to take so that a UTF-8 character at the end is not cut in two.
fn whole_characters(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let lead = bytes[start..].iter().rposition(|byte| *byte >= 0xc0);
    match lead {
        Some(at) if std::str::from_utf8(&bytes[start + at..]).is_err() => start + at,
        Some(_) | None => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::default();
        let mut each = |piece: Piece<'_>| lines.push((piece.bytes.to_vec(), piece.continues));
        for chunk in chunks {
            splitter.feed(chunk, &mut each);
        }
        splitter.finish(&mut each);
        lines
    }

    #[test]
    fn lines_arrive_whole_however_they_are_chunked() {
        let expected = vec![
            (b"one".to_vec(), false),
            (b"".to_vec(), false),
            (b"two".to_vec(), false),
            (b"end".to_vec(), false),
        ];
        assert_eq!(split(&[b"one\n\ntwo\r\nend"]), expected);
        assert_eq!(split(&[b"on", b"e", b"\n", b"\ntwo\r", b"\nen", b"d"]), expected);
    }

    #[test]
    fn what_somebody_else_reads_on_is_marked() {
        let mut pieces = Vec::new();
        let mut splitter = Splitter::default();
        let mut each = |piece: Piece<'_>| pieces.push((piece.bytes.to_vec(), piece.continues));
        splitter.feed(b"whole\nhalf", &mut each);
        splitter.leave(&mut each);
        // Nothing is told twice.
        splitter.finish(&mut each);
        assert_eq!(pieces, vec![(b"whole".to_vec(), false), (b"half".to_vec(), true)]);
    }

    #[test]
    fn a_long_line_is_split_and_marked() {
        let long = vec![b'x'; MAX_LINE + 10];
        let pieces = split(&[&long, b"\nnext\n"]);
        assert_eq!(pieces.len(), 3);
        assert_eq!((pieces[0].0.len(), pieces[0].1), (MAX_LINE, true));
        assert_eq!((pieces[1].0.len(), pieces[1].1), (10, false));
        assert_eq!(pieces[2], (b"next".to_vec(), false));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_piece() {
        let line = [vec![b'x'; MAX_LINE], b"\n".to_vec()].concat();
        assert_eq!(split(&[&line]), vec![(vec![b'x'; MAX_LINE], false)]);
    }

    #[test]
    fn a_split_does_not_cut_a_character() {
        let line = [vec![b'x'; MAX_LINE - 1], "\u{fc}berall".as_bytes().to_vec()].concat();
        let pieces = split(&[&line]);
        assert_eq!((pieces[0].0.len(), pieces[0].1), (MAX_LINE - 1, true));
        assert_eq!(pieces[1].0, "\u{fc}berall".as_bytes());
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_none_is_held_beyond_the_limit(bytes: Vec<u8>, times in 1_usize..400, chunk in 1_usize..5000) {
            let stream = bytes.repeat(times);
            let chunks: Vec<&[u8]> = stream.chunks(chunk).collect();
            let pieces = split(&chunks);
            prop_assert!(pieces.iter().all(|(bytes, _)| bytes.len() <= MAX_LINE));
            let joined: Vec<u8> = pieces.into_iter().flat_map(|(bytes, _)| bytes).collect();
            let plain: Vec<u8> = stream.iter().copied().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
            let kept: Vec<u8> = joined.into_iter().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
            prop_assert_eq!(kept, plain);
        }
    }
}
