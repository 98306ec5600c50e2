"""The engine and its peers, each as it is obtained, configured and started.

All are the MX of example.test with one mailbox, demo@, on one port of loopback; none filters, looks
names up or limits what comes from loopback, and none offers TLS, but for the engine and chasquid,
which are not asked for it. All speak SMTP, but for Dovecot. `means` is what its 250 says, `settings` how it was set up and why: both
stand in the report. run.py goes through SERVERS in this order, and shows ABSENT as it stands.
"""
import os, shutil, subprocess, sys

import obtain

DOMAIN, HOST = "example.test", "mx.example.test"
SIZE_MAX = 50_000_000  # what each of them takes at most, so that 1 MiB is none of its limits


class Server:
    """One way to run one server. `obtain` finds or fetches it, `command` prepares a sandbox for it."""
    version = ""
    env = {}
    connections = 32
    lmtp = False

    def obtain(self):
        raise NotImplementedError

    def command(self, box):
        raise NotImplementedError


class Engine(Server):
    name = "engine"
    means = "in the log of its shard, written with O_DSYNC, sealed; one write may hold many messages"
    settings = ("`--dev`: sealing on, a line of log for each message; delivers into the mailbox "
                "behind the 250, which is counted")
    program, cores = None, 2

    def obtain(self):
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True)
        self.version = said.stdout.split()[-1]

    def command(self, box):
        # --dev listens on a base plus the well-known ports.
        data = box.folder("/var/lib/fsmtp")
        return [self.program, "--cores", str(self.cores), "--dev", "--ports", str(box.port - 25),
                "--data", data]


class Postfix(Server):
    name = "postfix"
    means = "queue file synced by cleanup(8)"
    settings = ("all mail on HOLD, so neither qmgr nor delivery costs anything; no chroot, anvil not "
                "asked, in_flow_delay 0 (it would wait for qmgr), max_use 1000, so that fewer "
                "processes are made; logs to a syslog that is not there")
    # Held: cleanup(8) has put the message into its queue, and nobody looks at it again.
    receive = "smtpd_client_restrictions = check_client_access static:HOLD"

    def obtain(self):
        self.root, self.version = obtain.debian("postfix")

    def command(self, box):
        box.package(self.root)
        box.user("postfix", "postdrop", "vmail")
        box.folder("/var/spool/postfix")
        box.folder("/var/lib/postfix", "postfix")
        box.folder("/var/mail/vhosts", "vmail")
        uid = box.users["vmail"][0]
        # Its own tables of which service may be found where are part of the package, /etc is ours.
        box.file("/etc/postfix/main.cf", f"""
compatibility_level = 3.6
myhostname = {HOST}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = static:demo/
virtual_mailbox_base = /var/mail/vhosts
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
message_size_limit = {SIZE_MAX}
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_relay_restrictions = permit_auth_destination, reject
{self.receive}
in_flow_delay = 0
max_use = 1000
""")
        services = f"""
127.0.0.1:{box.port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
"""
        box.file("/etc/postfix/master.cf", services)
        # The queue's folders as its installation makes them.
        start = """
cd /var/spool/postfix
for name in incoming active deferred bounce defer flush saved trace hold corrupt private; do
    mkdir -m 700 $name && chown postfix $name
done
mkdir -m 710 public && chown postfix:postdrop public
mkdir -m 730 maildrop && chown postfix:postdrop maildrop
mkdir -m 755 pid
exec /usr/lib/postfix/sbin/master -d
"""
        return ["sh", "-ec", start]


class PostfixMaildir(Postfix):
    name = "postfix-maildir"
    means = "the same; then virtual(8) delivers into a Maildir, which syncs once more"
    settings = ("as postfix, without HOLD: with the delivery into a mailbox that the engine does as "
                "well")
    receive = ""


class Exim(Server):
    name = "exim"
    means = "both spool files synced, -D and -H"
    settings = ("queue_only: no delivery is begun; 1,000 connections, any number of messages on one; "
                "split_spool_directory, as its manual says for many messages; a process for each "
                "connection is its way, and that it answers QUIT after 0.2 s, which its rate in W1 shows")

    def obtain(self):
        self.root, self.version = obtain.debian("exim4-daemon-light")

    def command(self, box):
        box.package(self.root)
        box.user("Debian-exim")
        box.folder("/var/spool/exim4", "Debian-exim", 0o750)
        box.folder("/var/log/exim4", "Debian-exim")
        box.file("/etc/exim4/exim4.conf", f"""
primary_hostname = {HOST}
domainlist local_domains = {DOMAIN}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {box.port}
queue_only = true
split_spool_directory = true
smtp_accept_max = 1000
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_connect_backlog = 256
message_size_limit = {SIZE_MAX}
host_lookup =
rfc1413_hosts =
tls_advertise_hosts =
acl_smtp_rcpt = check_rcpt
acl_smtp_data = accept_data

begin acl
check_rcpt:
  accept domains = +local_domains
  deny
accept_data:
  accept
""")
        return ["/usr/sbin/exim4", "-bdf"]


class OpenSmtpd(Server):
    name = "opensmtpd"
    means = "message and envelope in its queue's folder"
    settings = ("delivery paused (`smtpctl pause mda`), 100 messages on one connection raised to a "
                "billion; 4 connections at a time: its listen queue of 5 is part of its code, and of "
                "32 that come at once some are not greeted for 20 s")
    connections = 4

    def obtain(self):
        self.root, self.version = obtain.debian("opensmtpd")

    def command(self, box):
        box.package(self.root)
        box.user("opensmtpd", "opensmtpq", home="/var/lib/opensmtpd/empty")
        box.user("demo", home="/var/lib/demo")
        box.folder("/var/spool/smtpd", mode=0o711)
        box.folder("/var/lib/opensmtpd/empty", mode=0o711)
        box.folder("/var/lib/demo", "demo")
        box.file("/etc/mailname", HOST + "\n")
        box.file("/etc/smtpd.conf", f"""
smtp max-message-size "{SIZE_MAX}"
smtp limit max-mails 1000000000
listen on 127.0.0.1 port {box.port} hostname {HOST}
action "keep" maildir "/var/lib/demo/maildir"
match from any for domain "{DOMAIN}" action "keep"
""")
        # Unpacked, it lacks what its installation adds.
        control = "cp /usr/sbin/smtpctl /run; chgrp opensmtpq /run/smtpctl; chmod 2755 /run/smtpctl"
        pause = "until /run/smtpctl pause mda; do sleep 0.2; done"
        return ["sh", "-c", f"{control}; smtpd -F & {pause}; wait"]


class Haraka(Server):
    name = "haraka"
    version = "3.3.4"
    means = "file of its outbound queue synced and renamed"
    settings = ("a worker for each core, no plugin but one of four lines that accepts the recipient "
                "for the outbound queue, which does not deliver; level of the log `warn`")
    cores = 2

    def obtain(self):
        self.root = obtain.npm("Haraka", self.version)

    def command(self, box):
        shutil.copytree(f"{self.root}/node_modules/Haraka/config", box.path("config"))
        box.file("config/smtp.ini", f"listen=127.0.0.1:{box.port}\nnodes={self.cores}\n")
        box.file("config/plugins", "keep\n")
        box.file("config/me", HOST + "\n")
        box.file("config/log.ini", "[main]\nlevel=warn\nformat=default\n")
        # Whoever waits for the delivery that is off looks again each second: one at a time.
        box.file("config/outbound.ini", "disabled=true\nconcurrency_max=1\n")
        box.file("plugins/keep.js", "exports.hook_rcpt = function (next, connection) {\n"
                 "    connection.relaying = true;\n    next(OK);\n};\n")
        os.symlink(box.folder("/var/lib/haraka"), box.path("queue"))
        return ["node", f"{self.root}/node_modules/Haraka/bin/haraka", "-c", box.work]


class Maddy(Server):
    name = "maddy"
    version = "v0.7.1"
    means = "in the mailbox: a file for the body, rows in SQLite"
    settings = ("delivers before the 250 into its own storage, as its shipped configuration does; no "
                "checks, no limits; the newest version that was to be had")

    def obtain(self):
        self.program = obtain.go("github.com/foxcpp/maddy", self.version, "cmd/maddy")

    def command(self, box):
        state = box.folder("/var/lib/maddy")
        config = box.file("maddy.conf", f"""
hostname {HOST}
tls off
state_dir {state}
runtime_dir /run/maddy
storage.imapsql local_mailboxes {{
    driver sqlite3
    dsn imapsql.db
}}
smtp tcp://127.0.0.1:{box.port} {{
    max_message_size 50M
    default_source {{
        destination {DOMAIN} {{
            deliver_to &local_mailboxes
        }}
        default_destination {{
            reject 550 5.1.1 "no such domain"
        }}
    }}
}}
""")
        maddy = f"{self.program} --config {config}"
        account = f"{maddy} imap-acct create demo@{DOMAIN}"
        return ["sh", "-ec", f"mkdir -p /run/maddy; {account}; exec {maddy} run"]


class Chasquid(Server):
    name = "chasquid"
    means = "file in its queue's folder, renamed into place"
    settings = "delivers at once to a program that takes all, /bin/true: a process for each message"

    def obtain(self):
        self.root, self.version = obtain.debian("chasquid")

    def command(self, box):
        box.package(self.root)
        data = box.folder("/var/lib/chasquid")
        box.file("/etc/chasquid/chasquid.conf", f"""
hostname: "{HOST}"
smtp_address: "127.0.0.1:{box.port}"
mail_delivery_agent_bin: "/bin/true"
data_dir: "{data}"
mail_log_path: "{box.path('mail.log')}"
""")
        box.file(f"/etc/chasquid/domains/{DOMAIN}/README", "\n")
        # It does not start without a certificate.
        certificate = box.path(f"etc/chasquid/certs/{HOST}")
        os.makedirs(certificate)
        openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        openssl += ["-subj", f"/CN={HOST}", "-keyout", f"{certificate}/privkey.pem"]
        openssl += ["-out", f"{certificate}/fullchain.pem"]
        subprocess.run(openssl, capture_output=True, check=True)
        # Nothing can be written in its /etc, so the account is made in a copy.
        start = f"""
cp -a /etc/chasquid /run
chasquid-util -C=/run/chasquid user-add demo@{DOMAIN} --password=demo
exec chasquid -config_dir /run/chasquid
"""
        return ["sh", "-ec", start]


class Dovecot(Server):
    name = "dovecot"
    lmtp = True
    means = "file in a Maildir, synced as mail_fsync=optimized has it for LMTP"
    settings = ("LMTP, for it has no SMTP: what stands behind somebody's MTA, whose own cost is to be "
                "added; processes stay and serve one connection after another, 32 of them from the "
                "start")

    def obtain(self):
        self.root, self.version = obtain.debian("dovecot-lmtpd")
        if ":2.3" not in self.version:
            raise obtain.Absent(f"the settings here are for 2.3, this is {self.version}")

    def command(self, box):
        box.package(self.root)
        box.user("vmail", "dovecot", "dovenull")
        box.folder("/var/lib/dovecot")
        box.folder("/var/mail/vhosts", "vmail")
        config = box.file("dovecot.conf", f"""
base_dir = /run/dovecot
log_path = {box.path('mail.log')}
protocols = lmtp
listen = 127.0.0.1
ssl = no
hostname = {HOST}
mail_location = maildir:/var/mail/vhosts/%n
mail_uid = vmail
mail_gid = vmail
first_valid_uid = 1
postmaster_address = postmaster@{DOMAIN}
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=vmail gid=vmail home=/var/mail/vhosts/%n allow_all_users=yes
}}
service lmtp {{
  process_min_avail = {self.connections}
  service_count = 1000000
  inet_listener lmtp {{
    port = {box.port}
  }}
}}
service auth {{
  client_limit = 4096
}}
""")
        return ["dovecot", "-F", "-c", config]


class Aiosmtpd(Server):
    name = "aiosmtpd"
    version = "1.4.6"
    means = "file in a Maildir, synced"
    settings = ("a library and not a whole server: its command with its own Mailbox handler, one "
                "process")

    def obtain(self):
        root = obtain.pypi("aiosmtpd", self.version)
        self.env = {"PYTHONPATH": root}

    def command(self, box):
        mail = box.folder("/var/mail/aiosmtpd") + "/maildir"
        return [sys.executable, "-m", "aiosmtpd", "-n", "-s", str(SIZE_MAX), "-l",
                f"127.0.0.1:{box.port}", "-c", "aiosmtpd.handlers.Mailbox", mail]


SERVERS = [Engine(), Postfix(), PostfixMaildir(), Exim(), OpenSmtpd(), Haraka(), Maddy(), Chasquid(),
           Dovecot(), Aiosmtpd()]

ABSENT = {
    "stalwart": "not in Debian or npm; the crate of its name in Rust's registry is another's",
    "kumomta": "not in Debian, npm or Rust's registry",
    "mox": "300 connections a minute from an address, 2,700 from its neighbourhood, are constants of "
           "its code (v0.0.10): W1 reaches them within seconds; not tried further",
}
