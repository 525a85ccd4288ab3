//! How a command ends: exit codes in one table, and the message that goes with each. Prints nothing itself.

use std::io;

use crate::admin::client::ClientError;

/// The exit codes of every command; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// It did not work.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// What was asked about is not running.
    NotRunning = 3,
    /// No host answers at the admin socket (`EX_UNAVAILABLE` of sysexits).
    Unreachable = 69,
    /// Not allowed (`EX_NOPERM`).
    Permission = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
    /// Who reads our output has gone, as when SIGPIPE ends a program: 128 + 13. Ends without a message.
    BrokenPipe = 141,
}

/// Why a command did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the process exits with.
    pub code: Code,
    /// What, where, why and what to do next; several lines are fine.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { code, message }
    }

    /// An error of the system while doing `what`: not allowed is told from other reasons.
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> Failure {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Failure,
        };
        Failure::new(code, format!("{what}: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::Ended { .. } => Code::Unreachable,
            ClientError::Denied { .. } => Code::Permission,
            ClientError::Refused { .. } | ClientError::Strange { .. } => Code::Failure,
            ClientError::Output(e) => return Failure::output(e),
        };
        Failure::new(code, error.to_string())
    }
}

impl Failure {
    /// An error of writing to standard output: who reads it may have seen enough, and that is no news.
    pub fn output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Code::BrokenPipe, ""),
            _ => Failure::io("can't write to standard output", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[test]
    fn each_reason_has_its_exit_code() {
        let (path, why) = (
            std::path::PathBuf::from("/run/funcd/admin.sock"),
            "because".to_owned(),
        );
        let refused = ClientError::Refused {
            status: StatusCode::NOT_FOUND,
            detail: "there is no function x".to_owned(),
        };
        let unreachable = ClientError::Unreachable {
            path: path.clone(),
            why: why.clone(),
        };
        let strange = ClientError::Strange {
            path: path.clone(),
            why: why.clone(),
        };
        let cases: [(Failure, u8); 8] = [
            (refused.into(), 1),
            (strange.into(), 1),
            (unreachable.into(), 69),
            (ClientError::Denied { path, why }.into(), 77),
            (ClientError::Output(io::ErrorKind::BrokenPipe.into()).into(), 141),
            (Failure::io("x", &io::ErrorKind::PermissionDenied.into()), 77),
            (Failure::io("x", &io::ErrorKind::NotFound.into()), 1),
            (Failure::new(Code::Config, ""), 78),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.code as u8, code, "{failure:?}");
        }
        assert_eq!([Code::Usage as u8, Code::NotRunning as u8], [2, 3]);
    }
}
