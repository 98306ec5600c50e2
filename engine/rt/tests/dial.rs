//! Connections that a shard opens, on real sockets: answered, refused, late, given up.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use fsmtp_rt::glommio::{GlommioRuntime, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{Class, Conn, Dial, IoKind, Listener, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn on_shard<F: Future<Output = ()> + 'static>(
    main: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
) {
    let helpers = Helpers::new("helper", 1).unwrap();
    let options = ShardOptions { name: "test".to_owned(), cpu: None, stall_after: None, helpers };
    start_shard(options, main).unwrap().join().unwrap();
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[test]
fn a_shard_talks_to_itself_from_many_addresses() {
    on_shard(|rt| async move {
        let mut listener = rt.listen(SocketAddr::new(loopback(1), 0)).unwrap();
        let (to, server) = (listener.address(), rt.clone());
        rt.spawn(Class::Accept, async move {
            for _ in 0..3 {
                let mut conn = listener.accept().await.unwrap();
                let deadline = server.now() + 10 * SECOND;
                conn.send(conn.peer().to_string().into_bytes(), deadline).await.unwrap();
                conn.close(deadline).await;
            }
        });
        for from in [None, Some(loopback(2)), Some(loopback(3))] {
            let deadline = rt.now() + 10 * SECOND;
            let mut conn = rt.dial(from, to, deadline).await.unwrap();
            assert_eq!((conn.peer(), conn.local().ip()), (to, from.unwrap_or_else(|| loopback(1))));
            let local = conn.local().to_string();
            while conn.fill(deadline).await.unwrap() > 0 {}
            assert_eq!(conn.filled(), local.as_bytes());
        }
        assert!(rt.now_exact() >= rt.now());
    });
}

#[test]
fn nobody_listens_and_the_errors_say_what_to_do() {
    on_shard(|rt| async move {
        // Bound and not listening: the port is ours, and nobody answers there.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::new(loopback(1), 0).into()).unwrap();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        let error = rt.dial(None, to, rt.now() + 10 * SECOND).await.unwrap_err();
        assert_eq!(error.kind, IoKind::Refused, "{error}");
        // An address that is not ours is no source.
        let foreign = Some(Ipv4Addr::new(192, 0, 2, 1).into());
        let error = rt.dial(foreign, to, rt.now() + 10 * SECOND).await.unwrap_err();
        assert_eq!(error.kind, IoKind::Exhausted, "{error}");
    });
}

#[test]
fn a_dial_that_nobody_answers_ends_at_its_deadline_or_with_its_task() {
    on_shard(|rt| async move {
        // A backlog of one that nobody takes from: later connects are not answered.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::new(loopback(1), 0).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let to = listener.local_addr().unwrap();
        let mut kept = Vec::new();
        let late = loop {
            match rt.dial(None, to, rt.now() + Duration::from_millis(100)).await {
                Ok(conn) => kept.push(conn),
                Err(error) => break error,
            }
            assert!(kept.len() < 10, "the backlog has an end");
        };
        assert_eq!(late.kind, IoKind::TimedOut, "{late}");
        let (dialer, (told, heard)) = (rt.clone(), futures_channel::oneshot::channel::<()>());
        rt.spawn(Class::Session, async move {
            let _told = told;
            let dial = core::pin::pin!(dialer.dial(None, to, dialer.now() + 60 * SECOND));
            let nap = core::pin::pin!(dialer.sleep_until(dialer.now() + Duration::from_millis(20)));
            first(dial, nap).await;
        });
        assert!(heard.await.is_err(), "the task has ended, and its dial with it");
        // The shard goes on, and what was cancelled is over before it ends.
        rt.sleep_until(rt.now() + Duration::from_millis(20)).await;
    });
}

/// Resolves when either does, and drops the other.
async fn first(a: impl Future + Unpin, b: impl Future + Unpin) {
    let (mut a, mut b) = (a, b);
    core::future::poll_fn(|cx| {
        let done = core::pin::Pin::new(&mut a).poll(cx).is_ready();
        if done || core::pin::Pin::new(&mut b).poll(cx).is_ready() {
            core::task::Poll::Ready(())
        } else {
            core::task::Poll::Pending
        }
    })
    .await;
}
