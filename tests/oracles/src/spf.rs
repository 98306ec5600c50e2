//! Clients and policies, good ones and others, and what ours says of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fsmtp_proto::dns::{Data, Mx, reverse_name};
use fsmtp_proto::spf::{self, Client, Outcome};
use fsmtp_proto::time::UnixTime;
use serde_json::{Value, json};

use crate::random::Random;
use crate::zone::Zone;

pub(crate) const RECEIVER: &str = "mx.receiver.test";
const DOMAINS: [&str; 6] = ["a.test", "b.test", "c.test", "d.test", "e.a.test", "void.test"];
const HOSTS: [&str; 7] =
    ["mail.a.test", "mail.b.test", "out.a.test", "x.test", "a.test", "b.test", "void.test"];
const V4: [&str; 5] = ["192.0.2.1", "192.0.2.77", "192.0.3.1", "198.51.100.5", "203.0.113.200"];
const V6: [&str; 3] = ["2001:db8::1", "2001:db8::ff:1", "2001:db8:1::1"];

/// Who sends, and what the DNS says.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) ip: IpAddr,
    pub(crate) helo: String,
    pub(crate) sender: String,
    pub(crate) zone: Zone,
}

impl Case {
    pub(crate) fn make(random: &mut Random) -> Self {
        let ip = address(random);
        let helo = random.pick(&["mail.a.test", "x.test", "b.test", "void.test", "helo.test"]);
        let helo = helo.to_owned();
        let local = random.pick(&["joe", "strong-bad", "a.b-c+d=e_f", "", "Jo", "%{d}", "a/b,c"]);
        let sender = match random.below(20) {
            0 => String::new(),
            1 => format!("{local}@nowhere.test"),
            2 => format!("{local}@test"),
            3 => format!("{local}@A.Test"),
            4 => format!("{local}@a..test"),
            5 => format!("{local}@{}.test", "l".repeat(60 + random.below(8))),
            _ => format!("{local}@{}", DOMAINS[random.below(5)]),
        };
        let mut zone = Zone::default();
        hosts(random, &mut zone);
        pointers(random, &mut zone, ip);
        for domain in &DOMAINS[..5] {
            let count = if random.percent(2) { 2 } else { usize::from(random.percent(93)) };
            for _ in 0..count {
                zone.text(domain, &record(random));
            }
            if random.percent(10) {
                zone.text(domain, random.pick(&["v=spf10 +all", "hello", "v=spf1+all"]));
            }
        }
        zone.text("why.test", random.pick(&["%{i} is not %{d}", "no", "%{x}", "see %{c} %{t}"]));
        if random.percent(5) {
            zone.fail(random.pick(&["a.test", "b.test", "mail.a.test", "x.test", "e.a.test"]));
        }
        if random.percent(2) {
            zone.fail(&reverse_name(ip));
        }
        Self { ip, helo, sender, zone }
    }

    pub(crate) fn ours(&self, now: UnixTime) -> (Outcome, Vec<String>) {
        let Self { ip, helo, sender, zone } = self;
        let client = Client { ip: *ip, helo, sender, receiver: RECEIVER, now };
        zone.judge(|known| spf::check(&client, known))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": "spf",
            "ip": self.ip.to_string(),
            "helo": self.helo,
            "sender": self.sender,
            "receiver": RECEIVER,
            "zone": self.zone.json(),
        })
    }
}

fn address(random: &mut Random) -> IpAddr {
    if random.percent(80) {
        random.pick(&V4).parse().expect("an address")
    } else {
        random.pick(&V6).parse().expect("an address")
    }
}

fn v4(random: &mut Random) -> Ipv4Addr {
    random.pick(&V4).parse().expect("an address")
}

fn v6(random: &mut Random) -> Ipv6Addr {
    random.pick(&V6).parse().expect("an address")
}

/// Addresses and mail hosts.
fn hosts(random: &mut Random, zone: &mut Zone) {
    for host in ["mail.a.test", "mail.b.test", "out.a.test", "x.test", "a.test", "b.test", "c.test"]
    {
        for _ in 0..random.below(3) {
            zone.add(host, Data::A(v4(random)));
        }
        if random.percent(30) {
            zone.add(host, Data::Aaaa(v6(random)));
        }
    }
    if random.percent(10) {
        zone.add("alias.test", Data::Cname(random.pick(&HOSTS).into()));
    }
    for domain in ["a.test", "b.test", "c.test", "d.test"] {
        let count = if random.percent(3) { 9 + random.below(3) } else { random.below(4) };
        for number in 0..count {
            let exchange = if count > 5 {
                format!("m{number}.{}", if random.percent(90) { "yes.test" } else { "no.test" })
            } else {
                random.pick(&HOSTS).to_owned()
            };
            let preference = number as u16;
            zone.add(domain, Data::Mx(Mx { preference, exchange: exchange.into() }));
        }
    }
}

/// Names of the client.
fn pointers(random: &mut Random, zone: &mut Zone, ip: IpAddr) {
    let count = if random.percent(5) { 9 + random.below(4) } else { random.below(3) };
    let mut names: Vec<String> = Vec::new();
    for number in 0..count {
        let name = if count > 5 && number + 2 < count {
            format!("p{number}.no.test")
        } else {
            random.pick(&["mail.a.test", "out.a.test", "mail.b.test", "x.test", "no.test"]).into()
        };
        if names.contains(&name) {
            continue;
        }
        zone.add(&reverse_name(ip), Data::Ptr(name.as_str().into()));
        if random.percent(60) {
            let data = match ip {
                IpAddr::V4(ip) => Data::A(ip),
                IpAddr::V6(ip) => Data::Aaaa(ip),
            };
            zone.add(&name, data);
        }
        names.push(name);
    }
}

/// A policy.
fn record(random: &mut Random) -> String {
    let mut text = random.pick(&["v=spf1", "v=spf1", "v=spf1", "V=sPf1"]).to_owned();
    let many = if random.percent(4) { 12 } else { 5 };
    for _ in 0..random.below(many + 1) {
        text.push_str(random.pick(&[" ", " ", " ", " ", "  "]));
        text.push_str(&term(random));
    }
    if random.percent(60) {
        text.push_str(random.pick(&[" -all", " ~all", " ?all", " all", " +ALL"]));
    }
    if random.percent(10) {
        let domain = DOMAINS[random.below(DOMAINS.len())];
        text.push_str(&format!(" redirect={domain}"));
    }
    if random.percent(6) {
        text.push(' ');
    }
    if random.percent(6) {
        broken(random, &mut text);
    }
    text
}

/// One letter is another, is gone, or is there besides.
fn broken(random: &mut Random, text: &mut String) {
    let at = 6 + random.below(text.len() - 5);
    let letter = random.pick(&[" ", "%", "/", ":", "=", ".", "-", "0", "a", "{", "}", "\t", "@"]);
    let at = at.min(text.len());
    match random.below(3) {
        0 => text.insert_str(at, letter),
        1 if at < text.len() => drop(text.remove(at)),
        _ if at < text.len() => text.replace_range(at..=at, letter),
        _ => text.push_str(letter),
    }
}

fn term(random: &mut Random) -> String {
    let sign = random.pick(&["", "", "", "+", "-", "~", "?"]);
    let domain = domain(random);
    let prefix = prefix(random);
    match random.below(22) {
        0..=2 => format!("{sign}ip4:{}{}", v4(random), v4_prefix(random)),
        3 => format!("{sign}ip6:{}{}", v6(random), v6_prefix(random)),
        4 | 5 => format!("{sign}a{prefix}"),
        6 | 7 => format!("{sign}a:{domain}{prefix}"),
        8 => format!("{sign}mx{prefix}"),
        9 => format!("{sign}mx:{domain}{prefix}"),
        10..=13 => format!("{sign}include:{domain}"),
        14 | 15 => format!("{sign}exists:{domain}"),
        16 => format!("{sign}ptr"),
        17 => format!("{sign}ptr:{domain}"),
        18 => format!("exp={}", random.pick(&["why.test", "void.test", "%{d}"])),
        19 => format!("x-{}={domain}", random.pick(&["a", "B", "c_d", "e.f"])),
        20 => match random.below(12) {
            0 => "redirect=%{d2}".to_owned(),
            1 => format!("redirect={domain}"),
            2 => "exp=".to_owned(),
            3 => "ip4:192.0.2.300".to_owned(),
            4 => "ip4:192.0.2".to_owned(),
            5 => "ip4:192.0.2.1/33".to_owned(),
            6 => "ip6:2001:db8::1/129".to_owned(),
            7 => "include:".to_owned(),
            8 => "exists".to_owned(),
            9 => "all:x.test".to_owned(),
            10 => format!("{sign}unknown:{domain}"),
            _ => "ip6:::ffff:192.0.2.1".to_owned(),
        },
        _ => format!("{sign}a:alias.test"),
    }
}

fn domain(random: &mut Random) -> String {
    match random.below(10) {
        0..=4 => DOMAINS[random.below(DOMAINS.len())].to_owned(),
        5 => HOSTS[random.below(HOSTS.len())].to_owned(),
        6 => {
            random.pick(&["a.test.", "A.tEst", "test", "x..test", "a-.test", "yes.test"]).to_owned()
        }
        _ => {
            let mut text = String::new();
            for _ in 0..=random.below(2) {
                text.push_str(&a_macro(random));
                text.push_str(random.pick(&[".", ".", ".", "-", "", "%%.", "%-."]));
            }
            text.push_str(random.pick(&["yes.test", "yes.test", "a.test", "%{d}", "test", "%{o}"]));
            text
        }
    }
}

fn a_macro(random: &mut Random) -> String {
    let letter = random.pick(&[
        "s", "l", "o", "d", "i", "p", "v", "h", "L", "S", "D", "I", "H", "O", "i", "d", "l", "c",
        "r", "x",
    ]);
    if "crx".contains(letter) && random.percent(80) {
        return "%{i}".to_owned();
    }
    let digits = random.pick(&["", "", "", "1", "2", "3", "10", "0", "129"]);
    let digits = if digits == "0" && random.percent(70) { "" } else { digits };
    let reverse = random.pick(&["", "", "r", "R"]);
    let delimiter = random.pick(&["", "", "", "-", ".-", "+", ",/_=", "*"]);
    let delimiter = if delimiter == "*" && random.percent(80) { "" } else { delimiter };
    format!("%{{{letter}{digits}{reverse}{delimiter}}}")
}

fn prefix(random: &mut Random) -> &'static str {
    let all =
        ["", "", "", "", "/24", "/16", "/0", "//64", "/24//64", "/32//0", "/033", "/33", "//129"];
    let some = if random.percent(90) { 10 } else { all.len() };
    all[random.below(some)]
}

fn v4_prefix(random: &mut Random) -> &'static str {
    let some = if random.percent(95) { 7 } else { 8 };
    ["", "", "", "/32", "/24", "/8", "/0", "/"][random.below(some)]
}

fn v6_prefix(random: &mut Random) -> &'static str {
    let some = if random.percent(95) { 6 } else { 7 };
    ["", "", "/128", "/64", "/32", "/0", "/"][random.below(some)]
}
