//! Datagrams of a shard: a connected socket each, read on the shard's ring.
//!
//! For the ring a socket for datagrams is one like any other: each receive brings one datagram,
//! into a buffer of the pool, which is longer than what may come. So this is a [`GlommioConn`]
//! whose window holds one datagram, and is emptied before the next one is asked for.

use core::net::SocketAddr;

use fsmtp_proto::time::Instant;
use socket2::{Domain, Socket, Type};

use super::{GlommioConn, GlommioRuntime};
use crate::{Conn, Datagrams, IoError, Udp};

/// A socket for datagrams.
#[derive(Debug)]
pub struct GlommioUdp {
    conn: GlommioConn,
}

impl Datagrams for GlommioRuntime {
    type Udp = GlommioUdp;

    fn udp(&self, to: SocketAddr) -> Result<GlommioUdp, IoError> {
        let failed = |e: std::io::Error| IoError::from_io(&e, "open a socket to", to.to_string());
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).map_err(failed)?;
        // The kernel draws the port by chance, and from now on drops what others send there.
        socket.connect(&to.into()).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(to);
        Ok(GlommioUdp { conn: GlommioConn::over(&self.shard, socket.into(), to, local) })
    }
}

impl Udp for GlommioUdp {
    fn peer(&self) -> SocketAddr {
        self.conn.peer()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        let sent = self.conn.send_now(bytes).map(drop);
        sent.map_err(|errno| IoError::from_errno(errno, "send to", self.peer().to_string()))
    }

    async fn receive(&mut self, deadline: Instant) -> Result<&[u8], IoError> {
        self.conn.consume(self.conn.filled().len());
        self.conn.fill(deadline).await?;
        Ok(self.conn.filled())
    }
}
