//! Files that must be named elsewhere: test vectors by a test, decisions by their index.
//!
//! Called by `tidy`. A vector is opened when some Rust file names it, or names its folder (a test
//! that reads the whole folder); `tests/vectors/README.md` says where each comes from.

use crate::tree::{Finding, Tree};

const VECTORS: &str = "tests/vectors/";
const VECTORS_README: &str = "tests/vectors/README.md";
const DECISIONS: &str = "docs/decisions/";
const DECISIONS_README: &str = "docs/decisions/README.md";

/// Every vector is opened by a test and has a known origin.
pub(crate) fn vectors(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for path in tree.paths().filter(|p| p.starts_with(VECTORS) && *p != VECTORS_README) {
        let name = path.strip_prefix(VECTORS).unwrap_or(path);
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let by_name = format!("vectors/{name}");
        let by_folder = format!("vectors/{folder}\"");
        let opened = tree
            .rust()
            .any(|(_, t)| t.contains(&by_name) || (!folder.is_empty() && t.contains(&by_folder)));
        if !opened {
            let message = "no test opens this vector: open it, or remove it";
            found.push(Finding::new(path, 0, message));
        }
        let readme = tree.text(VECTORS_README).unwrap_or("");
        if !readme.contains(name) && (folder.is_empty() || !readme.contains(&format!("{folder}/")))
        {
            let message = format!("say in {VECTORS_README} where this vector comes from");
            found.push(Finding::new(path, 0, message));
        }
    }
    found
}

/// Every decision is in the index.
pub(crate) fn decisions(tree: &Tree) -> Vec<Finding> {
    let index = tree.text(DECISIONS_README).unwrap_or("");
    let records = tree.paths().filter(|p| p.starts_with(DECISIONS) && *p != DECISIONS_README);
    records
        .filter(|path| !index.contains(path.strip_prefix(DECISIONS).unwrap_or(path)))
        .map(|path| Finding::new(path, 0, format!("add it to the table in {DECISIONS_README}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_opened_by_name_or_by_folder_and_have_an_origin() {
        let tree = Tree::of(&[
            ("tests/vectors/README.md", "body/: ours\nspool/old.seg: ours\n"),
            ("tests/vectors/body/a.txt", ""),
            ("tests/vectors/spool/old.seg", ""),
            ("a.rs", "read_dir(\"../tests/vectors/body\"); include!(\"../vectors/spool/old.seg\")"),
        ]);
        assert_eq!(vectors(&tree), []);
        let tree = Tree::of(&[("tests/vectors/lost/a.txt", ""), ("a.rs", "\"vectors/lost/b\"")]);
        assert_eq!(vectors(&tree).len(), 2);
    }

    #[test]
    fn a_decision_outside_the_index_is_found() {
        let record = ("docs/decisions/0002-index.md", "");
        let tree = Tree::of(&[record, ("docs/decisions/README.md", "0001-house.md")]);
        assert_eq!(decisions(&tree).len(), 1);
        let tree = Tree::of(&[record, ("docs/decisions/README.md", "[x](0002-index.md)")]);
        assert_eq!(decisions(&tree), []);
    }
}
