//! Which way mail for a domain goes: by a route of the configuration, or by its MX records.
//!
//! A route names a domain (`example.net`), everything below one (`.example.net`), or all that is
//! left (`*`); the longest name that fits counts. It leads to hosts that are tried in order, says
//! what TLS they must have, and may bring a name and a password to sign in with.
//! Made by the configuration; nothing here looks anything up.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use fsmtp_proto::sasl::{NAME_BYTES_MAX, PASSWORD_BYTES_MAX};
use fsmtp_proto::smtp::client::Protocol;

use crate::config::is_domain;
use crate::keyfile;

/// Hosts of one route at most; arbitrary.
pub const HOSTS_COUNT_MAX: usize = 16;

/// A host to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its name, or its address as text, without brackets.
    pub name: Box<str>,
    /// Its port.
    pub port: u16,
}

impl Host {
    /// Its address, where the configuration names one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// What the hosts of a route must do about TLS before they get mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// What they can: mail goes in clear to those that offer none.
    #[default]
    Offered,
    /// Encrypt, whoever they are.
    Encrypted,
    /// Encrypt, and prove their name by a certificate of a known authority.
    Verified,
}

/// How we sign in at the hosts of a route.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// As whom.
    pub user: Box<str>,
    /// Where its password stands.
    file: PathBuf,
    /// Its password; none before somebody needs it.
    password: Option<Arc<Zeroizing<Vec<u8>>>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

impl Login {
    /// With the password that stands in `file`, which is not looked at yet.
    ///
    /// # Errors
    /// When nobody can have this name.
    pub fn new(user: &str, file: &Path) -> Result<Self, RouteError> {
        if user.is_empty() || user.len() > NAME_BYTES_MAX || user.contains('\0') {
            return Err(RouteError(format!("`{user}` is no name to sign in with")));
        }
        Ok(Self { user: user.into(), file: file.to_owned(), password: None })
    }

    /// The same with the password: the first line of the file, which nobody else may read.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(&self) -> Result<Self, RouteError> {
        let bytes = keyfile::read(&self.file).map_err(|error| RouteError(error.to_string()))?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let fits = (1..=PASSWORD_BYTES_MAX).contains(&line.len()) && !line.contains(&0);
        if !fits {
            let what = format!("its first line is no password of 1 to {PASSWORD_BYTES_MAX} bytes");
            return Err(RouteError(format!("{}: {what}", self.file.display())));
        }
        // copy: the file holds more than the password, and is wiped.
        let password = Some(Arc::new(Zeroizing::new(line.to_vec())));
        Ok(Self { password, ..self.clone() })
    }

    /// Where the password stands.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The password, once it was read.
    #[must_use]
    pub fn password(&self) -> Option<&[u8]> {
        self.password.as_ref().map(|password| password.as_slice())
    }
}

/// Where mail for some domain is handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The hosts are nodes of the same owner, and have to prove it.
    pub trusted: bool,
    /// Tried in order; at least one.
    pub hosts: Vec<Host>,
    /// TLS begins with the connection (RFC 8314 §3.3), not by STARTTLS.
    pub implicit: bool,
    /// What they must do about TLS.
    pub tls: Level,
    /// How we sign in there.
    pub login: Option<Login>,
}

/// Why a text is no route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteError(String);

impl RouteError {
    /// A route that signs in where anybody could be at the other end.
    pub(crate) fn unverified() -> Self {
        Self("a password goes to hosts with `tls = \"verified\"` only".to_owned())
    }

    /// The same with the pattern of the route that it is about.
    fn of_route(self, pattern: &str) -> Self {
        Self(format!("the route of `{pattern}`: {self}"))
    }

    /// A name without a password, or the other way round.
    pub(crate) fn half() -> Self {
        Self("`user` and `password_file` stand together or not at all".to_owned())
    }

    /// A route of `--dev` that leads away from this machine.
    pub(crate) fn strays(text: &str) -> Self {
        Self(format!("`{text}` leads to another host; `--dev` sends to loopback addresses only"))
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for RouteError {}

impl FromStr for Route {
    type Err = RouteError;

    /// `host`, `host:port`, `[address]:port`; several behind each other with commas; all over LMTP
    /// with `lmtp:` in front, with TLS from the first byte with `smtps:`, or with `node:`, which
    /// says that they are nodes of the same owner. Without a port it is 25, 24 for LMTP, 465 for
    /// `smtps:`.
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let (trusted, text) = text.strip_prefix("node:").map_or((false, text), |rest| (true, rest));
        let (lmtp, smtps) = (text.strip_prefix("lmtp:"), text.strip_prefix("smtps:"));
        let (protocol, port, rest) = match (lmtp, smtps) {
            (Some(_), _) if trusted => {
                return Err(RouteError("a node of yours does not speak LMTP".to_owned()));
            }
            (Some(rest), _) => (Protocol::Lmtp, 24, rest),
            (None, Some(rest)) => (Protocol::Smtp, 465, rest),
            (None, None) => (Protocol::Smtp, 25, text),
        };
        let hosts: Vec<Host> =
            rest.split(',').map(|host| read_host(host.trim(), port)).collect::<Result<_, _>>()?;
        if hosts.len() > HOSTS_COUNT_MAX {
            return Err(RouteError(format!("there are more than {HOSTS_COUNT_MAX} hosts")));
        }
        let implicit = smtps.is_some();
        // Who they are is proved over the channel that TLS makes.
        let tls = if implicit || trusted { Level::Encrypted } else { Level::Offered };
        Ok(Self { protocol, trusted, hosts, implicit, tls, login: None })
    }
}

fn read_host(text: &str, usual_port: u16) -> Result<Host, RouteError> {
    let wrong = || RouteError(format!("`{text}` is no host, host:port or [address]:port"));
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (name, behind) = rest.split_once(']').ok_or_else(wrong)?;
        name.parse::<IpAddr>().map_err(|_| wrong())?;
        (
            name,
            if behind.is_empty() {
                None
            } else {
                Some(behind.strip_prefix(':').ok_or_else(wrong)?)
            },
        )
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => usual_port,
        Some(port) => port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
    };
    if name.parse::<IpAddr>().is_err() && !is_domain(name) {
        return Err(wrong());
    }
    Ok(Host { name: name.to_ascii_lowercase().into(), port })
}

/// Which way mail for a domain goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// As the configuration says.
    Route(Arc<Route>),
    /// To the hosts that its MX records name.
    Mx,
    /// None: this node sends nothing there.
    Nowhere,
}

/// All routes of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    routes: BTreeMap<Box<str>, Arc<Route>>,
    /// Nothing goes where no route leads: `--dev`.
    routes_only: bool,
}

impl Routes {
    /// No routes; with `routes_only` nothing is sent but by routes.
    #[must_use]
    pub const fn new(routes_only: bool) -> Self {
        Self { routes: BTreeMap::new(), routes_only }
    }

    /// Adds a route for `pattern`.
    ///
    /// # Errors
    /// When the pattern is none.
    pub fn add(&mut self, pattern: &str, route: Route) -> Result<(), RouteError> {
        let name = pattern.strip_prefix('.').unwrap_or(pattern);
        if pattern != "*" && !is_domain(name) {
            let what = format!("`{pattern}` is no domain, no `.domain` and no `*`");
            return Err(RouteError(what));
        }
        self.routes.insert(pattern.to_ascii_lowercase().into(), Arc::new(route));
        Ok(())
    }

    /// How we sign in, with the patterns that it is for.
    pub fn logins(&self) -> impl Iterator<Item = (&str, &Login)> {
        let all = self.routes.iter();
        all.filter_map(|(pattern, route)| Some((&**pattern, route.login.as_ref()?)))
    }

    /// The same with all passwords: who sends mail needs them.
    ///
    /// # Errors
    /// The first file that is not as it should be, and whose it is.
    pub fn with_passwords(&self) -> Result<Self, RouteError> {
        let mut all = self.clone();
        for (pattern, route) in &mut all.routes {
            if let Some(login) = &route.login {
                let login = login.read().map_err(|why| why.of_route(pattern))?;
                *route = Arc::new(Route { login: Some(login), ..(**route).clone() });
            }
        }
        Ok(all)
    }

    /// The way to `domain`, which is in lower case, or an address literal in brackets.
    #[must_use]
    pub fn way(&self, domain: &str) -> Way {
        let exact = self.routes.get(domain);
        let below =
            || domain.match_indices('.').find_map(|(at, _)| self.routes.get(domain.get(at..)?));
        match exact.or_else(below).or_else(|| self.routes.get("*")) {
            Some(route) => Way::Route(Arc::clone(route)),
            None if self.routes_only => Way::Nowhere,
            None => Way::Mx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    #[test]
    fn routes_are_read_as_they_are_written() {
        for (text, shown, protocol) in [
            ("mx.example.net", "mx.example.net:25", Protocol::Smtp),
            ("MX.example.net:2525", "mx.example.net:2525", Protocol::Smtp),
            ("127.0.0.1:26", "127.0.0.1:26", Protocol::Smtp),
            ("[::1]:26, [::2]", "[::1]:26 [::2]:25", Protocol::Smtp),
            ("lmtp:127.0.0.1", "127.0.0.1:24", Protocol::Lmtp),
            ("lmtp:localhost:2400", "localhost:2400", Protocol::Lmtp),
            ("smtps:mx.example.net", "mx.example.net:465", Protocol::Smtp),
        ] {
            let route = route(text);
            assert_eq!(route.implicit, text.starts_with("smtps:"));
            assert_eq!(route.tls == Level::Encrypted, route.implicit, "{text}");
            let hosts: Vec<String> = route.hosts.iter().map(Host::to_string).collect();
            assert_eq!((hosts.join(" ").as_str(), route.protocol), (shown, protocol));
        }
        assert_eq!(route("[::1]").hosts[0].ip(), Some("::1".parse().unwrap()));
        let node = route("node:b.example.net:2525");
        assert!(node.trusted && !route("node").trusted && node.protocol == Protocol::Smtp);
        assert_eq!(node.hosts[0].to_string(), "b.example.net:2525");
        for text in [
            "node:",
            "node:lmtp:a",
            "lmtp:node:a",
            "",
            "a b",
            "host:0",
            "host:70000",
            "host:",
            "[::1]x",
            "[x]:25",
            "::1",
            "a,,b",
        ] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
        assert!("a,".repeat(HOSTS_COUNT_MAX).trim_end_matches(',').parse::<Route>().is_ok());
        assert!("a,".repeat(HOSTS_COUNT_MAX + 1).trim_end_matches(',').parse::<Route>().is_err());
    }

    #[test]
    fn the_longest_name_that_fits_counts() {
        let mut routes = Routes::new(false);
        for (pattern, host) in [
            ("*", "all"),
            (".example.net", "below"),
            (".b.Example.net", "deep"),
            ("a.example.net", "a"),
        ] {
            routes.add(pattern, route(host)).unwrap();
        }
        let way = |domain: &str| match routes.way(domain) {
            Way::Route(route) => route.hosts[0].name.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(way("a.example.net"), "a");
        assert_eq!(way("x.a.example.net"), "below");
        assert_eq!(way("example.net"), "all", "the domain itself is not below itself");
        assert_eq!(way("c.b.example.net"), "deep");
        assert_eq!(way("[127.0.0.1]"), "all");
        for pattern in ["", ".", "*.example.net", "a b", "..a"] {
            assert!(routes.add(pattern, route("all")).is_err(), "{pattern}");
        }
    }

    #[test]
    fn without_a_route_mail_goes_by_mx_or_nowhere() {
        assert_eq!(Routes::new(false).way("a.test"), Way::Mx);
        assert_eq!(Routes::new(true).way("a.test"), Way::Nowhere);
    }

    #[test]
    fn a_password_is_the_first_line_of_a_file_of_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let read = |bytes: &[u8], mode: u32| {
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            Login::new("us", &file).unwrap().read()
        };
        for good in [&b"secret"[..], b"secret\n", b"secret\r\nmore"] {
            let login = read(good, 0o600).unwrap();
            assert_eq!(login.password(), Some(&b"secret"[..]));
            assert!(!format!("{login:?}").contains("secret"));
        }
        assert!(read(&[b'x'; PASSWORD_BYTES_MAX], 0o400).is_ok());
        let long = [b'x'; PASSWORD_BYTES_MAX + 1];
        for bad in [&b""[..], b"\n", b"a\0b", &long] {
            assert!(read(bad, 0o600).is_err());
        }
        let error = read(b"secret", 0o640).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("secret"), "{error}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Login::new("", &file).is_err() && Login::new("a\0", &file).is_err());
        assert!(Login::new("us", folder.path()).unwrap().read().is_err());
    }

    #[test]
    fn passwords_are_read_when_they_are_needed_and_missing_ones_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let login = Login::new("us", &file).unwrap();
        let mut routes = Routes::new(false);
        routes.add("a.test", route("mx.test")).unwrap();
        routes.add("*", Route { login: Some(login), ..route("mx.test") }).unwrap();
        let of: Vec<_> = routes.logins().map(|(pattern, login)| (pattern, login.file())).collect();
        assert_eq!(of, [("*", &*file)]);
        let why = routes.with_passwords().unwrap_err().to_string();
        assert!(
            why.starts_with("the route of `*`: ") && why.contains("/password: No such"),
            "{why}"
        );
        std::fs::write(&file, "secret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let read = routes.with_passwords().unwrap();
        let password = |routes: &Routes| {
            routes.logins().next().and_then(|(_, login)| login.password().map(<[u8]>::to_vec))
        };
        assert_eq!((password(&routes), password(&read)), (None, Some(b"secret".to_vec())));
    }
}
