//! Why pyspf and mail-auth judge some policies otherwise.

use fsmtp_proto::dns::reverse_name;
use fsmtp_proto::spf::record::{Record, is_record};
use fsmtp_proto::spf::{Outcome, Verdict};

use super::Class;
use crate::spf;

/// An SPF case and what was said of it.
#[derive(Debug)]
pub(crate) struct Spf {
    pub(crate) case: spf::Case,
    pub(crate) ours: Outcome,
    /// The names that ours asked for.
    pub(crate) asked: Vec<String>,
    pub(crate) theirs: String,
    /// Their reason, if they give one.
    pub(crate) why: String,
}

impl Spf {
    /// Why ours ends as it does.
    fn end(&self) -> &str {
        self.ours.steps.last().map_or("", String::as_str)
    }

    /// The terms that ours has looked at, `name term`, and what came of them.
    fn terms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ours.steps.iter().filter_map(|step| step_of(step))
    }

    /// Whether a mechanism of that name was looked at.
    fn looked_at(&self, name: &str) -> bool {
        self.terms().any(|(term, _)| {
            let term = term.trim_start_matches(['+', '-', '~', '?']);
            let end = term.find([':', '/']).unwrap_or(term.len());
            term[..end].eq_ignore_ascii_case(name)
        })
    }

    fn voids(&self) -> bool {
        self.end().contains("lookups found nothing")
    }

    /// Whether ours met a record that is none by the grammar.
    fn unreadable(&self) -> bool {
        let Some((domain, _)) = self.end().split_once(": ") else { return false };
        let mut records = self.case.zone.texts(domain).filter(|text| is_record(text));
        self.ours.verdict == Verdict::Permerror && records.any(|text| Record::parse(text).is_err())
    }

    /// The words of the records that ours met.
    fn words(&self) -> impl Iterator<Item = &str> {
        let records = self.ours.steps.iter().filter(|step| {
            step.split_once(": ").is_some_and(|(_, text)| is_record(text.as_bytes()))
        });
        records.flat_map(|step| step.split(' '))
    }

    /// Whether a macro says in upper case that its labels are turned round.
    fn turns_round(&self) -> bool {
        self.words().any(|word| {
            word.split("%{").skip(1).any(|rest| {
                let rest = rest.get(1..).unwrap_or_default();
                rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('R')
            })
        })
    }

    fn includes_with_slash(&self) -> bool {
        self.words()
            .map(str::to_ascii_lowercase)
            .any(|word| word.split_once("include:").is_some_and(|(_, name)| name.contains('/')))
    }

    fn has_name_macro(&self) -> bool {
        self.words().any(|word| word.to_ascii_lowercase().contains("%{p"))
    }

    /// Whether a modifier is not what mail programs write.
    fn odd_modifier(&self) -> bool {
        self.words().filter_map(|word| word.split_once('=')).any(|(name, value)| {
            let is_name =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let mechanisms = ["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"];
            is_name
                && !name.starts_with("v")
                && (value.is_empty()
                    || value.contains(['/', ':', '@', '='])
                    || mechanisms.iter().any(|mechanism| name.eq_ignore_ascii_case(mechanism)))
        })
    }

    /// Whether the client's own names can decide.
    fn names_matter(&self) -> bool {
        let reverse = reverse_name(self.case.ip);
        self.asked.iter().any(|name| {
            reverse.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
        })
    }

    /// Whether an included policy includes one that passes.
    fn inner_include_matches(&self) -> bool {
        let outer = format!("{} ", self.ours.domain);
        self.ours.steps.iter().any(|step| {
            step_of(step).is_some_and(|(term, outcome)| {
                let includes = term.to_ascii_lowercase().contains("include:");
                includes && outcome != "no match" && !step.starts_with(&outer)
            })
        })
    }

    /// Whether a term is about a name that is no host name.
    fn odd_names(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let hyphens = |name: &str| {
            name.split('.').any(|label| label.starts_with('-') || label.ends_with('-'))
        };
        let asked = self.asked.iter().any(|name| !name.bytes().all(plain) || hyphens(name));
        asked
            || self
                .terms()
                .any(|(term, _)| term.contains("..") || term.contains(":.") || term.contains('%'))
    }
}

/// `domain: text` is none; `domain term: outcome` is one.
fn step_of(step: &str) -> Option<(&str, &str)> {
    let (front, outcome) = step.rsplit_once(": ")?;
    let (_, term) = front.split_once(' ')?;
    Some((term, outcome))
}

/// pyspf 2.0.14.
pub(crate) const PYSPF: &[Class<Spf>] = &[
    Class {
        name: "an unknown modifier may be there once only",
        rfc: "RFC 7208 §6: unrecognized modifiers MUST be ignored no matter where, or how often, \
              they appear in a record",
        holds: |c| {
            let twice = c.why.split_once("MUST appear at most once: ");
            let known = |term: &str| term.starts_with("exp=") || term.starts_with("redirect=");
            twice.is_some_and(|(_, term)| !known(&term.to_ascii_lowercase()))
        },
    },
    Class {
        name: "who includes himself is an error at once",
        rfc: "RFC 7208 §4.6.4: what limits recursion is the number of terms that cause queries",
        holds: |c| c.why.contains("trivial recursion"),
    },
    Class {
        name: "macros are read when they are expanded",
        rfc: "RFC 7208 §4.6: if there are any syntax errors anywhere in the record, check_host() \
              returns permerror immediately",
        holds: |c| c.unreadable(),
    },
    Class {
        name: "void lookups are counted by query, those for policies too",
        rfc: "RFC 7208 §4.6.4: the number of terms for which DNS queries return void answers",
        holds: |c| c.why.contains("Void lookup limit") && !c.voids(),
    },
    Class {
        name: "no answer about the client's names is an error",
        rfc: "RFC 7208 §5.5: if a DNS error occurs while doing the PTR RR lookup, then this \
              mechanism fails to match; while doing an A RR lookup, that name is skipped",
        holds: |c| {
            let reverse = reverse_name(c.case.ip);
            let by_name = c.names_matter() || c.has_name_macro();
            c.theirs == "temperror"
                && c.case.zone.fails()
                && (by_name || c.case.zone.fails_at(&reverse))
        },
    },
    Class {
        name: "all hosts of mx are looked up before one is compared",
        rfc: "RFC 7208 §5.4: the <ip> is compared to each returned IP address; if any address \
              matches, the mechanism matches",
        holds: |c| c.theirs == "temperror" && c.looked_at("mx") && c.case.zone.fails(),
    },
    Class {
        name: "the transformer R is none",
        rfc: "RFC 7208 §7.1: transformers = *DIGIT [ \"r\" ], in any case as all strings of ABNF",
        holds: |c| c.turns_round(),
    },
];

/// mail-auth 0.15.
pub(crate) const MAIL_AUTH: &[Class<Spf>] = &[
    Class {
        name: "void lookups have no limit",
        rfc: "RFC 7208 §4.6.4: implementations SHOULD limit void lookups to two",
        holds: |c| c.voids(),
    },
    Class {
        name: "a record is read as far as it can be",
        rfc: "RFC 7208 §4.6: if there are any syntax errors anywhere in the record, check_host() \
              returns permerror immediately",
        holds: |c| c.unreadable(),
    },
    Class {
        name: "of several records the first counts",
        rfc: "RFC 7208 §4.5: if the resultant record set includes more than one record, \
              check_host() produces the permerror result",
        holds: |c| c.end().ends_with("it has several records"),
    },
    Class {
        name: "what is no name is asked for",
        rfc: "RFC 7208 §4.3: if the <domain> is malformed, check_host() immediately returns none",
        holds: |c| c.ours.verdict == Verdict::None && c.end().ends_with("can be asked"),
    },
    Class {
        name: "ip6 is compared with IPv4 clients",
        rfc: "RFC 7208 §5.6: the <ip> is compared to the given network; an IPv4 address lies in no \
              IPv6 network (§5: addresses of the client's own family)",
        holds: |c| c.case.ip.is_ipv4() && c.looked_at("ip6"),
    },
    Class {
        name: "exists asks for AAAA too",
        rfc: "RFC 7208 §5.7: a DNS A RR lookup, even when the connection type is IPv6",
        holds: |c| c.looked_at("exists") && c.asked.iter().any(|name| c.case.zone.only_v6(name)),
    },
    Class {
        name: "a name as written is no match of ptr, and names are counted as terms",
        rfc: "RFC 7208 §5.5: if the target name is the validated domain name or ends in it, match; \
              §4.6.4: names beyond ten are ignored",
        holds: |c| c.names_matter(),
    },
    Class {
        name: "the pass of an inner include is that of the outer one",
        rfc: "RFC 7208 §5.2: check_host() is evaluated recursively, its pass is a match, no more",
        holds: |c| c.inner_include_matches(),
    },
    Class {
        name: "a version that does not end is one",
        rfc: "RFC 7208 §4.5: the version section is terminated by either an SP character or the \
              end of the record",
        holds: |c| {
            c.case.zone.all_texts().any(|(_, text)| {
                let version = text.get(..6).is_some_and(|v| v.eq_ignore_ascii_case(b"v=spf1"));
                version && text.get(6).is_some_and(|byte| !b" 0".contains(byte))
            })
        },
    },
    Class {
        name: "hosts of mx are compared before they are counted",
        rfc: "RFC 7208 §4.6.4: if this limit is exceeded, the mx mechanism MUST produce a \
              permerror",
        holds: |c| c.end().ends_with("more than 10 hosts"),
    },
    Class {
        name: "what a modifier may hold is read as a host name, or as a mechanism",
        rfc: "RFC 7208 §7.1: macro-literal = %x21-24 / %x26-7E; §12: unknown-modifier = name \"=\" \
              macro-string, which may be empty",
        holds: |c| matches!(c.theirs.as_str(), "none" | "permerror") && c.odd_modifier(),
    },
    Class {
        name: "a name to include has no slash",
        rfc: "RFC 7208 §5.2: include = \"include\" \":\" domain-spec; §7.1: macro-literal = \
              %x21-24 / %x26-7E, so it may have one",
        holds: |c| c.theirs == "permerror" && c.includes_with_slash(),
    },
    Class {
        name: "a name that a resolver of host names refuses is no answer",
        rfc: "RFC 7208 §4.8: if the resulting domain name is malformed, no match; what is not \
              malformed is asked for, whatever bytes it has",
        holds: |c| matches!(c.theirs.as_str(), "temperror" | "permerror") && c.odd_names(),
    },
];
