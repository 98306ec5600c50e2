//! The commands about DKIM: make keys, show what to publish, sign a message.
//!
//! Called by `cli::main` with a checked configuration. They work on files of the data folder,
//! whether an engine runs on it or not; only `create` writes.

use super::table::table;
use super::{Terminal, say};
use crate::config::Config;
use crate::dirlock;
use crate::dkim::{self, DkimKeys};
use crate::run::now;
use clap::{Subcommand, ValueEnum};
use fsmtp_proto::dkim::{Algorithm, Canon, Key, Terms};
use fsmtp_proto::smtp::body::Newlines;
use fsmtp_store::seal::RsaBits;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The most octets of one string of a TXT record (RFC 1035 §3.3).
const STRING_BYTES_MAX: usize = 255;

/// `dkim ...`
#[derive(Debug, Subcommand)]
pub(super) enum Dkim {
    /// Makes keys for a domain, and prints the records to publish
    Create {
        /// The domain that mail comes from
        domain: String,
        /// What to call the key, with one --algorithm [default: kind and date, like rsa20261122]
        #[arg(long)]
        selector: Option<String>,
        /// Ed25519 is short and quick, and many receivers do not know it yet
        #[arg(long, value_enum, default_value_t = Make::Both)]
        algorithm: Make,
        /// How large an RSA key is: 2048, 3072 or 4096
        #[arg(long, value_name = "BITS", default_value = "2048", value_parser = rsa_bits)]
        bits: RsaBits,
    },
    /// Prints the records of a domain's keys
    Show {
        /// The domain
        domain: String,
    },
    /// Lists the keys of all domains
    List,
    /// Prints a message with signatures in front of it; with --json only these
    Sign {
        /// The message, with CRLF line ends
        file: PathBuf,
        /// Whose keys sign it
        #[arg(long)]
        domain: String,
        /// How header and body are made comparable: simple or relaxed, each
        #[arg(long, value_name = "HEADER/BODY", default_value = "relaxed/relaxed",
            value_parser = terms)]
        canonicalization: Terms,
    },
}

/// Which keys are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Make {
    /// RSA
    Rsa,
    /// Ed25519
    Ed25519,
    /// One of each
    Both,
}

fn rsa_bits(text: &str) -> Result<RsaBits, String> {
    match text {
        "2048" => Ok(RsaBits::B2048),
        "3072" => Ok(RsaBits::B3072),
        "4096" => Ok(RsaBits::B4096),
        _ => Err("2048, 3072 or 4096".to_owned()),
    }
}

fn terms(text: &str) -> Result<Terms, String> {
    let canon = |name: &str| [Canon::Simple, Canon::Relaxed].into_iter().find(|c| c.name() == name);
    let both = text.split_once('/').and_then(|(h, b)| Some((canon(h)?, canon(b)?)));
    let (header, body) = both.ok_or("simple or relaxed, a slash, simple or relaxed")?;
    Ok(Terms { header, body, valid: None })
}

/// Runs one of the commands.
pub(super) fn execute(
    command: Dkim,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let data = &config.data;
    let keys = match command {
        Dkim::Create { domain, selector, algorithm, bits } => {
            return create(data, &domain, selector, algorithm, bits)
                .and_then(|keys| say(terminal, &records(data, keys.iter(), json)));
        }
        Dkim::Sign { file, domain, canonicalization } => {
            return sign(&of_domain(data, &domain)?, &domain, &file, canonicalization)
                .and_then(|signed| hand_out(signed, json, terminal));
        }
        Dkim::Show { domain } => {
            let keys = of_domain(data, &domain)?;
            return say(terminal, &records(data, keys.iter(), json));
        }
        Dkim::List => DkimKeys::load(data).map_err(|error| error.to_string())?,
    };
    if json {
        return say(terminal, &records(data, keys.iter(), json));
    }
    let row = |key: &Key| {
        let kind = key.algorithm().key_name().to_owned();
        [key.domain().to_owned(), key.selector().to_owned(), kind, key.bits().to_string()]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    say(terminal, &table(["domain", "selector", "algorithm", "bits"], &rows))
}

fn of_domain(data: &Path, domain: &str) -> Result<DkimKeys, String> {
    let keys = DkimKeys::load_domain(data, domain).map_err(|error| error.to_string())?;
    if keys.iter().next().is_none() {
        return Err(format!(
            "{domain} has no keys in {}: `dkim create` makes some",
            data.display()
        ));
    }
    Ok(keys)
}

fn create(
    data: &Path,
    domain: &str,
    selector: Option<String>,
    algorithm: Make,
    bits: RsaBits,
) -> Result<Vec<Key>, String> {
    let _lock = dirlock::take_if_fresh(data).map_err(|error| error.to_string())?;
    let date: String = now().rfc3339().to_string().chars().take(10).filter(|c| *c != '-').collect();
    let wanted = match algorithm {
        Make::Rsa => &[Algorithm::RsaSha256][..],
        Make::Ed25519 => &[Algorithm::Ed25519Sha256],
        Make::Both => &[Algorithm::RsaSha256, Algorithm::Ed25519Sha256],
    };
    let name = |algorithm: &Algorithm| {
        let prefix = if *algorithm == Algorithm::RsaSha256 { "rsa" } else { "ed" };
        selector.clone().unwrap_or_else(|| format!("{prefix}{date}"))
    };
    // Both or none of them.
    let there = DkimKeys::load_domain(data, domain).map_err(|error| error.to_string())?;
    for name in wanted.iter().map(name) {
        if there.iter().any(|key| key.selector().eq_ignore_ascii_case(&name)) {
            let other = "--selector and --algorithm make one of another name";
            return Err(format!("{domain} has a key {name} already; {other}"));
        }
    }
    let make = |algorithm: &Algorithm| {
        let pkcs8 = dkim::generate(*algorithm, bits)?;
        dkim::create(data, domain, &name(algorithm), &pkcs8)
    };
    wanted.iter().map(make).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// What to publish, for people or as JSON.
fn records<'k>(data: &Path, keys: impl Iterator<Item = &'k Key>, json: bool) -> String {
    if json {
        let value: Value = keys.map(|key| record_json(data, key)).collect();
        return format!("{value:#}\n");
    }
    keys.map(|key| record_text(data, key)).collect::<Vec<_>>().join("\n")
}

fn record_json(data: &Path, key: &Key) -> Value {
    let value = key.record();
    json!({
        "domain": key.domain(),
        "selector": key.selector(),
        "algorithm": key.algorithm().key_name(),
        "bits": key.bits(),
        "file": dkim::file(data, key).display().to_string(),
        "name": key.record_name(),
        "strings": strings(&value),
        "value": value,
    })
}

fn record_text(data: &Path, key: &Key) -> String {
    let (kind, name, value) = (key.algorithm().key_name(), key.record_name(), key.record());
    let quoted: Vec<String> = strings(&value).iter().map(|s| format!("\"{s}\"")).collect();
    let file = dkim::file(data, key);
    format!(
        "key    {} ({kind}, {} bits)\nname   {name}\ntype   TXT\nvalue  {value}\n\
         in a zone file:\n{name}. IN TXT ( {} )\n",
        file.display(),
        key.bits(),
        quoted.join("\n    ")
    )
}

/// `value` as the strings of a TXT record; whoever reads it puts them together (RFC 6376 §3.6.2.2).
fn strings(mut value: &str) -> Vec<&str> {
    let mut strings = Vec::new();
    while !value.is_empty() {
        let (string, rest) = value.split_at(value.len().min(STRING_BYTES_MAX));
        strings.push(string);
        value = rest;
    }
    strings
}

/// Signatures, and the message that they are of, at its beginning.
struct Signed {
    fields: Vec<u8>,
    message: File,
    path: PathBuf,
}

fn sign(keys: &DkimKeys, domain: &str, path: &Path, terms: Terms) -> Result<Signed, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut message = File::open(path).map_err(|error| failed(&error))?;
    let mut signer = keys.signer_with(domain, terms).ok_or("the domain has no keys")?;
    let (mut newlines, mut buffer) = (Newlines::default(), vec![0; 64 * 1024]);
    loop {
        let read = message.read(&mut buffer).map_err(|error| failed(&error))?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        newlines.feed(bytes);
        signer.feed(bytes);
    }
    if newlines.bare_at_end() {
        return Err(failed(&"its lines do not all end in CRLF; unix2dos makes them"));
    }
    let fields = signer.finish(now()).map_err(|error| failed(&error))?;
    message.rewind().map_err(|error| failed(&error))?;
    Ok(Signed { fields, message, path: path.to_owned() })
}

fn hand_out(signed: Signed, json: bool, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let Signed { fields, mut message, path } = signed;
    if json {
        let fields = String::from_utf8_lossy(&fields);
        return say(terminal, &format!("{:#}\n", json!({ "fields": fields })));
    }
    let out = &mut terminal.output;
    let written = out.write_all(&fields).and_then(|()| io::copy(&mut message, out).map(drop));
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(String::new()),
        written => written.map_err(|error| format!("cannot print {}: {error}", path.display())),
    }
}
