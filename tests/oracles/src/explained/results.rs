//! authres.

use serde_json::Value;

use super::Class;
use crate::results::Case;

/// A field that is read in another way.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) case: Case,
    pub(crate) theirs: Value,
}

/// The results of a reading, without the name of the host.
fn results(reading: &Value) -> Vec<Value> {
    reading.get(1).and_then(Value::as_array).cloned().unwrap_or_default()
}

impl Results {
    /// Whether it was read right but for properties that are not there, of these methods.
    fn lacks(&self, pairs_stay: bool, methods: &[&str]) -> bool {
        let (meant, theirs) = (results(&self.case.read_as(pairs_stay)), results(&self.theirs));
        let properties = |one: &Value| one[2].as_array().cloned().unwrap_or_default();
        meant.len() == theirs.len()
            && meant.iter().zip(&theirs).all(|(meant, theirs)| {
                let (all, found) = (properties(meant), properties(theirs));
                let mut rest = all.iter();
                let is_part = found.iter().all(|one| rest.any(|other| other == one));
                let may_lack = methods.iter().any(|method| meant[0] == *method);
                meant[0] == theirs[0]
                    && meant[1] == theirs[1]
                    && is_part
                    && (may_lack || all.len() == found.len())
            })
    }
}

pub(crate) const AUTHRES: &[Class<Results>] = &[
    Class {
        name: "letters beyond ASCII cannot be read",
        rfc: "RFC 6532 §3.2: quoted strings may hold UTF-8",
        holds: |r| r.theirs[0] == "crash" && !r.case.ours().is_ascii(),
    },
    Class {
        name: "the backslash of a quoted pair stays",
        rfc: "RFC 5322 §3.2.4: the \"\\\" in any quoted-pair is semantically invisible",
        holds: |r| r.lacks(true, &[]),
    },
    Class {
        name: "properties of the DNS are none",
        rfc: "RFC 8904 §6: the property type dns is registered",
        holds: |r| r.lacks(false, &["dnswl"]) || r.lacks(true, &["dnswl"]),
    },
    Class {
        name: "quoted values that it cannot read are passed over",
        rfc: "RFC 8601 §2.2: pvalue = value; RFC 2045 §5.1: value = token / quoted-string",
        holds: |r| r.lacks(false, ALL) || r.lacks(true, ALL),
    },
];

const ALL: &[&str] = &["iprev", "spf", "dkim", "dmarc", "arc", "dnswl"];
