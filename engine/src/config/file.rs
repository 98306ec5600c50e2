//! The configuration file as it is written: names, types, defaults, bounds and their explanations.
//!
//! This is the only list of the keys. The reader, `config schema`, `config explain` and the page
//! docs/config.md are all made from it, so the text of each field's comment is what people read.
//! Nothing here is checked beyond types; `check` makes a `Config` of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::filter::Filter;
use super::verify::{Dnsbl, Policy, Strangers, Verify};

/// Settings of fsmtp-engine. Every key is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct File {
    /// The node: what it is called and what it may use.
    pub(super) server: Server,
    /// Where the engine listens; write `[[listener]]` once for each address. Without any, it
    /// listens for SMTP on `[::]:25` and for POP3 on `127.0.0.1:110`. With `--dev` none may stand
    /// here.
    pub(super) listener: Vec<Listener>,
    /// Encrypted connections.
    pub(super) tls: Tls,
    /// Mail that comes in.
    pub(super) smtp: Smtp,
    /// Who really sent mail that comes in. It is checked while it comes (SPF, DKIM, DMARC, ARC, the
    /// client's name, lists of addresses), and its header tells what was found
    /// (`Authentication-Results`). Mail of users who have signed in and of nodes is not checked.
    pub(super) verify: Verify,
    /// What hosts may do whose mail is checked, see `[verify]`: so not users, nodes and trusted
    /// hosts. What is counted is kept in memory; a restart begins anew.
    pub(super) strangers: Strangers,
    /// What is done with mail by what was found out about it; write `[[policy]]` once for each
    /// group of domains. `accept`; `tag`: a field `X-Fannst-Suspect` says why; `junk`: that, and it
    /// goes to the recipient's mailbox Junk, which POP3 shows to `USER me@example.test/Junk`;
    /// `defer`: the sender shall come again; `reject`.
    pub(super) policy: Vec<Policy>,
    /// Lists of addresses in the DNS (RFC 5782) that are asked about each client; write
    /// `[[dnsbl]]` once for each.
    pub(super) dnsbl: Vec<Dnsbl>,
    /// Filters that are asked about mail that comes in, over the milter protocol or rspamd's; write
    /// `[[filter]]` once for each. They are asked in this order, and the first that refuses a
    /// message ends that. What they may change stands in docs/filters.md.
    pub(super) filter: Vec<Filter>,
    /// Mail that is fetched.
    pub(super) pop3: Pop3,
    /// How users sign in, over every protocol.
    pub(super) sign_in: SignIn,
    /// Mail that users send.
    pub(super) submission: Submission,
    /// Mail that travels on to other servers.
    pub(super) queue: Queue,
    /// What other domains are told about mail in their name (DMARC).
    pub(super) dmarc: Dmarc,
    /// Where mail for other domains is handed over, in place of the hosts that their MX records
    /// name: `"example.net" = "10.0.0.1:25"`, for all below one `".example.net"`, and `"*"` for all
    /// that is left (a smart host). Several hosts are tried in order:
    /// `"mx1.example.net, mx2.example.net:2525"`. In front, `lmtp:` means LMTP (RFC 2033), and
    /// `smtps:` TLS from the first byte, and `node:` that the hosts are nodes of yours: mail goes
    /// there only under TLS, and when both sides have proved that they share a key (`fsmtp-engine
    /// trust`). Mail for the domains that this node serves never goes by a route.
    ///
    /// A table says more:
    /// `{ hosts = "smtp.example.net:587", tls = "verified", user = "us", password_file = "pw" }`.
    /// Without more `tls` is `"offered"` (in clear where a host offers no TLS); `"encrypted"` asks
    /// for TLS with anybody, `"verified"` for a certificate of the host's name from one of
    /// `tls.roots`; a message waits until it is to be had. A password is sent by AUTH PLAIN, to
    /// verified hosts only; it is the first line of the file, which nobody else may read (mode
    /// 600), and is read at a start.
    pub(super) routes: BTreeMap<String, Route>,
    /// How names are looked up: the hosts of other domains, and who a client is. `fsmtp-engine
    /// resolve` shows it at work.
    pub(super) resolver: Resolver,
    /// A Cassandra or ScyllaDB, for many nodes. Nodes do not keep their mail there yet: this is for
    /// `fsmtp-engine store`, which makes and checks the keyspace (docs/cassandra.md).
    pub(super) cluster: Cluster,
    /// How mail lies on disk.
    pub(super) store: Store,
    /// What is written about what happens.
    pub(super) log: Log,
    /// What `--dev` does; without that flag this section has no effect.
    pub(super) dev: Dev,
}

/// The node: what it is called and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Server {
    /// The name of this host, as others find it: in greetings, in the reply to EHLO, after `by` in
    /// `Received`. When absent: what the system calls the host, and `dev.example.test` with
    /// `--dev`.
    pub(super) node: Option<String>,
    /// The domain of user names that are given without one, by people who sign in and in the
    /// account commands; it names no host. When absent: `node`, and `example.test` with `--dev`.
    pub(super) domain: Option<String>,
    /// How many shards run, each pinned to a core of its own. When absent: one for each core that
    /// the process may use. `--cores` goes before it.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) cores: Option<u16>,
    /// The folder that everything is kept in, from the current folder when it is relative. `--data`
    /// goes before it.
    pub(super) data: String,
}

impl Default for Server {
    fn default() -> Self {
        Self { node: None, domain: None, cores: None, data: "fsmtp-data".into() }
    }
}

/// Where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Listener {
    /// Address and port, like `0.0.0.0:25` or `[::]:25`. When absent: `[::]` and the well-known
    /// port of the protocol.
    pub(super) address: Option<String>,
    /// What is spoken there.
    pub(super) protocol: Protocol,
    /// How connections are encrypted. When absent: `starttls` when there is a certificate, else
    /// `none`. Passwords are taken on encrypted connections only, except on loopback addresses.
    pub(super) tls: Option<TlsMode>,
    /// When a message counts as accepted: `fsync`, when it is on this node's stable storage, or
    /// `cluster`, when a quorum of the servers of `[cluster]` has what lies in mailboxes, too;
    /// while they do not answer, mail is then deferred (451). `memory` comes with a later version
    /// and is refused until then.
    pub(super) durability: Durability,
    /// The most connections at one time; the next one is turned away with a reply that says so.
    /// Fewer, with a warning at the start, when the process may not have as many files open.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections_max: u32,
    /// The most connections at one time from one address; at most `connections_max`. When absent:
    /// 200, or `connections_max` when that is less.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections_per_address_max: Option<u32>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: None,
            protocol: Protocol::Smtp,
            tls: None,
            durability: Durability::Fsync,
            connections_max: 20_000,
            connections_per_address_max: None,
        }
    }
}

/// What is spoken on a listener.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SMTP, for mail that comes in (RFC 5321).
    Smtp,
    /// SMTP, for users of this node who have signed in (RFC 6409).
    Submission,
    /// POP3, for people who fetch their mail (RFC 1939).
    Pop3,
}

/// How connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Not at all.
    None,
    /// When the client asks for it: STARTTLS, STLS.
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// Encrypted connections. Send SIGHUP after a certificate was renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Tls {
    /// The certificates of this node; write `[[tls.certificate]]` once for each. The first one is
    /// for clients that name no host, or one that none is for. With `--dev` and none here, one is
    /// made that signs itself.
    pub(super) certificate: Vec<Certificate>,
    /// A file with the certificates of one or more certificate authorities, in PEM: who shows a
    /// certificate of theirs where mail is submitted signs in without a password (SASL EXTERNAL) as
    /// the one e-mail address in it (`subjectAltName`). They may certify anybody, so name one of
    /// your own. There are no revocation lists: remove the account, or the authority. A certificate
    /// does not open a sealed mailbox, so POP3 does not ask for one. Where one is asked for, TLS
    /// sessions are not resumed. When absent: nobody is asked for a certificate.
    pub(super) client_ca: Option<String>,
    /// A file with the certificates of the authorities, in PEM, that other servers' names are
    /// proved by where that is asked for. When absent: those that the system trusts
    /// (`/etc/ssl/certs/ca-certificates.crt` and the like). Read at a start.
    pub(super) roots: Option<String>,
}

/// A certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Certificate {
    /// The file with the certificate and those of its issuers, in PEM.
    pub(super) chain: String,
    /// The file with its private key, in PEM and not encrypted.
    pub(super) key: String,
}

/// When a message counts as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Durability {
    /// When it is on this node's stable storage.
    Fsync,
    /// When a quorum of the cluster has it.
    Cluster,
    /// At once.
    Memory,
}

/// Mail that comes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Smtp {
    /// The largest message, in bytes (RFC 1870).
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub(super) size_max: u64,
    /// The most recipients of one message; RFC 5321 §4.5.3.1.8 asks for 100 at least.
    #[schemars(range(min = 100, max = 10_000))]
    pub(super) recipients_max: u32,
    /// Whether mail from senders of domains that are served here is taken from users who have
    /// signed in and from nodes of the same owner (SU) only; everybody else hears 530 to MAIL. That
    /// keeps strangers from naming themselves one of yours in the envelope, and also refuses what a
    /// forwarder sends back in under its first sender.
    pub(super) own_domains_closed: bool,
    /// How long a client may take for its next command, in seconds; RFC 5321 §4.5.3.2.7 asks for
    /// 300 at least.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) command_timeout_s: u32,
    /// How long a client may send nothing in the middle of a message, in seconds; RFC 5321
    /// §4.5.3.2.5 speaks of 180.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) data_timeout_s: u32,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            size_max: 10_485_760,
            recipients_max: 1000,
            own_domains_closed: false,
            command_timeout_s: 300,
            data_timeout_s: 180,
        }
    }
}

/// Mail that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Pop3 {
    /// How long a client may say nothing, in seconds; RFC 1939 §3 asks for 600 at least.
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) idle_timeout_s: u32,
}

/// How users sign in, over every protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct SignIn {
    /// Whether SCRAM-SHA-256 and SCRAM-SHA-256-PLUS are offered beside PLAIN and LOGIN; with
    /// `--dev` they are. Programs that find them use them, and then accounts without keys (imported
    /// ones before their first sign-in), and app passwords from before they worked with SCRAM, do
    /// not work there.
    pub(super) scram: bool,
}

/// Mail that users send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Submission {
    /// How many recipients each account may name in an hour, over all of its connections; then it
    /// hears 451 to RCPT, and when to go on. Who was quiet may name all of them at once. 0 for no
    /// limit; with `--dev` there is none. As many reports an hour go elsewhere that strangers ask
    /// for (NOTIFY=SUCCESS).
    #[schemars(range(max = 10_000_000))]
    pub(super) recipients_per_hour: u32,
    /// Whether a copy of what a user sends is kept in the mailbox Sent of the account, sealed like
    /// all of its mail. It costs no second body. POP3 shows it to `USER me@example.test/Sent`.
    pub(super) keep_sent: bool,
}

impl Default for Submission {
    fn default() -> Self {
        Self { recipients_per_hour: 1000, keep_sent: false }
    }
}

impl Default for Pop3 {
    fn default() -> Self {
        Self { idle_timeout_s: 600 }
    }
}

/// What other domains are told about mail in their name (DMARC).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Dmarc {
    /// Whether domains that ask for it get a report each day: from which hosts mail came in their
    /// name, and what became of it (RFC 9990). No addresses of people are in it.
    pub(super) reports: bool,
    /// The address that reports are from; its domain should have keys of DKIM, or nobody believes
    /// them. When absent: `postmaster` at `server.domain`.
    pub(super) report_from: Option<String>,
    /// The name of your organisation in reports. When absent: `server.domain`.
    pub(super) org_name: Option<String>,
}

/// Mail that travels on to other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Queue {
    /// The pauses between attempts to send a message that could not be sent, like
    /// `1m,5m*2,1h*3,4h`: a minute, twice five, three times an hour, then every four hours.
    pub(super) retry: String,
    /// How long after it was received a message is given up and its sender told, like `5d`. RFC
    /// 5321 §4.5.4.1 asks for 4 days at least.
    pub(super) expiry: String,
    /// How long after it was received the sender of a message is told that it is late; `never` for
    /// not at all.
    pub(super) delay_notice: String,
    /// The most messages that wait, in each shard; then users hear 451.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(super) messages_max: u32,
    /// The most connections of the node to one site at one time; domains whose mail goes to the
    /// same hosts are one site.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) connections_max: u16,
    /// The port of hosts that MX records name; 25 in the world.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) mx_port: u16,
    /// The most messages over one connection.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) messages_per_connection: u32,
    /// Whether policies of other domains about TLS of their hosts are fetched and kept to (MTA-STS,
    /// RFC 8461). It needs authorities: see `tls.roots`.
    pub(super) mta_sts: bool,
    /// The port of the web servers that these policies are on; 443 in the world.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) mta_sts_port: u16,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            retry: "1m,5m*2,1h*3,4h".into(),
            expiry: "5d".into(),
            delay_notice: "4h".into(),
            messages_max: 1_048_576,
            connections_max: 20,
            mx_port: 25,
            messages_per_connection: 1000,
            mta_sts: true,
            mta_sts_port: 443,
        }
    }
}

/// Where mail is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a route is text like \"host:25\", or a table with `hosts` and perhaps `tls` \
                 (\"offered\", \"encrypted\" or \"verified\"), `user` and `password_file`"
)]
pub(super) enum Route {
    /// The hosts.
    Hosts(String),
    /// The hosts and what is done there.
    Table(RouteTable),
}

/// Where mail is handed over, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    /// The hosts, as in a route that is text.
    pub(super) hosts: String,
    /// What they must do about TLS. When absent: `verified` where we sign in, else `offered`.
    pub(super) tls: Option<RouteTls>,
    /// Whom we sign in as.
    pub(super) user: Option<String>,
    /// The file with the password.
    pub(super) password_file: Option<String>,
}

/// What hosts of a route must do about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RouteTls {
    /// What they can.
    Offered,
    /// Encrypt, whoever they are.
    Encrypted,
    /// Encrypt, and prove their name.
    Verified,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Resolver {
    /// Name servers that look names up for us, at most eight, like `127.0.0.1:53` or `[::1]:53`;
    /// the port may be left out. The first one is asked first. When absent: the `nameserver` lines
    /// of `/etc/resolv.conf`, and `127.0.0.1:53` when there are none.
    pub(super) servers: Option<Vec<String>>,
    /// How long the first try waits for an answer, in seconds. Each server is tried three times,
    /// and each round waits twice as long as the one before; a lookup takes 30 s at most.
    #[schemars(range(min = 1, max = 10))]
    pub(super) timeout_s: u32,
    /// Whether these servers' word that they have checked the signatures (DNSSEC) counts. Only for
    /// servers that do check them, on this host or behind a way that nobody else writes to.
    pub(super) dnssec_trusted: bool,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { servers: None, timeout_s: 2, dnssec_trusted: false }
    }
}

/// How mail lies on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Store {
    /// The size of a log file, in bytes; a multiple of 4096. Counts when the data folder is made,
    /// by the first start or account command; the folder keeps it, and where this differs later, a
    /// start, `test` and `config test` say so.
    #[schemars(range(min = 2_097_152, max = 4_294_967_296u64))]
    pub(super) segment_bytes: u64,
    /// Mail is refused for the time being (452) while less than this is free on the file system, in
    /// bytes.
    #[schemars(range(max = 1_125_899_906_842_624u64))]
    pub(super) reserve_bytes: u64,
    /// Whether the mail of new accounts is sealed, so that its owner only can read it. Accounts
    /// that were made without it get keys when they next sign in with their password; what they
    /// have got by then stays in clear. Turned off, accounts that have keys keep them.
    pub(super) sealing: bool,
    /// The length of the RSA keys of new accounts, in bits: 2048, 3072 or 4096. More than 2048
    /// makes the first visit after new mail slower.
    #[schemars(range(min = 2048, max = 4096))]
    pub(super) rsa_bits: u16,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            segment_bytes: 67_108_864,
            reserve_bytes: 268_435_456,
            sealing: true,
            rsa_bits: 2048,
        }
    }
}

/// What is written about what happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Log {
    /// The least important events that are written.
    pub(super) level: LogLevel,
    /// How an event looks: one line of `text` or of `json`; `auto` is `text` on a terminal and
    /// `json` elsewhere.
    pub(super) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Auto }
    }
}

/// How important an event must be to be written.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogLevel {
    /// What needs an operator.
    Error,
    /// What may need one soon.
    Warn,
    /// What happens to messages, and who signs in.
    Info,
    /// What happens to connections and refused commands.
    Debug,
}

/// How an event looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    /// `Text` on a terminal, `Json` elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What `--dev` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Dev {
    /// Each service listens on this number plus its well-known port, on loopback only. `--ports`
    /// goes before it.
    #[schemars(range(min = 1, max = 64_000))]
    pub(super) ports: u16,
    /// As `[routes]`, which has no effect with `--dev`: mail goes nowhere but where these lead, and
    /// to loopback addresses only. A password may go there in clear, with `tls = "offered"`.
    pub(super) routes: BTreeMap<String, Route>,
}

impl Default for Dev {
    fn default() -> Self {
        Self { ports: 2000, routes: BTreeMap::new() }
    }
}
