//! Makes a checked `Config` of a file: what types and bounds cannot say.
//!
//! Called by `Config::load` after the keys are known and the types fit. Collects every problem.

use super::file::{self, File, LogFormat, LogLevel, Protocol, RouteTls, TlsMode};
use super::{
    Config, Dev, Durability, Listener, Log, Overrides, Pop3, Problem, Reports, Resolver, Smtp,
    Store, Submission, cluster, filter, keys, verify,
};
use crate::compose::NAME_BYTES_MAX;
use crate::dmarc::send::is_sender;
use crate::log;
use crate::relay::routes::{Host, Level, Login, Route, RouteError, Routes};
use crate::relay::{self, Plan};
use crate::resolver::{server_address, system_servers};
use crate::tls::Pair;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use fsmtp_proto::dns::resolver::SERVERS_MAX;
use fsmtp_store::queue::{Pauses, Terms, duration};
use fsmtp_store::seal::RsaBits;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

/// The most listeners; arbitrary, each costs every shard a socket.
const LISTENERS_MAX: usize = 64;

/// What one address may have where nobody says more; arbitrary, a busy sender has some twenty.
const CONNECTIONS_PER_ADDRESS_MAX: u32 = 200;

/// The longest time that a message is kept in the queue.
const EXPIRY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// RFC 5321 §4.5.4.1.
const EXPIRY_ADVISED: Duration = Duration::from_secs(4 * 24 * 3600);

/// What `--dev` brings.
const DEV_DOMAIN: &str = "example.test";
const DEV_NODE: &str = "dev.example.test";
const DEV: Dev = Dev { account: "demo@example.test", password: "demo" };

/// Problems and where they are.
pub(super) struct Checker<'t> {
    text: &'t str,
    table: &'t DeTable<'t>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, path: &[&str], what: impl Into<String>) {
        let line = keys::line_of(self.text, self.table, path);
        let name = path.iter().filter(|part| part.parse::<usize>().is_err());
        let name = name.copied().collect::<Vec<_>>().join(".");
        self.problems.push(Problem { line, text: format!("{name}: {}", what.into()) });
    }

    pub(super) fn warning(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

/// Checks `file`, which was read from `text`; gives the file back with every value filled in.
pub(super) fn check(
    text: &str,
    table: &DeTable<'_>,
    mut file: File,
    overrides: &Overrides,
) -> Result<(Config, File), Vec<Problem>> {
    let mut checker = Checker { text, table, problems: Vec::new(), warnings: Vec::new() };
    bounds(&mut checker, &file);
    fill(&mut file, overrides);
    let node = node(&mut checker, &file);
    let domain = domain(&mut checker, &file);
    let listeners = if overrides.dev {
        dev_listeners(&mut checker, &mut file, overrides)
    } else {
        listeners(&mut checker, &mut file, overrides)
    };
    let rsa_bits = rsa_bits(&mut checker, &file);
    if !file.store.segment_bytes.is_multiple_of(4096) {
        checker.problem(&["store", "segment_bytes"], "must be a multiple of 4096");
    }
    if file.server.data.is_empty() {
        checker.problem(&["server", "data"], "names no folder");
    }
    timeouts(&mut checker, &file);
    let resolver = resolver(&mut checker, &mut file);
    let certificates = certificates(&mut checker, &file);
    let client_ca = client_ca(&mut checker, &file, &listeners);
    let reports = reports(&mut checker, &mut file, &domain);
    let sending = sending(&mut checker, &file, overrides, &listeners);
    let verify = verify::check(&mut checker, &file, &node, overrides.dev);
    let filters = filter::check(&mut checker, &mut file, overrides.dev);
    let cluster = cluster::check(&mut checker, &file);
    let Checker { problems, warnings, .. } = checker;
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = Config {
        node,
        domain,
        cores: file.server.cores.unwrap_or(1),
        // Not from the file's text: a path need not be UTF-8.
        data: overrides.data.clone().unwrap_or_else(|| PathBuf::from(&file.server.data)),
        listeners,
        certificates,
        client_ca,
        roots: file.tls.roots.as_ref().map(PathBuf::from),
        smtp: smtp(&file),
        filters,
        verify,
        strangers: verify::strangers(&file.strangers),
        submission: Submission { keep_sent: file.submission.keep_sent },
        pop3: Pop3 { idle_timeout: seconds(file.pop3.idle_timeout_s) },
        scram: file.sign_in.scram || overrides.dev,
        recipients_per_hour: if overrides.dev { 0 } else { file.submission.recipients_per_hour },
        reports,
        sending,
        resolver,
        cluster,
        store: Store {
            segment_bytes: file.store.segment_bytes,
            reserve_bytes: file.store.reserve_bytes,
            sealing: rsa_bits.filter(|_| file.store.sealing),
        },
        log: log(&file),
        dev: overrides.dev.then_some(DEV),
        warnings,
    };
    Ok((config, file))
}

const fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds as u64)
}

fn smtp(file: &File) -> Smtp {
    Smtp {
        size_bytes_max: file.smtp.size_max,
        recipients_max: file.smtp.recipients_max,
        own_domains_closed: file.smtp.own_domains_closed,
        command_timeout: seconds(file.smtp.command_timeout_s),
        data_timeout: seconds(file.smtp.data_timeout_s),
    }
}

/// The length of RSA keys, if it is one that is offered.
fn rsa_bits(checker: &mut Checker<'_>, file: &File) -> Option<RsaBits> {
    let bits = match file.store.rsa_bits {
        2048 => Some(RsaBits::B2048),
        3072 => Some(RsaBits::B3072),
        4096 => Some(RsaBits::B4096),
        _ => None,
    };
    if bits.is_none() {
        checker.problem(&["store", "rsa_bits"], "must be 2048, 3072 or 4096");
    }
    bits
}

/// Reports of DMARC, if they are to be sent.
fn reports(checker: &mut Checker<'_>, file: &mut File, domain: &str) -> Option<Reports> {
    let section = &mut file.dmarc;
    let is_wrong = section.report_from.as_ref().is_some_and(|from| !is_sender(from));
    let from = section.report_from.get_or_insert_with(|| format!("postmaster@{domain}")).clone();
    let organisation = section.org_name.get_or_insert_with(|| domain.to_owned()).clone();
    if is_wrong {
        checker.problem(&["dmarc", "report_from"], format!("`{from}` is not an address"));
    }
    if organisation.chars().any(char::is_control) || organisation.len() > NAME_BYTES_MAX {
        let what = format!("must be one line of at most {NAME_BYTES_MAX} bytes");
        checker.problem(&["dmarc", "org_name"], what);
    }
    section.reports.then_some(Reports { from, organisation })
}

/// How mail travels on.
fn sending(
    checker: &mut Checker<'_>,
    file: &File,
    overrides: &Overrides,
    listeners: &[Listener],
) -> Plan {
    let queue = &file.queue;
    let pauses = queue.retry.parse::<Pauses>();
    let pauses = pauses.map_err(|why| checker.problem(&["queue", "retry"], why.to_string()));
    let mut time = |key: &str, text: &str| {
        let time = duration(text, EXPIRY_MAX);
        time.map_err(|why| checker.problem(&["queue", key], why.to_string())).unwrap_or(EXPIRY_MAX)
    };
    let expiry = time("expiry", &queue.expiry);
    let notice = Some(queue.delay_notice.as_str()).filter(|text| *text != "never");
    let delay_notice = notice.map(|text| time("delay_notice", text));
    if expiry < EXPIRY_ADVISED {
        checker.warning("queue.expiry is less than the 4 days that RFC 5321 (4.5.4.1) asks for");
    }
    let (section, texts): (&[&str], _) = match overrides.dev {
        true => (&["dev", "routes"], &file.dev.routes),
        false => (&["routes"], &file.routes),
    };
    let mut routes = Routes::new(overrides.dev);
    for (pattern, raw) in texts {
        let route = route(raw, overrides.dev).and_then(|route| routes.add(pattern, route));
        if let Err(why) = route {
            checker.problem(&[section, &[pattern.as_str()]].concat(), why.to_string());
        }
    }
    Plan {
        terms: Terms {
            pauses: pauses.unwrap_or_default(),
            expiry,
            delay_notice,
            messages_max: usize::try_from(queue.messages_max).unwrap_or(usize::MAX),
        },
        limits: relay::Limits {
            connections_max: queue.connections_max.into(),
            messages_max: queue.messages_per_connection,
            ..relay::Limits::default()
        },
        routes: Arc::new(routes),
        mx_port: queue.mx_port,
        sts_port: Some(queue.mta_sts_port).filter(|_| queue.mta_sts),
        own_ports: listeners.iter().map(|listener| listener.address.port()).collect(),
    }
}

/// What stands at one of `[routes]`.
fn route(raw: &file::Route, dev: bool) -> Result<Route, RouteError> {
    let (text, table) = match raw {
        file::Route::Hosts(text) => (text, None),
        file::Route::Table(table) => (&table.hosts, Some(table)),
    };
    let mut route = text.parse::<Route>()?;
    if dev && !route.hosts.iter().all(is_here) {
        return Err(RouteError::strays(text));
    }
    let Some(table) = table else { return Ok(route) };
    route.login = match (&table.user, &table.password_file) {
        (Some(user), Some(file)) => Some(Login::new(user, Path::new(file))?),
        (None, None) => None,
        _ => return Err(RouteError::half()),
    };
    let level = match table.tls {
        None if route.login.is_some() => Level::Verified,
        None => route.tls,
        // With TLS from the first byte nothing goes in clear.
        Some(RouteTls::Offered) => route.tls,
        Some(RouteTls::Encrypted) => Level::Encrypted,
        Some(RouteTls::Verified) => Level::Verified,
    };
    // RFC 4954 §4: a password goes to nobody but the one who is meant.
    if route.login.is_some() && level != Level::Verified && !dev {
        return Err(RouteError::unverified());
    }
    route.tls = level;
    Ok(route)
}

/// Whether a host is this machine.
pub(crate) fn is_here(host: &Host) -> bool {
    host.ip().map_or(&*host.name == "localhost", is_loopback)
}

/// The bounds that the schema names.
fn bounds(checker: &mut Checker<'_>, file: &File) {
    let schema = keys::schema();
    let Ok(value) = serde_json::to_value(file) else { return };
    let mut found = Vec::new();
    keys::bounds(&schema, &schema, &value, &mut Vec::new(), &mut |path, what| {
        found.push((path.to_vec(), what));
    });
    for (path, what) in found {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        checker.problem(&path, what);
    }
}

/// What the command line says, and what the machine says where nobody else does.
fn fill(file: &mut File, overrides: &Overrides) {
    let server = &mut file.server;
    if let Some(data) = &overrides.data {
        server.data = data.to_string_lossy().into_owned();
    }
    server.cores = overrides.cores.or(server.cores).or_else(|| {
        let processors = fsmtp_rt::glommio::processors().len().clamp(1, 1024);
        u16::try_from(processors).ok()
    });
    if let Some(ports) = overrides.ports {
        file.dev.ports = ports;
    }
    let node = server
        .node
        .get_or_insert_with(|| if overrides.dev { DEV_NODE.to_owned() } else { host_name() });
    if server.domain.is_none() {
        let domain = if overrides.dev { DEV_DOMAIN } else { node };
        server.domain = Some(domain.to_owned());
    }
}

/// The name of the host, or `localhost` when it has none that a greeting may show.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if is_domain(name) { name.to_owned() } else { "localhost".to_owned() }
}

/// Whether `name` may stand where a domain is expected (RFC 5321 §4.1.2, and `_`, which the names
/// of the original's nodes have).
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn node(checker: &mut Checker<'_>, file: &File) -> String {
    let node = file.server.node.clone().unwrap_or_default();
    if !is_domain(&node) {
        checker.problem(&["server", "node"], format!("`{node}` is not a host name"));
    }
    node
}

fn domain(checker: &mut Checker<'_>, file: &File) -> String {
    let domain = file.server.domain.as_deref().unwrap_or_default().to_ascii_lowercase();
    // A node name that is no domain has been reported already.
    if !is_domain(&domain) && file.server.domain != file.server.node {
        checker.problem(&["server", "domain"], format!("`{domain}` is not a domain"));
    }
    domain
}

/// What `--dev` listens on.
fn dev_listeners(
    checker: &mut Checker<'_>,
    file: &mut File,
    overrides: &Overrides,
) -> Vec<Listener> {
    if !file.listener.is_empty() {
        checker.problem(&["listener"], "`--dev` listens on loopback only, remove this section");
    }
    file.listener.clear();
    let wanted = |protocol| overrides.wants(protocol);
    let mut listeners = Vec::new();
    let services = [
        (Protocol::Smtp, TlsMode::Starttls),
        (Protocol::Submission, TlsMode::Starttls),
        (Protocol::Submission, TlsMode::Implicit),
        (Protocol::Pop3, TlsMode::Starttls),
        (Protocol::Pop3, TlsMode::Implicit),
    ];
    for (protocol, tls) in services.into_iter().filter(|&(protocol, _)| wanted(protocol)) {
        let port = file.dev.ports.saturating_add(well_known_port(protocol, tls));
        let listener = Listener {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            protocol,
            tls,
            durability: Durability::Fsync,
            connections_max: 20_000,
            // Who develops connects from one address.
            connections_per_address_max: 20_000,
        };
        listeners.push(listener);
        file.listener.push(file::Listener {
            address: Some(listener.address.to_string()),
            protocol,
            tls: Some(tls),
            connections_per_address_max: Some(listener.connections_per_address_max),
            ..file::Listener::default()
        });
    }
    listeners
}

/// What the file says, or SMTP for all and POP3 for this host.
fn listeners(checker: &mut Checker<'_>, file: &mut File, overrides: &Overrides) -> Vec<Listener> {
    if file.listener.is_empty() {
        let pop3 =
            SocketAddr::from((Ipv4Addr::LOCALHOST, well_known_port(Protocol::Pop3, TlsMode::None)));
        file.listener = vec![
            file::Listener::default(),
            file::Listener {
                protocol: Protocol::Pop3,
                address: Some(pop3.to_string()),
                ..file::Listener::default()
            },
        ];
    }
    if file.listener.len() > LISTENERS_MAX {
        checker.problem(&["listener"], format!("more than {LISTENERS_MAX} listeners"));
    }
    let mut listeners: Vec<Listener> = Vec::new();
    let certified = !file.tls.certificate.is_empty();
    let has_cluster = !file.cluster.contacts.is_empty();
    for (index, raw) in file.listener.iter_mut().enumerate() {
        let index = index.to_string();
        let Some(listener) = listener(checker, &index, raw, (certified, has_cluster)) else {
            continue;
        };
        if listeners.iter().any(|other| other.address == listener.address) {
            let what = format!("{} stands here twice", listener.address);
            checker.problem(&["listener", &index, "address"], what);
        }
        listeners.push(listener);
    }
    let wanted = |protocol| overrides.wants(protocol);
    listeners.retain(|listener| wanted(listener.protocol));
    if listeners.is_empty() && checker.problems.is_empty() {
        checker.problem(&["listener"], "none is left for what `--run` names");
    }
    listeners
}

fn listener(
    checker: &mut Checker<'_>,
    index: &str,
    raw: &mut file::Listener,
    (certified, has_cluster): (bool, bool),
) -> Option<Listener> {
    let usual = if certified { TlsMode::Starttls } else { TlsMode::None };
    let tls = *raw.tls.get_or_insert(usual);
    if tls != TlsMode::None && !certified {
        checker.problem(&["listener", index, "tls"], "there is no `[[tls.certificate]]`");
    }
    let durability = durability(raw, has_cluster).unwrap_or_else(|what| {
        checker.problem(&["listener", index, "durability"], what);
        Durability::Fsync
    });
    let per_address = *raw
        .connections_per_address_max
        .get_or_insert_with(|| CONNECTIONS_PER_ADDRESS_MAX.min(raw.connections_max));
    if per_address > raw.connections_max {
        let what = format!("{per_address} is more than connections_max");
        checker.problem(&["listener", index, "connections_per_address_max"], what);
    }
    let text = raw.address.get_or_insert_with(|| {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, well_known_port(raw.protocol, tls))).to_string()
    });
    let Ok(address) = text.parse::<SocketAddr>() else {
        let what = format!("`{text}` is not an address and a port, like 0.0.0.0:25 or [::]:25");
        checker.problem(&["listener", index, "address"], what);
        return None;
    };
    if address.port() == 0 {
        checker.problem(&["listener", index, "address"], "port 0 cannot be reached by anybody");
    }
    if raw.protocol != Protocol::Smtp && tls == TlsMode::None && !is_loopback(address.ip()) {
        let what = "nobody could sign in there: passwords are taken under TLS only";
        checker.problem(&["listener", index, "tls"], what);
    }
    Some(Listener {
        address,
        protocol: raw.protocol,
        tls,
        durability,
        connections_max: raw.connections_max,
        connections_per_address_max: per_address,
    })
}

/// When mail counts as accepted at a listener.
fn durability(raw: &file::Listener, has_cluster: bool) -> Result<Durability, &'static str> {
    match raw.durability {
        file::Durability::Fsync => Ok(Durability::Fsync),
        file::Durability::Cluster if raw.protocol == Protocol::Pop3 => {
            Err("no mail is taken there")
        }
        file::Durability::Cluster if has_cluster => Ok(Durability::Cluster),
        file::Durability::Cluster => Err("cluster.contacts names no server"),
        file::Durability::Memory => Err("`memory` comes with a later version"),
    }
}

const fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// What stands at `[[tls.certificate]]`.
fn certificates(checker: &mut Checker<'_>, file: &File) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (index, raw) in file.tls.certificate.iter().enumerate() {
        for (key, value) in [("chain", &raw.chain), ("key", &raw.key)] {
            if value.is_empty() {
                checker.problem(&["tls", "certificate", &index.to_string(), key], "no file");
            }
        }
        pairs.push(Pair { certificate: raw.chain.clone().into(), key: raw.key.clone().into() });
    }
    pairs
}

/// What stands at `[resolver]`, or what the system says.
fn resolver(checker: &mut Checker<'_>, file: &mut File) -> Resolver {
    let raw = &mut file.resolver;
    let texts = raw
        .servers
        .get_or_insert_with(|| system_servers().iter().map(ToString::to_string).collect());
    let mut servers = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match server_address(text) {
            Some(address) => servers.push(address),
            None => {
                let what = format!("`{text}` is not an address, like 127.0.0.1:53 or [::1]:53");
                checker.problem(&["resolver", "servers", &index.to_string()], what);
            }
        }
    }
    if texts.is_empty() || texts.len() > SERVERS_MAX {
        checker.problem(&["resolver", "servers"], format!("from 1 to {SERVERS_MAX} servers"));
    }
    let far = servers.iter().find(|server| !is_loopback(server.ip()));
    if let Some(far) = far.filter(|_| raw.dnssec_trusted) {
        checker.warning(format!(
            "resolver.dnssec_trusted: what {far} says of signatures can be forged on its way"
        ));
    }
    Resolver {
        servers,
        timeout: Duration::from_secs(raw.timeout_s.into()),
        dnssec_trusted: raw.dnssec_trusted,
    }
}

/// What stands at `tls.client_ca`.
fn client_ca(checker: &mut Checker<'_>, file: &File, listeners: &[Listener]) -> Option<PathBuf> {
    let path = file.tls.client_ca.as_ref()?;
    if path.is_empty() {
        checker.problem(&["tls", "client_ca"], "no file");
    }
    let asks = |l: &Listener| l.protocol == Protocol::Submission && l.tls != TlsMode::None;
    if !listeners.iter().any(asks) {
        checker.warning("tls.client_ca has no effect: no listener takes submissions under TLS");
    }
    Some(path.into())
}

const fn well_known_port(protocol: Protocol, tls: TlsMode) -> u16 {
    match (protocol, tls) {
        (Protocol::Smtp, _) => 25,
        (Protocol::Submission, TlsMode::Implicit) => 465,
        (Protocol::Submission, _) => 587,
        (Protocol::Pop3, TlsMode::Implicit) => 995,
        (Protocol::Pop3, _) => 110,
    }
}

fn log(file: &File) -> Log {
    let level = match file.log.level {
        LogLevel::Error => log::Level::Error,
        LogLevel::Warn => log::Level::Warn,
        LogLevel::Info => log::Level::Info,
        LogLevel::Debug => log::Level::Debug,
    };
    let format = match file.log.format {
        LogFormat::Auto => None,
        LogFormat::Text => Some(log::Format::Text),
        LogFormat::Json => Some(log::Format::Json),
    };
    Log { level, format }
}

/// Shorter than the RFCs ask for is allowed, for tests, but not without a word.
fn timeouts(checker: &mut Checker<'_>, file: &File) {
    for (key, seconds, least, why) in [
        ("smtp.command_timeout_s", file.smtp.command_timeout_s, 300, "RFC 5321 §4.5.3.2.7"),
        ("smtp.data_timeout_s", file.smtp.data_timeout_s, 180, "RFC 5321 §4.5.3.2.5"),
        ("pop3.idle_timeout_s", file.pop3.idle_timeout_s, 600, "RFC 1939 §3"),
    ] {
        if seconds < least {
            checker.warning(format!("{key} = {seconds} is less than the {least} of {why}"));
        }
    }
}
