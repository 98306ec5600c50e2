//! Messages that some hosts have sealed, with our sealer, and that others have spoilt.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fsmtp_proto::arc::seal::{Sealing, Terms, names};
use fsmtp_proto::arc::{Judged, Verdict, check};
use fsmtp_proto::dkim::Algorithm;
use fsmtp_proto::dkim::verify::{Message, Verifier};
use fsmtp_proto::time::UnixTime;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use serde_json::{Value, json};

use crate::dkim::Draft;
use crate::keys::{Keys, Which};
use crate::random::Random;
use crate::theirs::Outcome;
use crate::zone::Zone;

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) message: Vec<u8>,
    pub(crate) zone: Zone,
    now: UnixTime,
}

fn read(message: &[u8]) -> Message {
    let mut verifier = Verifier::sealing();
    verifier.feed(message);
    verifier.finish()
}

impl Case {
    pub(crate) fn make(random: &mut Random, keys: &Keys, now: u64) -> Self {
        let mut zone = Zone::default();
        let mut draft = Draft::make(random);
        let now = UnixTime::from_ms(now * 1000);
        for hop in 0..random.below(5) {
            let which = match random.below(12) {
                0 => Which::Ed25519(0),
                1..=3 => Which::Rsa(1),
                _ => Which::Rsa(0),
            };
            let domain = format!("hop{hop}.test");
            publish(random, keys, which, &domain, &mut zone);
            let message = read(&draft.bytes());
            let found = zone.judge(|known| check(&message, known)).0.verdict;
            let found = if random.percent(3) { Verdict::Fail } else { found };
            let results =
                random.pick(&["mx.test; spf=pass", "mx.test;\r\n\tarc=none", "mx.test; none"]);
            if let Some(set) = seal(&message, found, keys, which, &domain, results, now) {
                draft.fields.splice(0..0, fields_of(&set));
            }
            draft.fields.insert(0, format!("Received: by {domain}"));
            if random.percent(6) {
                draft.change(random);
            }
            if random.percent(7) {
                spoil(random, &mut draft);
            }
        }
        Self { message: draft.bytes(), zone, now }
    }

    pub(crate) fn ours(&self) -> Judged {
        let message = read(&self.message);
        self.zone.judge(|known| check(&message, known)).0
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": "arc",
            "message": STANDARD.encode(&self.message),
            "now": self.now.seconds(),
            "zone": self.zone.json(),
        })
    }
}

/// The fields of a set that ours makes; none when it refuses.
fn seal(
    message: &Message,
    found: Verdict,
    keys: &Keys,
    which: Which,
    domain: &str,
    results: &str,
    now: UnixTime,
) -> Option<Vec<u8>> {
    let algorithm = match which {
        Which::Rsa(_) => Algorithm::RsaSha256,
        Which::Ed25519(_) => Algorithm::Ed25519Sha256,
    };
    let names = names(message);
    let terms = Terms { domain, selector: "sel", algorithm, results, names, now };
    let sealing = Sealing::begin(message, found, &terms).ok()?;
    sealing.finish_with(|text| Some(keys.sign(which, false, text))).ok()
}

/// Cut where a line does not go on.
fn fields_of(set: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(set);
    let mut fields: Vec<String> = Vec::new();
    for line in text.trim_end_matches("\r\n").split("\r\n") {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => {
                field.push_str("\r\n");
                field.push_str(line);
            }
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

fn publish(random: &mut Random, keys: &Keys, which: Which, domain: &str, zone: &mut Zone) {
    let name = format!("sel._domainkey.{domain}");
    let kind = if matches!(which, Which::Rsa(_)) { "rsa" } else { "ed25519" };
    let public = keys.public(which, false);
    match random.below(60) {
        0 => zone.fail(&name),
        1 => {}
        2 => zone.text(&name, &format!("v=DKIM1; k={kind}; p=")),
        3 => {
            zone.text(&name, &format!("v=DKIM1; k={kind}; p={}", keys.public(Which::Rsa(2), false)))
        }
        _ => zone.text(&name, &format!("v=DKIM1; k={kind}; p={public}")),
    }
}

/// What nobody should do to a set.
fn spoil(random: &mut Random, draft: &mut Draft) {
    let is_arc = |field: &String| field.to_ascii_lowercase().starts_with("arc-");
    let places: Vec<usize> =
        (0..draft.fields.len()).filter(|at| is_arc(&draft.fields[*at])).collect();
    if places.is_empty() {
        return;
    }
    let at = places[random.below(places.len())];
    let field = draft.fields[at].clone();
    match random.below(9) {
        0 => drop(draft.fields.remove(at)),
        1 => draft.fields.insert(at, field),
        2 => draft.fields[at] = field.replacen("i=1;", "i=2;", 1),
        3 => draft.fields[at] = field.replacen("i=", "i=0", 1),
        4 => draft.fields[at] = field.replacen("cv=pass", "cv=none", 1),
        5 => draft.fields[at] = field.replacen("cv=none", "cv=pass", 1),
        6 => draft.fields[at] = format!("{field}; h=from"),
        7 => draft.fields[at] = field.replacen("t=1", "t=2", 1),
        _ => {
            let field = draft.fields.remove(at);
            let to = random.below(draft.fields.len() + 1);
            draft.fields.insert(to, field);
        }
    }
}

/// A set with somebody else's key and choice of fields, as a suite asks for it: a line of JSON in,
/// the fields out.
pub(crate) fn suite(case: &Value) -> Outcome<String> {
    let text = |name: &str| case.get(name).and_then(Value::as_str).ok_or(format!("no {name}"));
    let key = rsa::RsaPrivateKey::from_pkcs1_pem(text("key")?)?;
    let message = read(&STANDARD.decode(text("message")?)?);
    let now = case.get("now").and_then(Value::as_u64).ok_or("no now")?;
    let terms = Terms {
        domain: text("domain")?,
        selector: text("selector")?,
        algorithm: Algorithm::RsaSha256,
        results: text("results")?,
        names: text("names")?.split(':').map(str::to_owned).collect(),
        now: UnixTime::from_ms(now * 1000),
    };
    let sealing = Sealing::begin(&message, Verdict::None, &terms)?;
    let set = sealing.finish_with(|text| crate::keys::rsa_sha256(&key, text))?;
    Ok(serde_json::to_string(&fields_of(&set))?)
}
