//! The files that the checks read: what git tracks or would track, as text.
//!
//! Called by every check. Files over [`FILE_BYTES_MAX`] and files that are not UTF-8 are listed
//! without text. Without git (an unpacked archive) the folder is walked instead.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Larger files are test data, not text; arbitrary, but far above any source file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Folders that hold what is built or stored, for the walk without git.
const NOT_SOURCE: [&str; 5] = [".git", "target", "fsmtp-data", "corpus", "artifacts"];

/// One thing to mend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    /// A finding at a 1-based line; 0 means the file as a whole.
    pub(crate) fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.path, self.message)
        } else {
            write!(f, "{}:{}: {}", self.path, self.line, self.message)
        }
    }
}

/// The working tree: path relative to the root, with `/`, to text.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Where it lies on this machine; empty in tests.
    pub(crate) root: PathBuf,
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    /// Reads the tree below `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        for path in tracked(root).unwrap_or_else(|| walked(root)) {
            let full = root.join(&path);
            let small = full.metadata().is_ok_and(|m| m.is_file() && m.len() <= FILE_BYTES_MAX);
            if small {
                files.insert(path, std::fs::read_to_string(&full).ok());
            } else if full.is_file() {
                files.insert(path, None);
            }
        }
        Self { root: root.to_owned(), files }
    }

    /// A tree made of literals, for tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(p, t)| ((*p).to_owned(), Some((*t).to_owned())));
        Self { root: PathBuf::new(), files: files.collect() }
    }

    /// Every path.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Every file that is text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(p, t)| Some((p.as_str(), t.as_deref()?)))
    }

    /// Every Rust file.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(p, _)| p.ends_with(".rs"))
    }

    /// The text of one file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Whether `path` is a file or a folder of the tree.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        path.is_empty()
            || self.files.contains_key(path)
            || self.files.keys().any(|p| p.starts_with(&folder))
    }
}

/// The workspace's root: two folders above this crate.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && !NOT_SOURCE.iter().any(|n| name == *n) {
                folders.push(path);
            } else if let Some(p) = path.strip_prefix(root).ok().and_then(Path::to_str) {
                found.push(p.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_this_file_both_ways_of_reading() {
        let root = root();
        let tree = Tree::read(&root);
        assert!(tree.has("tests/xtask/src/tree.rs") && tree.has("tests/xtask"));
        assert!(!tree.has("tests/xtask/sr"));
        assert!(walked(&root).iter().any(|p| p == "tests/xtask/src/tree.rs"));
    }
}
