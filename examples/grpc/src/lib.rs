//! What the service and its callers agree on: what `protoc` would make of
//!
//! ```proto
//! package funcd.example;
//! message Line { string text = 1; uint32 number = 2; }
//! service Talk {
//!   rpc Say(Line) returns (Line);
//!   rpc Count(Line) returns (stream Line);
//!   rpc Collect(stream Line) returns (Line);
//!   rpc Chat(stream Line) returns (stream Line);
//! }
//! ```
//!
//! It is written by hand so that this folder builds without `protoc`; with it, let `tonic-prost-build` write it.

/// What is said either way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Line {
    /// Words.
    #[prost(string, tag = "1")]
    pub text: String,
    /// What they need.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

/// The service's name.
pub const NAME: &str = "funcd.example.Talk";
/// One line, one answer.
pub const SAY: &str = "/funcd.example.Talk/Say";
/// One line, many answers.
pub const COUNT: &str = "/funcd.example.Talk/Count";
/// Many lines, one answer.
pub const COLLECT: &str = "/funcd.example.Talk/Collect";
/// Many lines, many answers.
pub const CHAT: &str = "/funcd.example.Talk/Chat";
