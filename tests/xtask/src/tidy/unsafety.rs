//! `unsafe` stands below `engine/rt/src/sys` only, each with its two comments, and is counted.
//!
//! Called by `tidy`. The compiler forbids it elsewhere already (workspace lints); this check also
//! sees code that is compiled out. The count lives in `engine/rt/src/sys/README.md`, one line
//! per file: "- `ring.rs` 5: what it is for". A count that differs in either direction is a
//! finding, so a new use is a deliberate change of that file.

use crate::lex::{self, Line};
use crate::tree::{Finding, Tree};

const HOME: &str = "engine/rt/src/sys/";
const README: &str = "engine/rt/src/sys/README.md";
/// How far above a use its comments may begin; arbitrary, longer than any of them should be.
const COMMENT_LINES_MAX: usize = 24;

/// Uses in one file that lies elsewhere.
pub(crate) fn outside(path: &str, text: &str) -> Vec<Finding> {
    if path.starts_with(HOME) {
        return Vec::new();
    }
    let message = format!("`unsafe` outside {HOME}: use a safe wrapper from there, or add one");
    let lines = lex::split(text);
    uses(&lines).into_iter().map(|line| Finding::new(path, line, message.as_str())).collect()
}

/// Uses at home: commented, and as many as the README says.
pub(crate) fn counted(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let readme = tree.text(README).unwrap_or("");
    for (path, text) in tree.rust().filter(|(p, _)| p.starts_with(HOME)) {
        let lines = lex::split(text);
        let uses = uses(&lines);
        for &line in &uses {
            let comment = comment_above(&lines, line);
            for mark in ["WHY:", "SAFETY:"] {
                if !comment.contains(mark) {
                    let message = format!("say `// {mark} ...` above this use of unsafe");
                    found.push(Finding::new(path, line, message));
                }
            }
        }
        let name = path.strip_prefix(HOME).unwrap_or(path);
        let row = format!("- `{name}` ");
        let said = readme.lines().find_map(|l| l.strip_prefix(&row));
        let said = said.and_then(|r| r.split(':').next()?.trim().parse().ok()).unwrap_or(0);
        if said != uses.len() {
            let message = format!(
                "{} uses of unsafe, {README} says {said}: remove the new one, or write \
                 \"{row}{}: why\" there",
                uses.len(),
                uses.len()
            );
            found.push(Finding::new(path, 0, message));
        }
    }
    found
}

fn uses(lines: &[Line]) -> Vec<usize> {
    lex::tokens(lines).into_iter().filter(|(_, t)| *t == "unsafe").map(|(line, _)| line).collect()
}

/// The comments on the line itself and above it, as far as the statement before.
fn comment_above(lines: &[Line], line: usize) -> String {
    let mut text = String::new();
    for (distance, l) in lines.iter().take(line).rev().take(COMMENT_LINES_MAX).enumerate() {
        let code = l.code.trim_end();
        let blank = code.is_empty() && l.comment.trim().is_empty();
        if distance > 0 && (blank || code.ends_with([';', '}', '{'])) {
            break;
        }
        text.push_str(&l.comment);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! A.\nfn f() {\n    // WHY: no safe call does it.\n    \
                        // SAFETY: the pointer is valid.\n    let a = unsafe { g() };\n}\n";

    #[test]
    fn unsafe_elsewhere_is_found_in_code_only() {
        assert_eq!(outside("store/src/lib.rs", "unsafe { x() }").len(), 1);
        assert_eq!(outside("store/src/lib.rs", "// unsafe\n#![forbid(unsafe_code)]"), []);
        assert_eq!(outside("engine/rt/src/sys/ring.rs", "unsafe { x() }"), []);
    }

    #[test]
    fn unsafe_at_home_needs_its_comments_and_its_row() {
        let row = "# sys\n\n- `ring.rs` 1: submission\n";
        let tree = Tree::of(&[("engine/rt/src/sys/ring.rs", GOOD), (README, row)]);
        assert_eq!(counted(&tree), []);
        let bare = GOOD.replace("SAFETY", "Safe");
        let tree = Tree::of(&[("engine/rt/src/sys/ring.rs", &bare), (README, row)]);
        assert_eq!(counted(&tree).len(), 1);
        let tree = Tree::of(&[("engine/rt/src/sys/ring.rs", GOOD)]);
        assert!(counted(&tree)[0].to_string().contains("write \"- `ring.rs` 1: why\""));
        let comment_too_far = GOOD.replace("    let", "    h();\n    let");
        let tree = Tree::of(&[("engine/rt/src/sys/ring.rs", &comment_too_far), (README, row)]);
        assert_eq!(counted(&tree).len(), 2);
    }
}
