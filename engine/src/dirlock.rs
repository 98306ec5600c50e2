//! The data folder: who may use it, and which format it has.
//!
//! Called once at the start of whatever works in the folder, before anything else touches it. Two
//! files: `format` holds the version of everything beside it, `lock` is locked by the process that
//! works in the folder, for as long as it lives, and holds its number. Fails without having changed
//! anything when the folder is of a newer format, in use, or not ours.

use core::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The format that this program writes, and the newest that it can read.
pub const FORMAT: u32 = 1;

/// What the file `format` says before the number.
const FORMAT_NAME: &str = "fsmtp-engine data, format ";

/// The name of the lock file.
const LOCK: &str = "lock";
/// The name of the format file.
const FORMAT_FILE: &str = "format";

/// A data folder that nobody else uses, until this is dropped.
#[derive(Debug)]
pub struct DirLock {
    folder: PathBuf,
    /// Locked; the lock goes with the descriptor, so not even a crash leaves it behind.
    _lock: File,
}

/// What [`inspect`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirState {
    /// There is no such folder, or nothing in it: a start would make it.
    Fresh,
    /// It is ours and free.
    Free,
}

/// Why a folder cannot be used. Each shows as one line for an operator.
#[derive(Debug)]
pub enum DirError {
    /// Another process works in it.
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, when it could be read.
        process: Option<u32>,
    },
    /// It was written by a newer version.
    Newer {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It holds mail but says no format, or one that cannot be read.
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl fmt::Display for DirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { folder, process } => {
                write!(f, "data folder {} is in use by ", folder.display())?;
                match process {
                    Some(process) => write!(f, "process {process}"),
                    None => write!(f, "another process"),
                }
            }
            Self::Newer { folder, found } => write!(
                f,
                "data folder {} has format {found}, this version knows formats up to {FORMAT}",
                folder.display()
            ),
            Self::Unreadable { folder, why } => {
                write!(f, "data folder {}: {why}", folder.display())
            }
            Self::Io { operation, path, error } => {
                write!(f, "cannot {operation} {}: {error}", path.display())
            }
        }
    }
}

impl core::error::Error for DirError {}

impl DirLock {
    /// Takes `folder`, which is made when it is missing.
    ///
    /// # Errors
    /// When it is in use, of a newer format, not ours, or cannot be written.
    pub fn take(folder: &Path) -> Result<Self, DirError> {
        let known = format(folder)?;
        if known.is_none() {
            make(folder)?;
        }
        let lock = lock(folder)?;
        // Another process may have been first between the look and the lock.
        if format(folder)?.is_none() {
            write_format(folder)?;
        }
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Looks at `folder` and changes nothing.
///
/// # Errors
/// As [`DirLock::take`], as far as one can tell without writing.
pub fn inspect(folder: &Path) -> Result<DirState, DirError> {
    let known = format(folder)?;
    let path = folder.join(LOCK);
    match File::open(&path) {
        Ok(mut file) => match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(folder, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("open", &path, error)),
    }
    Ok(if known.is_some() { DirState::Free } else { DirState::Fresh })
}

/// For a command that adds a file and does not care whether an engine runs there: a folder that is
/// new becomes a data folder, and is locked as long as what comes back lives.
///
/// # Errors
/// As [`inspect`], but for a folder that is in use.
pub fn take_if_fresh(folder: &Path) -> Result<Option<DirLock>, DirError> {
    match inspect(folder) {
        Ok(DirState::Fresh) => DirLock::take(folder).map(Some),
        Ok(DirState::Free) | Err(DirError::InUse { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> DirError {
    DirError::Io { operation, path: path.to_owned(), error }
}

/// The format of the folder; none when it is missing or holds none of our files yet.
fn format(folder: &Path) -> Result<Option<u32>, DirError> {
    let unreadable = |why| Err(DirError::Unreadable { folder: folder.to_owned(), why });
    let path = folder.join(FORMAT_FILE);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(256).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if holds_mail(folder)? {
                unreadable("it holds mail, but the file `format` is missing")
            } else {
                Ok(None)
            };
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return unreadable("the file `format` is not ours");
        }
        Err(error) => return Err(failed("read", &path, error)),
    }
    let number = text.trim_end().strip_prefix(FORMAT_NAME).and_then(|text| text.parse().ok());
    match number {
        None | Some(0) => unreadable("the file `format` is not ours"),
        Some(found) if found > FORMAT => Err(DirError::Newer { folder: folder.to_owned(), found }),
        found => Ok(found),
    }
}

/// Whether there is a log file somewhere near the top of `folder`.
fn holds_mail(folder: &Path) -> Result<bool, DirError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", folder, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| failed("read", folder, error))?.path();
        let segment = |path: &Path| path.extension().is_some_and(|end| end == "seg");
        // One level down, too: a store may keep its log in a folder of its own.
        let below = || fs::read_dir(&path).into_iter().flatten().flatten();
        if segment(&path) || path.is_dir() && below().any(|entry| segment(&entry.path())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the folder, for its owner only.
fn make(folder: &Path) -> Result<(), DirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed("make folder", folder, error))
}

fn lock(folder: &Path) -> Result<File, DirError> {
    let path = folder.join(LOCK);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut file = open.map_err(|error| failed("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(folder, &mut file)),
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
    }
    let number = std::process::id();
    let write = file.set_len(0).and_then(|()| file.rewind());
    let write = write.and_then(|()| writeln!(file, "{number}"));
    write.map_err(|error| failed("write", &path, error))?;
    Ok(file)
}

fn in_use(folder: &Path, lock: &mut File) -> DirError {
    let mut text = String::new();
    let read = lock.take(32).read_to_string(&mut text);
    let process = read.ok().and_then(|_| text.trim().parse().ok());
    DirError::InUse { folder: folder.to_owned(), process }
}

/// Writes the format file so that after a crash it is there as a whole or not at all.
fn write_format(folder: &Path) -> Result<(), DirError> {
    let (new, path) = (folder.join("format.new"), folder.join(FORMAT_FILE));
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT_NAME}{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| failed("write", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_made_taken_and_taken_again() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("a/b");
        assert_eq!(inspect(&folder).unwrap(), DirState::Fresh);
        assert!(!folder.exists(), "a look changes nothing");
        let first = DirLock::take(&folder).unwrap();
        assert_eq!(first.folder(), folder);
        assert_eq!(names(&folder), ["format", "lock"]);
        for error in [DirLock::take(&folder).unwrap_err(), inspect(&folder).unwrap_err()] {
            let process = format!("is in use by process {}", std::process::id());
            assert!(error.to_string().ends_with(&process), "{error}");
        }
        drop(first);
        assert_eq!(inspect(&folder).unwrap(), DirState::Free);
        DirLock::take(&folder).unwrap();
    }

    #[test]
    fn only_its_owner_may_look_into_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("data");
        let _lock = DirLock::take(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let lock = fs::metadata(folder.join("lock")).unwrap();
        assert_eq!(lock.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_newer_format_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let text = format!("{FORMAT_NAME}{}\n", FORMAT + 1);
        fs::write(temp.path().join("format"), text).unwrap();
        for error in [DirLock::take(temp.path()).unwrap_err(), inspect(temp.path()).unwrap_err()] {
            assert!(error.to_string().contains("has format 2"), "{error}");
        }
        assert_eq!(names(temp.path()), ["format"], "nothing was touched");
    }

    #[test]
    fn a_folder_that_is_not_ours_is_left_alone() {
        for text in [&b"something else"[..], b"", b"\xff\xfe", b"fsmtp-engine data, format 0\n"] {
            let temp = tempfile::tempdir().unwrap();
            fs::write(temp.path().join("format"), text).unwrap();
            let error = DirLock::take(temp.path()).unwrap_err();
            assert!(error.to_string().ends_with("the file `format` is not ours"), "{error}");
            assert_eq!(names(temp.path()), ["format"]);
        }
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("spool")).unwrap();
        fs::write(temp.path().join("spool/000-0000000000.seg"), b"mail").unwrap();
        let error = DirLock::take(temp.path()).unwrap_err();
        assert!(error.to_string().ends_with("the file `format` is missing"), "{error}");
        assert_eq!(names(temp.path()), ["spool"]);
    }

    #[test]
    fn a_path_that_is_a_file_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, b"x").unwrap();
        let error = DirLock::take(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}
