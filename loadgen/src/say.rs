//! What a person or a pipe is told: figures on stdout, all else on stderr.
//!
//! Called by every kind of load in place of `println!` and `eprintln!`, which panic when who reads
//! has gone, as behind `| head -1`. Then the figures are lost and the exit status is no success,
//! but the run goes on to its end and writes its files. What else prevents it is told on stderr;
//! who does not listen there misses it.

use std::io::{self, ErrorKind, Write, stderr, stdout};

/// Prints lines on stdout; whether they have got there.
pub(crate) fn figures(text: &str) -> bool {
    let Err(why) = told(&mut stdout().lock(), text) else { return true };
    if why.kind() != ErrorKind::BrokenPipe {
        error(&format!("stdout: {why}"));
    }
    false
}

/// Prints a line on stderr.
pub(crate) fn error(text: &str) {
    // There is nowhere else to say it.
    let _ = told(&mut stderr().lock(), text);
}

fn told(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(format!("{text}\n").as_bytes())?;
    to.flush()
}
