//! Words that have no place in the tree: notes to oneself, paths of one machine.
//!
//! Called by `tidy` for each text file. The words are put together here from halves, so that this
//! file passes its own check.

use crate::lex;
use crate::tree::{Finding, Tree};

const NOTES: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), "HACK:"];
const HOMES: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
const SKIPPED: &str = concat!("#[ig", "nore");
/// Parents of a checkout that are names of places every machine has.
const COMMON_PARENTS: [&str; 8] = ["", "/", "/tmp", "/usr/src", "/srv", "/opt", "/var", "/mnt"];

/// Notes in any text, skipped tests and sleeping tests in Rust.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    if path == "LICENSE" || path == "Cargo.lock" || path == "tests/xtask/src/tidy/words.rs" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for note in NOTES.iter().filter(|n| has_word(line, n)) {
            let message = format!("`{note}`: do it now, or file an issue and remove the note");
            found.push(Finding::new(path, index + 1, message));
        }
    }
    if path.ends_with(".rs") {
        for (index, line) in lex::split(text).iter().enumerate() {
            if line.code.contains(SKIPPED) {
                let message = "a skipped test tests nothing: mend it, or remove it and say why";
                found.push(Finding::new(path, index + 1, message));
            }
        }
    }
    found
}

/// Paths that exist on one machine only.
pub(crate) fn machine(tree: &Tree) -> Vec<Finding> {
    let mut local: Vec<String> = HOMES.iter().map(|h| (*h).to_owned()).collect();
    let parent = tree.root.parent().and_then(|p| p.to_str()).unwrap_or("");
    if !COMMON_PARENTS.contains(&parent) {
        local.push(format!("{parent}/"));
    }
    let mut found = Vec::new();
    for (path, text) in tree.texts() {
        for (index, line) in text.lines().enumerate() {
            if let Some(place) = local.iter().find(|place| line.contains(place.as_str())) {
                let message = format!(
                    "`{place}` is a path of one machine: take it from the environment or make \
                     it relative"
                );
                found.push(Finding::new(path, index + 1, message));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, rest) = line.split_at(at);
        let after = rest.strip_prefix(word).unwrap_or("");
        !part(before.chars().next_back()) && (word.ends_with(':') || !part(after.chars().next()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn notes_are_found_as_words_only() {
        for note in NOTES {
            let found = check("a.md", &format!("fine\n({note} later)\n"));
            assert_eq!(found.len(), 1, "{note}");
            assert!(found[0].to_string().starts_with("a.md:2: "));
        }
        assert_eq!(check("a.sh", "mktemp -d fsmtp.XXXXXX"), []);
        assert_eq!(check("a.rs", "// the Spanish word `todo` is no note"), []);
        assert_eq!(check("a.rs", &format!("{SKIPPED}]\nfn t() {{}}")).len(), 1);
        assert_eq!(check("a.rs", &format!("// {SKIPPED}] is refused")), []);
    }

    #[test]
    fn machine_paths_are_found() {
        let mut tree = Tree::of(&[
            ("a.md", &format!("see {}someone/x", HOMES[0])),
            ("b.sh", "cd /build/place/tree"),
            ("c.sh", "cd /var/lib/fsmtp"),
        ]);
        assert_eq!(machine(&tree).len(), 1);
        tree.root = PathBuf::from("/build/place/checkout");
        assert_eq!(machine(&tree).len(), 2);
        tree.root = PathBuf::from("/var/checkout");
        assert_eq!(machine(&tree).len(), 1);
    }
}
