//! One engine under test: its process, its ports, its data folder.
//!
//! Dropping an [`Engine`] kills its process by pid and removes its temporary folder; when the test
//! is failing, the engine's log is printed first.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{PATIENCE, Pop, Smtp, binary, ports};

/// What is kept of an engine's log; arbitrary, enough to see why a test failed.
const LOG_BYTES_MAX: usize = 256 * 1024;

/// How to start an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shards.
    pub cores: u32,
    /// Where its data lies; a temporary folder when `None`.
    pub data: Option<PathBuf>,
    /// The base of its ports; a free one when `None`.
    pub base: Option<u16>,
    /// The text of a configuration file; none when `None`. `{smtp}`, `{pop3}` and `{submission}`
    /// in it stand for the ports.
    pub config: Option<String>,
    /// Whether `--dev` is given; without it the configuration says where to listen.
    pub dev: bool,
    /// More arguments.
    pub more: Vec<String>,
    /// Variables of its environment, besides those of the test.
    pub variables: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            data: None,
            base: None,
            config: None,
            dev: true,
            more: Vec::new(),
            variables: Vec::new(),
        }
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    base: u16,
    data: PathBuf,
    temporary: Option<TempDir>,
    options: Options,
    table: String,
    log: Arc<Mutex<String>>,
    /// Ends when the log is whole.
    listener: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts `--dev` on one core with an empty data folder and waits until it is ready.
    ///
    /// # Errors
    /// Why it did not get ready, with its log.
    pub fn start() -> Result<Self, String> {
        Self::with(Options::default())
    }

    /// An engine that all callers at the same time share; it ends when the last of them is done.
    /// For tests that look at no mailbox and change no setting.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn shared() -> Result<Arc<Self>, String> {
        static SHARED: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = shared.upgrade() {
            return Ok(engine);
        }
        let engine = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&engine);
        Ok(engine)
    }

    /// Starts with `options` and waits until it is ready.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn with(mut options: Options) -> Result<Self, String> {
        let mut temporary = None;
        let data = match &options.data {
            Some(data) => data.clone(),
            None => {
                let folder = tempfile::Builder::new().prefix("fsmtp-wire.").tempdir();
                let folder = folder.map_err(|e| format!("no temporary folder: {e}"))?;
                let data = folder.path().join("data");
                temporary = Some(folder);
                data
            }
        };
        let base = options.base.or_else(ports::free_base).ok_or("no free ports")?;
        options.data = Some(data.clone());
        options.base = Some(base);
        let mut child = command(&options)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("the engine does not start: {e}"))?;
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, listener) = listen(&mut child, &log);
        let table = String::new();
        let mut engine = Self { child, base, data, temporary, options, table, log, listener };
        engine.wait_ready(&lines)?;
        Ok(engine)
    }

    /// Kills nothing and changes nothing: starts again after this one has ended, on the same data
    /// and ports.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when it still runs.
    pub fn again(mut self) -> Result<Self, String> {
        match self.child.try_wait() {
            Ok(Some(_)) => {}
            Ok(None) => return Err("it still runs".to_owned()),
            Err(e) => return Err(format!("its state is not known: {e}")),
        }
        let temporary = self.temporary.take();
        let mut engine = Self::with(self.options.clone())?;
        engine.temporary = temporary;
        Ok(engine)
    }

    fn wait_ready(&mut self, lines: &mpsc::Receiver<String>) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line.starts_with("ready") => return Ok(()),
                Ok(line) => {
                    let _ = writeln!(self.table, "{line}");
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(format!("not ready after {PATIENCE:?}\n{}", self.log()));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.wait(PATIENCE);
                    // Its last words may still be on their way.
                    let _ = self.listener.take().map(JoinHandle::join);
                    return Err(format!("ended before it was ready: {status:?}\n{}", self.log()));
                }
            }
        }
    }

    /// The SMTP address.
    #[must_use]
    pub fn smtp_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + 25).into()
    }

    /// The POP3 address.
    #[must_use]
    pub fn pop_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + 110).into()
    }

    /// A session after EHLO.
    ///
    /// # Errors
    /// As [`Smtp::hello`].
    pub fn smtp(&self) -> std::io::Result<Smtp> {
        Smtp::hello(self.smtp_address())
    }

    /// A session of the demo account.
    ///
    /// # Errors
    /// As [`Pop::login`].
    pub fn pop(&self) -> std::io::Result<Pop> {
        Pop::login(self.pop_address(), crate::DEMO, crate::DEMO_PASSWORD)
    }

    /// The base of its ports.
    #[must_use]
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it printed before `ready`.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for the end, at most `patience`; `None` when it still runs then.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return None,
            }
        }
    }

    /// Runs another command of the engine on this engine's data, as a person would beside it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn beside(&self, args: &[&str], input: &str) -> Result<Output, String> {
        let mut all = args.to_vec();
        let data = self.data.to_string_lossy();
        all.extend(["--data", &data]);
        run(&all, input)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", self.log());
        }
    }
}

/// Runs the engine with `args` to its end, `input` on standard input.
///
/// # Errors
/// When it does not start, or runs longer than [`PATIENCE`].
pub fn run(args: &[&str], input: &str) -> Result<Output, String> {
    let mut child = Command::new(binary::engine()?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("the engine does not start: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading, which closes the pipe.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let pid = Pid::from_child(&child);
    let (done, ended) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = done.send(());
        output
    });
    if ended.recv_timeout(PATIENCE).is_err() {
        let _ = kill_process(pid, Signal::KILL);
        return Err(format!("{args:?} still ran after {PATIENCE:?}"));
    }
    let output = waiter.join().map_err(|_| "the waiting thread panicked".to_owned())?;
    output.map_err(|e| format!("its output was not read: {e}"))
}

fn command(options: &Options) -> Result<Command, String> {
    let base = options.base.unwrap_or(0);
    let mut command = Command::new(binary::engine()?);
    command.args(["--cores", &options.cores.to_string()]);
    if options.dev {
        command.args(["--dev", "--ports", &base.to_string()]);
    }
    if let Some(data) = &options.data {
        command.arg("--data").arg(data);
        if let Some(config) = &options.config {
            let config = config
                .replace("{smtp}", &(base + 25).to_string())
                .replace("{pop3}", &(base + 110).to_string())
                .replace("{submission}", &(base + 587).to_string());
            let file = data.with_extension("toml");
            std::fs::write(&file, config).map_err(|e| format!("{}: {e}", file.display()))?;
            command.arg("--config").arg(file);
        }
    }
    command.args(&options.more);
    command.envs(options.variables.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// Reads both outputs to their end on threads of their own: lines of the first, text of the other.
fn listen(
    child: &mut Child,
    log: &Arc<Mutex<String>>,
) -> (mpsc::Receiver<String>, Option<JoinHandle<()>>) {
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more after `ready`; the pipe must still be emptied.
                let _ = sender.send(line);
            }
        });
    }
    let listener = child.stderr.take().map(|stderr| {
        let log = Arc::clone(log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.len() < LOG_BYTES_MAX {
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        })
    });
    (lines, listener)
}
