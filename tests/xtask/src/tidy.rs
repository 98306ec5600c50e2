//! `cargo xtask tidy`: the shape of the tree. One file per kind of rule.
//!
//! Called by `main`. Rules look at text only; what the compiler or clippy can check is left to
//! them. To add a rule: a function from the tree to findings here or in a file beside these, one
//! line in [`check`], and a test with a sample that fails.

mod layout;
mod links;
mod manifest;
mod shape;
mod unsafety;
mod words;

use crate::tree::{Finding, Tree};

/// Every finding, sorted by place.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.rust() {
        found.extend(shape::check(path, text));
        found.extend(unsafety::outside(path, text));
    }
    for (path, text) in tree.texts() {
        found.extend(words::check(path, text));
    }
    found.extend(words::machine(tree));
    found.extend(unsafety::counted(tree));
    found.extend(manifest::check(tree));
    found.extend(layout::vectors(tree));
    found.extend(layout::decisions(tree));
    found.extend(links::check(tree));
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_clean_tree_has_no_findings() {
        let tree = Tree::of(&[
            ("proto/src/lib.rs", "//! Something.\n\n/// Does it.\npub fn it() {}\n"),
            ("proto/Cargo.toml", "[package]\nname = \"fsmtp-proto\"\n"),
            ("README.md", "See [it](proto/src/lib.rs).\n"),
        ]);
        assert_eq!(check(&tree), []);
    }
}
