//! Tests: how long a client waits for the answer to its message while who sent it is looked up.
//!
//! One shard, no faults, virtual time; the client is as far away as the name server is.

use core::time::Duration;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_engine::verify::{Action, Policies, Policy, Scores, Settings};
use fsmtp_proto::dns::Data;
use fsmtp_proto::dns::testing::Zone;
use fsmtp_rt::sim::{Options, SimConn, SimRuntime, World};
use fsmtp_rt::{Class, Conn, Instant, Runtime};

use crate::client::reply_length;
use crate::mail;
use crate::node::{DOMAIN, Node};
use crate::plan::Plan;
use crate::remote::{DNS_PORT, answer_names};

const STEPS_MAX: u64 = 20_000_000;
/// How long anything takes one way.
const WAY: Duration = Duration::from_millis(50);
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// What disks and tasks take besides.
const SLACK: Duration = Duration::from_millis(5);
/// Signed by a domain that its author's is; RFC 8463 A.3.
const MESSAGE: &str = include_str!("../../vectors/dkim/rfc8463-a3.eml");
const KEY: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

struct Stage {
    world: World,
    node: Node,
    outside: SimRuntime,
}

impl Stage {
    /// A node that checks mail; without a zone its name server is silent.
    fn new(zone: Option<fn(SimRuntime) -> Zone>) -> Self {
        let mut plan = Plan::calm();
        let way = u64::try_from(WAY.as_nanos()).expect("a short time");
        plan.options.net.latency_ns = (way, way);
        let plan = Rc::new(plan);
        let mut world = World::new(1, Options::clone(&plan.options));
        let (host, names) = (world.host(), world.host());
        let (outside, names) = (world.start(host), world.start(names));
        let mut node = Node::new(&mut world, 1, &plan);
        node.names = Some(names.address(DNS_PORT));
        if let Some(zone) = zone {
            let zone = zone(outside.clone());
            names.clone().spawn(Class::Background, answer_names(names, zone));
        }
        node.verify = Some(Arc::new(Settings {
            trusted: Vec::new(),
            name: "mx.example.test".into(),
            timeout: Duration::from_secs(20),
            iprev: true,
            sealers: Vec::new(),
            lists: Vec::new(),
            scores: Scores { junk: 1, reject: 100 },
            policies: Policies { general: TAKES_ALL, ..Policies::default() },
        }));
        node.boot(&mut world, 1);
        world.run(STEPS_MAX, Instant::FAR, |_| node.ready());
        Self { world, node, outside }
    }

    /// Sends the message, pipelined, and gives how long its answer takes from its last byte on.
    fn wait(&mut self) -> Duration {
        let to = self.node.view.smtp.borrow()[0];
        let rt = self.outside.clone();
        self.world.block_on(&self.outside, async move {
            let mut conn = rt.connect(to).await.expect("it listens");
            replies(&mut conn, 1).await;
            conn.push(b"EHLO football.example.com\r\n");
            replies(&mut conn, 1).await;
            let envelope = "MAIL FROM:<joe@football.example.com>\r\nRCPT TO:";
            conn.push(format!("{envelope}<u0@{DOMAIN}>\r\nDATA\r\n").as_bytes());
            replies(&mut conn, 3).await;
            let sent = rt.now();
            conn.push(&mail::stuffed(MESSAGE.replace("\n", "\r\n").as_bytes()));
            replies(&mut conn, 1).await;
            rt.now().since(sent)
        })
    }

    /// The one message that has come.
    fn stored(&mut self) -> String {
        let found = Rc::new(Cell::default());
        let (slot, reading) =
            (Rc::clone(&found), self.node.deliveries(self.outside.clone(), false));
        self.world.block_on(&self.outside, async move {
            let mut all = reading.await.expect("the mailboxes can be read");
            slot.set(all.pop().map(|delivery| delivery.bytes).unwrap_or_default());
        });
        String::from_utf8(found.take()).expect("the message is text")
    }
}

/// What nobody could judge is taken, too, so that it can be looked at.
const TAKES_ALL: Policy = Policy { dmarc_no_answer: Action::Accept, ..Policy::DEFAULT };

/// Reads so many replies, all of them good.
async fn replies(conn: &mut SimConn, count: usize) {
    for _ in 0..count {
        let bytes = loop {
            if let Some(bytes) = reply_length(conn.filled()) {
                break bytes;
            }
            assert!(conn.fill(Instant::FAR).await.expect("no faults") > 0, "it hung up");
        };
        let good = matches!(conn.filled().first(), Some(b'2' | b'3'));
        assert!(good, "{}", String::from_utf8_lossy(conn.filled()));
        conn.consume(bytes);
    }
}

fn zone(outside: SimRuntime) -> Zone {
    let core::net::IpAddr::V4(ip) = outside.address(0).ip() else { panic!("hosts have IPv4") };
    let spf = "v=spf1 include:hosts.football.example.com -all";
    let hosts = format!("v=spf1 ip4:{ip} -all");
    let txt = |text: &str| Data::Txt(text.as_bytes().into());
    Zone::new()
        .with("football.example.com", 300, txt(spf))
        .with("hosts.football.example.com", 300, txt(&hosts))
        .with("brisbane._domainkey.football.example.com", 300, txt(KEY))
        .with("_dmarc.example.com", 300, txt("v=DMARC1; p=reject"))
        .with(&fsmtp_proto::dns::reverse_name(ip.into()), 300, Data::Ptr("a.example.com".into()))
        .with("a.example.com", 300, Data::A(ip))
}

#[test]
fn the_answer_comes_within_one_round_trip_of_the_dns() {
    let mut stage = Stage::new(Some(zone));
    let first = stage.wait();
    assert!(first <= ROUND_TRIP + ROUND_TRIP + SLACK, "{first:?}");
    let stored = stage.stored();
    for part in [
        "iprev=pass (a.example.com)",
        "spf=pass smtp.mailfrom=joe@football.example.com",
        "dkim=pass header.d=football.example.com header.s=brisbane",
        "dmarc=pass",
    ] {
        assert!(stored.contains(part), "{part}: {stored}");
    }
    let again = stage.wait();
    assert!(again <= ROUND_TRIP + SLACK, "what is known is not asked again: {again:?}");
}

#[test]
fn a_silent_name_server_holds_nobody_for_more_than_20_s() {
    let mut stage = Stage::new(None);
    let waited = stage.wait();
    assert!(waited <= Duration::from_secs(20) + ROUND_TRIP + SLACK, "{waited:?}");
    let stored = stage.stored();
    for part in ["iprev=temperror", "spf=temperror", "dkim=temperror", "dmarc=temperror"] {
        assert!(stored.contains(part), "{part}: {stored}");
    }
}
