//! Why dkimpy and mail-auth judge some chains otherwise.

use fsmtp_proto::arc::{Judged, Verdict};

use super::Class;
use crate::arc;

/// A chain and what was said of it.
#[derive(Debug)]
pub(crate) struct Arc {
    pub(crate) case: arc::Case,
    pub(crate) ours: Judged,
    pub(crate) theirs: String,
    pub(crate) why: String,
}

impl Arc {
    fn taken(&self) -> bool {
        self.ours.verdict == Verdict::Pass && self.theirs == "fail"
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.case.message).to_ascii_lowercase()
    }

    /// Whether the fields of the sets do not stand as sealers put them: the last set first, and of
    /// each the seal, the signature and the results.
    fn is_mixed(&self) -> bool {
        let text = self.text();
        let lines = text.split("\r\n").filter_map(|line| line.split_once(':'));
        let names: Vec<&str> = lines.map(|line| line.0).filter(|n| n.starts_with("arc-")).collect();
        let set = ["arc-seal", "arc-message-signature", "arc-authentication-results"];
        let instances = text.split("\r\narc-authentication-results: i=").skip(1);
        let instances = instances.filter_map(|rest| rest.chars().next());
        let in_order = instances.is_sorted_by(|one, next| one > next);
        names.chunks(3).any(|chunk| chunk != set) || !in_order
    }
}

/// dkimpy 1.1.8.
pub(crate) const DKIMPY: &[Class<Arc>] = &[
    Class {
        name: "white space in front of the colon is none of a field's",
        rfc: "RFC 6376 §3.4.2: delete any WSP characters remaining before the colon",
        holds: |c| c.theirs == "fail" && c.why.contains("Unexpected characters in RFC822 header"),
    },
    Class {
        name: "the relaxed form of lines of white space is empty",
        rfc: "RFC 6376 §3.4.4: reduce white space, then ignore all empty lines at the end",
        holds: |c| {
            let last = c.why.contains("Most recent ARC-Message-Signature did not validate");
            c.taken() && last && c.text().contains("bh=47deqpj8hbsa")
        },
    },
    Class {
        name: "chains know no Ed25519",
        rfc: "RFC 8617 §4.1.2: a= as DKIM has it; RFC 8463 §3 adds ed25519-sha256 to that",
        holds: |c| c.taken() && c.why.contains("unknown signature algorithm: b'ed25519-sha256'"),
    },
    Class {
        name: "the order of fields counts",
        rfc: "RFC 8617 §5.1.1: in increasing instance order, of each set results, signature, seal",
        holds: |c| c.taken() && c.is_mixed(),
    },
];

/// mail-auth 0.15.
pub(crate) const MAIL_AUTH: &[Class<Arc>] = &[
    Class {
        name: "without a signature of the message there is no chain",
        rfc: "RFC 8617 §5.2: each set consists of one of each of the three fields, or the status \
              is fail",
        holds: |c| c.theirs == "none" && !c.text().contains("\r\narc-message-signature:"),
    },
    Class {
        name: "white space in front of the colon stays",
        rfc: "RFC 6376 §3.4.2: delete any WSP characters remaining before the colon",
        holds: |c| c.taken() && c.text().contains("\r\nto "),
    },
];
