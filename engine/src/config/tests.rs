//! The configuration: defaults, every problem with its line, and the texts made from it.

use super::*;
use crate::filters::{self, Plan, WhenAway};
use crate::strangers::Terms;
use crate::verify::{Action, Policy, Scores};

fn parse(text: &str, overrides: &Overrides) -> Result<Config, Vec<String>> {
    let show = |problem: Problem| {
        format!(
            "{}: {}",
            problem.line.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            problem.text
        )
    };
    Config::parse(text, overrides)
        .map(|(config, _)| config)
        .map_err(|problems| problems.into_iter().map(show).collect())
}

#[track_caller]
fn wrong(text: &str, expected: &[&str]) {
    let problems = parse(text, &Overrides::default()).unwrap_err();
    assert_eq!(problems, expected, "{text}");
}

fn dev() -> Overrides {
    Overrides { dev: true, ..Overrides::default() }
}

#[test]
fn nothing_configured_is_a_configuration() {
    let config = parse("", &Overrides::default()).unwrap();
    let listeners: Vec<String> =
        config.listeners.iter().map(|l| format!("{:?} {}", l.protocol, l.address)).collect();
    assert_eq!(listeners, ["Smtp [::]:25", "Pop3 127.0.0.1:110"]);
    assert_eq!(config.smtp.size_bytes_max, 10_485_760);
    assert_eq!(config.smtp.recipients_max, 1000);
    assert_eq!(config.pop3.idle_timeout, Duration::from_secs(600));
    assert_eq!(config.data, Path::new("fsmtp-data"));
    assert_eq!(config.node.to_ascii_lowercase(), config.domain);
    assert!(config.cores >= 1 && config.dev.is_none() && config.warnings.is_empty());
}

#[test]
fn dev_listens_on_loopback_only() {
    let overrides = Overrides { ports: Some(3000), cores: Some(2), ..dev() };
    let config = parse("", &overrides).unwrap();
    let ports = config.listeners.iter().map(|l| l.address.port()).collect::<Vec<_>>();
    assert!(config.listeners.iter().all(|l| l.address.ip().is_loopback()));
    assert_eq!(ports, [3025, 3587, 3465, 3110, 3995]);
    assert_eq!((config.domain.as_str(), config.cores), ("example.test", 2));
    assert_eq!(config.dev.map(|dev| dev.account), Some("demo@example.test"));
    let addresses = |text| {
        parse(text, &dev()).unwrap().listeners.iter().map(|l| l.address.port()).collect::<Vec<_>>()
    };
    assert_eq!(addresses(""), [2025, 2587, 2465, 2110, 2995]);
    assert_eq!(addresses("[dev]\nports = 4000\n"), [4025, 4587, 4465, 4110, 4995]);
    let problems = parse("\n[[listener]]\naddress = '0.0.0.0:25'\n", &dev()).unwrap_err();
    assert_eq!(problems, ["2: listener: `--dev` listens on loopback only, remove this section"]);
}

#[test]
fn every_key_is_taken() {
    let text = "
        [server]
        node = 'FC_EU_N0001'
        domain = 'Example.ORG'
        cores = 3
        data = '/var/lib/fsmtp'
        [[listener]]
        address = '0.0.0.0:2525'
        protocol = 'smtp'
        durability = 'fsync'
        connections_max = 7
        connections_per_address_max = 5
        [[listener]]
        protocol = 'pop3'
        tls = 'implicit'
        connections_max = 9
        [[tls.certificate]]
        chain = '/etc/fsmtp/cert.pem'
        key = '/etc/fsmtp/key.pem'
        [tls]
        client_ca = '/etc/fsmtp/users.pem'
        [smtp]
        size_max = 65536
        recipients_max = 100
        command_timeout_s = 1
        data_timeout_s = 2
        [pop3]
        idle_timeout_s = 3
        [resolver]
        servers = ['127.0.0.53', '[2001:db8::53]:5353']
        timeout_s = 4
        dnssec_trusted = true
        [store]
        segment_bytes = 2_097_152
        reserve_bytes = 0
        sealing = false
        [log]
        level = 'debug'
        format = 'json'
        [dev]
        ports = 5000
    ";
    let config = parse(text, &Overrides::default()).unwrap();
    assert_eq!((config.node.as_str(), config.domain.as_str()), ("FC_EU_N0001", "example.org"));
    assert_eq!((config.cores, config.data.as_path()), (3, Path::new("/var/lib/fsmtp")));
    let [smtp, pop3] = config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((smtp.connections_max, smtp.connections_per_address_max), (7, 5));
    assert_eq!((pop3.address.to_string().as_str(), pop3.tls), ("[::]:995", TlsMode::Implicit));
    assert_eq!(smtp.tls, TlsMode::Starttls);
    assert_eq!(config.certificates[0].key, Path::new("/etc/fsmtp/key.pem"));
    assert_eq!(config.client_ca.as_deref(), Some(Path::new("/etc/fsmtp/users.pem")));
    assert_eq!((pop3.connections_max, pop3.connections_per_address_max), (9, 9));
    assert_eq!(config.smtp.command_timeout, Duration::from_secs(1));
    assert_eq!(config.smtp.data_timeout, Duration::from_secs(2));
    assert_eq!(config.store, Store { segment_bytes: 1 << 21, reserve_bytes: 0, sealing: None });
    assert_eq!(config.log.level, log::Level::Debug);
    assert_eq!(config.log.format, Some(log::Format::Json));
    let servers: Vec<String> = config.resolver.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::53]:5353"]);
    assert_eq!(config.resolver.timeout, Duration::from_secs(4));
    assert!(config.resolver.dnssec_trusted);
    assert_eq!(config.warnings.len(), 5, "{:?}", config.warnings);
}

#[test]
fn filters_are_asked_in_their_order() {
    let text = "
        [[filter]]
        name = 'spam'
        protocol = 'rspamd'
        address = '127.0.0.1:11333'
        when_away = 'defer'
        connect_timeout_s = 1
        command_timeout_s = 2
        message_timeout_s = 3
        message_bytes_max = 65536
        users = true
        [[filter]]
        address = '[::1]:8891'
    ";
    let config = parse(text, &Overrides::default()).unwrap();
    let [spam, other] = &config.filters[..] else { panic!("{config:?}") };
    let seconds = Duration::from_secs;
    let whole = Plan {
        name: "spam".into(),
        protocol: filters::Protocol::Rspamd,
        address: "127.0.0.1:11333".parse().unwrap(),
        connect_timeout: seconds(1),
        command_timeout: seconds(2),
        message_timeout: seconds(3),
        when_away: WhenAway::Defer,
        message_bytes_max: 65_536,
        users: true,
    };
    assert_eq!(*spam, whole);
    let usual = Plan {
        name: "[::1]:8891".into(),
        protocol: filters::Protocol::Milter,
        address: "[::1]:8891".parse().unwrap(),
        connect_timeout: seconds(5),
        command_timeout: seconds(30),
        message_timeout: seconds(60),
        when_away: WhenAway::Accept,
        message_bytes_max: 1_048_576,
        users: false,
    };
    assert_eq!(*other, usual);
    assert!(config.warnings.is_empty());
    let far = "[[filter]]\naddress = '192.0.2.1:1'";
    let warnings = parse(far, &Overrides::default()).unwrap().warnings;
    assert_eq!(warnings, ["filter `192.0.2.1:1`: mail goes to 192.0.2.1:1 in clear"]);
    assert!(parse(far, &dev()).is_err());
    let many: String =
        (1..=17).map(|n| format!("[[filter]]\naddress = '127.0.0.1:{n}'\n")).collect();
    for (wrong, place) in [
        ("[[filter]]", "filter.address"),
        ("[[filter]]\naddress = 'localhost:1'", "filter.address"),
        ("[[filter]]\naddress = '[::1]:1'\n[[filter]]\naddress = '[::1]:1'", "filter.name"),
        ("[[filter]]\naddress = '[::1]:1'\nmessage_timeout_s = 0", "filter.message_timeout_s"),
        (&many, "filter"),
    ] {
        let problems = parse(wrong, &Overrides::default()).unwrap_err();
        assert!(problems[0].contains(&format!(": {place}: ")), "{wrong}: {problems:?}");
    }
}

#[test]
fn what_is_checked_of_mail_and_what_becomes_of_it() {
    let text = "
        [verify]
        trusted = ['192.0.2.0/24']
        name = 'mx.a.test'
        timeout_s = 7
        iprev = false
        trusted_sealers = ['List.test']
        dnsbl_score = 3
        dnsbl_reject_score = 9
        [[dnsbl]]
        zone = 'BL.Example.net.'
        weight = -2
        codes = ['127.0.0.2', '127.0.1.0/24']
        [[policy]]
        spf_fail = 'junk'
        [strangers]
        greeting_delay_ms = 70
        messages_per_address = 1
        messages_per_network = 2
        messages_per_sender = 3
        messages_per_recipient = 4
        greylist_minutes = 6
        [[policy]]
        domains = ['A.test', 'b.test']
        greylist = true
        listed = 'reject'
    ";
    let config = parse(text, &Overrides::default()).unwrap();
    let terms = Terms {
        greeting_delay: Duration::from_millis(70),
        per_address: 1,
        per_network: 2,
        per_sender: 3,
        per_recipient: 4,
        greylist: Duration::from_secs(360),
    };
    assert_eq!(config.strangers, terms);
    let settings = config.verify.unwrap();
    assert!(settings.trusts("192.0.2.1".parse().unwrap()));
    assert!(!settings.trusts("127.0.0.1".parse().unwrap()));
    assert_eq!(
        (&*settings.name, settings.timeout.as_secs(), settings.iprev),
        ("mx.a.test", 7, false)
    );
    assert_eq!(settings.sealers, ["list.test"]);
    assert_eq!(settings.scores, Scores { junk: 3, reject: 9 });
    let [list] = &settings.lists[..] else { panic!("{settings:?}") };
    assert_eq!((list.zone.as_str(), list.weight, list.codes.len()), ("bl.example.net", -2, 2));
    let usual = Policy::default();
    assert_eq!(*settings.policies.of("c.test"), Policy { spf_fail: Action::Junk, ..usual });
    let own = Policy { spf_fail: Action::Junk, listed: Action::Reject, greylist: true, ..usual };
    assert_eq!((settings.policies.of("a.test"), settings.policies.of("B.TEST")), (&own, &own));
}

#[test]
fn mail_is_checked_but_with_dev_and_by_sections_that_make_sense() {
    assert!(parse("", &Overrides::default()).unwrap().verify.is_some());
    assert!(parse("[verify]\nenabled = false", &Overrides::default()).unwrap().verify.is_none());
    assert!(parse("", &dev()).unwrap().verify.is_none());
    assert!(parse("[verify]\nenabled = true", &dev()).unwrap().verify.is_some());
    let lists = "[[dnsbl]]\nzone = 'a.test'\n".repeat(21);
    for (wrong, place) in [
        ("[verify]\ntrusted = ['192.0.2.0/33']", "verify.trusted"),
        ("[verify]\nname = 'a b'", "verify.name"),
        ("[verify]\ntrusted_sealers = ['a b']", "verify.trusted_sealers"),
        ("[[dnsbl]]\nweight = 1", "dnsbl.zone"),
        ("[[dnsbl]]\nzone = 'a.test'\ncodes = ['x']", "dnsbl.codes"),
        (&lists, "dnsbl"),
        ("[[policy]]\n[[policy]]", "policy"),
        ("[[policy]]\ndomains = ['a.test', 'A.test']", "policy.domains"),
        ("[[policy]]\ndomains = ['a b']", "policy.domains"),
    ] {
        let problems = parse(wrong, &Overrides::default()).unwrap_err();
        assert!(problems[0].contains(&format!(": {place}: ")), "{wrong}: {problems:?}");
    }
}

#[test]
fn name_servers_are_those_of_the_file_or_of_the_system() {
    let system = parse("", &Overrides::default()).unwrap().resolver;
    assert_eq!(system.servers, crate::resolver::system_servers());
    assert_eq!((system.timeout, system.dnssec_trusted), (Duration::from_secs(2), false));
    wrong("[resolver]\nservers = []\n", &["2: resolver.servers: from 1 to 8 servers"]);
    let nine = format!("[resolver]\nservers = [{}]\n", "'127.0.0.1',".repeat(9));
    wrong(&nine, &["2: resolver.servers: from 1 to 8 servers"]);
    wrong(
        "[resolver]\nservers = [\n'::1',\n'dns.example']\n",
        &["4: resolver.servers: `dns.example` is not an address, like 127.0.0.1:53 or [::1]:53"],
    );
    wrong(
        "[resolver]\ntimeout_s = 0\n",
        &["2: resolver.timeout_s: 0 is too small: the least is 1"],
    );
    let near = "[resolver]\nservers = ['127.0.0.53', '::1']\ndnssec_trusted = true\n";
    assert_eq!(parse(near, &Overrides::default()).unwrap().warnings, [""; 0]);
}

#[test]
fn reports_are_off_until_they_are_wanted() {
    let reports = |text: &str| parse(text, &Overrides::default()).unwrap().reports;
    assert_eq!(reports("[dmarc]\nreport_from = 'a@b.example'\n"), None);
    let node = "[server]\nnode = 'mx.us.example'\ndomain = 'us.example'\n";
    let on = reports(&format!("{node}[dmarc]\nreports = true\n")).unwrap();
    assert_eq!((&*on.from, &*on.organisation), ("postmaster@us.example", "us.example"));
    let own = "[dmarc]\nreports = true\nreport_from = 'a@b.example'\norg_name = 'Us'\n";
    let own = reports(own).unwrap();
    assert_eq!((&*own.from, &*own.organisation), ("a@b.example", "Us"));
    wrong(
        "[dmarc]\nreport_from = 'nobody'\norg_name = \"two\\nlines\"\n",
        &[
            "2: dmarc.report_from: `nobody` is not an address",
            "3: dmarc.org_name: must be one line of at most 255 bytes",
        ],
    );
}

#[test]
fn the_command_line_goes_first() {
    let overrides = Overrides {
        data: Some("elsewhere".into()),
        cores: Some(2),
        only: vec![Protocol::Pop3],
        ..Overrides::default()
    };
    let config = parse("[server]\ncores = 9\ndata = 'here'\n", &overrides).unwrap();
    assert_eq!((config.cores, config.data.as_path()), (2, Path::new("elsewhere")));
    assert_eq!(config.listeners.iter().map(|l| l.protocol).collect::<Vec<_>>(), [Protocol::Pop3]);
    let problems = parse("[[listener]]\nprotocol = 'smtp'\n", &overrides).unwrap_err();
    assert_eq!(problems, ["1: listener: none is left for what `--run` names"]);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
    wrong(
        "[smtp]\n\nsize_maxx = 1\n",
        &["3: unknown key `size_maxx` in [smtp]: did you mean `size_max`?"],
    );
    wrong(
        "[[listener]]\n[[listener]]\nadress = 'x'\n",
        &["3: unknown key `adress` in [listener]: did you mean `address`?"],
    );
    wrong(
        "[sever]\nnode = 'x'\n[storage]\n",
        &[
            "1: unknown key `sever`: did you mean `server`?",
            "3: unknown key `storage`: did you mean `store`?",
        ],
    );
    wrong(
        "[server]\nidle_timeout_s = 4\n",
        &["2: unknown key `idle_timeout_s` in [server]: did you mean `idle_timeout_s` in [pop3]?"],
    );
    wrong(
        "[log]\nfrobnicate = 4\n",
        &["2: unknown key `frobnicate` in [log]: known are level, format"],
    );
}

#[test]
fn values_are_checked_and_all_problems_reported() {
    wrong("[smtp\n", &["1: unclosed table, expected `]`"]);
    wrong("[smtp]\nsize_max = 'ten'\n", &["2: invalid type: string \"ten\", expected u64"]);
    wrong(
        "[[listener]]\n\nprotocol = 'imap'\n",
        &["3: unknown variant `imap`, expected one of `smtp`, `submission`, `pop3`"],
    );
    wrong(
        "[server]\nnode = 'a b'\ncores = 0\n[smtp]\nsize_max = 9\nrecipients_max = 99\n\
         [store]\nsegment_bytes = 2097153\n[dev]\nports = 65000\n",
        &[
            "3: server.cores: 0 is too small: the least is 1",
            "5: smtp.size_max: 9 is too small: the least is 65536",
            "6: smtp.recipients_max: 99 is too small: the least is 100",
            "10: dev.ports: 65000 is too large: the most is 64000",
            "2: server.node: `a b` is not a host name",
            "8: store.segment_bytes: must be a multiple of 4096",
        ],
    );
    wrong(
        "[[listener]]\naddress = '0.0.0.0'\n[[listener]]\nprotocol = 'pop3'\n\
         durability = 'memory'\naddress = '0.0.0.0:0'\n[[listener]]\nconnections_max = 0\n\
         connections_per_address_max = 2\n[[listener]]\n",
        &[
            "8: listener.connections_max: 0 is too small: the least is 1",
            "2: listener.address: `0.0.0.0` is not an address and a port, like 0.0.0.0:25 or \
             [::]:25",
            "5: listener.durability: `memory` comes with a later version",
            "6: listener.address: port 0 cannot be reached by anybody",
            "-: listener.tls: nobody could sign in there: passwords are taken under TLS only",
            "9: listener.connections_per_address_max: 2 is more than connections_max",
            "-: listener.address: [::]:25 stands here twice",
        ],
    );
    wrong("[server]\ndomain = '-x.org'\n", &["2: server.domain: `-x.org` is not a domain"]);
    let many = "[[listener]]\n".repeat(65);
    assert!(parse(&many, &Overrides::default()).unwrap_err()[0].contains("more than 64"));
}

#[test]
fn authorities_of_clients_need_a_file_and_somebody_who_asks() {
    wrong("[tls]\nclient_ca = ''\n", &["2: tls.client_ca: no file"]);
    let without = "[tls]\nclient_ca = 'users.pem'\n";
    let config = parse(without, &Overrides::default()).unwrap();
    assert!(config.warnings[0].starts_with("tls.client_ca has no effect"), "{config:?}");
    let config = parse(without, &dev()).unwrap();
    assert!(config.warnings.is_empty() && config.client_ca.is_some(), "{config:?}");
    assert_eq!(parse("", &dev()).unwrap().client_ca, None);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fsmtp.toml");
    let load = || Config::load(Some(&path), &Overrides::default());
    let error = load().unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    std::fs::write(&path, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap())).unwrap();
    load().unwrap();
    std::fs::write(&path, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1)).unwrap();
    assert!(load().unwrap_err().to_string().contains("at most 1048576 are read"));
    std::fs::write(&path, "\n[x]\n[y]\n").unwrap();
    let error = load().unwrap_err().to_string();
    let name = path.display();
    let line = |n| format!("{name}:{n}: unknown key");
    assert!(error.starts_with(&line(2)) && error.contains(&line(3)), "{error}");
    assert_eq!(error.lines().count(), 2);
}

#[test]
fn what_is_explained_can_be_read_again() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fsmtp.toml");
    let text = "[server]\ndata = 'a \"b\"'\n[[listener]]\nprotocol = 'pop3'\n\
                address = '[::1]:110'\n\
                [smtp]\nsize_max = 99999\n[[tls.certificate]]\nchain = 'c c'\nkey = 'k'\n";
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides { cores: Some(2), ..Overrides::default() };
    let explained = explain(Some(&path), &overrides).unwrap();
    assert!(explained.contains(&format!("size_max = 99999 # {}:7\n", path.display())));
    assert!(explained.contains("cores = 2 # from the command line\n"), "{explained}");
    assert!(explained.contains("recipients_max = 1000 # by default\n"));
    let first = parse(text, &overrides).unwrap();
    assert_eq!(parse(&explained, &Overrides::default()).unwrap(), first);
    assert!(explained.lines().all(|line| line.chars().count() <= 100 || !line.starts_with('#')));
}

#[test]
fn the_schema_knows_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let sections: Vec<&str> = keys::properties(&schema).map(|(name, _)| name).collect();
    assert_eq!(
        sections,
        [
            "server",
            "listener",
            "tls",
            "smtp",
            "verify",
            "strangers",
            "policy",
            "dnsbl",
            "filter",
            "pop3",
            "sign_in",
            "submission",
            "queue",
            "dmarc",
            "routes",
            "resolver",
            "cluster",
            "store",
            "log",
            "dev"
        ]
    );
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = include_str!("../../../docs/config.md");
    assert!(
        page == reference(),
        "write it anew: fsmtp-engine config reference > docs/config.md\n{}",
        reference()
    );
}

#[test]
fn routes_may_say_what_tls_they_want_and_sign_in() {
    use crate::relay::routes::{Level, Way};
    let level = |route: &str| {
        let config = parse(&format!("[routes]\n'*' = {route}\n"), &Overrides::default()).unwrap();
        let Way::Route(route) = config.sending.routes.way("a.test") else { panic!() };
        (route.tls, route.login.is_some())
    };
    assert_eq!(level("'mx.test'"), (Level::Offered, false));
    assert_eq!(level("{ hosts = 'mx.test' }"), (Level::Offered, false));
    assert_eq!(level("{ hosts = 'smtps:mx.test', tls = 'offered' }"), (Level::Encrypted, false));
    assert_eq!(level("{ hosts = 'mx.test', tls = 'encrypted' }"), (Level::Encrypted, false));
    let login = "hosts = 'mx.test', user = 'us', password_file = 'pw'";
    assert_eq!(level(&format!("{{ {login} }}")), (Level::Verified, true));
    let route = |text: &str| format!("[routes]\n'*' = {{ {text} }}\n");
    for weak in ["offered", "encrypted"] {
        let only = "2: routes.*: a password goes to hosts with `tls = \"verified\"` only";
        wrong(&route(&format!("{login}, tls = '{weak}'")), &[only]);
    }
    wrong(
        &route("hosts = 'mx.test', user = 'us'"),
        &["2: routes.*: `user` and `password_file` stand together or not at all"],
    );
    let nowhere = "hosts = 'mx.test', user = 'us', password_file = '/nowhere/pw'";
    // Not every command sends mail: who does reads it.
    assert!(parse(&route(nowhere), &Overrides::default()).is_ok());
    for text in [
        route("host = 'mx.test'"),
        route("hosts = 'mx.test', tsl = 'verified'"),
        route("hosts = 'mx.test', tls = 'perhaps'"),
    ] {
        let problems = parse(&text, &Overrides::default()).unwrap_err();
        assert!(problems[0].contains("a route is text like"), "{problems:?}");
    }
}
