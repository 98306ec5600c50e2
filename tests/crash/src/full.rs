//! The disk runs full: no 250 without the message, 452 while it lasts, 250 once there is room.
//!
//! On a small file system of its own (a tmpfs, or an ext4 in a file): mail is sent, a ballast file
//! takes what is free, mail is sent until `452` comes, the ballast goes, mail is taken again; then
//! the same with the engine killed while the disk is full. Everything acknowledged is audited
//! after both. Where a file system cannot be mounted the test is skipped, and says so.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wire_tests::{Engine, Options, PATIENCE, Smtp};

use crate::Args;
use crate::audit::{self, Cut};
use crate::ledger::Ledger;
use crate::load;

/// What the ballast leaves free; small enough that the engine must notice.
const LEFT_BYTES: u64 = 1 << 20;
/// What the engine is told to keep free; must exceed a segment for each shard and what the index
/// writes behind the log.
const RESERVE_BYTES: u64 = 32 << 20;
/// How long after the ballast has gone mail must be taken again. RFC 5321 §4.5.4.1 lets clients
/// wait half an hour; an engine that looks again within seconds loses none of that.
const RECOVERY: Duration = Duration::from_secs(15);

struct Mount {
    at: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // When this fails, the folder is kept and shows it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Runs it below `folder`.
///
/// # Errors
/// What was lost, or what did not happen in time.
pub(crate) fn run(args: &Args, folder: &Path) -> Result<String, String> {
    let mount = match mount(args, folder) {
        Ok(mount) => mount,
        Err(why) => return Ok(format!("SKIPPED: no small file system can be mounted here: {why}")),
    };
    let ledger = Ledger::new(args.seed, args.accounts);
    let config = format!(
        "[store]
segment_bytes = {}
reserve_bytes = {RESERVE_BYTES}
",
        args.segment_kib * 1024
    );
    let options = Options {
        cores: args.cores,
        data: Some(mount.at.join("data")),
        config: Some(config),
        ..Options::default()
    };
    let mut engine = Engine::with(options)?;
    ledger.make_accounts(&engine)?;
    let mut report = Vec::new();
    for killed in [false, true] {
        let told = one_time(&ledger, &mut engine, &mount, killed);
        report.push(told.map_err(|why| format!("{why}\n{}", engine.log()))?);
        if killed {
            engine = engine.again()?;
            taken_again(&engine, &ledger)?;
        }
        audit::run(&engine, &ledger, Cut::Never)
            .map_err(|why| format!("{why}\n{}", engine.log()))?;
    }
    ledger.nothing_left()?;
    engine.kill();
    drop(mount);
    Ok(format!(
        "disk full: nothing acknowledged was lost\n{}\n{}",
        report.join("\n"),
        ledger.counts()
    ))
}

fn one_time(
    ledger: &Ledger,
    engine: &mut Engine,
    mount: &Mount,
    killed: bool,
) -> Result<String, String> {
    send_until(engine, ledger, |code, sent| code == 250 && sent >= 50)?;
    let ballast = mount.at.join("ballast");
    let taken = fill(&ballast)?;
    let before = ledger.acknowledged_count();
    let refused = send_until(engine, ledger, |code, _| code == 452)?;
    let squeezed = ledger.acknowledged_count() - before;
    if killed {
        engine.kill();
    } else {
        // Mail can be read while none can be taken.
        let mut pop = engine.pop().map_err(|e| format!("POP3 on a full disk: {e}"))?;
        let (count, _) = pop.stat().map_err(|e| format!("STAT on a full disk: {e}"))?;
        if count > 0 {
            pop.message(1).map_err(|e| format!("RETR on a full disk: {e}"))?;
        }
        pop.quit().map_err(|e| format!("QUIT on a full disk: {e}"))?;
    }
    std::fs::remove_file(&ballast).map_err(|e| format!("{}: {e}", ballast.display()))?;
    let again = if killed { Duration::ZERO } else { taken_again(engine, ledger)? };
    Ok(format!(
        "ballast {} MiB; {squeezed} more messages were taken, then: {refused}; {}",
        taken >> 20,
        if killed {
            "killed while full".to_owned()
        } else {
            format!("taken again {} ms after the room came back", again.as_millis())
        }
    ))
}

/// Sends on one connection after another until a reply, and the messages sent, are as wanted.
fn send_until(
    engine: &Engine,
    ledger: &Ledger,
    wanted: impl Fn(u16, u64) -> bool,
) -> Result<String, String> {
    let until = Instant::now() + 4 * PATIENCE;
    let mut smtp = Smtp::hello(engine.smtp_address()).map_err(|e| format!("EHLO: {e}"))?;
    let mut sent = 0;
    while Instant::now() < until {
        let order = ledger.order();
        let sending = load::send(&mut smtp, ledger, &order);
        let reply = sending.map_err(|e| format!("message {}: {e}", order.number))?.reply;
        sent += 1;
        if wanted(reply.code, sent) {
            return Ok(format!("{reply:?}"));
        }
        if reply.code != 250 && smtp.command("RSET").map_or(0, |r| r.code) != 250 {
            return Err("the session is out of step after a refusal".to_owned());
        }
    }
    Err(format!("{sent} messages and the reply that was waited for did not come"))
}

/// How long it takes until a message is taken again.
fn taken_again(engine: &Engine, ledger: &Ledger) -> Result<Duration, String> {
    let begun = Instant::now();
    loop {
        match send_until(engine, ledger, |_, _| true) {
            Ok(reply) if reply.starts_with("250") => return Ok(begun.elapsed()),
            Ok(reply) if begun.elapsed() > RECOVERY => {
                return Err(format!("there is room again, and after {RECOVERY:?}: {reply}"));
            }
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
            Err(why) => return Err(why),
        }
    }
}

/// Writes zeroes until no more than [`LEFT_BYTES`] are free; says how many.
fn fill(ballast: &Path) -> Result<u64, String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", ballast.display());
    let mut file = File::create(ballast).map_err(wrong)?;
    let block = vec![0u8; 1 << 18];
    let mut taken = 0;
    loop {
        match file.write(&block) {
            Ok(bytes) => taken += bytes as u64,
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
            Err(e) => return Err(wrong(e)),
        }
    }
    let kept = taken.saturating_sub(LEFT_BYTES);
    file.set_len(kept).map_err(wrong)?;
    Ok(kept)
}

fn mount(args: &Args, folder: &Path) -> Result<Mount, String> {
    let at = folder.join("disk");
    std::fs::create_dir(&at).map_err(|e| format!("{}: {e}", at.display()))?;
    let point = at.to_string_lossy().into_owned();
    let size = format!("{}M", args.disk_mib);
    if args.loop_device {
        let image = folder.join("image").to_string_lossy().into_owned();
        command("truncate", &["--size", &size, &image])?;
        command("mkfs.ext4", &["-q", "-m", "0", "-F", &image])?;
        command("mount", &["-o", "loop", &image, &point])?;
    } else {
        command("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", &point])?;
    }
    Ok(Mount { at })
}

fn command(name: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
