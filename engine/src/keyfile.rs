//! Files with secret keys: for their owner only, made whole or not at all.
//!
//! Used by what keeps keys below the data folder, DKIM and the trust among nodes, and by routes for
//! their passwords. Nothing is
//! overwritten. Fails by [`KeyFileError`], which names the file or folder; what fails on the way
//! leaves at most an empty folder.

use core::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use zeroize::Zeroizing;

/// The longest file with a key; 4096 bits of RSA take about 3,300 bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024;

/// What is wrong with a file or folder, as one line for an operator.
#[derive(Debug)]
pub struct KeyFileError(String);

impl KeyFileError {
    pub(crate) fn at(path: &Path, why: impl fmt::Display) -> Self {
        Self(format!("{}: {why}", path.display()))
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for KeyFileError {}

/// The names in a folder, sorted, but for hidden ones; none when there is no such folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, KeyFileError> {
    let failed = |error| KeyFileError::at(folder, error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What is in a file that nobody else may read.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |error| KeyFileError::at(path, error);
    // A pipe would be waited for without end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyFileError::at(path, "not a file"));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!("others may read or write it (mode {mode:o}): chmod 600");
        return Err(KeyFileError::at(path, why));
    }
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(KeyFileError::at(path, "too large"));
    }
    Ok(bytes)
}

/// Keeps a new key in `folder`, which is below `data`; on stable storage when this comes back.
pub(crate) fn keep(data: &Path, folder: &Path, name: &str, text: &str) -> Result<(), KeyFileError> {
    let path = folder.join(name);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| KeyFileError::at(folder, error))?;
    // No other process has this name; one of the same number that died may have left it.
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    let kept = write(&new, &path, text);
    if kept.is_err() {
        let _ = fs::remove_file(&new);
    }
    kept.map_err(|error| KeyFileError::at(&path, error))?;
    // The names of the folders have to last, too.
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(data)) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| KeyFileError::at(folder, error))?;
    }
    Ok(())
}

/// Writes a file for its owner only, which is there whole or not at all, and takes nobody's place.
fn write(new: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_nothing_is_left_of_what_failed() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("keys/of");
        keep(data.path(), &folder, "a", "one").unwrap();
        let why = keep(data.path(), &folder, "a", "two").unwrap_err().to_string();
        assert!(why.contains("keys/of/a: File exists"), "{why}");
        assert_eq!(**read(&folder.join("a")).unwrap(), *b"one");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(names(&folder).unwrap(), ["a"]);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
