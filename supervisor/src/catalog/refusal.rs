//! Why an entry of the folder is not a function: a kind from a closed list, for the metric, and a reason for people.

/// Why an entry is not a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`kind::ALL`], or a kind of the daemon's own.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            reason: reason.into(),
        }
    }
}

/// The kinds that the catalog itself refuses with.
pub mod kind {
    /// The name is not a function's name.
    pub const BAD_NAME: &str = "bad-name";
    /// A symbolic link.
    pub const SYMLINK: &str = "symlink";
    /// A FIFO, a socket or a device.
    pub const SPECIAL_FILE: &str = "special-file";
    /// No execute bit.
    pub const NOT_EXECUTABLE: &str = "not-executable";
    /// The set-user-ID or set-group-ID bit.
    pub const SETUID: &str = "setuid";
    /// Somebody beside its owner may change it.
    pub const WRITABLE: &str = "writable";
    /// Neither root nor the owner of the functions folder owns it.
    pub const OWNER: &str = "owner";
    /// The functions folder itself is not safe to run from.
    pub const UNSAFE_FOLDER: &str = "unsafe-folder";
    /// The supervisor may not read it.
    pub const UNREADABLE: &str = "unreadable";
    /// A file of no bytes.
    pub const EMPTY: &str = "empty";
    /// A folder without its executable.
    pub const NO_EXECUTABLE: &str = "no-executable";
    /// Larger than what is stored.
    pub const TOO_BIG: &str = "too-big";
    /// `function.toml` has a mistake.
    pub const BAD_MANIFEST: &str = "bad-manifest";
    /// Neither ELF nor `#!`, or no program.
    pub const NOT_A_PROGRAM: &str = "not-a-program";
    /// It ends before its own headers say it does.
    pub const TRUNCATED: &str = "truncated";
    /// Built for another architecture or system.
    pub const FOREIGN: &str = "foreign-architecture";
    /// The folder has more entries than are looked at.
    pub const TOO_MANY: &str = "too-many";

    /// All of them.
    pub const ALL: [&str; 17] = [
        BAD_NAME,
        SYMLINK,
        SPECIAL_FILE,
        NOT_EXECUTABLE,
        SETUID,
        WRITABLE,
        OWNER,
        UNSAFE_FOLDER,
        UNREADABLE,
        EMPTY,
        NO_EXECUTABLE,
        TOO_BIG,
        BAD_MANIFEST,
        NOT_A_PROGRAM,
        TRUNCATED,
        FOREIGN,
        TOO_MANY,
    ];
}
