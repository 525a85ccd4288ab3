//! Who may use the admin socket. The socket's mode and group decide who can connect at all; this adds who must not,
//! whatever the mode says. Pure.

use std::ops::Range;

/// Who may use the admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// These uids always may, beside root: the supervisor's own and the launcher's.
    pub trusted: Vec<u32>,
    /// Whether others may that the socket's mode (0660) lets connect: the members of its group.
    pub group: bool,
    /// The uids of functions: never, even if one got at the socket.
    pub functions: Range<u32>,
}

impl Peers {
    /// Whether a peer with this uid (`SO_PEERCRED`: as it was at `connect`) may use the API.
    pub fn admit(&self, uid: u32) -> bool {
        let trusted = uid == 0 || self.trusted.contains(&uid);
        trusted || (self.group && !self.functions.contains(&uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may() {
        let mut peers = Peers {
            trusted: vec![990],
            group: true,
            functions: 61_000..62_000,
        };
        for (uid, with_group, without) in [
            (0, true, true),
            (990, true, true),
            (1000, true, false),
            (61_000, false, false),
            (61_999, false, false),
            (62_000, true, false),
        ] {
            peers.group = true;
            assert_eq!(peers.admit(uid), with_group, "{uid}");
            peers.group = false;
            assert_eq!(peers.admit(uid), without, "{uid}");
        }
    }
}
