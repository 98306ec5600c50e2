//! What the sink answers to which recipient.
//!
//! A magic local part decides first: `discard`, `slow`, or a code from 400 to 599, in any domain.
//! Then the rule of the recipient's domain, or the one for `*`. Parsed once, by `clap`; at most
//! [`RULES_MAX`] rules, each with at most [`ODDS_MAX`] odds.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fsmtp_proto::smtp::reply::Code;

use crate::send::{Random, duration};

/// They are searched one by one; arbitrary.
const RULES_MAX: usize = 100;
/// Arbitrary.
const ODDS_MAX: usize = 32;
/// How long the local part `slow` takes, as with the engine's.
const SLOW: Duration = Duration::from_secs(5);
/// Envelopes that greylisting remembers; one more may push another out, which is then new again.
const GREY_SLOTS: usize = 1 << 16;

/// A time, or any between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(Duration, Duration);

impl FromStr for Span {
    type Err = String;

    /// `10ms` or `10ms..50ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let span = Self(duration(from)?, duration(to)?);
        if span.0 <= span.1 { Ok(span) } else { Err(format!("{text} is no range")) }
    }
}

impl Span {
    pub(crate) fn pick(self, random: &mut Random) -> Duration {
        if self.0 == self.1 { self.0 } else { self.0 + (self.1 - self.0).mul_f64(random.unit()) }
    }
}

/// What becomes of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    /// Its mail is taken, and not in the ledger.
    Discard,
    Refuse(Code),
    /// The connection is closed without a word.
    Drop,
}

/// What holds for a domain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    domain: String,
    /// Sums of the chances up to each.
    odds: Vec<(f64, Verdict)>,
    delay: Option<Span>,
    greylist: bool,
}

impl FromStr for Rule {
    type Err = String;

    /// `DOMAIN: 451=5%, drop=1%, delay=10ms..50ms, greylist`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, parts) = text.split_once(':').ok_or("write a rule as DOMAIN: 451=5%, ..")?;
        let domain = domain.trim().to_ascii_lowercase();
        if domain.is_empty() {
            return Err("a rule begins with its domain, or *".into());
        }
        let mut rule = Self { domain, odds: Vec::new(), delay: None, greylist: false };
        let mut sum = 0.0;
        for part in parts.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "greylist" if value.is_empty() => rule.greylist = true,
                "delay" => rule.delay = Some(value.parse()?),
                _ => {
                    let verdict = match name {
                        "drop" => Some(Verdict::Drop),
                        code => refusal(code),
                    };
                    let verdict = verdict.ok_or_else(|| {
                        format!("{part:?}: a rule knows 400 to 599, drop, delay and greylist")
                    })?;
                    sum += chance(value)?;
                    rule.odds.push((sum, verdict));
                }
            }
        }
        // Ten times 10 % may be a little more than 100 %.
        if sum > 1.0 + 1e-9 || rule.odds.len() > ODDS_MAX {
            return Err(format!("{text}: more than 100 %, or more than {ODDS_MAX} odds"));
        }
        Ok(rule)
    }
}

fn refusal(text: &str) -> Option<Verdict> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    let code = text.parse().ok().filter(|_| digits)?;
    Code::new(code).map(Verdict::Refuse)
}

fn chance(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse::<f64>().ok());
    let chance = number.map(|number| number / 100.0).filter(|c| (0.0..=1.0).contains(c));
    chance.ok_or_else(|| format!("{text:?} is no chance; write 5%"))
}

/// All rules, and what greylisting remembers for all cores.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    grey: Vec<AtomicU64>,
}

impl Rules {
    /// # Errors
    /// Too many, or two for one domain.
    pub(crate) fn new(rules: Vec<Rule>) -> Result<Self, String> {
        if rules.len() > RULES_MAX {
            return Err(format!("more than {RULES_MAX} rules"));
        }
        for (at, rule) in rules.iter().enumerate() {
            if rules.iter().take(at).any(|other| other.domain == rule.domain) {
                return Err(format!("two rules for {}", rule.domain));
            }
        }
        let slots = if rules.iter().any(|rule| rule.greylist) { GREY_SLOTS } else { 0 };
        Ok(Self { rules, grey: (0..slots).map(|_| AtomicU64::new(0)).collect() })
    }

    /// What becomes of a recipient, and after how long. `sender` stands for who sends.
    pub(crate) fn judge(
        &self,
        sender: u64,
        recipient: (&str, &str),
        random: &mut Random,
    ) -> (Verdict, Duration) {
        let (local, domain) = recipient;
        if local.eq_ignore_ascii_case("discard") {
            return (Verdict::Discard, Duration::ZERO);
        }
        if local.eq_ignore_ascii_case("slow") {
            return (Verdict::Accept, SLOW);
        }
        if let Some(refused) = refusal(local) {
            return (refused, Duration::ZERO);
        }
        let of = |name: &str| self.rules.iter().find(|r| r.domain.eq_ignore_ascii_case(name));
        let Some(rule) = of(domain).or_else(|| of("*")) else {
            return (Verdict::Accept, Duration::ZERO);
        };
        let delay = rule.delay.map_or(Duration::ZERO, |delay| delay.pick(random));
        if !rule.odds.is_empty() {
            let at = random.unit();
            if let Some((_, verdict)) = rule.odds.iter().find(|(sum, _)| at < *sum) {
                return (*verdict, delay);
            }
        }
        let new = rule.greylist && self.is_new(hash(hash(sender, local), domain));
        let later = Code::new(451).map_or(Verdict::Accept, Verdict::Refuse);
        (if new { later } else { Verdict::Accept }, delay)
    }

    /// Whether this envelope was not seen before; from now on it was.
    fn is_new(&self, envelope: u64) -> bool {
        // 0 is an empty slot.
        let envelope = envelope.max(1);
        let slot = self.grey.get(envelope as usize % GREY_SLOTS);
        slot.is_some_and(|slot| slot.swap(envelope, Ordering::Relaxed) != envelope)
    }
}

/// FNV-1a, on top of another.
pub(crate) fn hash(before: u64, text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().map(|byte| byte.to_ascii_lowercase()).fold(before ^ 0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Result<Rules, String> {
        Rules::new(lines.iter().map(|line| line.parse()).collect::<Result<_, _>>()?)
    }

    fn refuse(code: u16) -> Verdict {
        Verdict::Refuse(Code::new(code).unwrap())
    }

    #[test]
    fn wrong_rules_are_refused() {
        for wrong in [
            "a.test",
            ": 451=5%",
            "a.test: 251=5%",
            "a.test: 600=5%",
            "a.test: 451=5",
            "a.test: 451=60%, 550=41%",
            "a.test: 451=-1%",
            "a.test: delay=5ms..1ms",
            "a.test: delay=soon",
            "a.test: greylist=5%",
            "a.test: ",
        ] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
        assert!(rules(&["a.test: drop=1%", "A.test: 451=5%"]).is_err());
        let many: Vec<String> = (0..=RULES_MAX).map(|n| format!("d{n}.test: greylist")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(rules(&many).is_err() && rules(&many[1..]).is_ok());
        let odds = |count: usize| format!("*: {}", vec!["451=1%"; count].join(", "));
        assert!(
            odds(ODDS_MAX).parse::<Rule>().is_ok() && odds(ODDS_MAX + 1).parse::<Rule>().is_err()
        );
    }

    #[test]
    fn magic_local_parts_come_before_rules() {
        let rules = rules(&["*: drop=100%"]).unwrap();
        let mut random = Random::new(1);
        let mut judge = |local| rules.judge(0, (local, "a.test"), &mut random);
        assert_eq!(judge("discard"), (Verdict::Discard, Duration::ZERO));
        assert_eq!(judge("550"), (refuse(550), Duration::ZERO));
        assert_eq!(judge("421"), (refuse(421), Duration::ZERO));
        assert_eq!(judge("Slow"), (Verdict::Accept, SLOW));
        for other in ["250", "600", "+50", "0550", "bob"] {
            assert_eq!(judge(other).0, Verdict::Drop, "{other}");
        }
    }

    #[test]
    fn odds_are_kept_and_repeat_with_the_seed() {
        let rules = rules(&["a.test: 451=5%, 550=1%, delay=10ms..50ms, drop=1%", "*: 452=100%"]);
        let rules = rules.unwrap();
        let run = |seed| {
            let mut random = Random::new(seed);
            let judge = |_| rules.judge(0, ("u", "A.TEST"), &mut random);
            (0..100_000).map(judge).collect::<Vec<_>>()
        };
        let all = run(1);
        let count = |verdict| all.iter().filter(|(v, _)| *v == verdict).count();
        assert!((4_700..5_300).contains(&count(refuse(451))));
        assert!((900..1_100).contains(&count(refuse(550))));
        assert!((900..1_100).contains(&count(Verdict::Drop)));
        let span = Duration::from_millis(10)..=Duration::from_millis(50);
        assert!(all.iter().all(|(_, delay)| span.contains(delay)));
        assert!(all == run(1) && all != run(2));
        assert_eq!(rules.judge(0, ("u", "b.test"), &mut Random::new(1)).0, refuse(452));
    }

    #[test]
    fn greylisting_refuses_the_first_time_and_forgets_what_is_too_much() {
        let rules = rules(&["*: greylist"]).unwrap();
        let mut random = Random::new(1);
        let mut judge = |sender, local: &str| rules.judge(sender, (local, "a.test"), &mut random).0;
        assert_eq!([judge(1, "u"), judge(1, "u")], [refuse(451), Verdict::Accept]);
        assert_eq!([judge(2, "u"), judge(2, "u")], [refuse(451), Verdict::Accept]);
        for number in 0..10 * GREY_SLOTS {
            judge(3, &number.to_string());
        }
        assert_eq!(judge(1, "u"), refuse(451), "pushed out by others");
    }
}
