//! The engine that is measured: a process of this binary, and the folder that it works in.
//!
//! Dropping a [`Child`] kills the process by its handle and removes the folder, however the
//! measurement ends. Linux only; a file of `/proc` that cannot be read is an error that names it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::fs::{self, DirBuilder};
use std::io::BufReader;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is kept of its log, to say why it did not start.
const LOG_BYTES_MAX: usize = 2048;
/// Bases of ports that are tried.
const BASES: u16 = 200;
/// Where the services stand behind the base: those that `--run=smtp` opens.
const PORTS: [u16; 3] = [25, 465, 587];

/// A folder that goes when this is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays, and has a telling name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running engine.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    /// Behind the process: it goes after it.
    folder: Folder,
    base: u16,
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    /// Starts one below `near` and waits until it takes connections, or until `stopped`.
    pub(super) fn start(
        near: &Path,
        cores: u16,
        stopped: impl Fn() -> Result<(), String>,
    ) -> Result<Self, String> {
        let folder = near.join(format!("fsmtp-plan.{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
        let folder = Folder(folder);
        let base = free_base().ok_or("no free ports on loopback")?;
        let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        let mut process = Command::new(program)
            .args(["--cores", &cores.to_string(), "--dev", "--run=smtp"])
            .args(["--ports", &base.to_string(), "--data"])
            .arg(folder.0.join("data"))
            // This process's manager is not told of another's state.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start an engine: {e}"))?;
        let said = process.stderr.take().map(|stderr| keep(BufReader::new(stderr)));
        let ready = process.stdout.take().map(|stdout| watch(BufReader::new(stdout)));
        let child = Self { process, folder, base };
        let began = Instant::now();
        loop {
            stopped()?;
            let waited = ready.as_ref().map(|ready| ready.recv_timeout(Duration::from_millis(100)));
            match waited {
                Some(Ok(())) => return Ok(child),
                Some(Err(RecvTimeoutError::Timeout)) if began.elapsed() < PATIENCE => {}
                _ => {
                    let said = said.map(|said| {
                        said.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned()
                    });
                    let said = said.unwrap_or_default();
                    return Err(format!("the engine to be measured did not start\n{said}"));
                }
            }
        }
    }

    /// Where it takes mail.
    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base + PORTS[0]).into()
    }

    /// Its data folder.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.0.join("data")
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.process.id());
        fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
    }

    /// CPU time of all its threads, those that have ended too, in seconds.
    pub(super) fn cpu(&self) -> Result<f64, String> {
        let text = self.read("stat")?;
        // The name of the program may hold anything, spaces and brackets too.
        let (_, rest) = text.rsplit_once(')').ok_or("/proc/PID/stat is not understood")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        // User and system time: fields 14 and 15 of all, the name being the second.
        let both = ticks(11).zip(ticks(12)).ok_or("/proc/PID/stat is not understood")?;
        Ok((both.0 + both.1) as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Bytes that it has caused to be written to disks.
    pub(super) fn written(&self) -> Result<u64, String> {
        field(&self.read("io")?, "write_bytes:").ok_or_else(|| "/proc/PID/io".to_owned())
    }

    /// Resident memory in bytes.
    pub(super) fn resident(&self) -> Result<u64, String> {
        let kib = field(&self.read("status")?, "VmRSS:");
        kib.map(|kib| kib << 10).ok_or_else(|| "the engine has ended".to_owned())
    }
}

/// The number behind `name` at the start of a line.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A base whose ports are free now. Somebody may take one before the engine does, which then says
/// so.
fn free_base() -> Option<u16> {
    let first = 10_000 + (std::process::id() % 17_000) as u16;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut bases = (0..BASES).map(|step| first + step);
    bases.find(|base| PORTS.iter().all(|port| free(base + port)))
}

/// Tells when the line `ready` has come, and goes on reading.
fn watch(lines: impl std::io::BufRead + Send + 'static) -> Receiver<()> {
    let (sender, ready) = channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if line.starts_with("ready") {
                // Nobody waits any more when it came too late.
                let _ = sender.send(());
            }
        }
    });
    ready
}

/// Keeps the beginning of what is said, and reads all of it, so that the engine never waits.
fn keep(mut from: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let kept = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&kept);
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < LOG_BYTES_MAX {
                let count = count.min(LOG_BYTES_MAX);
                kept.push_str(&String::from_utf8_lossy(piece.get(..count).unwrap_or_default()));
            }
        }
    });
    said
}
