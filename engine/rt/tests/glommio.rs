//! The glommio back end on real sockets and files: what the simulator cannot show.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use fsmtp_rt::glommio::{ACCEPTS_MAX, GlommioRuntime, ShardHandle, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{Block, Class, Conn, Disk, File, IoKind, Listener, PAGE_BYTES, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn shard<F: Future<Output = ()> + 'static>(
    main: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
) -> ShardHandle {
    let helpers = Helpers::new("helper", 1).unwrap();
    let options = ShardOptions {
        name: "test".to_owned(),
        cpu: None,
        stall_after: Some(Duration::from_millis(500)),
        helpers,
    };
    start_shard(options, main).unwrap()
}

/// Starts a shard that accepts one connection and runs `talk` on it.
fn serve_one<F: Future<Output = ()> + 'static>(
    talk: impl FnOnce(GlommioRuntime, fsmtp_rt::glommio::GlommioConn) -> F + Send + 'static,
) -> (ShardHandle, TcpStream) {
    let (port, bound) = mpsc::channel();
    let handle = shard(move |rt| async move {
        let mut listener = rt.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        port.send(listener.address()).unwrap();
        let conn = listener.accept().await.unwrap();
        talk(rt, conn).await;
    });
    (handle, TcpStream::connect(bound.recv().unwrap()).unwrap())
}

#[test]
fn a_line_in_many_pieces_is_whole_and_the_rest_stays() {
    let (handle, mut client) = serve_one(|rt, mut conn| async move {
        let deadline = rt.now() + 10 * SECOND;
        while !conn.filled().ends_with(b"\n") {
            // Echo what is there so that the client sends the next piece only then.
            let seen = conn.filled().len().to_string().into_bytes();
            conn.send([seen, b"\n".to_vec()].concat(), deadline).await.unwrap();
            assert!(conn.fill(deadline).await.unwrap() > 0);
        }
        let line = conn.filled().to_vec();
        conn.consume(2);
        assert_eq!(conn.filled(), &line[2..]);
        conn.consume(line.len() - 2);
        conn.send(line, deadline).await.unwrap();
        conn.close(deadline).await;
    });
    let mut replies = std::io::BufReader::new(client.try_clone().unwrap());
    let mut expected = 0;
    for piece in ["a", "bc", &"x".repeat(3000), &"y".repeat(3000), "z\n"] {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut replies, &mut line).unwrap();
        assert_eq!(line.trim_end(), expected.to_string());
        client.write_all(piece.as_bytes()).unwrap();
        expected += piece.len();
    }
    let mut all = String::new();
    replies.read_to_string(&mut all).unwrap();
    assert_eq!(all.len(), expected);
    handle.join().unwrap();
}

#[test]
fn a_silent_client_meets_its_deadline_and_a_gone_one_is_seen() {
    let (handle, client) = serve_one(|rt, mut conn| async move {
        let late = conn.fill(rt.now() + Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.kind, IoKind::TimedOut);
        conn.send(b"go\n".to_vec(), rt.now() + SECOND).await.unwrap();
        assert_eq!(conn.fill(rt.now() + 10 * SECOND).await.unwrap(), 0);
    });
    let mut go = [0; 3];
    (&client).read_exact(&mut go).unwrap();
    drop(client);
    handle.join().unwrap();
}

#[test]
fn a_client_that_never_reads_is_given_up_and_its_socket_closed() {
    let (handle, mut client) = serve_one(|rt, mut conn| async move {
        let piece = vec![b'x'; 1 << 20];
        let error = loop {
            let deadline = rt.now() + Duration::from_millis(200);
            if let Err(error) = conn.send(piece.clone(), deadline).await {
                break error;
            }
        };
        assert_eq!(error.kind, IoKind::TimedOut);
        drop(conn);
        // The client is still there and still does not read: only the close can be what it sees.
        rt.sleep_until(rt.now() + Duration::from_millis(100)).await;
    });
    handle.join().unwrap();
    let mut rest = Vec::new();
    client.set_read_timeout(Some(10 * SECOND)).unwrap();
    let ended = client.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reply_gets_through_though_the_client_goes_on_talking() {
    let (handle, mut client) = serve_one(|rt, mut conn| async move {
        let deadline = rt.now() + 10 * SECOND;
        assert!(conn.fill(deadline).await.unwrap() > 0);
        conn.send(b"221 bye\n".to_vec(), deadline).await.unwrap();
        conn.close(deadline).await;
    });
    client.write_all(&vec![b'n'; 300_000]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "221 bye\n");
    handle.join().unwrap();
}

/// A flood of connections that the shard is too busy to look at once became so many descriptors.
#[test]
fn connections_that_nobody_takes_wait_in_the_kernel() {
    const CLIENTS: usize = 200;
    let (port, bound) = mpsc::channel();
    let (connected, all) = futures_channel::oneshot::channel();
    let handle = shard(move |rt| async move {
        let mut listener = rt.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        port.send(listener.address()).unwrap();
        let deadline = rt.now() + 20 * SECOND;
        let mut conns = vec![listener.accept().await.unwrap()];
        all.await.unwrap();
        // The ring has had its chance by now, and gets some more.
        for _ in 0..100 {
            rt.yield_now().await;
        }
        rt.sleep_until(rt.now() + Duration::from_millis(1)).await;
        let waiting_count = listener.waiting_count();
        assert!((1..=ACCEPTS_MAX).contains(&waiting_count), "{waiting_count} were accepted");
        while conns.len() < CLIENTS {
            conns.push(listener.accept().await.unwrap());
            assert!(listener.waiting_count() <= ACCEPTS_MAX);
        }
        for conn in &mut conns {
            conn.send(b"hello".to_vec(), deadline).await.unwrap();
            conn.close(deadline).await;
        }
    });
    let address = bound.recv().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    connected.send(()).unwrap();
    for mut client in clients {
        client.set_read_timeout(Some(20 * SECOND)).unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert_eq!(all, "hello");
    }
    handle.join().unwrap();
}

#[test]
fn other_threads_wake_a_sleeping_shard_and_tasks_take_turns() {
    let handle = shard(|rt| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..3 {
            let (rt2, order) = (rt.clone(), Rc::clone(&order));
            rt.spawn(Class::Session, async move {
                for round in 0..3 {
                    order.borrow_mut().push((round, n));
                    rt2.yield_now().await;
                }
            });
        }
        for n in 0..100 {
            let (answer, question) = futures_channel::oneshot::channel();
            let thread = std::thread::spawn(move || {
                if n % 10 == 0 {
                    std::thread::yield_now();
                }
                answer.send(n).unwrap();
            });
            assert_eq!(question.await.unwrap(), n);
            thread.join().unwrap();
        }
        let expected: Vec<_> = (0..3).flat_map(|round| (0..3).map(move |n| (round, n))).collect();
        assert_eq!(*order.borrow(), expected);
        let before = rt.now();
        rt.sleep_until(before + Duration::from_millis(20)).await;
        assert!(rt.now() - before >= Duration::from_millis(20));
    });
    handle.join().unwrap();
}

#[test]
fn what_was_written_durably_is_read_back() {
    let folder = std::env::temp_dir().join(format!("fsmtp-rt-disk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let inner = folder.clone();
    let handle = shard(move |rt| async move {
        let disk = rt.disk(inner);
        let page = PAGE_BYTES as u64;
        let file = disk.create("a", 8 * page).await.unwrap();
        let mut block = Block::new(2 * PAGE_BYTES);
        assert!(block.push(&[7; 5000]));
        block.pad();
        let (block, written) = file.write_durable(page, block).await;
        written.unwrap();
        assert_eq!(block.len(), 2 * PAGE_BYTES);
        let read = disk.open("a").await.unwrap().read(page - 1, 5002).await.unwrap();
        assert_eq!(read, [&[0][..], &[7; 5000], &[0]].concat());
        assert_eq!(file.read(8 * page - 1, 10).await.unwrap(), [0]);
        disk.rename("a", "b").await.unwrap();
        assert_eq!(disk.list().await.unwrap(), [("b".to_owned(), 8 * page)]);
        disk.remove("b").await.unwrap();
        assert_eq!(disk.open("b").await.unwrap_err().kind, IoKind::NotFound);
        assert!(disk.free_bytes().unwrap() > 0);
    });
    handle.join().unwrap();
    std::fs::remove_dir(&folder).unwrap();
}

/// An operation that began while completions were worked off once took the number of one that was
/// done but not yet told, and with it the other's completion: connections stood still.
#[test]
fn completions_keep_their_owners_when_numbers_are_used_again() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 400;
    let (port, bound) = mpsc::channel();
    let handle = shard(move |rt| async move {
        let mut listener = rt.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        port.send(listener.address()).unwrap();
        let left = Rc::new(RefCell::new((CLIENTS, None)));
        let (finished, all) = futures_channel::oneshot::channel::<()>();
        left.borrow_mut().1 = Some(finished);
        for _ in 0..CLIENTS {
            let mut conn = listener.accept().await.unwrap();
            let (rt2, left) = (rt.clone(), Rc::clone(&left));
            rt.spawn(Class::Session, async move {
                // Fails here, long after any real delay, when a completion is lost.
                while conn.fill(rt2.now() + 20 * SECOND).await.unwrap() > 0 {
                    let echo = conn.filled().to_vec();
                    conn.consume(echo.len());
                    conn.send(echo, rt2.now() + 20 * SECOND).await.unwrap();
                }
                let mut left = left.borrow_mut();
                left.0 -= 1;
                if left.0 == 0 {
                    left.1.take().unwrap().send(()).unwrap();
                }
            });
        }
        // Wake-ups from another thread make the ring begin a read in the middle of the rest.
        let wakes = rt.clone();
        rt.spawn(Class::Background, async move {
            loop {
                let (answer, question) = futures_channel::oneshot::channel();
                std::thread::spawn(move || answer.send(()));
                let _ = question.await;
                wakes.yield_now().await;
            }
        });
        all.await.unwrap();
    });
    let address = bound.recv().unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = TcpStream::connect(address).unwrap();
                client.set_read_timeout(Some(20 * SECOND)).unwrap();
                for round in 0..ROUNDS {
                    let ping = (round as u32).to_le_bytes();
                    client.write_all(&ping).unwrap();
                    let mut pong = [0; 4];
                    client.read_exact(&mut pong).unwrap();
                    assert_eq!(pong, ping);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    handle.join().unwrap();
}
