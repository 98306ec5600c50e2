//! Sizes and headers of Rust files: lines, functions, files, the `//!` at the top.
//!
//! Called by `tidy` for each Rust file. The numbers are those of the style card; they are
//! arbitrary in that a little more would do no harm, and useful in that they are never argued.

use crate::lex;
use crate::tree::Finding;

const LINE_COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 700;

/// Checks one file.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    header(path, text, &mut found);
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        // A row of a table in a document comment cannot be broken.
        let row = line.trim_start().starts_with("//! |") || line.trim_start().starts_with("/// |");
        if columns > LINE_COLUMNS_MAX && !row {
            let message = format!("{columns} columns: break the line at {LINE_COLUMNS_MAX}");
            found.push(Finding::new(path, index + 1, message));
        }
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!(
            "{lines} lines: a file is one noun of at most {FILE_LINES_MAX}; \
             move one of its nouns to a file beside it"
        );
        found.push(Finding::new(path, 0, message));
    }
    functions(path, text, &mut found);
    found
}

fn header(path: &str, text: &str, found: &mut Vec<Finding>) {
    let first = text.lines().next().unwrap_or("");
    if !first.starts_with("//! ") {
        let message = "begin with `//!`: what it is, who calls it, its limits, how it fails";
        found.push(Finding::new(path, 1, message));
    } else if first.starts_with("//! Placeholder") {
        let message = "a placeholder: write the file or remove it from the tree";
        found.push(Finding::new(path, 1, message));
    }
}

fn functions(path: &str, text: &str, found: &mut Vec<Finding>) {
    let lines = lex::split(text);
    let tokens = lex::tokens(&lines);
    for (index, pair) in tokens.windows(2).enumerate() {
        let [(line, "fn"), (_, name)] = pair else { continue };
        if *name == "(" {
            continue; // a function's type, not a function
        }
        let Some(last) = end(tokens.get(index..).unwrap_or(&[])) else { continue };
        let count = last + 1 - line;
        if count > FUNCTION_LINES_MAX {
            let message = format!(
                "`{name}` has {count} lines: a function fits one screen of \
                 {FUNCTION_LINES_MAX}; give a part of it a name of its own"
            );
            found.push(Finding::new(path, *line, message));
        }
    }
}

/// The line where the body that begins in `tokens` ends; none for a function without a body.
fn end(tokens: &[(usize, &str)]) -> Option<usize> {
    let mut depth = 0usize;
    let mut braces = 0usize;
    for (line, token) in tokens {
        match *token {
            "(" | "[" if braces == 0 => depth += 1,
            ")" | "]" if braces == 0 => depth = depth.saturating_sub(1),
            ";" if depth == 0 && braces == 0 => return None,
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return Some(*line);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        check("a.rs", text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn long_line_long_file_and_no_header_are_found() {
        assert_eq!(messages("//! Fine.\n"), [""; 0]);
        assert!(messages("fn a() {}\n")[0].starts_with("a.rs:1: begin with"));
        assert!(messages("//! Placeholder.\n")[0].contains("a placeholder"));
        let at_the_limit = format!("//! A.\n// {}\n", "é".repeat(97));
        assert_eq!(messages(&at_the_limit), [""; 0]);
        let long = format!("//! A.\n// {}\n", "é".repeat(98));
        assert!(messages(&long)[0].starts_with("a.rs:2: 101 columns"));
        let row = format!("//! A.\n//! | {} |\n", "x".repeat(120));
        assert_eq!(messages(&row), [""; 0]);
        let longest = format!("//! A.\n{}", "\n".repeat(699));
        assert_eq!(messages(&longest), [""; 0]);
        assert!(messages(&format!("{longest}\n"))[0].starts_with("a.rs: 701 lines"));
    }

    #[test]
    fn function_lines_are_counted_to_the_closing_brace() {
        let body =
            |lines: usize| format!("//! A.\nfn f(a: [u8; 2]) {{\n{}}}\n", "{}\n".repeat(lines));
        assert_eq!(messages(&body(68)), [""; 0]);
        assert!(messages(&body(69))[0].starts_with("a.rs:2: `f` has 71 lines"));
        let no_body = format!("//! A.\ntrait T {{\nfn f();\n{}}}\n", "\n".repeat(80));
        assert_eq!(messages(&no_body), [""; 0]);
        let pointer = format!("//! A.\nstruct S {{\nf: fn(u8),\n{}}}\n", "\n".repeat(80));
        assert_eq!(messages(&pointer), [""; 0]);
    }
}
