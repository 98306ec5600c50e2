//! What a service manager hears of an engine, from a socket of the test's own.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::process::Signal;
use wire_tests::{Engine, Options, PATIENCE};

/// The next thing that is said and is not that the engine is alive.
fn next(socket: &UnixDatagram) -> String {
    loop {
        let said = any(socket);
        if said != "WATCHDOG=1" {
            return said;
        }
    }
}

fn any(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let count = socket.recv(&mut bytes).expect("something is said in time");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() {
    let name = format!("fsmtp-wire-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let variables = [("NOTIFY_SOCKET", format!("@{name}")), ("WATCHDOG_USEC", "200000".to_owned())];
    let mut engine = Engine::with(Options {
        cores: 2,
        variables: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Options::default()
    })
    .unwrap();
    // Shards begin to report when they listen; that all of them do is said a moment later.
    assert_eq!(next(&socket), "READY=1");
    assert!(engine.smtp().is_ok(), "ready means that it takes connections");
    for _ in 0..3 {
        assert_eq!(any(&socket), "WATCHDOG=1");
    }
    engine.signal(Signal::HUP).unwrap();
    assert!(next(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next(&socket), "READY=1");
    engine.signal(Signal::TERM).unwrap();
    assert_eq!(next(&socket), "STOPPING=1");
    assert!(engine.wait(PATIENCE).is_some_and(|status| status.success()));
}
