//! What a durable write costs, by way of writing: `cargo run --release -p bench --bin durable DIR`.
//!
//! For each way and size, prints the time and this process's CPU time per write, medians of five
//! rounds in turn. The choice that came of it is docs/decisions/0003-durable-writes.md.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

const FILE_BYTES: u64 = 64 << 20;
const ROUNDS: usize = 5;
const WRITES: u64 = 200;
const O_DIRECT: i32 = 0o40000;
const O_DSYNC: i32 = 0o10000;

#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    flags: i32,
    zeroed: bool,
    fdatasync: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "buffered + fdatasync, zeroed", flags: 0, zeroed: true, fdatasync: true },
    Way { name: "buffered + fdatasync, reserved", flags: 0, zeroed: false, fdatasync: true },
    Way { name: "direct + fdatasync, zeroed", flags: O_DIRECT, zeroed: true, fdatasync: true },
    Way {
        name: "direct O_DSYNC, reserved",
        flags: O_DIRECT | O_DSYNC,
        zeroed: false,
        fdatasync: false,
    },
    Way {
        name: "direct O_DSYNC, zeroed",
        flags: O_DIRECT | O_DSYNC,
        zeroed: true,
        fdatasync: false,
    },
];

fn prepare(path: &Path, zeroed: bool) -> io::Result<()> {
    let file = File::create(path)?;
    if zeroed {
        let zeros = vec![0u8; 1 << 20];
        for piece in 0..FILE_BYTES >> 20 {
            file.write_all_at(&zeros, piece << 20)?;
        }
    } else {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES)?;
    }
    file.sync_all()
}

fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Microseconds of time and of CPU for one write.
fn round(path: &Path, way: Way, bytes: usize) -> io::Result<(f64, f64)> {
    prepare(path, way.zeroed)?;
    let file = OpenOptions::new().write(true).custom_flags(way.flags).open(path)?;
    let mut block = fsmtp_rt::Block::new(bytes);
    assert!(block.push(&vec![7; bytes]), "the block was made for this size");
    let (start, cpu) = (Instant::now(), cpu_us());
    for n in 0..WRITES {
        file.write_all_at(block.bytes(), n * bytes as u64 % (FILE_BYTES - bytes as u64))?;
        if way.fdatasync {
            file.sync_data()?;
        }
    }
    let per = WRITES as f64;
    Ok((start.elapsed().as_secs_f64() * 1e6 / per, (cpu_us() - cpu) / per))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let path = Path::new(&folder).join("durable.tmp");
    println!("{:<32} {:>8} {:>10} {:>10}", "way", "bytes", "us/write", "us CPU");
    for bytes in [4096, 32_768, 65_536, 262_144] {
        let mut results = vec![(Vec::new(), Vec::new()); WAYS.len()];
        for _ in 0..ROUNDS {
            for (way, (time, cpu)) in WAYS.iter().zip(&mut results) {
                let (t, c) = round(&path, *way, bytes)?;
                time.push(t);
                cpu.push(c);
            }
        }
        for (way, (time, cpu)) in WAYS.iter().zip(results) {
            println!("{:<32} {bytes:>8} {:>10.0} {:>10.0}", way.name, median(time), median(cpu));
        }
    }
    std::fs::remove_file(path)
}
