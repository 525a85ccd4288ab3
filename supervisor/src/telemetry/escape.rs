//! Makes what strangers wrote safe to show on a terminal. Pure; never fails and never loses a byte's identity.

use std::fmt::Write;

/// The bytes as text in which nothing moves the cursor, changes colours, ends a line or reorders what follows.
///
/// Control characters (C0 except tab, DEL, C1), line and paragraph separators, and the characters that change the
/// direction of text become `\x1b` or `\u{202e}`; bytes that are not UTF-8 become `\xff`. A tab and a backslash stay
/// as they are, so that stack traces and JSON remain readable.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push(&mut text, c);
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // writing to a String can't fail
        }
    }
    text
}

fn push(text: &mut String, c: char) {
    let written = match c {
        '\t' => {
            text.push(c);
            Ok(())
        }
        '\0'..='\x1f' | '\x7f' => write!(text, "\\x{:02x}", u32::from(c)),
        '\u{80}'..='\u{9f}' => write!(text, "\\u{{{:x}}}", u32::from(c)),
        // The bidirectional controls of Unicode 16 (UAX #9, table 2.1 to 2.6), and the separators that end a line.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            write!(text, "\\u{{{:x}}}", u32::from(c))
        }
        _ => {
            text.push(c);
            Ok(())
        }
    };
    written.expect("writing to a String can't fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let cases: [(&[u8], &str); 13] = [
            (b"", ""),
            (b"plain text", "plain text"),
            (
                "gr\u{fc}n \u{1f980} \u{65e5}\u{672c}".as_bytes(),
                "gr\u{fc}n \u{1f980} \u{65e5}\u{672c}",
            ),
            (b"\ttabbed", "\ttabbed"),
            (br#"{"a":"b\n"}"#, r#"{"a":"b\n"}"#),
            (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
            (b"over\rwritten\x08\x08", r"over\x0dwritten\x08\x08"),
            (b"a\nb\0c", r"a\x0ab\x00c"),
            (b"del\x7f", r"del\x7f"),
            ("c1 \u{9b}31m \u{85}".as_bytes(), r"c1 \u{9b}31m \u{85}"),
            ("\u{202e}txt.exe\u{2066}".as_bytes(), r"\u{202e}txt.exe\u{2066}"),
            ("a\u{2028}b\u{200f}".as_bytes(), r"a\u{2028}b\u{200f}"),
            (b"\xff\xc3(\xe2\x82", r"\xff\xc3(\xe2\x82"),
        ];
        for (bytes, text) in cases {
            assert_eq!(escape(bytes), text, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_controls_a_terminal_gets_through(bytes: Vec<u8>) {
            let text = escape(&bytes);
            prop_assert!(text.chars().all(|c| c == '\t' || !c.is_control()));
            prop_assert_eq!(escape(text.as_bytes()), text);
        }
    }
}
