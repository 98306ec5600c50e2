//! The simulated machine keeps its own promises: each fault happens, and only when asked for.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;
use crate::{Block, Conn, Disk, File, IoError, IoKind, Listener, PAGE_BYTES, WINDOW_BYTES_MAX};

const SECOND: Duration = Duration::from_secs(1);

fn block(fill: u8, pages: usize) -> Block {
    let mut block = Block::new(pages * PAGE_BYTES);
    assert!(block.push(&vec![fill; pages * PAGE_BYTES]));
    block
}

/// Accepts connections at port 25 and sends everything back.
async fn echo(rt: SimRuntime) {
    let mut listener = rt.listen(25);
    loop {
        let Ok(mut conn) = listener.accept().await else { continue };
        let own = rt.clone();
        rt.spawn(Class::Session, async move {
            while let Ok(count) = conn.fill(own.now() + SECOND * 60).await {
                if count == 0 {
                    break;
                }
                let mut reply = own.buffer();
                reply.extend_from_slice(conn.filled());
                conn.consume(reply.len());
                if conn.send(reply, own.now() + SECOND * 60).await.is_err() {
                    break;
                }
            }
            conn.close(own.now() + SECOND).await;
        });
    }
}

/// Sends `bytes`, says that no more come, and returns what came back.
async fn ask(rt: SimRuntime, to: SocketAddr, bytes: Vec<u8>) -> Result<Vec<u8>, IoError> {
    let mut conn = rt.connect(to).await?;
    let mut back = Vec::new();
    for piece in bytes.chunks(1000) {
        conn.send(piece.to_vec(), rt.now() + SECOND * 60).await?;
        // Both sides would fill their pipes and wait for ever if nobody read meanwhile.
        conn.fill(rt.now() + SECOND * 60).await?;
        back.extend_from_slice(conn.filled());
        conn.consume(conn.filled().len());
    }
    conn.finish();
    while conn.fill(rt.now() + SECOND * 60).await? > 0 {
        back.extend_from_slice(conn.filled());
        conn.consume(conn.filled().len());
    }
    Ok(back)
}

struct Pair {
    world: World,
    client: SimRuntime,
    server: SimRuntime,
}

fn pair(seed: u64, options: Options) -> Pair {
    let mut world = World::new(seed, options);
    let (a, b) = (world.host(), world.host());
    let (client, server) = (world.start(a), world.start(b));
    Pair { world, client, server }
}

fn echo_run(seed: u64, options: Options) -> (u64, Result<Vec<u8>, IoKind>, World) {
    let Pair { mut world, client, server } = pair(seed, options);
    let to = server.address(25);
    server.spawn(Class::Accept, echo(server.clone()));
    let bytes: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    let back = world.block_on(&client.clone(), async move {
        // The listener may not run yet.
        client.yield_now().await;
        client.sleep_until(client.now() + SECOND).await;
        ask(client.clone(), to, bytes).await.map_err(|error| error.kind)
    });
    (world.hash(), back, world)
}

#[test]
fn a_calm_world_echoes_and_counts() {
    let (_, back, world) = echo_run(1, Options::calm());
    assert_eq!(back.as_ref().map(Vec::len), Ok(5000));
    let counts = world.counts(HostId(1));
    assert_eq!((counts.accepts, counts.sends, counts.sent_bytes), (1, 5, 5000));
    assert_eq!((counts.receives, counts.received_bytes, counts.buffers_out), (5, 5000, 0));
    assert!(world.complaints().is_empty());
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..50 {
        let options = Options::swarm(&mut Random::new(seed));
        let (first, back, _) = echo_run(seed, options.clone());
        let (second, again, _) = echo_run(seed, options);
        assert_eq!((first, back), (second, again));
        hashes.insert(first);
    }
    assert_eq!(hashes.len(), 50);
}

#[test]
fn the_planted_nondeterminism_shows_in_the_trace() {
    let run = || {
        let mut options = Options::calm();
        options.bugs.unseeded = true;
        let Pair { mut world, client, .. } = pair(3, options);
        for _ in 0..20 {
            let rt = client.clone();
            client.spawn(Class::Background, async move { rt.yield_now().await });
        }
        world.run(1000, Instant::FAR, |_| false);
        world.hash()
    };
    assert_ne!(run(), run());
}

#[test]
fn faults_of_links_happen_in_a_swarm_and_bytes_are_never_wrong() {
    let (mut whole, mut closed, mut late) = (0, 0, 0);
    let expected: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    for seed in 0..300 {
        let mut options = Options::swarm(&mut Random::new(seed));
        options.net.doom_bytes = (0, 12_000);
        match echo_run(seed, options).1 {
            Ok(back) if back == expected => whole += 1,
            // A reset of the echo's side is also seen as an early end.
            Ok(back) => assert!(expected.starts_with(&back)),
            Err(IoKind::Closed) => closed += 1,
            Err(IoKind::TimedOut) => late += 1,
            Err(kind) => panic!("{kind:?}"),
        }
    }
    assert!(whole > 100 && closed > 5 && late > 5, "{whole} {closed} {late}");
}

#[test]
fn time_jumps_and_sleepers_wake_in_order() {
    let Pair { mut world, client, .. } = pair(1, Options::calm());
    let order = Rc::new(RefCell::new(Vec::new()));
    for days in [3u32, 1, 2] {
        let (rt, order) = (client.clone(), Rc::clone(&order));
        client.spawn(Class::Background, async move {
            rt.sleep_until(rt.now() + SECOND * 86_400 * days).await;
            order.borrow_mut().push(days);
        });
    }
    let start = world.now();
    assert_eq!(world.run(1000, Instant::FAR, |_| false), Ended::Idle);
    assert_eq!(*order.borrow(), [1, 2, 3]);
    assert_eq!((world.now() - start).as_secs(), 3 * 86_400);
    assert_eq!(world.step(), Step::Idle);
}

#[test]
fn a_timer_of_a_dropped_future_does_not_move_the_clock() {
    let Pair { mut world, client, server } = pair(1, Options::calm());
    let to = server.address(25);
    server.spawn(Class::Accept, echo(server.clone()));
    let rt = client.clone();
    world.block_on(&client, async move {
        rt.sleep_until(rt.now() + SECOND).await;
        let mut conn = rt.connect(to).await.expect("echo listens");
        // Each fill sets a deadline of an hour, none of which may be left behind.
        for _ in 0..10 {
            conn.send(b"x".to_vec(), rt.now() + SECOND * 3600).await.expect("sent");
            assert_eq!(conn.fill(rt.now() + SECOND * 3600).await.expect("filled"), 1);
            conn.consume(1);
        }
    });
    world.kill(server.host(), Crash::Process);
    world.run(1000, Instant::FAR, |_| false);
    assert!(world.now() < Instant::from_ns(3_000_000_000), "{:?}", world.now());
}

#[test]
fn yield_lets_every_other_ready_task_run() {
    for seed in 0..50 {
        let mut options = Options::swarm(&mut Random::new(seed));
        options.net = Options::calm().net;
        let Pair { mut world, client, .. } = pair(seed, options);
        let ran = Rc::new(Cell::new(0));
        let rt = client.clone();
        let seen = Rc::clone(&ran);
        client.spawn(Class::Session, async move {
            for _ in 0..9 {
                let ran = Rc::clone(&seen);
                rt.spawn(Class::Session, async move { ran.set(ran.get() + 1) });
            }
            rt.yield_now().await;
            assert_eq!(seen.get(), 9);
            seen.set(100);
        });
        world.run(1000, Instant::FAR, |_| false);
        assert_eq!(ran.get(), 100);
    }
}

#[test]
fn wakers_work_from_other_threads() {
    let Pair { mut world, client, .. } = pair(1, Options::calm());
    let (slot, woken) = (Rc::new(RefCell::new(None::<Waker>)), Rc::new(Cell::new(false)));
    let (place, done) = (Rc::clone(&slot), Rc::clone(&woken));
    client.spawn(Class::Session, async move {
        let mut first = true;
        core::future::poll_fn(|cx| {
            *place.borrow_mut() = Some(cx.waker().clone());
            if core::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        done.set(true);
    });
    assert_eq!(world.run(100, Instant::FAR, |_| false), Ended::Idle);
    let waker = slot.borrow_mut().take().expect("was polled");
    std::thread::spawn(move || waker.wake()).join().expect("the thread ends");
    world.run(100, Instant::FAR, |_| false);
    assert!(woken.get());
}

#[test]
fn a_peer_that_never_reads_blocks_the_sender_until_its_deadline() {
    let mut options = Options::calm();
    options.net.buffer_bytes = (1000, 1000);
    let Pair { mut world, client, server } = pair(1, options);
    let to = server.address(25);
    let mut listener = server.listen(25);
    let rt = client.clone();
    client.spawn(Class::Session, async move {
        let conn = rt.connect(to).await.expect("somebody listens");
        rt.sleep_until(rt.now() + SECOND * 1000).await;
        assert_eq!(conn.arrived(), 1000);
        drop(conn);
    });
    let rt = server.clone();
    let sent = world.block_on(&server, async move {
        let mut conn = listener.accept().await.expect("somebody connects");
        let mut sent = 0;
        let error = loop {
            match conn.send(vec![b'.'; 400], rt.now() + SECOND * 10).await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        // It stays broken: part of a buffer has left.
        let again = conn.send(vec![b'.'; 1], rt.now() + SECOND * 10).await;
        assert_eq!(again.map_err(|error| error.kind), Err(IoKind::TimedOut));
        (sent, error.kind)
    });
    assert_eq!(sent, (3, IoKind::TimedOut));
}

#[test]
fn the_window_is_bounded_and_keeps_what_is_not_consumed() {
    let Pair { mut world, client, server } = pair(1, Options::calm());
    let (to, mut listener) = (server.address(25), server.listen(25));
    let rt = client.clone();
    client.spawn(Class::Session, async move {
        let mut conn = rt.connect(to).await.expect("somebody listens");
        for _ in 0..3 {
            conn.send(vec![7; 10_000], Instant::FAR).await.expect("sent");
        }
        conn.fill(Instant::FAR).await.expect("ended");
    });
    let rt = server.clone();
    world.block_on(&server, async move {
        let mut conn = listener.accept().await.expect("somebody connects");
        rt.sleep_until(rt.now() + SECOND).await;
        assert_eq!(conn.fill(Instant::FAR).await.expect("filled"), WINDOW_BYTES_MAX);
        assert_eq!(conn.filled().len(), WINDOW_BYTES_MAX);
        conn.consume(100);
        assert_eq!(conn.filled().len(), WINDOW_BYTES_MAX - 100);
        assert_eq!(conn.fill(Instant::FAR).await.expect("filled"), 100);
        conn.consume(WINDOW_BYTES_MAX);
        let rest = conn.fill(rt.now()).await.expect("what has arrived comes at any deadline");
        assert_eq!(rest, 30_000 - WINDOW_BYTES_MAX - 100);
        let late = conn.fill(rt.now()).await.map_err(|error| error.kind);
        assert_eq!(late, Err(IoKind::TimedOut));
    });
}

#[test]
fn nobody_listens_backlog_is_bounded_and_half_close_is_seen() {
    let Pair { mut world, client, server } = pair(1, Options::calm());
    let to = server.address(25);
    let rt = client.clone();
    world.block_on(&client.clone(), async move {
        assert_eq!(rt.connect(to).await.map_err(|e| e.kind).err(), Some(IoKind::Refused));
    });
    let mut listener = server.listen(25);
    world.change(|options| options.net.backlog_max = 1);
    let rt = client.clone();
    let mut conn = world.block_on(&client.clone(), async move {
        let conn = rt.connect(to).await.expect("there is room for one");
        assert_eq!(rt.connect(to).await.map_err(|e| e.kind).err(), Some(IoKind::TimedOut));
        conn
    });
    conn.finish();
    world.block_on(&server, async move {
        let mut conn = listener.accept().await.expect("one waits");
        assert_eq!(conn.fill(Instant::FAR).await.expect("the end"), 0);
        conn.send(b"still here".to_vec(), Instant::FAR).await.expect("the other way is open");
        conn.close(Instant::FAR).await;
    });
    world.block_on(&client, async move {
        assert_eq!(conn.fill(Instant::FAR).await.expect("filled"), 10);
        conn.consume(10);
        assert_eq!(conn.fill(Instant::FAR).await.expect("the end"), 0);
    });
}

#[test]
fn closing_with_unread_bytes_resets() {
    let Pair { mut world, client, server } = pair(1, Options::calm());
    let (to, mut listener) = (server.address(25), server.listen(25));
    let rt = client.clone();
    client.spawn(Class::Session, async move {
        let mut conn = rt.connect(to).await.expect("somebody listens");
        conn.send(b"QUIT and more".to_vec(), Instant::FAR).await.expect("sent");
        assert_eq!(conn.fill(Instant::FAR).await.map_err(|e| e.kind), Err(IoKind::Closed));
        assert!(!conn.faulted() && !conn.peer_open());
    });
    let rt = server.clone();
    world.block_on(&server, async move {
        let mut conn = listener.accept().await.expect("somebody connects");
        rt.sleep_until(rt.now() + SECOND).await;
        conn.close(rt.now() + SECOND).await;
    });
    assert_eq!(world.run(1000, Instant::FAR, |_| false), Ended::Idle);
    assert_eq!(world.tasks(client.host()), 0);
}

#[test]
fn finished_writes_survive_and_those_in_flight_are_torn_by_page() {
    let (mut old, mut new, mut mixed) = (0, 0, 0);
    for seed in 0..200 {
        let mut world = World::new(seed, Options::calm());
        let (host, disk) = (world.host(), world.disk());
        let rt = world.start(host);
        let handle = rt.disk(disk);
        let file = world.block_on(&rt, async move {
            let file = handle.create("log", 16 * PAGE_BYTES as u64).await.expect("created");
            let (_, result) = file.write_durable(0, block(1, 4)).await;
            result.expect("written");
            file
        });
        rt.spawn(Class::Spool, async move {
            let (_, result) = file.write_durable(2 * PAGE_BYTES as u64, block(2, 4)).await;
            result.expect("never comes so far");
            unreachable!("the host is dead");
        });
        world.step();
        world.kill(host, Crash::Power);
        assert_eq!(world.tasks(host), 0);
        let bytes = world.contents(disk, "log").expect("the file is there");
        let pages: Vec<u8> = bytes
            .chunks(PAGE_BYTES)
            .map(|page| {
                assert!(page.iter().all(|b| b == &page[0]), "torn within a page");
                page[0]
            })
            .collect();
        assert_eq!(pages[..2], [1, 1], "a finished write was lost");
        assert_eq!(pages[6..], [0; 10]);
        match pages[2..6] {
            [1, 1, 0, 0] => old += 1,
            [2, 2, 2, 2] => new += 1,
            _ => mixed += 1,
        }
        // The next life sees the same.
        let rt = world.start(host);
        let handle = rt.disk(disk);
        let read = world.block_on(&rt, async move {
            let file = handle.open("log").await.expect("opened");
            file.read(0, 16 * PAGE_BYTES).await.expect("read")
        });
        assert_eq!(read, bytes);
        assert!(world.complaints().is_empty());
    }
    assert!(old > 2 && new > 2 && mixed > 100, "{old} {new} {mixed}");
}

#[test]
fn failed_writes_say_so_and_leave_anything_behind() {
    let mut options = Options::calm();
    options.disk.write_errors = MILLION;
    options.disk.errors_stick = true;
    let mut world = World::new(5, options);
    let (host, disk) = (world.host(), world.disk());
    let rt = world.start(host);
    let handle = rt.disk(disk);
    let file = world.block_on(&rt, async move {
        let file = handle.create("log", 64 * PAGE_BYTES as u64).await.expect("created");
        let (returned, result) = file.write_durable(0, block(1, 64)).await;
        assert_eq!(returned.len(), 64 * PAGE_BYTES);
        assert_eq!(result.map_err(|e| (e.kind, e.errno)), Err((IoKind::Failed, EIO)));
        file
    });
    let bytes = world.contents(disk, "log").expect("there");
    let written = bytes.chunks(PAGE_BYTES).filter(|page| page[0] == 1).count();
    assert!((10..54).contains(&written), "{written}");
    world.change(|options| options.disk.write_errors = 0);
    let again = file.clone();
    world.block_on(&rt, async move {
        assert!(again.write_durable(0, block(1, 1)).await.1.is_err(), "errors stick");
    });
    world.kill(host, Crash::Power);
    // A handle of an earlier life does nothing, and says so.
    let rt = world.start(host);
    world.block_on(&rt, async move {
        assert!(file.write_durable(0, block(1, 1)).await.1.is_err());
    });
    assert_eq!(world.contents(disk, "log").expect("there"), bytes);
}

const EIO: i32 = 5;

#[test]
fn the_disk_has_an_end() {
    let mut options = Options::calm();
    options.disk.capacity_bytes = 10 * PAGE_BYTES as u64;
    let mut world = World::new(5, options);
    let (host, disk) = (world.host(), world.disk());
    let rt = world.start(host);
    let handle = rt.disk(disk);
    world.block_on(&rt, async move {
        let page = PAGE_BYTES as u64;
        handle.create("a", 6 * page).await.expect("fits");
        assert_eq!(handle.free_bytes().expect("known"), 4 * page);
        let full = handle.create("b", 5 * page).await.map_err(|e| e.kind);
        assert_eq!(full.err(), Some(IoKind::Full));
        handle.create("a", 9 * page).await.expect("the old one is replaced");
        handle.rename("a", "c").await.expect("renamed");
        assert_eq!(handle.list().await.expect("listed"), [("c".into(), 9 * page)]);
        assert_eq!(handle.open("a").await.map_err(|e| e.kind).err(), Some(IoKind::NotFound));
        handle.remove("c").await.expect("removed");
        assert_eq!(handle.remove("c").await.map_err(|e| e.kind), Err(IoKind::NotFound));
        assert_eq!(handle.free_bytes().expect("known"), 10 * page);
    });
}

#[test]
fn a_lying_disk_loses_at_power_failure_what_it_called_stable() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let mut options = Options::calm();
        options.bugs.early_writes = MILLION;
        let mut world = World::new(seed, options);
        let (host, disk) = (world.host(), world.disk());
        let rt = world.start(host);
        let handle = rt.disk(disk);
        world.block_on(&rt, async move {
            let file = handle.create("log", 4 * PAGE_BYTES as u64).await.expect("created");
            file.write_durable(0, block(9, 1)).await.1.expect("so it says");
            let seen = file.read(0, 1).await.expect("read");
            assert_eq!(seen, [9], "what was written is read");
        });
        let crash = if seed % 2 == 0 { Crash::Power } else { Crash::Process };
        world.kill(host, crash);
        let first = world.contents(disk, "log").expect("there")[0];
        assert!(crash == Crash::Power || first == 9, "the cache survives the process");
        if first == 9 { kept += 1 } else { lost += 1 }
    }
    assert!(lost > 10 && kept > 60, "{lost} {kept}");
}

#[test]
fn misuse_is_reported_and_bits_flip_when_asked() {
    let mut world = World::new(5, Options::calm());
    let (host, disk) = (world.host(), world.disk());
    let rt = world.start(host);
    let handle = rt.disk(disk);
    assert_eq!(world.flip_any(disk), None);
    let file = world.block_on(&rt, async move {
        let file = handle.create("log", 4 * PAGE_BYTES as u64).await.expect("created");
        assert!(file.write_durable(3 * PAGE_BYTES as u64, block(1, 2)).await.1.is_err());
        assert!(file.write_durable(5, block(1, 1)).await.1.is_err());
        file.write_durable(0, block(1, 1)).await.1.expect("written");
        file
    });
    assert_eq!(world.complaints().len(), 2);
    for fill in [1, 2] {
        let file = file.clone();
        rt.spawn(Class::Spool, async move {
            let _ = file.write_durable(0, block(fill, 1)).await;
        });
    }
    world.run(1000, Instant::FAR, |_| false);
    assert_eq!(world.complaints().len(), 3);
    let before = world.contents(disk, "log").expect("there");
    let (name, at) = world.flip_any(disk).expect("a page was written");
    let after = world.contents(disk, &name).expect("there");
    let changed: Vec<usize> = (0..before.len()).filter(|i| before[*i] != after[*i]).collect();
    assert_eq!(changed, [at as usize]);
    assert!(!world.flip(disk, "log", 1 << 40, 1));
}

#[test]
fn the_wall_clock_steps_both_ways_only_when_asked() {
    let mut options = Options::calm();
    let Pair { client, .. } = pair(1, options.clone());
    let first = client.unix();
    assert!((0..100).all(|_| client.unix() == first));
    options.clock = ClockOptions { steps: MILLION, step_ms_max: 1000 };
    let Pair { mut world, client, .. } = pair(1, options);
    let times: Vec<u64> = (0..100).map(|_| client.unix().ms()).collect();
    assert!(times.windows(2).any(|w| w[0] < w[1]) && times.windows(2).any(|w| w[0] > w[1]));
    assert!(times.windows(2).all(|w| w[0].abs_diff(w[1]) <= 1000));
    world.change(|options| options.clock.steps = 0);
    let before = client.unix().ms();
    world.step_clock(-5000);
    assert_eq!(client.unix().ms(), before - 5000);
}

#[test]
fn a_killed_host_leaves_nothing_and_its_peers_notice() {
    let (mut closed, mut silent) = (0, 0);
    for seed in 0..40 {
        let Pair { mut world, client, server } = pair(seed, Options::calm());
        let to = server.address(25);
        server.spawn(Class::Accept, echo(server.clone()));
        let rt = client.clone();
        let mut conn = world.block_on(&client, async move {
            rt.sleep_until(rt.now() + SECOND).await;
            let mut conn = rt.connect(to).await.expect("echo listens");
            conn.send(b"hello".to_vec(), Instant::FAR).await.expect("sent");
            conn.fill(Instant::FAR).await.expect("answered");
            conn
        });
        world.power_off(&[server.host()]);
        assert!(!world.alive(server.host()));
        server.spawn(Class::Session, async { unreachable!("a dead host runs nothing") });
        let rt = client.clone();
        let end = world.block_on(&client, async move {
            conn.fill(rt.now() + SECOND * 60).await.map_err(|error| error.kind)
        });
        match end {
            Err(IoKind::TimedOut) => silent += 1,
            Ok(0) | Err(IoKind::Closed) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(closed > 5 && silent > 5, "{closed} {silent}");
}

#[test]
fn lost_wakes_lost_bytes_and_swapped_lines_do_what_they_say() {
    let mut options = Options::calm();
    options.bugs.lost_wakes = MILLION;
    let mut world = World::new(5, options);
    let (host, disk) = (world.host(), world.disk());
    let rt = world.start(host);
    let handle = rt.disk(disk);
    rt.spawn(Class::Spool, async move {
        let _ = handle.create("log", PAGE_BYTES as u64).await;
    });
    assert_eq!(world.run(1000, Instant::FAR, |_| false), Ended::Idle);
    assert_eq!((world.tasks(host), world.lost_wakes()), (1, 1));

    let mut options = Options::calm();
    options.bugs.lost_bytes = MILLION;
    let (_, back, _) = echo_run(1, options);
    assert!(back.map_or(0, |back| back.len()) < 5000);

    let mut options = Options::calm();
    options.bugs.swapped_lines = MILLION;
    let Pair { mut world, client, server } = pair(1, options);
    let (to, mut listener) = (server.address(25), server.listen(25));
    server.spawn(Class::Accept, async move {
        let mut conn = listener.accept().await.expect("somebody connects");
        conn.send(b"one\r\ntwo\r\nthree".to_vec(), Instant::FAR).await.expect("sent");
        conn.close(Instant::FAR).await;
    });
    let rt = client.clone();
    world.block_on(&client, async move {
        let mut conn = rt.connect(to).await.expect("somebody listens");
        conn.fill(Instant::FAR).await.expect("filled");
        assert_eq!(conn.filled(), b"two\r\none\r\nthree");
    });
}

#[test]
fn names_and_reads_fail_and_tear_when_asked() {
    let mut options = Options::calm();
    options.disk.write_full = MILLION;
    options.net.accept_errors = MILLION;
    let Pair { mut world, client, server } = pair(4, options);
    let (disk, to) = (world.disk(), server.address(25));
    let (handle, mut listener) = (server.disk(disk), server.listen(25));
    let rt = client.clone();
    client.spawn(Class::Session, async move {
        let _ = rt.connect(to).await.expect("somebody listens").fill(Instant::FAR).await;
    });
    let page = PAGE_BYTES as u64;
    let (file, own) = world.block_on(&server, async move {
        let refused = listener.accept().await.map_err(|error| error.kind);
        assert_eq!(refused.err(), Some(IoKind::Exhausted));
        let file = handle.create("log", page).await.expect("created");
        let full = file.write_durable(0, block(1, 1)).await.1.map_err(|error| error.kind);
        assert_eq!(full, Err(IoKind::Full));
        (file, handle)
    });
    world.change(|options| {
        options.disk.name_errors = MILLION;
        options.disk.read_errors = MILLION;
    });
    world.block_on(&server, async move {
        assert!(file.read(0, 1).await.is_err());
        assert!(own.create("b", page).await.is_err());
        assert!(own.rename("log", "c").await.is_err());
        assert!(own.remove("log").await.is_err());
    });
    assert_eq!(world.files(disk), [("log".into(), page)]);
}

#[test]
fn a_crash_in_a_create_leaves_nothing_a_part_or_all() {
    let mut lengths = BTreeSet::new();
    let page = PAGE_BYTES as u64;
    for seed in 0..100 {
        let mut world = World::new(seed, Options::calm());
        let (host, disk) = (world.host(), world.disk());
        let rt = world.start(host);
        let handle = rt.disk(disk);
        rt.spawn(Class::Spool, async move {
            let _ = handle.create("log", 3 * page).await;
        });
        world.step();
        world.kill(host, Crash::Process);
        let files = world.files(disk);
        lengths.insert(files.first().map(|(_, bytes)| bytes / page));
    }
    assert_eq!(lengths, BTreeSet::from([None, Some(0), Some(1), Some(2), Some(3)]));
}

#[test]
fn a_misplaced_write_lies_one_page_further() {
    let mut options = Options::calm();
    options.bugs.misplaced_writes = MILLION;
    let mut world = World::new(1, options);
    let (host, disk) = (world.host(), world.disk());
    let rt = world.start(host);
    let handle = rt.disk(disk);
    world.block_on(&rt, async move {
        let file = handle.create("log", 2 * PAGE_BYTES as u64).await.expect("created");
        file.write_durable(0, block(1, 1)).await.1.expect("so it says");
        assert_eq!(file.read(PAGE_BYTES as u64, 1).await.expect("read"), [1]);
        assert_eq!(file.read(0, 1).await.expect("read"), [0]);
    });
}
