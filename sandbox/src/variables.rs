//! The environment variables of one request, as they travel to a process that waits right before exec: `NAME=value`, each
//! with a NUL behind it. They are made of what strangers send, so both ends check them by this file. Pure, and never
//! allocates: the child reads them between fork and exec.

/// All of them together, in bytes: less than the pipe holds that they travel through, so that nobody waits for its other end.
pub const MAX_BYTES: usize = 48 * 1024;
/// How many, at most.
pub const MAX_COUNT: usize = 768;

/// Beginnings of names that requests may set: those of OpenFaaS, CGI and IronFunctions, and their parameters.
const PREFIXES: [&[u8]; 4] = [b"Http_", b"HTTP_", b"HEADER_", b"PARAM_"];
/// Whole names that requests may set (RFC 3875, 4.1; IronFunctions).
const NAMES: [&[u8]; 19] = [
    b"AUTH_TYPE",
    b"CONTENT_LENGTH",
    b"CONTENT_TYPE",
    b"GATEWAY_INTERFACE",
    b"METHOD",
    b"PATH_INFO",
    b"QUERY_STRING",
    b"REMOTE_ADDR",
    b"REMOTE_PORT",
    b"REQUEST_METHOD",
    b"REQUEST_SCHEME",
    b"REQUEST_URI",
    b"REQUEST_URL",
    b"ROUTE",
    b"SCRIPT_NAME",
    b"SERVER_NAME",
    b"SERVER_PORT",
    b"SERVER_PROTOCOL",
    b"SERVER_SOFTWARE",
];

/// Whether a request may set a variable of this name. Never one that changes what code runs or where it connects to: not
/// `LD_*`, not `PATH`, and not the `HTTP_PROXY` that a header called `Proxy` would make (CVE-2016-5385).
pub fn is_name(name: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let known = |prefix: &&[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    name.iter().all(plain)
        && (PREFIXES.iter().any(known) || NAMES.contains(&name))
        && !name.eq_ignore_ascii_case(b"HTTP_PROXY")
}

/// How many there are in a block, if it is one: nothing but variables that a request may set.
pub fn count(block: &[u8]) -> Option<usize> {
    if block.len() > MAX_BYTES || block.last().is_some_and(|last| *last != 0) {
        return None;
    }
    let mut count = 0;
    for variable in each(block) {
        let end = variable.iter().position(|b| *b == b'=')?;
        if !is_name(&variable[..end]) {
            return None;
        }
        count += 1;
    }
    (count <= MAX_COUNT).then_some(count)
}

/// Each of a block, without its NUL.
pub(crate) fn each(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block
        .strip_suffix(b"\0")
        .into_iter()
        .flat_map(|block| block.split(|b| *b == 0))
}

/// A block under way: bounded, and nothing in it but what [`count`] lets through.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    count: usize,
    full: bool,
}

impl Block {
    /// Sets a variable. One that a request may not set, or whose value holds a NUL, is left out; so is one that was set
    /// before by an equal name.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let known = |variable: &[u8]| variable.starts_with(name) && variable.get(name.len()) == Some(&b'=');
        if !is_name(name) || value.contains(&0) || each(&self.bytes).any(known) {
            return;
        }
        if self.count == MAX_COUNT || self.bytes.len() + name.len() + value.len() + 2 > MAX_BYTES {
            self.full = true;
            return;
        }
        self.count += 1;
        for part in [name, b"=", value, b"\0"] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// The whole block; `None` when not all of it did fit.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.full).then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_requests_bring_may_be_set() {
        for name in [
            "Http_Method",
            "HTTP_ACCEPT",
            "HEADER_X_1",
            "PARAM_q",
            "METHOD",
            "SERVER_SOFTWARE",
        ] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in [
            "LD_PRELOAD",
            "PATH",
            "HTTP_PROXY",
            "Http_Proxy",
            "http_proxy",
            "HTTP_",
            "HTTP_A B",
            "HTTP_A=",
            "",
            "BASH_ENV",
            "HTTP_\u{e9}",
            "LISTEN_PID",
        ] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_block_holds_what_was_set_once_and_is_bounded() {
        let mut block = Block::default();
        block.set(b"METHOD", b"GET");
        block.set(b"METHOD", b"POST");
        block.set(b"PATH", b"/evil");
        block.set(b"HTTP_A", b"x\0LD_PRELOAD=y");
        block.set(b"HTTP_B", b"");
        let bytes = block.finish().unwrap();
        assert_eq!(bytes, b"METHOD=GET\0HTTP_B=\0");
        assert_eq!(count(&bytes), Some(2));

        let mut many = Block::default();
        (0..=MAX_COUNT).for_each(|n| many.set(format!("HTTP_{n}").as_bytes(), b""));
        assert!(many.finish().is_none());
        let mut large = Block::default();
        large.set(b"HTTP_A", &vec![b'x'; MAX_BYTES]);
        assert!(large.finish().is_none());
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in [
            &b"METHOD=GET"[..],
            b"METHOD\0",
            b"LD_PRELOAD=x\0",
            b"METHOD=GET\0LD_PRELOAD=x\0",
            b"\0",
            b"METHOD=GET\0\0",
            b"=x\0",
        ] {
            assert_eq!(count(bad), None, "{bad:?}");
        }
        assert_eq!(count(b""), Some(0));
        assert_eq!(count(&b"METHOD=\0".repeat(MAX_COUNT + 1)), None);
    }

    proptest! {
        #[test]
        fn garbage_is_a_block_only_if_each_of_it_may_be_set(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(number) = count(&bytes) {
                prop_assert_eq!(number, each(&bytes).count());
            }
        }

        #[test]
        fn what_is_set_is_a_block(pairs in prop::collection::vec((".{0,12}", ".{0,12}"), 0..20)) {
            let mut block = Block::default();
            for (name, value) in &pairs {
                block.set(format!("HTTP_{name}").as_bytes(), value.as_bytes());
            }
            prop_assert!(count(&block.finish().unwrap()).is_some());
        }
    }
}
