//! Which crate may use which: the direction of dependencies, and what each is for.
//!
//! Called by `tidy`. Reads the dependency tables of each `Cargo.toml` line by line, which is
//! enough because every version stands in the root manifest and every use is one line.
//! A manifest whose package has no row in [`CRATES`] is a finding.

use crate::tree::{Finding, Tree};

/// Each of our crates and those of ours that it may use.
const CRATES: [(&str, &[&str]); 11] = [
    ("fsmtp-proto", &[]),
    ("fsmtp-rt", &["fsmtp-proto"]),
    ("fsmtp-store", &["fsmtp-rt", "fsmtp-proto"]),
    ("fsmtp-cluster", &["fsmtp-store", "fsmtp-rt"]),
    ("fsmtp-engine", &["fsmtp-cluster", "fsmtp-store", "fsmtp-rt", "fsmtp-proto"]),
    ("loadgen", &["fsmtp-proto", "fsmtp-rt", "wire-tests"]),
    ("bench", &["fsmtp-proto", "fsmtp-rt", "fsmtp-store", "fsmtp-engine"]),
    ("wire-tests", &["fsmtp-cluster", "fsmtp-proto"]),
    ("fsmtp-crash", &["wire-tests"]),
    ("fsmtp-sim", &["fsmtp-proto", "fsmtp-rt", "fsmtp-store", "fsmtp-engine"]),
    ("xtask", &[]),
];

/// Foreign crates that only some of ours may name, so that each can be replaced in one place.
const KEPT_IN: [(&str, &[&str], &str); 12] = [
    ("glommio", &["fsmtp-rt"], "the runtime stays behind the traits of fsmtp-rt"),
    ("io-uring", &["fsmtp-rt"], "the kernel stays behind the traits of fsmtp-rt"),
    ("libc", &["fsmtp-rt"], "the kernel stays behind the traits of fsmtp-rt"),
    ("tokio", &["fsmtp-cluster"], "a shard never awaits tokio: it asks the bridge"),
    ("redis", &["fsmtp-cluster"], "Redis stays in store/cluster"),
    ("scylla", &["fsmtp-cluster"], "Cassandra stays in store/cluster"),
    ("async-std", &[], "there is one runtime, behind fsmtp-rt"),
    ("fjall", &["fsmtp-store"], "the embedded database stays in the store"),
    ("redb", &["fsmtp-store"], "the embedded database stays in the store"),
    ("argon2", &["fsmtp-store"], "password hashes stay in store/src/password.rs"),
    ("aws-lc-rs", &["fsmtp-store"], "RSA stays in store/src/seal/rsa.rs"),
    ("mimalloc", &["fsmtp-engine", "bench"], "the allocator is the binary's choice"),
];

/// The only foreign crates that protocol code may use: no I/O, no clock, no threads. Wiping memory
/// needs a write that the compiler keeps, which safe code of ours cannot say: `zeroize`.
const PROTO_USES: [&str; 9] = [
    "base64",
    "fearless_simd",
    "fsmtp-proto",
    "hickory-proto",
    "idna",
    "memchr",
    "psl",
    "ring",
    "zeroize",
];

struct Use<'a> {
    line: usize,
    name: &'a str,
    rest: &'a str,
    dev: bool,
}

/// Checks every manifest of the tree but the root's.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.texts().filter(|(p, _)| p.ends_with("/Cargo.toml")) {
        // Not members: cargo-fuzz wants a workspace of its own, and so do other people's verifiers.
        if path.contains("/fuzz/") || path.starts_with("tests/oracles/") {
            continue;
        }
        let name = package(text);
        let Some((_, may_use)) = CRATES.iter().find(|(crate_name, _)| *crate_name == name) else {
            let message = format!("`{name}` is new: give it a row in tests/xtask's table CRATES");
            found.push(Finding::new(path, 0, message));
            continue;
        };
        for used in uses(text) {
            if let Some(message) = judge(name, may_use, &used) {
                found.push(Finding::new(path, used.line, message));
            }
        }
    }
    found
}

fn judge(package: &str, may_use: &[&str], used: &Use<'_>) -> Option<String> {
    let name = used.name;
    let ours = CRATES.iter().any(|(crate_name, _)| *crate_name == name);
    if ours && !may_use.contains(&name) && name != package {
        return Some(format!(
            "{package} must not use {name}: dependencies point engine -> store -> rt -> proto; \
             move what is needed to the lower crate, or pass it in"
        ));
    }
    if let Some((_, kept, why)) = KEPT_IN.iter().find(|(c, ..)| *c == name)
        && !kept.contains(&package)
    {
        return Some(format!("{package} must not use {name}: {why}"));
    }
    if package == "fsmtp-proto" && !used.dev && !PROTO_USES.contains(&name) {
        return Some(format!(
            "protocol code uses no {name}: pass its result in, or add it to PROTO_USES with the \
             reason"
        ));
    }
    if !used.rest.contains("workspace") {
        return Some(format!("write `{name}.workspace = true`: versions stand in the root once"));
    }
    if !ours && !used.dev && !used.rest.contains('#') {
        return Some(format!("say in a comment on this line what {name} is used for"));
    }
    None
}

fn package(text: &str) -> &str {
    let line = text.lines().find(|l| l.starts_with("name"));
    line.and_then(|l| l.split('"').nth(1)).unwrap_or("")
}

fn uses(text: &str) -> Vec<Use<'_>> {
    let mut table = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            let dev = name.contains("dev-dependencies");
            table = name.contains("dependencies]").then_some(dev);
            continue;
        }
        let (Some(dev), false) = (table, line.is_empty() || line.starts_with('#')) else {
            continue;
        };
        if let Some(end) = line.find(['.', ' ', '=']) {
            let (name, rest) = line.split_at(end);
            found.push(Use { line: index + 1, name: name.trim_matches('"'), rest, dev });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, dependencies: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{name}\"\n\n{dependencies}\n[lints]\nx = 1\n");
        let tree = Tree::of(&[("x/Cargo.toml", &text)]);
        check(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_right_direction_passes() {
        let good = "[dependencies]\nfsmtp-rt.workspace = true\n\
                    crc32fast.workspace = true # checksums of records\n\
                    [dev-dependencies]\nproptest.workspace = true";
        assert_eq!(findings("fsmtp-store", good), [""; 0]);
    }

    #[test]
    fn each_wrong_use_is_found() {
        let cases = [
            ("fsmtp-rt", "[dependencies]\nfsmtp-store.workspace = true", "point engine"),
            ("fsmtp-proto", "[dev-dependencies]\nfsmtp-rt.workspace = true", "point engine"),
            ("fsmtp-store", "[dependencies]\nglommio.workspace = true # io", "behind the traits"),
            ("fsmtp-engine", "[dependencies]\ntokio.workspace = true # why", "never awaits"),
            ("fsmtp-proto", "[dependencies]\nserde.workspace = true # x", "uses no serde"),
            ("fsmtp-store", "[dependencies]\ncrc32fast = \"1\" # x", "versions stand"),
            ("fsmtp-store", "[dependencies]\ncrc32fast.workspace = true", "say in a comment"),
            ("another", "", "is new"),
        ];
        for (name, text, expected) in cases {
            let found = findings(name, text);
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].contains(expected), "{}", found[0]);
        }
    }
}
