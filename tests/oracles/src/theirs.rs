//! What the others say: mail-auth in this process, the oracles in Python by lines of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, SpfResult};
use serde_json::Value;

use crate::spf;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// mail-auth, asking a name server on loopback.
pub(crate) struct MailAuth {
    runtime: tokio::runtime::Runtime,
    authenticator: MessageAuthenticator,
}

impl MailAuth {
    pub(crate) fn new(server: SocketAddr) -> Outcome<Self> {
        let mut named = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut named.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![named]);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.attempts = 0;
        options.timeout = Duration::from_secs(5);
        options.edns0 = false;
        options.use_hosts_file = mail_auth::hickory_resolver::config::ResolveHosts::Never;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let authenticator = {
            let _in = runtime.enter();
            MessageAuthenticator::new(config, options)?
        };
        Ok(Self { runtime, authenticator })
    }

    pub(crate) fn spf(&self, case: &spf::Case) -> String {
        let domain = case.sender.rsplit_once('@').map_or(case.helo.as_str(), |(_, domain)| domain);
        let sender = match case.sender.rsplit_once('@') {
            Some((local, domain)) if !local.is_empty() => format!("{local}@{domain}"),
            _ => format!("postmaster@{domain}"),
        };
        let input = SpfParameters::new(case.ip, domain, &case.helo, spf::RECEIVER, &sender);
        let output = self.runtime.block_on(self.authenticator.check_host(input));
        let name = match output.result() {
            SpfResult::Pass => "pass",
            SpfResult::Fail => "fail",
            SpfResult::SoftFail => "softfail",
            SpfResult::Neutral => "neutral",
            SpfResult::TempError => "temperror",
            SpfResult::PermError => "permerror",
            SpfResult::None => "none",
        };
        name.to_owned()
    }

    /// Of each signature, and why.
    pub(crate) fn dkim(&self, message: &[u8]) -> (Vec<String>, String) {
        let Some(message) = AuthenticatedMessage::parse_with_opts(message, None, false) else {
            return (Vec::new(), "no message".to_owned());
        };
        let all = self.runtime.block_on(self.authenticator.verify_dkim(&message));
        let why = all.iter().map(|output| format!("{:?}", output.result())).collect::<Vec<_>>();
        (all.iter().map(|output| word(output.result()).to_owned()).collect(), why.join(", "))
    }

    pub(crate) fn arc(&self, message: &[u8]) -> (String, String) {
        let Some(message) = AuthenticatedMessage::parse_with_opts(message, None, false) else {
            return ("none".to_owned(), "no message".to_owned());
        };
        let output = self.runtime.block_on(self.authenticator.verify_arc(&message));
        (word(output.result()).to_owned(), format!("{:?}", output.result()))
    }
}

fn word(result: &DkimResult) -> &'static str {
    match result {
        DkimResult::Pass => "pass",
        DkimResult::TempError(_) => "temperror",
        DkimResult::None => "none",
        _ => "no",
    }
}

/// The oracles in Python: a case to a line, an answer to a line.
pub(crate) struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    pub(crate) fn start(python: &str) -> Outcome<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/judge.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or("no pipe")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, input, output })
    }

    pub(crate) fn judge(&mut self, case: &Value) -> Outcome<Value> {
        writeln!(self.input, "{case}")?;
        self.input.flush()?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("judge.py has ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
