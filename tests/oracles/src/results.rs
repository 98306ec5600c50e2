//! `Authentication-Results` with whatever strangers may have chosen, to be read by authres.

use fsmtp_proto::results::{Results, VALUE_BYTES_MAX};
use serde_json::{Value, json};

use crate::random::Random;

const OWN: &str = "mx.a.example";
/// Methods as sessions write them, and the properties that they may have.
const METHODS: [(&str, &[&str]); 6] = [
    ("iprev", &["policy.iprev"]),
    ("spf", &["smtp.mailfrom", "smtp.helo"]),
    ("dkim", &["header.d", "header.s", "header.i", "header.a", "header.b"]),
    ("dmarc", &["header.from"]),
    ("arc", &["header.d"]),
    ("dnswl", &["dns.zone", "policy.ip"]),
];
const VERDICTS: [&str; 6] = ["pass", "fail", "none", "temperror", "permerror", "softfail"];
/// Words, and what may end one.
const PIECES: [&str; 24] = [
    "a",
    "me@a.test",
    "@a.test",
    "a.test",
    "192.0.2.1",
    "2001:db8::1",
    " ",
    "\t",
    "\r\n ",
    ";",
    "(",
    ")",
    "\"",
    "\\",
    "=",
    "/",
    "<",
    ">",
    ",",
    "pass",
    "dmarc=pass",
    "\u{fc}",
    "\u{7}",
    "..",
];

/// A method, its verdict, a comment, and its properties.
type Found = (&'static str, &'static str, String, Vec<(&'static str, String)>);

/// What is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    found: Vec<Found>,
}

fn text(random: &mut Random) -> String {
    let count = if random.percent(3) { 200 } else { random.below(6) };
    (0..count).map(|_| random.pick(&PIECES)).collect()
}

impl Case {
    pub(crate) fn make(random: &mut Random) -> Self {
        let one = |random: &mut Random| {
            let (method, names) = METHODS[random.below(METHODS.len())];
            let comment = if random.percent(40) { text(random) } else { String::new() };
            let properties = names.iter().filter(|_| random.percent(80)).collect::<Vec<_>>();
            let properties = properties.into_iter().map(|name| (*name, text(random))).collect();
            (method, random.pick(&VERDICTS), comment, properties)
        };
        let count = random.below(5);
        Self { found: (0..count).map(|_| one(random)).collect() }
    }

    /// The field.
    pub(crate) fn ours(&self) -> String {
        let mut field = Results::new("Authentication-Results", OWN);
        for (method, verdict, comment, properties) in &self.found {
            field.method(method, verdict).comment(comment);
            for (name, value) in properties {
                field.property(name, value);
            }
        }
        String::from_utf8_lossy(&field.finish()).into_owned()
    }

    /// What has to be read in it.
    pub(crate) fn expected(&self) -> Value {
        self.read_as(false)
    }

    /// What a reader finds, who may leave quoted pairs as they are: values are cut, and hold no
    /// controls.
    pub(crate) fn read_as(&self, pairs_stay: bool) -> Value {
        let kept = |value: &str| {
            let end = value.floor_char_boundary(VALUE_BYTES_MAX);
            let value: String = value[..end].chars().filter(|c| !c.is_control()).collect();
            let stay = || value.replace('\\', "\\\\").replace('"', "\\\"");
            if pairs_stay { stay() } else { value }
        };
        let all = self.found.iter().map(|(method, verdict, _, properties)| {
            let each = properties.iter().map(|(name, value)| (name, kept(value)));
            let each: Vec<_> = each.filter(|(_, value)| !value.is_empty()).collect();
            json!([method, verdict, each])
        });
        json!([OWN, all.collect::<Vec<_>>()])
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "kind": "results", "field": self.ours() })
    }
}
