//! Links in the documents lead somewhere: each relative target is a file or folder of the tree.
//!
//! Called by `tidy` for each Markdown file. Addresses with a scheme and anchors within a page are
//! left alone.

use crate::tree::{Finding, Tree};

/// Every dead link.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.texts().filter(|(p, _)| p.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !tree.has(&resolved(path, target)) {
                    let message = format!("`{target}` leads nowhere: mend or remove the link");
                    found.push(Finding::new(path, index + 1, message));
                }
            }
        }
    }
    found
}

fn targets(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("](").skip(1);
    after
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|t| !t.is_empty() && !t.contains("://") && !t.starts_with("mailto:"))
}

fn resolved(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found_and_live_ones_are_not() {
        let page = "[a](../src/a.rs) [b](b.md#part) [c](#here) [d](https://e.test/x) [e](..)\n";
        let tree = Tree::of(&[("docs/x.md", page), ("src/a.rs", ""), ("docs/b.md", "")]);
        assert_eq!(check(&tree), []);
        let tree = Tree::of(&[("docs/x.md", page)]);
        assert_eq!(check(&tree).len(), 2);
    }
}
