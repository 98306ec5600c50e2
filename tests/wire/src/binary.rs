//! Which engine is tested.
//!
//! `FSMTP_ENGINE` names it; else it is built with the profile of the program that asks, so that a
//! test never runs against a stale binary; without cargo, the one beside this program is taken.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of the engine's binary; built once per process.
///
/// # Errors
/// A sentence that says what was tried.
pub fn engine() -> Result<&'static Path, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(find).as_deref().map_err(Clone::clone)
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("FSMTP_ENGINE").map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("FSMTP_ENGINE names {}, which is no file", path.display()))
        };
    }
    let (folder, profile) = profile()?;
    let target = folder.parent().unwrap_or(&folder);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(&folder);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells this program of its package must not reach the cargo that it runs: build
    // scripts that look at it would run again, and all that depends on them be built anew.
    for (name, _) in std::env::vars_os() {
        let said = name.to_string_lossy();
        if said.starts_with("CARGO_PKG_") || said.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let built = command
        .args(["build", "--quiet", "--locked", "--package", "fsmtp-engine"])
        .args(["--bin", "fsmtp-engine", "--profile", &profile, "--target-dir"])
        .arg(target)
        .current_dir(root)
        .status();
    let path = folder.join("fsmtp-engine");
    match built {
        Ok(status) if !status.success() => Err(format!("the engine does not build: {status}")),
        _ if path.is_file() => Ok(path),
        Err(error) => Err(format!("cargo does not start ({error}): set FSMTP_ENGINE")),
        Ok(_) => Err(format!("cargo built no {}: set FSMTP_ENGINE", path.display())),
    }
}

/// Where this program was built to, and with which profile.
fn profile() -> Result<(PathBuf, String), String> {
    let exe = std::env::current_exe().map_err(|e| format!("this program has no path: {e}"))?;
    let folder = exe.parent().unwrap_or_else(|| Path::new("."));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("debug");
    let profile = if name == "debug" { "dev" } else { name };
    Ok((folder.to_owned(), profile.to_owned()))
}
