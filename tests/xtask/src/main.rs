//! Checks of the house: `cargo xtask tidy`, `cargo xtask rfc`, `cargo xtask ci`.
//!
//! Called by people and by `.ci/run`. Reads the working tree only, changes nothing, and needs no
//! crate but std. Each finding is one line, `path:line: what is wrong: how to mend it`; the exit
//! status is 0 without findings, 1 with some, 2 for wrong usage.

mod ci;
mod lex;
mod rfc;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask tidy                 the shape of the tree: sizes, headers, words, dependencies, unsafe
cargo xtask rfc [NUMBER [SEC]]   references against proto/rfc.tsv; with a number: where it is obeyed
cargo xtask ci [--skip a,b] [--only a,b] [--list]
                                 every check that a change must pass, in order";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = tree::root();
    let findings = match words.split_first() {
        Some((&"tidy", [])) => tidy::check(&tree::Tree::read(&root)),
        Some((&"rfc", [])) => rfc::check(&tree::Tree::read(&root)),
        Some((&"rfc", [number, rest @ ..])) if rest.len() < 2 => {
            return rfc::show(&tree::Tree::read(&root), number, rest.first().copied());
        }
        Some((&"ci", rest)) => return ci::run(&root, rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    for finding in &findings {
        println!("{finding}");
    }
    let name = words.first().copied().unwrap_or("");
    if findings.is_empty() {
        println!("{name}: clean");
        ExitCode::SUCCESS
    } else {
        println!("{name}: {} findings", findings.len());
        ExitCode::FAILURE
    }
}
