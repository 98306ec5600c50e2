//! Datagrams of a shard, on real sockets: answered, refused, late, from a stranger, given up.
#![allow(clippy::unwrap_used)] // WHY: a test that cannot go on shall fail

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use fsmtp_rt::glommio::{GlommioRuntime, ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{DATAGRAM_BYTES_MAX, Datagrams, IoKind, Runtime, Udp};

const SECOND: Duration = Duration::from_secs(1);

fn on_shard<F: Future<Output = ()> + 'static>(
    main: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
) {
    let helpers = Helpers::new("helper", 1).unwrap();
    let options = ShardOptions { name: "test".to_owned(), cpu: None, stall_after: None, helpers };
    start_shard(options, main).unwrap().join().unwrap();
}

/// A socket of the system, and where it is.
fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(10 * SECOND)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn datagrams_come_whole_one_by_one_and_from_one_peer_only() {
    on_shard(|rt| async move {
        let ((socket, to), (stranger, _)) = (server(), server());
        let mut udp = rt.udp(to).unwrap();
        assert_eq!(udp.peer(), to);
        udp.send(b"hello").unwrap();
        let mut room = [0; 64];
        let (length, from) = socket.recv_from(&mut room).unwrap();
        assert_eq!(&room[..length], b"hello");
        stranger.send_to(b"stranger", from).unwrap();
        let longest = vec![7; DATAGRAM_BYTES_MAX];
        for bytes in [&b"one"[..], b"", b"two", &longest] {
            socket.send_to(bytes, from).unwrap();
        }
        let deadline = rt.now() + 10 * SECOND;
        for bytes in [&b"one"[..], b"", b"two", &longest] {
            assert_eq!(udp.receive(deadline).await.unwrap(), bytes);
        }
        // A longer one is cut; loopback carries it.
        socket.send_to(&vec![8; DATAGRAM_BYTES_MAX + 1], from).unwrap();
        socket.send_to(b"next", from).unwrap();
        assert_eq!(udp.receive(deadline).await.unwrap(), vec![8; DATAGRAM_BYTES_MAX]);
        assert_eq!(udp.receive(deadline).await.unwrap(), b"next");
    });
}

#[test]
fn silence_ends_at_the_deadline_and_waiting_may_go_on() {
    on_shard(|rt| async move {
        let (socket, to) = server();
        let mut udp = rt.udp(to).unwrap();
        udp.send(b"x").unwrap();
        let from = socket.recv_from(&mut [0; 8]).unwrap().1;
        for wait in [0, 20] {
            let deadline = rt.now() + Duration::from_millis(wait);
            let error = udp.receive(deadline).await.map(<[u8]>::to_vec).unwrap_err();
            assert_eq!(error.kind, IoKind::TimedOut, "{error}");
            assert!(rt.now() >= deadline);
        }
        socket.send_to(b"late", from).unwrap();
        assert_eq!(udp.receive(rt.now() + 10 * SECOND).await.unwrap(), b"late");
    });
}

#[test]
fn nobody_listens_there() {
    on_shard(|rt| async move {
        let to = server().1; // closed again
        let mut udp = rt.udp(to).unwrap();
        udp.send(b"x").unwrap();
        let error = udp.receive(rt.now() + 10 * SECOND).await.map(<[u8]>::to_vec).unwrap_err();
        assert_eq!(error.kind, IoKind::Refused, "{error}");
    });
}

#[test]
fn each_socket_has_a_port_of_its_own_and_is_given_back() {
    on_shard(|rt| async move {
        let (socket, to) = server();
        let mut ports = BTreeSet::new();
        for _ in 0..200 {
            let mut udp = rt.udp(to).unwrap();
            udp.send(b"x").unwrap();
            ports.insert(socket.recv_from(&mut [0; 8]).unwrap().1.port());
            // Given up while it waits: the ring lets go of it before it is closed.
            let _ = udp.receive(rt.now()).await;
        }
        assert!(ports.len() > 150, "{} different ports of 200", ports.len());
        // Ports in a row would be easy to guess.
        let steps = ports.iter().zip(ports.iter().skip(1)).filter(|(a, b)| **b - **a == 1).count();
        assert!(steps < 20, "{steps} ports follow each other");
        rt.sleep_until(rt.now() + Duration::from_millis(20)).await;
    });
}
