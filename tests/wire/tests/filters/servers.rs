//! Two filters on loopback, a milter and one that speaks as rspamd does, which know none of our
//! protocol code. What they do with a message stands in the local part of its sender.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use wire_tests::PATIENCE;

type Serve = fn(TcpStream, &Mutex<Vec<String>>) -> std::io::Result<()>;

/// A filter.
#[derive(Debug)]
pub(crate) struct Filter {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filter {
    pub(crate) fn milter() -> Self {
        Self::serve(milter)
    }

    pub(crate) fn rspamd() -> Self {
        Self::serve(rspamd)
    }

    fn serve(serve: Serve) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (heard, over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (inner, ends) = (Arc::clone(&heard), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), inner) = (stream, Arc::clone(&inner)) else { continue };
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                    stream.set_nodelay(true).expect("an option");
                    // What goes wrong with a connection is over with it.
                    let _ = serve(stream, &inner);
                });
            }
        });
        Self { address, heard, over, thread: Some(thread) }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has heard so far, a line for each message.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accept.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn local_part(path: &str) -> String {
    path.trim_start_matches('<').split('@').next().unwrap_or_default().to_owned()
}

fn packet(letter: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).expect("a short packet");
    [&length.to_be_bytes()[..], &[letter], data].concat()
}

/// Waits until the other side has lost patience.
fn hang(stream: &mut TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

fn milter(mut stream: TcpStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (mut told, mut does) = (String::new(), String::new());
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut data = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut data)?;
        let letter = data.remove(0);
        let text = String::from_utf8_lossy(&data).replace('\0', "|");
        if !matches!(letter, b'O' | b'Q') {
            told.push_str(&format!("{}{text} ", char::from(letter)));
        }
        match letter {
            b'O' => {
                let agreed = [6_u32, 0x7f, 0].map(u32::to_be_bytes).concat();
                stream.write_all(&packet(b'O', &agreed))?;
                continue;
            }
            b'M' => does = local_part(&text),
            b'D' | b'A' => continue,
            b'Q' => return Ok(()),
            _ => {}
        }
        let at_end = letter == b'E';
        if at_end {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut told));
        }
        let reply = match (letter, does.as_str()) {
            (b'M', "no-sender") => packet(b'y', b"554 5.7.1 Not from you\0"),
            (b'R', _) if text.starts_with("<other@") && does == "one-recipient" => {
                packet(b'r', b"")
            }
            (b'B', "slow") => return hang(&mut stream),
            (b'B', "nonsense") => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            (b'B', "closes") => return Ok(()),
            (b'E', does) => [changes(does), verdict(does)].concat(),
            _ => packet(b'c', b""),
        };
        stream.write_all(&reply)?;
    }
}

fn changes(does: &str) -> Vec<u8> {
    match does {
        "fields" => [
            packet(b'h', b"X-Last\0a\n\tb\0"),
            packet(b'i', b"\0\0\0\x01X-First\0c\0"),
            packet(b'm', b"\0\0\0\x01Subject\0changed\0"),
            packet(b'm', b"\0\0\0\x01X-Forged\0\0"),
        ]
        .concat(),
        "junk" => packet(b'q', b"it looks odd\0"),
        "recipients" => {
            [packet(b'+', b"<other@example.test>\0"), packet(b'-', b"<demo@example.test>\0")]
                .concat()
        }
        // Each is named twice, the one that goes behind.
        "itself" => {
            [packet(b'+', b"<demo@example.test>\0"), packet(b'-', b"<demo@example.test>\0")]
                .concat()
        }
        "gone" => packet(b'-', b"<demo@example.test>\0"),
        "swapped" => {
            [packet(b'-', b"<demo@example.test>\0"), packet(b'+', b"<a@elsewhere.test>\0")].concat()
        }
        "strays" => packet(b'+', b"<somebody@elsewhere.test>\0"),
        "sender" => packet(b'e', b"<changed@sender.test>\0"),
        _ => Vec::new(),
    }
}

fn verdict(does: &str) -> Vec<u8> {
    match does {
        "reject" => packet(b'y', b"550 5.7.1 It is spam\0"),
        "tempfail" => packet(b't', b""),
        "discard" => packet(b'd', b""),
        "progress" => [packet(b'p', b""), packet(b'p', b""), packet(b'a', b"")].concat(),
        _ => packet(b'c', b""),
    }
}

fn rspamd(mut stream: TcpStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.extend_from_slice(&byte);
        if request.ends_with(b"\r\n\r\n") {
            break String::from_utf8_lossy(&request).into_owned();
        }
    };
    let field = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or("")
    };
    let mut message = vec![0; field("Content-Length").parse().expect("a length")];
    stream.read_exact(&mut message)?;
    let all = format!("{head}{}", String::from_utf8_lossy(&message));
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(all);
    let json = match local_part(field("From")).as_str() {
        "slow" => return hang(&mut stream),
        "nonsense" => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{]}"),
        "closes" => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        "reject" => r#"{"action":"reject","messages":{"smtp_message":"It is spam"}}"#,
        "tempfail" => r#"{"action":"soft reject"}"#,
        "discard" => r#"{"action":"discard"}"#,
        "junk" => r#"{"action":"add header","score":7.5,"required_score":15}"#,
        "fields" => {
            r#"{"action":"rewrite subject","subject":"changed","milter":{
            "add_headers":{"X-Last":"a\n\tb"},"remove_headers":{"X-Forged":0}}}"#
        }
        _ => r#"{"action":"no action"}"#,
    };
    let (one, two) = json.split_at(json.len() / 2);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = [head, &chunk(one), &chunk(two), "0\r\n\r\n"].concat();
    stream.write_all(chunked.as_bytes())
}
