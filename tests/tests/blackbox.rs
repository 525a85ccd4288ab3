//! Placeholder until the first black-box test lands in this commit series.
fn main() {}
