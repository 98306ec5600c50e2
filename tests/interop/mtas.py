"""Debian's MTAs as neighbours of the engine: mailboxes of their own, and the way to the engine.

Called by peers.py. bench/peers/servers.py knows where each is had from and what it needs in order
to run, and this only says what it does here: it keeps mail for demo@ and second@ of its own domain
in Maildirs, refuses everybody else there, and sends what is for example.test on to the engine.
With `tls` it offers STARTTLS under a certificate that signs itself, and uses it where it is
offered; without, neither. A package that cannot be had raises `obtain.Absent`.
"""
import glob, os, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(ROOT, "bench"), os.path.join(ROOT, "bench", "peers")]
import servers

USERS = ("demo", "second")
ENGINE_DOMAIN = "example.test"


class Neighbour:
    """What all have in common. The classes below put it in front of one of bench/peers."""
    tls = False
    log = "log"

    def meet(self, tls, port, engine):
        """Tells it how to run next: with TLS or not, on which port, and the engine's."""
        self.tls, self.port, self.engine = tls, port, engine
        self.domain = f"{self.name}-{'tls' if tls else 'clear'}.test"

    def certificate(self, box, owner=None):
        """Paths of a certificate and its key that the owner alone can read."""
        paths = box.path("cert.pem"), box.path("key.pem")
        openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        openssl += ["-subj", f"/CN=mx.{self.domain}", "-out", paths[0], "-keyout", paths[1]]
        subprocess.run(openssl, capture_output=True, check=True)
        os.chmod(paths[1], 0o600)
        if owner:
            os.chown(paths[1], box.users[owner][0], -1)
        return paths

    def said(self, box):
        """The last of what it has logged."""
        if not os.path.exists(box.path(self.log)):
            return f"{self.name} has logged nothing"
        with open(box.path(self.log), errors="replace") as file:
            return f"{self.name} has logged:\n" + "".join(file.readlines()[-30:])

    def arrived(self, box, user):
        """The messages in a mailbox, ends of lines as in SMTP."""
        files = glob.glob(box.path(f"disk{self.mail.format(user)}/new/*"))
        return [open(file, "rb").read().replace(b"\n", b"\r\n") for file in files]


class Postfix(Neighbour, servers.Postfix):
    mail, log = "/var/mail/vhosts/{}", "disk/var/log/postfix/mail.log"

    def command(self, box):
        boxes = ",".join(f"{{{user}@{self.domain}={user}/}}" for user in USERS)
        level = "may" if self.tls else "none"
        # The last one of two settings with the same name counts.
        self.receive = f"""
smtpd_relay_restrictions = permit_auth_destination, reject
myhostname = mx.{self.domain}
virtual_mailbox_domains = {self.domain}
virtual_mailbox_maps = inline:{{{boxes}}}
relay_domains = {ENGINE_DOMAIN}
transport_maps = inline:{{{{{ENGINE_DOMAIN}=smtp:[127.0.0.1]:{self.engine}}}}}
fast_flush_domains =
maillog_file = /var/log/postfix/mail.log
smtpd_tls_security_level = {level}
smtp_tls_security_level = {level}
smtpd_tls_received_header = yes
"""
        if self.tls:
            certificate, key = self.certificate(box)
            self.receive += f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n"
        start = super().command(box)
        box.folder("/var/log/postfix")
        with open(f"{box.work}/etc/postfix/master.cf", "a") as file:
            file.write("smtp unix - - n - - smtp\ntlsmgr unix - - n 1000? 1 tlsmgr\n"
                       "postlog unix-dgram n - n - 1 postlogd\n")
        return start


class Exim(Neighbour, servers.Exim):
    mail, log = "/var/lib/demo/{}", "disk/var/log/exim4/mainlog"

    def command(self, box):
        command = super().command(box)
        box.folder("/var/lib/demo", "Debian-exim")
        offered = "tls_advertise_hosts ="
        if self.tls:
            certificate, key = self.certificate(box, "Debian-exim")
            offered = f"{offered} *\ntls_certificate = {certificate}\ntls_privatekey = {key}"
        box.file("/etc/exim4/exim4.conf", f"""
primary_hostname = mx.{self.domain}
domainlist local_domains = {self.domain}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
message_size_limit = {servers.SIZE_MAX}
keep_environment =
host_lookup =
rfc1413_hosts =
acl_smtp_rcpt = check_rcpt
acl_smtp_data = accept_data
{offered}

begin acl
check_rcpt:
  require domains = +local_domains : {ENGINE_DOMAIN}
          verify = recipient
  accept
accept_data:
  accept

begin routers
here:
  driver = accept
  domains = +local_domains
  local_parts = {" : ".join(USERS)}
  transport = maildir
onward:
  driver = manualroute
  domains = {ENGINE_DOMAIN}
  route_list = * 127.0.0.1
  self = send
  transport = onward

begin transports
maildir:
  driver = appendfile
  directory = /var/lib/demo/$local_part_data
  maildir_format
  user = Debian-exim
onward:
  driver = smtp
  port = {self.engine}
  {"" if self.tls else "hosts_avoid_tls = *"}
""")
        return command


class OpenSmtpd(Neighbour, servers.OpenSmtpd):
    """Debian 12's 6.8.0p2 offers STARTTLS and then fails, since it was built with OpenSSL 3: for
    "missing private key" (its issue 1171). As a client it does speak TLS."""
    mail = "/var/lib/{}/maildir"

    def command(self, box):
        super().command(box)
        for user in USERS:
            if user not in box.users:
                box.user(user, home=f"/var/lib/{user}")
                box.folder(f"/var/lib/{user}", user)
        pki, offered, scheme = "", "", "smtp+notls"
        if self.tls:
            certificate, key = self.certificate(box)
            pki = f'pki neighbour cert "{certificate}"\npki neighbour key "{key}"'
            offered, scheme = "tls pki neighbour", "smtp"  # which takes TLS where offered
        box.file("/etc/mailname", f"mx.{self.domain}\n")
        box.file("/etc/smtpd.conf", f"""
{pki}
smtp max-message-size "{servers.SIZE_MAX}"
listen on 127.0.0.1 port {self.port} {offered} hostname mx.{self.domain}
action "keep" maildir "~/maildir"
action "onward" relay host "{scheme}://127.0.0.1:{self.engine}"
match from any for domain "{self.domain}" action "keep"
match from any for domain "{ENGINE_DOMAIN}" action "onward"
""")
        return ["smtpd", "-d"]


class SmtpSink(Neighbour, servers.Postfix):
    """Takes everything, and writes each message into a file of its own."""
    name = "smtp-sink"

    def command(self, box):
        box.package(self.root)
        box.user("sink")
        box.folder("/var/lib/sink", "sink")
        # A name is made of the template and a number.
        return ["smtp-sink", "-u", "sink", "-d", "/var/lib/sink/", f"127.0.0.1:{self.port}", "64"]

    def arrived(self, box, user=None):
        # It puts an empty line behind each.
        return [open(file, "rb").read().removesuffix(b"\n").replace(b"\n", b"\r\n")
                for file in glob.glob(box.path("disk/var/lib/sink/*"))]


NEIGHBOURS = [Postfix(), Exim(), OpenSmtpd()]
