//! Administration: requests as values, and the socket in the data folder that takes them while the
//! engine runs.
//!
//! An [`Admin`] carries requests out. The commands of the command line reach it in two ways:
//! through [`call`], when an engine [`serve`]s the folder, or directly on the store when none does.
//! Both ways have the same requests and replies.
//!
//! On the wire: a line of JSON for the request, a line of JSON for the reply, as many of them on a
//! connection as the client likes. One client at a time is served, by one thread; each has
//! [`PATIENCE`] for each line, a request has at most [`REQUEST_BYTES_MAX`], lists come in pages of
//! [`PAGE_ENTRIES_MAX`]. The socket has mode 0600, and who connects must be the engine's own user
//! or root. A client that breaks these rules is disconnected; the engine is not disturbed.

#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The most bytes of a request, its newline included; arbitrary, several times the longest.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The most bytes of a reply; a page of the longest entries fits several times.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most entries in one reply; the rest comes with the next request.
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// How long either side waits for the other.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The socket's name in the data folder.
const SOCKET: &str = "control.sock";
/// The most bytes of a socket's path (`sun_path` less its final NUL).
const PATH_BYTES_MAX: usize = 107;

/// The most bytes of a password, so that it fits a line of every protocol that carries it.
pub const PASSWORD_BYTES_MAX: usize = 256;

/// A password on its way to where it is hashed: not empty, at most [`PASSWORD_BYTES_MAX`] bytes, no
/// control characters. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Password(String);

impl Password {
    /// The password itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.is_empty() {
            Err("the password is empty")
        } else if text.len() > PASSWORD_BYTES_MAX {
            Err("the password is longer than 256 bytes")
        } else if text.chars().any(char::is_control) {
            Err("the password holds a control character")
        } else {
            Ok(Self(text))
        }
    }
}

impl From<Password> for String {
    fn from(password: Password) -> Self {
        password.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// What can be asked. An address without a domain is in the engine's own domain, or in its only
/// one. Lists give the entries behind `after`, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields say what the variants say")]
pub enum AdminRequest {
    /// Makes an account with a mailbox of its own.
    UserAdd {
        address: String,
        name: Option<String>,
        password: Password,
        /// Answered by the recovery key.
        #[serde(default)]
        recovery: bool,
    },
    /// Makes an account with a password hash of the older program.
    UserImport { address: String, name: Option<String>, hash: String },
    /// Removes an account, and its mail.
    UserRemove { address: String },
    /// Sets a new password. For a sealed account with the old password or the recovery key; or its
    /// mail is lost.
    UserPassword {
        address: String,
        password: Password,
        #[serde(default)]
        old: Option<Password>,
        #[serde(default)]
        lose_mail: bool,
    },
    /// Makes an app password, answered by itself, for who has the password or the recovery key.
    AppPasswordAdd { address: String, name: String, credential: Password },
    /// Lists the app passwords of an account.
    AppPasswordList { address: String },
    /// Takes an app password away.
    AppPasswordRevoke { address: String, number: u32 },
    /// Lists the accounts.
    UserList { after: Option<String> },
    /// Takes mail for a domain.
    DomainAdd { domain: String },
    /// No longer takes mail for it; refused while it has accounts or aliases.
    DomainRemove { domain: String },
    /// Lists the domains.
    DomainList { after: Option<String> },
    /// Sends mail for `address` (or for all of a domain: `*@domain`) to `targets`; refused when
    /// there is such an alias, unless it is to be replaced.
    AliasAdd {
        address: String,
        targets: Vec<String>,
        #[serde(default)]
        replace: bool,
    },
    /// Removes the alias.
    AliasRemove { address: String },
    /// Lists the aliases.
    AliasList { after: Option<String> },
    /// Lists what waits to be sent on: all of it, or one message.
    QueueList {
        after: Option<String>,
        #[serde(default)]
        only: Option<String>,
    },
    /// Says what is gathered for reports of DMARC, and what would be sent; or sends it now.
    DmarcReports { send: bool },
    /// Does something to messages of the queue: those that are named, or all.
    QueueAct {
        action: QueueAction,
        #[serde(default)]
        ids: Vec<String>,
        #[serde(default)]
        all: bool,
    },
    /// Says which messages of the older program were taken over before.
    MailKnown { mails: Vec<MailName> },
    /// The next bytes, in base64, of a message that is too long for one request; `offset` of them
    /// came before. Its end comes with [`Self::MailImport`].
    MailPart { name: String, offset: u64, data: String },
    /// Takes messages of the older program over, in this order; those that are there stay as they
    /// are.
    MailImport { mails: Vec<MailEntry> },
    /// Says how many of these wait for the cluster.
    MailWaiting,
}

/// A message of the older program, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailName {
    /// 32 hexadecimal digits, always the same for this message.
    pub name: String,
    /// The account.
    pub address: String,
    /// Its owner has sent it.
    pub sent: bool,
}

/// The message itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailEntry {
    /// Which.
    #[serde(flatten)]
    pub of: MailName,
    /// When it came, in milliseconds since 1970.
    pub received_ms: u64,
    /// Header and body, or what is left of them, in base64.
    pub data: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailOutcome {
    /// It is there, and will survive a crash.
    Imported,
    /// It was taken over before.
    Present,
    /// It is not there: why.
    Refused(String),
}

/// What can be done to a message that waits to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueAction {
    /// It stays until it is released.
    Hold,
    /// It is held no longer.
    Release,
    /// It is tried now.
    Retry,
    /// It goes, and nobody is told.
    Remove,
}

impl QueueAction {
    /// What was done, for people.
    #[must_use]
    pub const fn done(self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Release => "released",
            Self::Retry => "will be tried now, unless held",
            Self::Remove => "removed",
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields say what the variants say")]
pub enum AdminReply {
    /// It is done, and on stable storage; a sentence about it.
    Done { text: String },
    /// It is done, and here is what it made, which is kept nowhere and shown once.
    Secret { text: String, secret: String },
    /// The app passwords of an account.
    AppPasswords { entries: Vec<AppPasswordEntry> },
    /// A page of accounts; `more` when it is not the last.
    Users { users: Vec<UserEntry>, more: bool },
    /// A page of domains.
    Domains { domains: Vec<String>, more: bool },
    /// A page of aliases.
    Aliases { aliases: Vec<AliasEntry>, more: bool },
    /// What became of reports of DMARC, or would.
    Reports { entries: Vec<ReportEntry> },
    /// A page of the queue, and how many parts of messages wait in all, by reason.
    Queue { entries: Vec<QueueEntry>, more: bool, counts: BTreeMap<String, u64> },
    /// For each message whether it was taken over before.
    MailKnown { known: Vec<bool> },
    /// What became of each message.
    MailImported { outcomes: Vec<MailOutcome> },
    /// So many messages wait for the cluster, 1000 at most.
    MailWaiting { count: usize },
}

/// The part of a queued message that goes to one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// The message.
    pub id: String,
    /// Where it goes.
    pub domain: String,
    /// Its length, in bytes.
    pub octets: u64,
    /// Recipients there.
    pub recipients: usize,
    /// When it was taken.
    pub received: String,
    /// Why it is not on its way: one reason.
    pub why: String,
    /// When it is tried next.
    pub next: String,
    /// How often it was tried.
    pub attempts: u16,
    /// The code of the last reply, 0 without one.
    pub code: u16,
    /// What was said last.
    pub said: String,
}

/// What one day of mail comes to for a domain that wants reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportEntry {
    /// The day, in UTC.
    pub day: String,
    /// The domain.
    pub domain: String,
    /// Rows of the report.
    pub rows: u64,
    /// Messages that it is about; 0 while nobody has looked.
    pub messages: u64,
    /// Its length as mail, in bytes; 0 while it was not made.
    pub octets: u64,
    /// Who gets it.
    pub to: Vec<String>,
    /// It was put into the queue.
    pub sent: bool,
    /// What led to that, a line each.
    pub why: Vec<String>,
}

/// An account in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEntry {
    /// `user@domain`
    pub address: String,
    /// The person's name, empty when none was given.
    pub name: String,
    /// Its lock cannot be read: nobody can sign in, and its mail waits.
    #[serde(default)]
    pub unreadable: bool,
}

/// An app password in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPasswordEntry {
    /// Its number, never given again in the account.
    pub number: u32,
    /// What its owner calls it.
    pub name: String,
}

/// An alias in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasEntry {
    /// `user@domain` or `*@domain`
    pub address: String,
    /// Where its mail goes.
    pub targets: Vec<String>,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    /// Whose fault it is.
    pub kind: AdminErrorKind,
    /// What is wrong, for people.
    pub message: String,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminErrorKind {
    /// There is no such thing.
    NotFound,
    /// There is one already.
    Exists,
    /// The request cannot be understood or names something impossible.
    Invalid,
    /// It needs the old password or the recovery key.
    Locked,
    /// Not now; later perhaps.
    Busy,
    /// It failed on our side.
    Failed,
}

impl AdminError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: AdminErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for AdminError {}

/// Carries requests out. May block; it is called on the control thread or in a command of its own.
pub trait Admin {
    /// Carries one request out. `Done` means that it will survive a crash.
    ///
    /// # Errors
    /// When it was not done.
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError>;
}

/// A reply as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Envelope {
    Ok(AdminReply),
    Error(AdminError),
}

/// The control socket while it is served; dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    stopping: AtomicBool,
    /// The client that is being served, so that stopping need not wait for it.
    client: Mutex<Option<UnixStream>>,
}

/// Serves the control socket of `folder`, which the caller has locked (`DirLock`): a socket that a
/// crash left behind is replaced.
///
/// # Errors
/// When the socket cannot be made, or the thread.
pub fn serve(folder: &Path, admin: Arc<dyn Admin + Send + Sync>) -> io::Result<Control> {
    // Made under another name and renamed when its mode is right: nobody else can ever connect.
    let new = folder.join("control.sock.new");
    remove_if_there(&new)?;
    let listener = at_short_path(folder, "control.sock.new", |path| UnixListener::bind(path))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, folder.join(SOCKET))?;
    let shared = Arc::new(Shared {
        folder: folder.to_owned(),
        stopping: AtomicBool::new(false),
        client: Mutex::new(None),
    });
    let inner = Arc::clone(&shared);
    let thread = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || inner.accept(&listener, &*admin))?;
    Ok(Control { shared, thread: Some(thread) })
}

impl Shared {
    fn accept(&self, listener: &UnixListener, admin: &dyn Admin) {
        while !self.stopping.load(Ordering::Acquire) {
            // An accept that fails (descriptors used up) fails again at once: wait a little.
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = stream.try_clone().ok();
            if !self.stopping.load(Ordering::Acquire) {
                // What goes wrong with a client is the client's trouble.
                let _ = converse(&stream, admin);
            }
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let client = self.shared.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = client {
            let _ = client.shutdown(Shutdown::Both);
        }
        // Wakes the accept; when even that fails, the thread ends with the process.
        let woken = connect(&self.shared.folder).is_ok();
        let _ = fs::remove_file(self.shared.folder.join(SOCKET));
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// Serves one client until it hangs up.
fn converse(stream: &UnixStream, admin: &dyn Admin) -> io::Result<()> {
    // The mode of the socket keeps strangers out; this does so even where the mode is not heeded.
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    while let Some(line) = read_line(&mut reader, REQUEST_BYTES_MAX)? {
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => admin.execute(request).map_or_else(Envelope::Error, Envelope::Ok),
            Err(error) => Envelope::Error(AdminError::new(
                AdminErrorKind::Invalid,
                format!("cannot understand the request: {error}"),
            )),
        };
        write_line(stream, &reply)?;
    }
    Ok(())
}

/// A connection to a running engine.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

/// Connects to the engine that serves `folder`; none when none does.
///
/// # Errors
/// When there is one that cannot be reached.
pub fn call(folder: &Path) -> io::Result<Option<Client>> {
    match connect(folder) {
        Ok(stream) => {
            stream.set_read_timeout(Some(PATIENCE * 3))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Some(Client { reader: BufReader::new(stream) }))
        }
        // No socket, or one that a crash left behind.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Client {
    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// The engine's own, or `Failed` when the connection breaks; then it is not known whether the
    /// request was carried out.
    pub fn execute(&mut self, request: &AdminRequest) -> Result<AdminReply, AdminError> {
        let broken = |error: &dyn fmt::Display| {
            let text = format!("lost the engine at its control socket: {error}");
            AdminError::new(AdminErrorKind::Failed, text)
        };
        write_line(self.reader.get_ref(), request).map_err(|error| broken(&error))?;
        let line = read_line(&mut self.reader, REPLY_BYTES_MAX)
            .map_err(|error| broken(&error))?
            .ok_or_else(|| broken(&"it closed the connection"))?;
        match serde_json::from_slice(&line).map_err(|error| broken(&error))? {
            Envelope::Ok(reply) => Ok(reply),
            Envelope::Error(error) => Err(error),
        }
    }
}

/// A line without its newline; none at the end of the stream.
fn read_line(
    reader: &mut BufReader<impl io::Read>,
    bytes_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.by_ref().take(bytes_max as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() + 1 == bytes_max => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn connect(folder: &Path) -> io::Result<UnixStream> {
    at_short_path(folder, SOCKET, |path| UnixStream::connect(path))
}

/// Calls `with` with a path to `folder/name` that a socket address can hold.
fn at_short_path<T>(
    folder: &Path,
    name: &str,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = folder.join(name);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return with(&path);
    }
    let opened = fs::File::open(folder)?;
    with(&PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
