//! Why dkimpy and mail-auth judge some signatures otherwise.

use fsmtp_proto::dkim::verify::{Judged, Verdict};

use super::Class;
use crate::dkim;

/// A message and what was said of it.
#[derive(Debug)]
pub(crate) struct Dkim {
    pub(crate) case: dkim::Case,
    pub(crate) ours: Vec<Judged>,
    pub(crate) theirs: String,
    /// Their reasons.
    pub(crate) why: String,
}

impl Dkim {
    /// Whether ours refuses a signature for this reason, and they take one.
    fn refused(&self, why: &str) -> bool {
        let ours = |judged: &Judged| judged.verdict != Verdict::Pass && judged.why.contains(why);
        self.ours.iter().any(ours)
    }

    /// Whether ours takes a signature that they refuse.
    fn taken(&self) -> bool {
        dkim::word(&self.ours) == "pass" && self.theirs != "pass"
    }

    /// Whether a signature covers more than the body has.
    fn is_too_long(&self) -> bool {
        let body = self.case.message.get(self.header().len() + 2..).unwrap_or_default();
        let there = dkim::canonical_body(true, body).len() as u64;
        let long = |judged: &Judged| judged.length.is_some_and(|length| length > there);
        self.refused("the body was changed") && self.ours.iter().any(long)
    }

    /// The fields, each with its CRLF.
    fn header(&self) -> String {
        let end = self.case.message.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.map_or(self.case.message.len(), |end| end + 2);
        self.case.message[..end].iter().map(|byte| char::from(byte & 0x7f)).collect()
    }

    /// The fields called `From`.
    fn authors_count(&self) -> usize {
        let header = format!("\r\n{}", self.header().to_ascii_lowercase());
        header.matches("\r\nfrom:").count()
    }

    fn has_several_records(&self) -> bool {
        let mut names: Vec<&str> = self.case.zone.all_texts().map(|(name, _)| name).collect();
        let count = names.len();
        names.dedup();
        names.len() < count
    }

    fn record_has(&self, what: &str) -> bool {
        let mut texts = self.case.zone.all_texts();
        texts.any(|(_, text)| String::from_utf8_lossy(text).contains(what))
    }
}

/// Where both oracles are more generous; the first word tells in what.
macro_rules! generous {
    ($($name:literal, $why:literal, $rfc:literal;)*) => {
        [$(Class {
            name: $name,
            rfc: $rfc,
            holds: |c: &Dkim| c.theirs != "no" && c.refused($why),
        }),*]
    };
}

/// dkimpy 1.1.8, mail-auth 0.15: signatures that ours refuses.
pub(crate) const BOTH: &[Class<Dkim>] = &generous![
    "From need not be signed", "From is not signed",
        "RFC 6376 §6.1.1: if h= does not include From, the Verifier MUST ignore the signature and \
         return PERMFAIL";
    "short keys are taken", "1024 to 4096 are taken",
        "RFC 8301 §3.2: verifiers MUST NOT consider signatures using RSA keys of less than 1024 \
         bits as valid";
    "a tag may be there twice", "a tag is there twice",
        "RFC 6376 §3.2: if a tag name does occur more than once, the entire tag-list is invalid";
    "lists of tags are read as far as they can be", "it is no list of tags",
        "RFC 6376 §3.2: tag-list = tag-spec *( \";\" tag-spec ) [ \";\" ]";
    "tags may hold any byte", "a tag holds what it may not",
        "RFC 6376 §3.2: VALCHAR = %x21-3A / %x3C-7E";
    "v= of a record may be anything, or elsewhere", "it is no record of DKIM",
        "RFC 6376 §3.6.1: if specified, this tag MUST be set to DKIM1, and MUST be the first tag";
    "v= of a signature may be absent", "it has no v=",
        "RFC 6376 §3.5: v= REQUIRED; §6.1.1: PERMFAIL when required tags are missing";
    "a= may be absent", "it has no a=",
        "RFC 6376 §3.5: a= REQUIRED";
    "h= may be absent", "it has no h=",
        "RFC 6376 §3.5: h= REQUIRED";
    "i= may be no address", "i= is no address",
        "RFC 6376 §3.5: sig-i-tag = [ Local-part ] \"@\" domain-name";
    "names of algorithms in any case", "its algorithm RSA-SHA256 is not known",
        "RFC 6376 §3.2: values MUST be processed as case sensitive";
    "c= may be anything", "its canonical form is not known",
        "RFC 6376 §3.5: unknown canonicalization algorithms MUST be ignored with their signature";
    "q= need not hold what is known", "its key is not in the DNS",
        "RFC 6376 §3.5: unrecognized query methods are ignored; none is left";
    "SHA-1", "rsa-sha1 proves nothing any more",
        "RFC 8301 §3.1: rsa-sha1 MUST NOT be used for signing or verifying";
    "numbers may be empty", "= is none",
        "RFC 6376 §3.5: sig-t-tag = 1*12DIGIT";
    "Base64 of a hash is read as far as it can be", "is no Base64",
        "RFC 6376: base64string = ALPHADIGITPS *([FWS] ALPHADIGITPS) [ \"=\" ..]";
    "keys are read as far as they can be", "the key cannot be read",
        "RFC 6376 §6.1.2: what does not adhere to the format MUST be ignored: PERMFAIL";
    "h= of a record does not count", "the key is not for SHA-256",
        "RFC 6376 §3.6.1: if h= is there, hash algorithms that are not listed are not acceptable";
    "s= of a record does not count", "the key is not for mail",
        "RFC 6376 §3.6.1: Verifiers for a given service type MUST ignore this record";
    "t=s does not count", "the key is not for what is below its domain",
        "RFC 6376 §3.6.1: any signatures using i= MUST have the same domain value";
    "k= need not fit a=", "the key is of another kind",
        "RFC 6376 §6.1.2: if the key type does not fit a=, PERMFAIL (inappropriate key algorithm)";
    "x= before t=", "it ends before it begins",
        "RFC 6376 §3.5: the value of x= MUST be greater than the value of t= if both are present";
    "a revoked key beside another", "the key was revoked",
        "RFC 6376 §3.6.2.2: if there are multiple records in an RRset, the results are undefined";
];

/// dkimpy: what ours takes.
pub(crate) const DKIMPY: &[Class<Dkim>] = &[
    Class {
        name: "l= may be more than there is",
        rfc: "RFC 6376 §3.5: l= MUST NOT be larger than the actual number of octets",
        holds: |c| c.theirs == "pass" && c.is_too_long(),
    },
    Class {
        name: "white space in front of the colon is none of a field's",
        rfc: "RFC 6376 §3.4.2: delete any WSP characters remaining before the colon",
        holds: |c| c.taken() && c.why.contains("Unexpected characters in RFC822 header"),
    },
    Class {
        name: "a signature from the future",
        rfc: "RFC 6376 §3.5: implementations MAY ignore signatures that have a timestamp in the \
              future",
        holds: |c| c.taken() && c.why.contains("is in the future"),
    },
    Class {
        name: "q= of more than one way",
        rfc: "RFC 6376 §3.5: a colon-separated list; unrecognized query methods are ignored",
        holds: |c| c.taken() && c.why.contains("q= value is not dns/txt"),
    },
    Class {
        name: "s= of more than one service",
        rfc: "RFC 6376 §3.6.1: a colon-separated list of service types",
        holds: |c| c.taken() && c.why.contains("UnknownKeyTypeError: None"),
    },
    Class {
        name: "the relaxed form of lines of white space is empty",
        rfc: "RFC 6376 §3.4.4: reduce white space, then ignore all empty lines at the end",
        holds: |c| c.taken() && c.why.contains("expected b'47DEQpj8HBSa"),
    },
    Class {
        name: "another From in front",
        rfc: "RFC 6376 §5.4.2: From is signed as often as h= names it; §8.15 leaves the rest to \
              others",
        holds: |c| c.taken() && c.authors_count() > 1,
    },
    Class {
        name: "of several records the first counts",
        rfc: "RFC 6376 §3.6.2.2: if there are multiple records in an RRset, the results are \
              undefined",
        holds: |c| c.taken() && c.has_several_records(),
    },
    Class {
        name: "b= cannot stand right behind the name of the field",
        rfc: "RFC 6376 §3.2: tags may come in any order, white space around them is optional",
        holds: |c| c.taken() && c.header().contains("DKIM-Signature:b="),
    },
];

/// mail-auth: what ours takes, and what it puts off.
pub(crate) const MAIL_AUTH: &[Class<Dkim>] = &[
    Class {
        name: "a line of white space ends the header",
        rfc: "RFC 5322: obs-FWS = 1*([CRLF] WSP): it goes on with the field",
        holds: |c| {
            let header = c.header();
            c.taken() && (header.contains("\r\n \r\n") || header.contains("\r\n\t\r\n"))
        },
    },
    Class {
        name: "l= counts the body as it came",
        rfc: "RFC 6376 §3.5: l= is the number of octets in the body of the email message after \
              canonicalization included in the cryptographic hash",
        holds: |c| {
            let refused = c.theirs == "pass" && c.refused("the body was changed");
            let taken = c.taken() && c.why.contains("BodyHashMismatch");
            (refused || taken) && c.ours.iter().any(|judged| judged.length.is_some())
        },
    },
    Class {
        name: "white space in front of the colon stays",
        rfc: "RFC 6376 §3.4.2: delete any WSP characters remaining before the colon",
        holds: |c| c.taken() && c.header().to_ascii_lowercase().contains("\r\nto "),
    },
    Class {
        name: "of several records another one counts",
        rfc: "RFC 6376 §3.6.2.2: if there are multiple records in an RRset, the results are \
              undefined",
        holds: |c| c.taken() && c.has_several_records(),
    },
    Class {
        name: "names of tags in any case",
        rfc: "RFC 6376 §3.2: tags MUST be interpreted in a case-sensitive manner",
        holds: |c| c.taken() && c.record_has("K="),
    },
    Class {
        name: "what can be told without the key is told without it",
        rfc: "RFC 6376 §6.1.2, §6.1.3: the key comes first; with no answer the Verifier may try \
              later",
        holds: |c| dkim::word(&c.ours) == "temperror" && c.theirs == "no",
    },
    Class {
        name: "the key is asked for before the signature is read to its end",
        rfc: "RFC 6376 §6.1.1: a signature that is not valid is to be ignored",
        holds: |c| dkim::word(&c.ours) == "no" && c.theirs == "temperror" && c.case.zone.fails(),
    },
];
