//! `cargo xtask rfc`: the table `proto/rfc.tsv` against the references in the code.
//!
//! Called by `main`. A reference is `RFC 5321 §4.5.2` (or `RFC 5321 §§4.5.2, 4.5.3`) anywhere in a
//! Rust file, comments included. Each needs a row for its section or one above it (`4.5` covers
//! `4.5.2`, `-` a whole RFC), and each row marked `done` needs a reference in that section or
//! below. With a number, `show` prints the lines that obey it.
//!
//! The table: RFC, section, status, file (from the root or from proto), note, separated by tabs; a
//! section may have several rows. Lines that begin with `#` and the heading are comments.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crate::tree::{Finding, Tree};

const TABLE: &str = "proto/rfc.tsv";
/// What a row may say about its section.
const STATUSES: [&str; 4] = ["done", "partly", "later", "no"];

#[derive(Debug, PartialEq)]
struct Row<'a> {
    line: usize,
    rfc: &'a str,
    section: &'a str,
    status: &'a str,
    file: &'a str,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Reference {
    rfc: String,
    section: String,
    path: String,
    line: usize,
    text: String,
}

/// Every reference without a row, and every untrue row.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let rows = rows(tree.text(TABLE).unwrap_or(""));
    let references = references(tree);
    for r in &references {
        let covered = rows.iter().any(|row| row.rfc == r.rfc && covers(row.section, &r.section));
        if !covered {
            let message = format!("RFC {} §{} has no row in {TABLE}: add one", r.rfc, r.section);
            found.push(Finding::new(&r.path, r.line, message));
        }
    }
    for row in &rows {
        if let Some(message) = judge(tree, row, &references) {
            found.push(Finding::new(TABLE, row.line, message));
        }
    }
    found.sort();
    found
}

fn judge(tree: &Tree, row: &Row<'_>, references: &[Reference]) -> Option<String> {
    if row.rfc.parse::<u32>().is_err() || !STATUSES.contains(&row.status) {
        return Some(format!(
            "a row is RFC, section, one of {STATUSES:?}, file, note; tabs between"
        ));
    }
    let looks_like_a_file = row.file.contains('/') && !row.file.contains(' ');
    let beside = format!("proto/{}", row.file);
    if looks_like_a_file && !tree.has(row.file) && !tree.has(&beside) {
        return Some(format!("there is no `{}`: name the file that does it now", row.file));
    }
    let referred = references.iter().any(|r| r.rfc == row.rfc && covers(row.section, &r.section));
    if row.status == "done" && !referred {
        return Some(format!(
            "marked done, but no line of code says `RFC {} §{}`: write it on the line that obeys",
            row.rfc, row.section
        ));
    }
    None
}

/// Prints the table's rows and the code's lines for one RFC, or one section of it.
pub(crate) fn show(tree: &Tree, rfc: &str, section: Option<&str>) -> ExitCode {
    let wanted = section.unwrap_or("-");
    for row in rows(tree.text(TABLE).unwrap_or("")) {
        if row.rfc == rfc && (covers(wanted, row.section) || covers(row.section, wanted)) {
            println!("RFC {} §{}: {} {}", row.rfc, row.section, row.status, row.file);
        }
    }
    let mut any = false;
    for r in references(tree).iter().filter(|r| r.rfc == rfc && covers(wanted, &r.section)) {
        println!("{}:{}: {}", r.path, r.line, r.text);
        any = true;
    }
    if any { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn covers(row: &str, section: &str) -> bool {
    row == "-"
        || row == section
        || section.strip_prefix(row).is_some_and(|rest| rest.starts_with('.'))
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (index, line) in table.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') || line.to_lowercase().starts_with("rfc\t") {
            continue;
        }
        let mut cells = line.split('\t').map(str::trim);
        let mut cell = || cells.next().unwrap_or("");
        let (rfc, section, status, file) = (cell(), cell(), cell(), cell());
        let section = section.trim_start_matches('§');
        rows.push(Row { line: index + 1, rfc, section, status, file });
    }
    rows
}

fn references(tree: &Tree) -> Vec<Reference> {
    let mut found = BTreeSet::new();
    for (path, text) in tree.rust().filter(|(p, _)| !p.starts_with("tests/xtask/")) {
        for (index, line) in text.lines().enumerate() {
            for (rfc, section) in in_line(line) {
                found.insert(Reference {
                    rfc,
                    section,
                    path: path.to_owned(),
                    line: index + 1,
                    text: line.trim().to_owned(),
                });
            }
        }
    }
    found.into_iter().collect()
}

/// The (RFC, section) pairs that a line names.
fn in_line(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in line.split("RFC ").skip(1) {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (rfc, rest) = part.split_at(digits);
        let rest = rest.trim_start_matches([',', ' ']);
        if rfc.is_empty() || !rest.starts_with('§') {
            continue;
        }
        let mut items = rest.split_whitespace().peekable();
        while let Some(item) = items.next() {
            let item = item.trim_start_matches('§');
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.';
            let (section, after) = item.split_at(item.find(|c| !is_part(c)).unwrap_or(item.len()));
            let section = section.trim_end_matches('.');
            if !is_section(section) {
                break;
            }
            found.push((rfc.to_owned(), section.to_owned()));
            let joined = items.next_if(|i| matches!(*i, "and" | "or" | "to")).is_some();
            if !joined && after != "," {
                break;
            }
        }
    }
    found
}

/// `4.5.2`, or an appendix: `A`, `B.1`.
fn is_section(text: &str) -> bool {
    let mut parts = text.split('.');
    let first = parts.next().unwrap_or("");
    let number = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    let letter = first.len() == 1 && first.bytes().all(|b| b.is_ascii_uppercase());
    (number(first) || letter) && parts.all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_in_all_their_forms() {
        let pair = |r: &str, s: &str| (r.to_owned(), s.to_owned());
        let one = vec![pair("5321", "4.5.2")];
        assert_eq!(in_line("// RFC 5321 §4.5.2"), one);
        assert_eq!(in_line("/// Dots (RFC 5321 §4.5.2). Then 3 more."), one);
        assert_eq!(in_line("// RFC 5321, §4.5.2: never 7"), one);
        assert_eq!(
            in_line("// RFC 5321 §§4.5.2 and 4.1.1.4, RFC 1939 §3"),
            [pair("5321", "4.5.2"), pair("5321", "4.1.1.4"), pair("1939", "3")]
        );
        assert_eq!(in_line("// RFC 5321 says so in its section 4"), []);
        assert_eq!(in_line("// RFC 5321 §4.5.2 A client must"), one);
        assert_eq!(in_line("// RFC 5321 §4.5.2, a client must"), one);
        assert_eq!(
            in_line("// RFC 5321 §4.5.2, §2.4, 3.3 or A"),
            ["4.5.2", "2.4", "3.3", "A"].map(|s| pair("5321", s))
        );
    }

    #[test]
    fn a_table_that_fits_has_no_findings() {
        let table = "RFC\tsection\tstatus\tfile\n# notes\n5321\t4.5\tdone\tsrc/a.rs\tdots\n\
                     1870\t-\tpartly\n";
        let code = "// RFC 5321 §4.5.2\n// RFC 1870 §6.1\n";
        let tree = Tree::of(&[(TABLE, table), ("proto/src/a.rs", code)]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn what_does_not_fit_is_found() {
        for (table, code, expected) in [
            ("", "// RFC 5321 §4.5.2", "has no row"),
            ("5321\t4.5.20\tlater\n", "// RFC 5321 §4.5.2", "has no row"),
            ("5321\t4.5.2\tdone\n", "// RFC 5321 §4.5", "marked done"),
            ("5321\t4.5.2\tperhaps\n", "", "one of"),
            ("5321\t4.5.2\tlater\tproto/gone.rs\n", "", "there is no"),
            ("5321\t2\tlater\tsrc/gone.rs\n", "", "there is no"),
        ] {
            let tree = Tree::of(&[(TABLE, table), ("proto/a.rs", code)]);
            let found = check(&tree);
            assert!(found.iter().any(|f| f.to_string().contains(expected)), "{table}: {found:?}");
        }
    }
}
