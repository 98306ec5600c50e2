//! The commands that manage accounts, domains and aliases.
//!
//! Called by `cli::main` with a checked configuration. They go to the engine that runs on the data
//! folder, over its control socket, or else open the store themselves. Only those that a new folder
//! begins with make a store where there is none: a mistyped folder is an error for the others, and
//! nothing is made there. Lists are fetched page by page.

use super::args::{Alias, AppPassword, Command, Domain, PasswordFrom, Person};
use super::queue;
use super::table::table;
use super::{Engine, Terminal, say};
use crate::config::Config;
use crate::control::{
    self, Admin, AdminError, AdminErrorKind, AdminReply, AdminRequest, AliasEntry,
    AppPasswordEntry, Client, Password, UserEntry,
};
use crate::dirlock::{self, DirError, DirLock, DirState};
use std::io::{BufRead as _, Read as _};

/// The most bytes of a line that is typed or piped in.
const LINE_BYTES_MAX: u64 = 4096;

/// Whether a data folder that is not there yet is made by it.
const fn makes_a_store(command: &Command) -> bool {
    matches!(
        command,
        Command::Adduser { .. }
            | Command::ImportAccount { .. }
            | Command::Domain(Domain::Add { .. })
    )
}

/// Runs one of the commands.
pub(super) fn execute(
    command: Command,
    config: &Config,
    json: bool,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    // Whatever else is wrong with the folder is said where it is opened.
    if !makes_a_store(&command) && matches!(dirlock::inspect(&config.data), Ok(DirState::Fresh)) {
        let makers = "`domain add`, `adduser` or a start makes one";
        return Err(format!("no mail store in {}: {makers}", config.data.display()));
    }
    let request = match command {
        Command::Adduser { address, person: Person { name, password }, recovery_key } => {
            let address = match address {
                Some(address) => address,
                None => ask(terminal, "Address: ")?,
            };
            let password = secret(&password, terminal)?;
            AdminRequest::UserAdd { address, name, password, recovery: recovery_key }
        }
        Command::ImportAccount { address, name } => {
            let hash = ask(terminal, "Hash: ")?;
            AdminRequest::UserImport { address, name, hash }
        }
        Command::Deluser { address } => AdminRequest::UserRemove { address },
        Command::Passwd { address, password: from, lose_mail } => {
            let password = secret(&from, terminal)?;
            let reach = &mut reach(config, engine)?;
            let reply = new_password(reach, terminal, &from, (address, password), lose_mail)?;
            return say(terminal, &show(&reply, json));
        }
        Command::AppPassword(command) => app_password(command, terminal)?,
        Command::Users => AdminRequest::UserList { after: None },
        Command::Domain(Domain::Add { domain }) => AdminRequest::DomainAdd { domain },
        Command::Domain(Domain::Remove { domain }) => AdminRequest::DomainRemove { domain },
        Command::Domain(Domain::List) => AdminRequest::DomainList { after: None },
        Command::Alias(Alias::Add { address, targets, replace }) => {
            AdminRequest::AliasAdd { address, targets, replace }
        }
        Command::Alias(Alias::Remove { address }) => AdminRequest::AliasRemove { address },
        Command::Alias(Alias::List) => AdminRequest::AliasList { after: None },
        Command::Queue(queue) => return queue::execute(queue, config, json, engine, terminal),
        Command::Run(_)
        | Command::Config(_)
        | Command::Test(_)
        | Command::Sync(_)
        | Command::Doctor(_)
        | Command::Plan(_)
        | Command::Dkim(_)
        | Command::Dmarc(_)
        | Command::Store(_)
        | Command::Trust(_)
        | Command::ImportCassandra(_)
        | Command::Resolve(_)
        | Command::Check(_)
        | Command::Mailtest(_) => return Err("not a command about accounts".to_owned()),
    };
    let mut reach = reach(config, engine)?;
    let reply = whole(&mut reach, request).map_err(|error| error.to_string())?;
    say(terminal, &show(&reply, json))
}

fn app_password(command: AppPassword, terminal: &mut Terminal<'_>) -> Result<AdminRequest, String> {
    Ok(match command {
        AppPassword::Add { address, name, password } => {
            let credential = known(&password, terminal, "Password or recovery key: ")?;
            AdminRequest::AppPasswordAdd { address, name, credential }
        }
        AppPassword::List { address } => AdminRequest::AppPasswordList { address },
        AppPassword::Revoke { address, number } => {
            AdminRequest::AppPasswordRevoke { address, number }
        }
    })
}

/// Sets a password; asks for the old one when the mail is sealed to it.
fn new_password(
    reach: &mut Reach,
    terminal: &mut Terminal<'_>,
    from: &PasswordFrom,
    (address, password): (String, Password),
    lose_mail: bool,
) -> Result<AdminReply, String> {
    let request = |old, lose_mail| {
        let (address, password) = (address.clone(), password.clone());
        AdminRequest::UserPassword { address, password, old, lose_mail }
    };
    let locked = match reach.execute(request(None, lose_mail)) {
        Err(error) if error.kind == AdminErrorKind::Locked => error,
        other => return other.map_err(|error| error.to_string()),
    };
    let old = if from.password_stdin {
        read_line(terminal)?
    } else {
        let prompt = "Old password or recovery key, empty when neither is known: ";
        (terminal.secret)(prompt).map_err(|error| format!("{locked}; cannot ask: {error}"))?
    };
    if !old.is_empty() {
        let old = Password::try_from(old).map_err(str::to_owned)?;
        return reach.execute(request(Some(old), false)).map_err(|error| error.to_string());
    }
    if from.password_stdin {
        return Err(format!(
            "{locked}; the second line of standard input may hold either, --lose-mail begins anew"
        ));
    }
    let answer = ask(terminal, &format!("{locked}.\nType `yes` to lose it: "))?;
    if answer != "yes" {
        return Err("nothing was changed".to_owned());
    }
    reach.execute(request(None, true)).map_err(|error| error.to_string())
}

/// The way to the store.
pub(super) enum Reach {
    Online(Client),
    Offline(Box<dyn Admin>),
}

impl Reach {
    pub(super) fn execute(&mut self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match self {
            Self::Online(client) => client.execute(&request),
            Self::Offline(admin) => admin.execute(request),
        }
    }
}

pub(super) fn reach(config: &Config, engine: &dyn Engine) -> Result<Reach, String> {
    let folder = &config.data;
    let socket = |error| format!("cannot reach the engine on {}: {error}", folder.display());
    if let Some(client) = control::call(folder).map_err(socket)? {
        return Ok(Reach::Online(client));
    }
    match DirLock::take(folder) {
        Ok(lock) => engine.open(config, lock).map(Reach::Offline),
        // Between its lock and its socket an engine starts or stops; or it started just now.
        Err(error @ DirError::InUse { .. }) => match control::call(folder).map_err(socket)? {
            Some(client) => Ok(Reach::Online(client)),
            None => Err(format!("{error}, which takes no commands: it starts or stops")),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// Executes `request`; a list is fetched to its end.
fn whole(reach: &mut Reach, request: AdminRequest) -> Result<AdminReply, AdminError> {
    let mut all = reach.execute(request)?;
    while let Some(next) = next(&all) {
        let page = reach.execute(next)?;
        let progress = append(&mut all, page);
        if !progress {
            let text = "the engine's list does not come to its end";
            return Err(AdminError::new(AdminErrorKind::Failed, text));
        }
    }
    Ok(all)
}

/// The request for the page behind `reply`, if there is one.
fn next(reply: &AdminReply) -> Option<AdminRequest> {
    match reply {
        AdminReply::Users { users, more: true } => {
            Some(AdminRequest::UserList { after: Some(users.last()?.address.clone()) })
        }
        AdminReply::Domains { domains, more: true } => {
            Some(AdminRequest::DomainList { after: Some(domains.last()?.clone()) })
        }
        AdminReply::Aliases { aliases, more: true } => {
            Some(AdminRequest::AliasList { after: Some(aliases.last()?.address.clone()) })
        }
        _ => None,
    }
}

/// Adds a page to what is there; says whether it stands behind it, so that there is an end.
fn append(all: &mut AdminReply, page: AdminReply) -> bool {
    fn extend<T>(all: &mut Vec<T>, page: Vec<T>, key: fn(&T) -> &str) -> bool {
        let behind =
            page.first().is_some_and(|first| all.last().is_none_or(|last| key(last) < key(first)));
        all.extend(page);
        behind
    }
    let (behind, last) = match (all, page) {
        (AdminReply::Users { users, more }, AdminReply::Users { users: page, more: next }) => {
            *more = next;
            (extend(users, page, |user| &user.address), !next)
        }
        (
            AdminReply::Domains { domains, more },
            AdminReply::Domains { domains: page, more: next },
        ) => {
            *more = next;
            (extend(domains, page, |domain| domain), !next)
        }
        (
            AdminReply::Aliases { aliases, more },
            AdminReply::Aliases { aliases: page, more: next },
        ) => {
            *more = next;
            (extend(aliases, page, |alias| &alias.address), !next)
        }
        _ => (false, false),
    };
    behind || last
}

fn show(reply: &AdminReply, json: bool) -> String {
    if json {
        let value = match reply {
            AdminReply::Done { text } => serde_json::json!({ "done": text }),
            AdminReply::Secret { text, secret } => {
                serde_json::json!({ "done": text, "secret": secret })
            }
            AdminReply::AppPasswords { entries } => serde_json::json!(entries),
            AdminReply::Users { users, .. } => serde_json::json!(users),
            AdminReply::Domains { domains, .. } => serde_json::json!(domains),
            AdminReply::Aliases { aliases, .. } => serde_json::json!(aliases),
            AdminReply::Queue { entries, .. } => serde_json::json!(entries),
            AdminReply::Reports { entries } => serde_json::json!(entries),
            AdminReply::MailKnown { .. }
            | AdminReply::MailImported { .. }
            | AdminReply::MailWaiting { .. } => serde_json::Value::Null,
        };
        return format!("{value:#}\n");
    }
    match reply {
        AdminReply::Done { text } => format!("{text}\n"),
        AdminReply::Secret { text, secret } => format!("{text}\n{secret}\n"),
        AdminReply::AppPasswords { entries } => {
            let row = |entry: &AppPasswordEntry| [entry.number.to_string(), entry.name.clone()];
            table(["number", "name"], &entries.iter().map(row).collect::<Vec<_>>())
        }
        AdminReply::Users { users, .. } => {
            let row = |user: &UserEntry| [user.address.clone(), user.name.clone()];
            let list = table(["address", "name"], &users.iter().map(row).collect::<Vec<_>>());
            let unreadable = users.iter().filter(|user| user.unreadable);
            let notes = unreadable.map(|user| {
                format!("{} cannot be opened: its key is damaged or missing\n", user.address)
            });
            list + &notes.collect::<String>()
        }
        AdminReply::Domains { domains, .. } => {
            table(["domain"], &domains.iter().map(|domain| [domain.clone()]).collect::<Vec<_>>())
        }
        AdminReply::Aliases { aliases, .. } => {
            let row = |alias: &AliasEntry| [alias.address.clone(), alias.targets.join(", ")];
            table(["address", "targets"], &aliases.iter().map(row).collect::<Vec<_>>())
        }
        // `cli::queue`, `cli::dmarc` and `cli::import` show them.
        AdminReply::Queue { .. }
        | AdminReply::Reports { .. }
        | AdminReply::MailKnown { .. }
        | AdminReply::MailImported { .. }
        | AdminReply::MailWaiting { .. } => String::new(),
    }
}

/// Asks for a line; the question is no part of the result, so it goes to standard error.
fn ask(terminal: &mut Terminal<'_>, prompt: &str) -> Result<String, String> {
    let shown = write!(terminal.errors, "{prompt}").and_then(|()| terminal.errors.flush());
    shown.map_err(|error| format!("cannot write to standard error: {error}"))?;
    read_line(terminal)
}

fn read_line(terminal: &mut Terminal<'_>) -> Result<String, String> {
    let mut line = String::new();
    let read = (&mut *terminal.input).take(LINE_BYTES_MAX).read_line(&mut line);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// A password that exists already, asked for once.
fn known(
    from: &PasswordFrom,
    terminal: &mut Terminal<'_>,
    prompt: &str,
) -> Result<Password, String> {
    let text = if from.password_stdin {
        read_line(terminal)?
    } else {
        let hint = "; --password-stdin reads it from standard input";
        (terminal.secret)(prompt).map_err(|error| format!("cannot ask: {error}{hint}"))?
    };
    Password::try_from(text).map_err(str::to_owned)
}

/// The password, from where the user wants it to come from.
fn secret(from: &PasswordFrom, terminal: &mut Terminal<'_>) -> Result<Password, String> {
    let text = if from.password_stdin {
        read_line(terminal)?
    } else {
        let prompt = |text| {
            let hint = "; --password-stdin reads the password from standard input";
            (terminal.secret)(text).map_err(|error| format!("cannot ask: {error}{hint}"))
        };
        let first = prompt("Password: ")?;
        if prompt("Again: ")? != first {
            return Err("the two passwords differ".to_owned());
        }
        first
    };
    Password::try_from(text).map_err(str::to_owned)
}
