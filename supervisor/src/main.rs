//! Picks the role before any thread exists, runs it, exits.

fn main() {}
