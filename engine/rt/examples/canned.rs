//! The canned SMTP responder of the floor, on this runtime: parses lines, stores nothing.
//!
//! `canned CORES PORT`. It shows what the runtime alone costs, beside the plain epoll responder;
//! docs/performance.md says how the two are compared.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fsmtp_rt::glommio::{GlommioConn, GlommioRuntime, ShardOptions, processors, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_rt::{Class, Conn, IoError, Listener, Runtime};

async fn talk(rt: GlommioRuntime, mut conn: GlommioConn) -> Result<(), IoError> {
    let wait = Duration::from_secs(300);
    let mut out = rt.buffer();
    out.extend_from_slice(b"220 x ESMTP\r\n");
    conn.send(out, rt.now() + wait).await?;
    let mut body = false;
    loop {
        let mut out = rt.buffer();
        loop {
            let input = conn.filled();
            if body {
                let end = input.windows(5).position(|w| w == b"\r\n.\r\n");
                let Some(end) = end else {
                    let rest = input.len().saturating_sub(4);
                    conn.consume(rest);
                    break;
                };
                conn.consume(end + 5);
                body = false;
                out.extend_from_slice(b"250 2.0.0 OK\r\n");
                continue;
            }
            let Some(end) = input.iter().position(|&b| b == b'\n') else { break };
            let verb = input.first().copied().unwrap_or(0) & 0xdf;
            conn.consume(end + 1);
            out.extend_from_slice(match verb {
                b'E' => b"250-x\r\n250-PIPELINING\r\n250 SIZE 100000000\r\n",
                b'D' => {
                    body = true;
                    b"354 go\r\n"
                }
                b'Q' => {
                    out.extend_from_slice(b"221 bye\r\n");
                    conn.send(out, rt.now() + wait).await?;
                    conn.close(rt.now() + wait).await;
                    return Ok(());
                }
                _ => b"250 2.1.0 OK\r\n",
            });
        }
        conn.send(out, rt.now() + wait).await?;
        if conn.fill(rt.now() + wait).await? == 0 {
            return Ok(());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let cores: usize = args.next().ok_or("usage: canned CORES PORT")?.parse()?;
    let port: u16 = args.next().ok_or("usage: canned CORES PORT")?.parse()?;
    let helpers = Helpers::new("helper", 1)?;
    let cpus = processors();
    let mut shards = Vec::new();
    for n in 0..cores {
        let options = ShardOptions {
            name: format!("shard-{n}"),
            cpu: cpus.get(n).copied(),
            stall_after: None,
            helpers: helpers.clone(),
        };
        shards.push(start_shard(options, move |rt| async move {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut listener = match rt.listen(address) {
                Ok(listener) => listener,
                Err(e) => return eprintln!("{e}"),
            };
            loop {
                match listener.accept().await {
                    Ok(conn) => {
                        let task = talk(rt.clone(), conn);
                        rt.spawn(Class::Session, async move { drop(task.await) });
                    }
                    Err(e) => eprintln!("{e}"),
                }
            }
        })?);
    }
    for shard in shards {
        shard.join()?;
    }
    Ok(())
}
