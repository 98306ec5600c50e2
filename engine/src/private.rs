//! Files with secrets: keys, passwords. Read by whoever needs one, at a start or a reload.
//!
//! Limits: the caller's, in bytes. Fails with a sentence for the operator when the file is none,
//! cannot be read, is too large, or when others than its owner may read it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

/// What is in a file that nobody else may read.
///
/// # Errors
/// Why it cannot be used, without its name.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| error.to_string();
    // A pipe would be waited for without end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err("not a file".to_owned());
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("others may read or write it (mode {mode:o}): chmod 600"));
    }
    // Room for all of it: a buffer that grows leaves copies behind.
    let room = usize::try_from(bytes_max.saturating_add(1)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("too large: more than {bytes_max} bytes"));
    }
    Ok(bytes)
}
