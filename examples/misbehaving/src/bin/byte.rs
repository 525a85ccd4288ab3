//! Writes one byte to its stdout and waits for its end: what is left when a start is all that there is to time.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(b"x")?;
    io::stdout().flush()?;
    loop {
        nix::unistd::pause();
    }
}
