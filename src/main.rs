//! The command line: see `berth --help`.
fn main() {}
