//! The least that a server does which receives large messages and keeps them: read, write, answer.
//!
//! `cargo run --release -p bench --bin bulk_floor -- PORT DIR` listens on loopback until it is
//! stopped; `loadgen send` is pointed at it and at the engine in turn: see bench/large.py. A thread
//! for each connection, [`THREADS`] at most, with a file of its own in DIR that was filled before.
//! The bytes go from the socket to an aligned block, and the block to the disk past the page cache,
//! in one write that is on stable storage when it returns; then comes the 250. No line is looked
//! at, no dot removed, nothing summed, and a message overwrites the one before: a floor for
//! measurements, not a server. A connection that fails is dropped without a word.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use fsmtp_rt::Block;

/// Connections at the same time.
const THREADS: usize = 32;
/// What is written at once: a message of 1 MiB with its header and its end.
const BLOCK_BYTES: usize = 2 << 20;
const FILE_BYTES: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;
const END: &[u8] = b"\r\n.\r\n";
const O_DIRECT: i32 = 0o40000;
const O_DSYNC: i32 = 0o10000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("which port?")?.parse()?;
    let folder = args.next().ok_or("which folder?")?;
    let files = (0..THREADS).map(|number| prepare(Path::new(&folder), number));
    let files = Mutex::new(files.collect::<io::Result<Vec<File>>>()?);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("ready: pid {}", std::process::id());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let file = files.lock().ok().and_then(|mut files| files.pop());
                let Some(file) = file else { return };
                let mut at = 0;
                while let Ok((socket, _)) = listener.accept() {
                    // Whoever breaks off is no longer there to be told.
                    let _ = serve(socket, &file, &mut at);
                }
            });
        }
    });
    Ok(())
}

/// A file whose blocks are there and zeroed, so that a write to it changes nothing but its bytes.
fn prepare(folder: &Path, number: usize) -> io::Result<File> {
    let path = folder.join(format!("bulk-{number}"));
    let file = File::create(&path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)?;
    }
    file.sync_all()?;
    OpenOptions::new().write(true).custom_flags(O_DIRECT | O_DSYNC).open(&path)
}

fn serve(socket: TcpStream, file: &File, at: &mut usize) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(READ_BYTES, socket);
    stream.get_mut().write_all(b"220 floor ESMTP\r\n")?;
    let mut block = Block::new(BLOCK_BYTES);
    let mut line = Vec::with_capacity(128);
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4) {
            Some(b"EHLO") => b"250-floor\r\n250 SIZE 10485760\r\n",
            Some(b"QUIT") => return stream.get_mut().write_all(b"221 2.0.0 bye\r\n"),
            Some(b"DATA") => {
                stream.get_mut().write_all(b"354 go\r\n")?;
                receive(&mut stream, &mut block)?;
                block.pad();
                if *at + block.len() > FILE_BYTES {
                    *at = 0;
                }
                file.write_all_at(block.bytes(), *at as u64)?;
                *at += block.len();
                b"250 2.6.0 kept\r\n"
            }
            _ => b"250 2.0.0 ok\r\n",
        };
        stream.get_mut().write_all(reply)?;
    }
}

/// Receives until what has come ends like a message. The client waits for the reply, so nothing
/// stands behind the end.
fn receive(stream: &mut BufReader<TcpStream>, block: &mut Block) -> io::Result<()> {
    block.clear();
    while !block.bytes().ends_with(END) {
        let arrived = stream.fill_buf()?;
        let bytes = arrived.len();
        if bytes == 0 || !block.push(arrived) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.consume(bytes);
    }
    Ok(())
}
