//! Messages with signatures, good ones and others, and what ours says of them.
//!
//! They are signed here, by a signer that does what no good one does; its canonical forms are made
//! the slow way, from the sentences of RFC 6376.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fsmtp_proto::dkim::verify::{Judged, Verdict, Verifier};
use fsmtp_proto::time::UnixTime;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

use crate::keys::{Keys, Which};
use crate::random::Random;
use crate::zone::Zone;

const DAY_SECONDS: u64 = 86_400;

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) message: Vec<u8>,
    pub(crate) signatures: usize,
    pub(crate) zone: Zone,
    pub(crate) now: UnixTime,
}

/// A message before it is put together: fields with their folds, without the last CRLF.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) fields: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Draft {
    pub(crate) fn make(random: &mut Random) -> Self {
        let mut fields: Vec<String> = Vec::new();
        let space = random.pick(&[" ", " ", "", "  ", "\t", "\r\n "]);
        fields.push(format!("Received: from x by y;{space}now"));
        let from = random.pick(&["From", "From", "From", "from", "FROM"]);
        fields.push(format!("{from}:{space}Joe <joe@a.test>"));
        let colon = if random.percent(3) { " :" } else { ":" };
        fields.push(format!("To{colon} you@b.test"));
        let subject = random.pick(&["hello", "a  b", "a\r\n b", "a\t b ", "", "=?utf-8?q?x?="]);
        fields.push(format!("Subject: {subject}"));
        fields.push("Date: Tue, 14 Nov 2023 22:13:20 +0000".to_owned());
        for _ in 0..random.below(3) {
            fields.push(format!("X-Some: {}{space}", random.below(10)));
        }
        Self { fields, body: body(random) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in &self.fields {
            out.extend_from_slice(field.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// What may happen on the way.
    pub(crate) fn change(&mut self, random: &mut Random) {
        let last = self.fields.len() - 1;
        match random.below(16) {
            0 => self.body.extend_from_slice(b"\r\n\r\n"),
            1 => self.body.extend_from_slice(b"and more\r\n"),
            2 => self.body = self.body.iter().map(|byte| byte.to_ascii_uppercase()).collect(),
            3 => self.body = lines(&self.body).join(&b" \r\n"[..]),
            4 => self.body.insert(0, b' '),
            5 => self.fields.insert(0, "Received: from z".to_owned()),
            6 => self.fields.insert(0, "From: other@evil.test".to_owned()),
            7 => self.fields.push("From: other@evil.test".to_owned()),
            8 => self.fields.insert(0, "Subject: other".to_owned()),
            9 => self.fields.insert(0, "X-Some: 11".to_owned()),
            10 => self.fields.rotate_left(1),
            11 => drop(self.fields.remove(last)),
            12 => self.each_field(|field| field.replace(' ', "  ")),
            13 => self.each_field(|field| field.replace("\r\n ", " ")),
            14 => self.each_field(|field| match field.split_once(':') {
                Some((name, value)) => format!("{}:{value}", name.to_ascii_uppercase()),
                None => field.to_owned(),
            }),
            _ => self.each_field(|field| format!("{field} \t")),
        }
    }

    /// Signatures stay as they are.
    fn each_field(&mut self, change: impl Fn(&str) -> String) {
        for field in &mut self.fields {
            if !field.to_ascii_lowercase().starts_with("dkim-") {
                *field = change(field);
            }
        }
    }
}

fn body(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.below(6) {
        let piece = random.pick(&[
            "",
            "a line",
            "two  spaces",
            "\ttab",
            "end ",
            "end \t ",
            " ",
            "\t",
            " lead",
            ".",
            "caf\u{e9}",
        ]);
        body.extend_from_slice(piece.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    if random.percent(10) {
        body.extend_from_slice(b"no line end");
    }
    body
}

fn lines(body: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), body);
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

/// RFC 6376.3, §3.4.4
pub(crate) fn canonical_body(relaxed: bool, body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = lines(body).into_iter().map(<[u8]>::to_vec).collect();
    if relaxed {
        for line in &mut lines {
            let mut out: Vec<u8> = Vec::new();
            for byte in line.iter() {
                let byte = if *byte == b'\t' { b' ' } else { *byte };
                if byte != b' ' || out.last() != Some(&b' ') {
                    out.push(byte);
                }
            }
            while out.last() == Some(&b' ') {
                out.pop();
            }
            *line = out;
        }
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    if lines.is_empty() && !relaxed {
        return b"\r\n".to_vec();
    }
    lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect()
}

/// RFC 6376.1, §3.4.2; without the CRLF.
fn canonical_field(relaxed: bool, field: &str) -> String {
    if !relaxed {
        return field.to_owned();
    }
    let (name, value) = field.split_once(':').expect("it is a field");
    let words: Vec<&str> = value.split([' ', '\t', '\r', '\n']).filter(|w| !w.is_empty()).collect();
    format!("{}:{}", name.trim_end().to_ascii_lowercase(), words.join(" "))
}

/// How a field is signed; every part may be wrong.
struct Terms {
    tags: Vec<(String, String)>,
    names: Vec<String>,
    relaxed: (bool, bool),
    length: Option<usize>,
}

/// Some tag, now and then.
fn sometimes(
    random: &mut Random,
    percent: usize,
    name: &str,
    values: &[&str],
) -> Option<(String, String)> {
    random.percent(percent).then(|| (name.to_owned(), random.pick(values).to_owned()))
}

/// `c=`; empty for none.
fn form(random: &mut Random) -> &'static str {
    match random.below(50) {
        0 => "nowsp/simple",
        1..=7 => "simple/simple",
        8..=14 => "relaxed/relaxed",
        15..=21 => "simple/relaxed",
        22..=28 => "relaxed/simple",
        29..=35 => "simple",
        36..=42 => "relaxed",
        _ => "",
    }
}

fn terms(random: &mut Random, which: Which, domain: &str, now: u64, draft: &Draft) -> Terms {
    let mut tags: Vec<(String, String)> = Vec::new();
    let mut push = |name: &str, value: &str| tags.push((name.to_owned(), value.to_owned()));
    push("v", "1");
    let algorithm = match which {
        Which::Rsa(_) => "rsa-sha256",
        Which::Ed25519(_) => "ed25519-sha256",
    };
    push(
        "a",
        if random.percent(97) {
            algorithm
        } else {
            random.pick(&["rsa-sha1", "ed25519-sha256", "rsa-sha256", "rsa-md5", "RSA-SHA256"])
        },
    );
    push("d", domain);
    push("s", "sel");
    let form = form(random);
    if !form.is_empty() {
        push("c", form);
    }
    let (header, body) = form.split_once('/').unwrap_or((form, "simple"));
    let relaxed = (header == "relaxed", body == "relaxed");
    let made = match random.below(30) {
        0 if random.percent(50) => now + 5 * DAY_SECONDS,
        _ => now - 2 * DAY_SECONDS,
    };
    if random.percent(60) {
        push("t", &made.to_string());
    }
    if random.percent(12) {
        let ends = [now + DAY_SECONDS, now + 9 * DAY_SECONDS, now - DAY_SECONDS, made, made - 1];
        push("x", &ends[random.below(5)].to_string());
    }
    let whole = canonical_body(relaxed.1, &draft.body).len();
    let length = random.percent(15).then(|| match random.below(6) {
        0 => whole + 1 + random.below(9),
        1 => 0,
        2 | 3 => whole,
        _ => random.below(whole + 1),
    });
    if let Some(length) = length {
        push("l", &length.to_string());
    }
    tags.extend(sometimes(
        random,
        15,
        "i",
        &["@a.test", "joe@a.test", "@sub.a.test", "@b.test", "noat", "joe@A.TEST", "@xa.test"],
    ));
    tags.extend(sometimes(
        random,
        10,
        "q",
        &["dns/txt", "dns/txt", "dns/txt:x", "x:dns/txt", "http"],
    ));
    tags.extend(sometimes(random, 10, "n", &["a note", "x=y", ""]));
    tags.extend(sometimes(random, 5, "z", &["From:joe@a.test|Subject:x"]));
    Terms { tags, names: names(random, draft), relaxed, length }
}

/// What `h=` names.
fn names(random: &mut Random, draft: &Draft) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for field in &draft.fields {
        let name = field.split(':').next().unwrap_or_default().trim();
        let wanted = !name.to_ascii_lowercase().starts_with("dkim-") && random.percent(80);
        if wanted || name.eq_ignore_ascii_case("from") {
            names.push(if random.percent(80) {
                name.to_owned()
            } else {
                name.to_ascii_uppercase()
            });
        }
    }
    for _ in 0..random.below(3) {
        let more = ["From", "Subject", "Reply-To", "X-Some", "X-Not-There", "to"];
        names.push(random.pick(&more).to_owned());
    }
    if random.percent(2) {
        names.retain(|name| !name.eq_ignore_ascii_case("from"));
    }
    if random.percent(20) {
        let at = random.below(names.len());
        names.rotate_left(at);
    }
    names
}

/// A field for the front.
pub(crate) fn signature(
    random: &mut Random,
    keys: &Keys,
    which: Which,
    domain: &str,
    now: u64,
    draft: &Draft,
) -> String {
    let Terms { mut tags, names, relaxed, length } = terms(random, which, domain, now, draft);
    let sha1 = tags.iter().any(|(name, value)| name == "a" && value == "rsa-sha1")
        && matches!(which, Which::Rsa(_));
    let algorithm = if sha1 { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
    let canonical = canonical_body(relaxed.1, &draft.body);
    let covered = &canonical[..length.unwrap_or(canonical.len()).min(canonical.len())];
    tags.push(("bh".to_owned(), STANDARD.encode(digest(algorithm, covered))));
    let between = random.pick(&[":", ":", " : ", ":\r\n\t"]);
    tags.push(("h".to_owned(), names.join(between)));
    if random.percent(3) {
        let at = random.below(tags.len());
        match random.below(4) {
            0 => drop(tags.remove(at)),
            1 => tags.push(tags[at].clone()),
            2 => tags[at].1.push_str(random.pick(&["x", " ", "=", "\u{e9}"])),
            _ => tags[at].1.clear(),
        }
    }
    if random.percent(50) {
        let at = random.below(tags.len());
        tags.rotate_left(at);
    }
    let place = if random.percent(80) { tags.len() } else { random.below(tags.len() + 1) };
    tags.insert(place, ("b".to_owned(), String::new()));
    let (mut front, mut back) = ("DKIM-Signature:".to_owned(), String::new());
    let space = random.pick(&[" ", " ", "", "\r\n ", "\t"]);
    let inner = random.pick(&["", "", "", " ", "\r\n "]);
    for (index, (name, value)) in tags.iter().enumerate() {
        let end = if index + 1 == tags.len() && random.percent(70) { "" } else { ";" };
        let out = if index <= place { &mut front } else { &mut back };
        if index == place {
            out.push_str(&format!("{space}b={inner}"));
            back.push_str(end);
        } else {
            out.push_str(&format!("{space}{name}{inner}={inner}{value}{end}"));
        }
    }
    let text = signed_text(relaxed.0, &names, draft, &format!("{front}{back}"));
    let made = STANDARD.encode(keys.sign(which, sha1, text.as_bytes()));
    let folded = match random.below(3) {
        0 => made,
        1 => made
            .as_bytes()
            .chunks(60)
            .map(|c| String::from_utf8_lossy(c))
            .collect::<Vec<_>>()
            .join("\r\n\t"),
        _ => made
            .as_bytes()
            .chunks(20)
            .map(|c| String::from_utf8_lossy(c))
            .collect::<Vec<_>>()
            .join(" "),
    };
    format!("{front}{folded}{back}")
}

/// RFC 6376 §3.7, §5.4.2
fn signed_text(relaxed: bool, names: &[String], draft: &Draft, own: &str) -> String {
    let mut left: Vec<&String> = draft.fields.iter().collect();
    let mut text = String::new();
    for name in names {
        let is_it = |field: &&String| {
            field.split(':').next().is_some_and(|found| found.trim().eq_ignore_ascii_case(name))
        };
        if let Some(at) = left.iter().rposition(is_it) {
            text.push_str(&canonical_field(relaxed, left.remove(at)));
            text.push_str("\r\n");
        }
    }
    text + &canonical_field(relaxed, own)
}

/// What is published of a key; every part may be wrong.
pub(crate) fn publish(
    random: &mut Random,
    keys: &Keys,
    which: Which,
    domain: &str,
    zone: &mut Zone,
) {
    let name = format!("sel._domainkey.{domain}");
    if random.percent(3) {
        match random.below(3) {
            0 => zone.fail(&name),
            1 => zone.text(&name, "hello"),
            _ => {}
        }
        return;
    }
    let mut tags: Vec<(&str, String)> = Vec::new();
    if random.percent(70) {
        tags.push(("v", "DKIM1".to_owned()));
    }
    match which {
        Which::Ed25519(_) => tags.push(("k", "ed25519".to_owned())),
        Which::Rsa(_) if random.percent(50) => tags.push(("k", "rsa".to_owned())),
        Which::Rsa(_) => {}
    }
    let key = if random.percent(96) { which } else { Keys::which(random) };
    let mut public = keys.public(key, random.percent(10));
    if random.percent(20) {
        public.insert_str(random.below(public.len()), random.pick(&[" ", "\t", "  "]));
    }
    if random.percent(4) {
        match random.below(4) {
            0 => public.clear(),
            1 => public.truncate(public.len() / 2),
            2 => public.push_str("AAAA"),
            _ => public.insert(4, '!'),
        }
    }
    tags.push(("p", public));
    for (name, values) in [
        ("h", &["sha256", "sha256", "sha1:sha256", "sha1", "x:sha256"][..]),
        ("t", &["y", "s", "y:s", "x"]),
        ("s", &["*", "email", "email:x", "x"]),
        ("n", &["note", "a = b"]),
        ("g", &["*", "", "joe"]),
    ] {
        if random.percent(6) {
            tags.push((name, random.pick(values).to_owned()));
        }
    }
    if random.percent(4) {
        let at = random.below(tags.len());
        match random.below(4) {
            0 => tags.rotate_left(at),
            1 => tags.push(tags[at].clone()),
            2 => tags[at].1.push_str(random.pick(&["x", "=", ";;"])),
            _ => tags[at].0 = "K",
        }
    }
    let between = random.pick(&["; ", ";", " ; "]);
    let parts: Vec<String> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut text = parts.join(between);
    text.push_str(random.pick(&["", "", ";", "; "]));
    zone.text(&name, &text);
    if random.percent(2) {
        zone.text(&name, random.pick(&["v=DKIM1; p=", "x"]));
    }
}

impl Case {
    pub(crate) fn make(random: &mut Random, keys: &Keys, now: u64) -> Self {
        let mut draft = Draft::make(random);
        let mut zone = Zone::default();
        let signatures = if random.percent(90) { 1 } else { 2 };
        for number in 0..signatures {
            let which = Keys::which(random);
            let domain =
                if number == 0 { random.pick(&["a.test", "a.test", "A.Test"]) } else { "b.test" };
            let field = signature(random, keys, which, domain, now, &draft);
            publish(random, keys, which, domain, &mut zone);
            draft.fields.insert(0, field);
        }
        if random.percent(35) {
            draft.change(random);
        }
        Self { message: draft.bytes(), signatures, zone, now: UnixTime::from_ms(now * 1000) }
    }

    pub(crate) fn ours(&self) -> Vec<Judged> {
        let mut verifier = Verifier::new();
        verifier.feed(&self.message);
        let message = verifier.finish();
        self.zone.judge(|known| message.check(known, self.now)).0
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": "dkim",
            "message": STANDARD.encode(&self.message),
            "signatures": self.signatures,
            "now": self.now.seconds(),
            "zone": self.zone.json(),
        })
    }
}

/// In one word, as the others can say it: one that passes is enough.
pub(crate) fn word(all: &[Judged]) -> &'static str {
    let has = |verdict| all.iter().any(|judged| judged.verdict == verdict);
    match () {
        () if has(Verdict::Pass) => "pass",
        () if has(Verdict::Temperror) => "temperror",
        () if all.is_empty() => "none",
        () => "no",
    }
}

/// The best of theirs.
pub(crate) fn best(all: &[String]) -> &'static str {
    let has = |word: &str| all.iter().any(|verdict| verdict == word);
    match () {
        () if has("pass") => "pass",
        () if has("crash") => "crash",
        () if has("temperror") => "temperror",
        () if all.is_empty() => "none",
        () => "no",
    }
}
