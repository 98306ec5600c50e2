//! `fsmtp-engine mailtest`: one message, composed, signed, taken to its hosts while one looks on.
//!
//! Called by `cli::main`. It goes where the relay would, by the same routes, records and sessions,
//! but at once and once: no engine has to run, and nothing of the data folder is touched but the
//! keys, which are read. With `--dev` it stays on this machine, whatever the flags say.
//!
//! Limits: those of `compose` for the message, those of `relay` for hosts and addresses,
//! [`TIMEOUT_S`] or `--timeout` for each reply. Status 0: every recipient's host has taken it; 1:
//! one has not, and each reason is told; 2: the flags or answers say no message.

mod dialogue;
mod show;
mod teller;

pub(super) use dialogue::Kind;

use super::{Failed, Terminal, args, checks};
use crate::compose::{Attachment, CONTENT_BYTES_MAX, Composed, Draft, FILES_COUNT_MAX, message_id};
use crate::config::{Config, is_here};
use crate::dkim::DkimKeys;
use crate::relay::direct::{Errand, Fate};
use crate::relay::routes::{Route, RouteError, Routes};
use crate::run::now;
use crate::tls::Roots;
use crate::trust;
use core::time::Duration;
use dialogue::Told;
use fsmtp_proto::dkim::key::host_name;
use fsmtp_rt::glommio::{ShardOptions, start_shard};
use fsmtp_rt::helpers::Helpers;
use fsmtp_store::envelope::BodyFlags;
use ring::rand::{SecureRandom as _, SystemRandom};
use show::{Journal, Line, State, Summary};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;
use teller::{News, Teller};

/// How long a reply may take, in seconds. Less than RFC 5321 §4.5.3.2 asks of a relay: somebody
/// waits.
const TIMEOUT_S: u64 = 60;

/// Reads HOST:PORT.
pub(super) fn server(text: &str) -> Result<Route, String> {
    text.parse().map_err(|error: RouteError| error.to_string())
}

/// Sends a message as it was told, and says how that went.
pub(super) fn mailtest(
    ask: &args::Mailtest,
    config: &Config,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failed> {
    let routes = routes(ask, config)?;
    let told = dialogue::settle(ask, (&config.node, &config.domain), terminal)?;
    let began = Instant::now();
    let mut journal = Journal::new(json, terminal.colours);
    let (message_id, composed) = compose(ask, config, &told)?;
    let text = format!("{} octets, Message-ID <{message_id}>", composed.bytes.len());
    journal.add(line(State::Done, "compose", began, text), terminal);
    let signing = Instant::now();
    let signed = sign(ask, config, &told.from, &composed.bytes);
    let (state, text) = match &signed {
        Ok(Signed { selectors, .. }) if !selectors.is_empty() => {
            (State::Done, format!("by {} of {}", selectors.join(", "), domain(&told.from)))
        }
        Ok(Signed { why_not, .. }) => (State::Note, format!("not signed: {why_not}")),
        Err(why) => (State::Failed, why.clone()),
    };
    journal.add(line(state, "sign", signing, text), terminal);
    let (mut octets, mut selectors, mut fates) = (composed.bytes.len(), Vec::new(), Vec::new());
    let failure = match signed {
        Err(why) => format!("{why}; --no-sign sends without a signature"),
        Ok(signed) => {
            let message = [signed.fields, composed.bytes].concat();
            (octets, selectors) = (message.len(), signed.selectors);
            let body =
                BodyFlags { eight_bit: composed.eight_bit, binary: false, utf8: composed.utf8 };
            let errand = Errand {
                from: told.from.clone(),
                message,
                body,
                node: config.node.clone(),
                plan: config.sending.clone(),
                routes,
                trust: trust::load(&config.data).map_err(|error| error.to_string())?,
                roots: Roots::load(config.roots.as_deref()).map_err(|e| e.to_string())?,
                resolver: config.resolver.clone(),
                patience: Duration::from_secs(ask.timeout.unwrap_or(TIMEOUT_S)),
            };
            fates = deliver(errand, legs(&told.to), began, &mut journal, terminal)?;
            show::failures(&fates)
        }
    };
    let summary = Summary {
        from: &told.from,
        message_id: &message_id,
        octets,
        selectors: &selectors,
        fates: &fates,
        failure: Some(&*failure).filter(|failure| !failure.is_empty()),
    };
    journal.end(&summary, terminal)?;
    match failure.is_empty() {
        true => Ok(()),
        // The document says it.
        false => Err(if json { String::new() } else { failure }.into()),
    }
}

fn line(state: State, step: &'static str, began: Instant, text: String) -> Line {
    Line { state, step, took: began.elapsed(), code: None, text }
}

/// The ways that the message may go.
fn routes(ask: &args::Mailtest, config: &Config) -> Result<Arc<Routes>, Failed> {
    let Some(route) = &ask.server else {
        let routes = config.sending.routes.with_passwords().map_err(|error| error.to_string())?;
        return Ok(Arc::new(routes));
    };
    if config.dev.is_some()
        && let Some(host) = route.hosts.iter().find(|host| !is_here(host))
    {
        return Err(Failed::usage(RouteError::strays(&host.to_string()).to_string()));
    }
    let mut routes = Routes::new(true);
    routes.add("*", route.clone()).map_err(|error| Failed::usage(error.to_string()))?;
    Ok(Arc::new(routes))
}

/// What stands behind the `@`.
fn domain(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Who is served by the same hosts.
fn legs(to: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut legs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for address in to {
        legs.entry(domain(address).to_lowercase()).or_default().push(address.clone());
    }
    legs
}

/// The message and its id.
fn compose(
    ask: &args::Mailtest,
    config: &Config,
    told: &Told,
) -> Result<(String, Composed), Failed> {
    let mut random = [0; 80];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| "the system gives no random numbers".to_owned())?;
    let (of_id, of_parts) = random.split_at(64);
    let id = message_id(of_id.try_into().unwrap_or(&[0; 64]), &config.node);
    let mut room = CONTENT_BYTES_MAX;
    let html = ask.html.as_deref().map(|path| {
        let bytes = read(path, &mut room)?;
        String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8", path.display()))
    });
    let html = html.transpose()?;
    if ask.attach.len() > FILES_COUNT_MAX {
        return Err(Failed::usage(format!("--attach: more than {FILES_COUNT_MAX}")));
    }
    let mut files = Vec::new();
    for path in &ask.attach {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        files.push((name, read(path, &mut room)?));
    }
    let draft = Draft {
        from: told.from.as_str().into(),
        to: told.to.iter().map(|address| address.as_str().into()).collect(),
        subject: &told.subject,
        text: ask.text.as_deref(),
        html: html.as_deref(),
        attachments: files
            .iter()
            .map(|(name, bytes)| Attachment { name, media_type: media_type(name), bytes })
            .collect(),
        date: now(),
        message_id: &id,
        ..Draft::default()
    };
    let composed = draft.compose(of_parts.try_into().unwrap_or(&[0; 16]));
    let composed = composed.map_err(|error| Failed::usage(error.to_string()))?;
    Ok((id, composed))
}

/// What a file is, by the end of its name.
fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "gif" => "image/gif",
        "htm" | "html" => "text/html",
        "jpg" | "jpeg" => "image/jpeg",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "txt" => "text/plain",
        _ => "application/octet-stream",
    }
}

/// A file, if there is room for it in a message.
fn read(path: &Path, room: &mut usize) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let (mut bytes, most) = (Vec::new(), *room as u64 + 1);
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    let rest = room.checked_sub(bytes.len());
    let much = || format!("{}: with it, more than {CONTENT_BYTES_MAX} bytes", path.display());
    *room = rest.ok_or_else(much)?;
    Ok(bytes)
}

/// What signing came to.
#[derive(Default)]
struct Signed {
    /// To be put in front of the message.
    fields: Vec<u8>,
    /// Of the keys that made them.
    selectors: Vec<String>,
    /// When there are none.
    why_not: String,
}

fn sign(
    ask: &args::Mailtest,
    config: &Config,
    from: &str,
    message: &[u8],
) -> Result<Signed, String> {
    let not = |why_not: String| Ok(Signed { why_not, ..Signed::default() });
    if ask.no_sign {
        return not("--no-sign".to_owned());
    }
    let domain = domain(from);
    if host_name(domain).is_none() {
        return not(format!("{domain} is not of a kind that has keys"));
    }
    let keys = DkimKeys::load_domain(&config.data, domain).map_err(|error| error.to_string())?;
    let Some(mut signer) = keys.signer(domain) else {
        let folder = config.data.display();
        return not(format!("{domain} has no keys in {folder}; `dkim create` makes some"));
    };
    signer.feed(message);
    let fields = signer.finish(now()).map_err(|error| format!("cannot sign: {error}"))?;
    let selectors = keys.iter().map(|key| key.selector().to_owned()).collect();
    Ok(Signed { fields, selectors, why_not: String::new() })
}

/// Takes the message to its hosts, on a shard that lives as long; what came of it for each
/// recipient.
fn deliver(
    errand: Errand,
    legs: BTreeMap<String, Vec<String>>,
    began: Instant,
    journal: &mut Journal,
    terminal: &mut Terminal<'_>,
) -> Result<Vec<(String, Fate)>, String> {
    checks::take_locked_memory().map_err(|why| format!("locked memory: {why}"))?;
    let helpers = Helpers::new("mailtest", 1).map_err(|error| error.to_string())?;
    let options = ShardOptions { name: "mailtest".into(), cpu: None, stall_after: None, helpers };
    let (sender, news) = channel();
    let shard = start_shard(options, move |rt| async move {
        let teller = Rc::new(Teller::new(sender, began));
        for (domain, to) in &legs {
            teller.turn(to);
            let watch: Rc<Teller> = Rc::clone(&teller);
            teller.over(errand.run(&rt, domain, to, Some(watch)).await);
        }
    });
    let shard = shard.map_err(|error| error.to_string())?;
    let mut fates = Vec::new();
    // Ends when the shard lets go of the other end.
    for news in news {
        match news {
            News::Line(line) => journal.add(line, terminal),
            News::Fate(address, fate) => fates.push((address, fate)),
        }
    }
    shard.join().map_err(|error| error.to_string())?;
    Ok(fates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_far_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten");
        std::fs::write(&path, "0123456789").unwrap();
        let mut room = 25;
        assert_eq!(read(&path, &mut room).unwrap(), b"0123456789");
        assert_eq!((read(&path, &mut room).unwrap().len(), room), (10, 5));
        let why = read(&path, &mut room).unwrap_err();
        assert!(why.starts_with(&path.display().to_string()) && why.contains("more than"), "{why}");
        let mut room = 10;
        assert!(read(&path, &mut room).is_ok(), "all of the room is room");
        assert!(read(&folder.path().join("none"), &mut room).unwrap_err().contains("none: "));
    }

    #[test]
    fn recipients_of_a_domain_go_together() {
        let to = ["a@b.test", "\"x@y\"@B.test", "c@d.test"].map(str::to_owned);
        let legs = legs(&to);
        assert_eq!(legs.keys().collect::<Vec<_>>(), ["b.test", "d.test"]);
        assert_eq!(legs["b.test"], to[..2]);
    }
}
