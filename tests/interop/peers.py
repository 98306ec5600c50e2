#!/usr/bin/env python3
"""Other people's MTAs and the engine: mail from one to the other, with STARTTLS and without.

    tests/interop/peers.py [NAME...]     postfix, exim, opensmtpd, sinks; all when none is named

    to each MTA      bodies of many kinds and of 1 MiB: once each, unchanged, encrypted or not as
                     both sides then say; of three recipients one is refused, and the sender hears
                     of him once, in the words of the MTA
    from each MTA    the same bodies into the engine's maildrop, once each and unchanged
    into sinks       200 messages to Postfix's smtp-sink and to `loadgen sink`: each once, unchanged

Prints a line for each check. Exit status 1 when one fails; what this machine lacks is skipped,
with a line that says so, and fails where PEERS_REQUIRED=1 is set. Everything stays on loopback and
ends with this script, which takes three minutes at most once the packages are there. They are
Debian's, unpacked below PEERS_CACHE (~/.cache/fsmtp-peers) by bench/peers/obtain.py, and run in
namespaces of their own: needs root, Linux with overlayfs, openssl. FSMTP_ENGINE and LOADGEN name
programs, else they are built.
"""
import email, hashlib, json, os, poplib, re, shutil, signal, smtplib, ssl, subprocess, sys, tempfile
import time

import mtas  # finds bench/ and bench/peers
import common, obtain
from sandbox import Failed, Sandbox

SECONDS = 180  # for all of it; obtaining comes before
WAIT = 30  # for something to arrive
MESSAGES = 200  # into each sink
USER, PASSWORD = "demo@example.test", "demo"
FIRST_PORT = 1000  # of the neighbours, above the engine's base
KINDS = ("tls", "clear")


# ---- messages -----------------------------------------------------------------------------------

def bodies():
    """Names and bodies, ends of lines as they are sent."""
    yield "plain", b"One line.\r\n\r\nAnother.\r\n"
    yield "dots", b".\r\n..\r\n...\r\n.x\r\n..x\r\nx.\r\n\r\n.\r\n"
    yield "long", b"y" * 998 + b"\r\n" + b"." * 998 + b"\r\n" + b"z" * 500 + b"\r\n"
    yield "utf-8", "grüße, 你好, \U0001f4ee\r\n".encode()
    yield "latin-1", bytes(range(160, 256)) + b"\r\n"
    yield "empty-lines", b"\r\n\r\nends in empty lines\r\n\r\n\r\n\r\n"
    yield "from-lines", b"From here on\r\n>From there\r\n From x\r\n"
    yield "1-mib", b"".join(b"%014d\r\n" % n for n in range(65536))


def message(name, body, sender, to):
    """All that a submitted message must have, so that nothing is added to it."""
    return (f"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{name}@client.test>\r\n"
            f"From: <{sender}>\r\nTo: {to}\r\nSubject: {name}\r\nMIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
            "\r\n").encode() + body


def named(arrived, sent):
    """What has arrived of the messages that were sent, by name: a list of header and body each."""
    found = {name: [] for name in sent}
    for text in arrived:
        header, _, body = text.partition(b"\r\n\r\n")
        name = re.search(rb"^Message-ID: <([^@>]*)@client\.test>", header, re.M | re.I)
        if name and name[1].decode() in found:
            found[name[1].decode()].append((header, body))
    return found


def until(done, seconds=WAIT):
    """Asks until it is so, or time is up; what was said last."""
    end = time.monotonic() + seconds
    while not (said := done()) and time.monotonic() < end:
        time.sleep(0.1)
    return said


# ---- results ------------------------------------------------------------------------------------

class Results:
    passed, failed, skipped = 0, 0, 0

    def check(self, name, holds, why=""):
        if holds:
            self.passed += 1
            print(f"ok: {name}", flush=True)
        else:
            self.failed += 1
            print(f"FAILED: {name}" + (f": {why}" if why else ""), flush=True)

    def skip(self, name, why):
        if os.environ.get("PEERS_REQUIRED") == "1":
            return self.check(name, False, why)
        self.skipped += 1
        print(f"skipped: {name}: {why}", flush=True)

    def arrivals(self, name, found, sent):
        """Each message once, its body and the header it had unchanged."""
        for which, text in sent.items():
            copies = found[which]
            if len(copies) != 1:
                self.check(f"{name}: {which}", False, f"{len(copies)} copies")
                continue
            header, _, body = text.partition(b"\r\n\r\n")
            got_header, got = copies[0]
            at = next((n for n, (a, b) in enumerate(zip(got, body)) if a != b),
                      min(len(got), len(body)))
            self.check(f"{name}: {which}", got == body and got_header.endswith(header),
                       f"{len(got)} octets for {len(body)}, body differs from octet {at}: "
                       f"{got[at - 20 if at > 20 else 0:at + 20]!r}, header {got_header[-300:]!r}")


# ---- the engine ---------------------------------------------------------------------------------

class Engine:
    """An engine with --dev, whose routes lead to the ports of the neighbours."""

    def __init__(self, program, work, routes, base):
        self.base, self.log, self.program, self.data = base, f"{work}/log", program, f"{work}/data"
        with open(f"{work}/dev.toml", "w") as file:
            file.write('[queue]\nretry = "2s*100"\n[log]\nformat = "json"\n[dev.routes]\n')
            file.writelines(f'"{domain}" = "127.0.0.1:{port}"\n' for domain, port in routes.items())
        args = [program, "--cores", "2", "--dev", "--data", self.data, "--ports", str(base)]
        self.process = subprocess.Popen(
            args + ["--config", f"{work}/dev.toml"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=open(self.log, "wb"))
        try:
            if not any(line.startswith(b"ready") for line in self.process.stdout):
                sys.exit("the engine did not get ready: " + open(self.log).read()[-500:])
        except BaseException:
            self.stop()
            raise

    def stop(self):
        self.process.kill()
        self.process.wait()

    def events(self, event, domain):
        """What the log says about recipients of a domain."""
        with open(self.log) as file:
            lines = [json.loads(line) for line in file if line.endswith("}\n")]
        return [line for line in lines if line["event"] == event
                and str(line.get("to", "")).endswith(f"@{domain}")]

    def submit(self):
        """A connection that is signed in."""
        smtp = smtplib.SMTP("127.0.0.1", self.base + 587, "client.test", timeout=WAIT)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        smtp.starttls(context=context)
        smtp.login(USER, PASSWORD)
        return smtp

    def maildrop(self, delete=False):
        """All messages in the user's maildrop."""
        pop = poplib.POP3("127.0.0.1", self.base + 110, timeout=WAIT)
        pop.user(USER)
        pop.pass_(PASSWORD)
        texts = []
        for number in range(1, pop.stat()[0] + 1):
            texts.append(b"\r\n".join(pop.retr(number)[1]) + b"\r\n")
            if delete:
                pop.dele(number)
        pop.quit()
        return texts

    def queue(self):
        """What waits to be sent on."""
        args = [self.program, "--data", self.data, "queue", "list", "--json"]
        done = subprocess.run(args, capture_output=True, check=True, timeout=WAIT)
        return json.loads(done.stdout)["entries"]


# ---- MTAs ---------------------------------------------------------------------------------------

class Ungrouped:
    """In place of a control group: nothing is measured here."""

    def join(self):
        pass

    def remove(self):
        pass


def run(work, name, server, what):
    """Starts a neighbour, does something with it, and ends it."""
    os.mkdir(f"{work}/{name}")
    box = Sandbox(f"{work}/{name}", Ungrouped(), server.port)
    try:
        box.start(server.command(box), server.env)
        what(box)
    finally:
        box.stop()


def encrypted(header):
    """Whether the first Received field, the receiver's, says that it came under TLS."""
    with_ = re.search(rb"^Received:(?:.*?)\bwith\s+(E?SMTPS?A?)\b", header, re.M | re.S | re.I)
    return with_ and with_[1].upper() == b"ESMTPS"


def words_of(port, address):
    """What a server says to a recipient that it refuses, in one line and without the code."""
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=WAIT) as smtp:
        smtp.ehlo_or_helo_if_needed()
        smtp.mail(USER)
        code, said = smtp.rcpt(address)
    return code, " ".join(said.decode().split())


def tls_fails(port):
    """What a client of no part in this hears when it begins TLS with a server that offers it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=WAIT) as smtp:
            smtp.starttls(context=context)
            smtp.noop()
    except (OSError, smtplib.SMTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None


def into(results, engine, server, box, kind):
    """From the engine to the MTA."""
    if kind == "tls" and (why := tls_fails(server.port)):
        # Such are met in the world: mail for them has to go in clear, and may not be lost.
        print(f"note: {server.name} offers STARTTLS and cannot do it, {why}", flush=True)
        kind, name = "clear", f"engine -> {server.name}, whose TLS fails"
    else:
        name = f"engine -> {server.name}, {kind}"
    to = f"demo@{server.domain}"
    sent = {which: message(which, body, USER, to) for which, body in bodies()}
    nobody = f"no-such-user@{server.domain}"
    to_all = [to, nobody, f"second@{server.domain}"]
    sent["several"] = message("several", b"For two of three.\r\n", USER, ", ".join(to_all))
    with engine.submit() as smtp:
        for which, text in sent.items():
            whom = to_all if which == "several" else [to]
            smtp.sendmail(USER, whom, text, mail_options=["BODY=8BITMIME"])
    until(lambda: len(server.arrived(box, "demo")) >= len(sent)
          and server.arrived(box, "second") and engine.maildrop())
    found = named(server.arrived(box, "demo"), sent)
    results.arrivals(name, found, sent)
    second = {"several": sent["several"]}
    results.arrivals(f"{name}, another recipient", named(server.arrived(box, "second"), second),
                     second)

    tls = kind == "tls"
    events = engine.events("message-sent", server.domain)
    said = {event["tls"] for event in events}
    results.check(f"{name}: the engine's log says {kind}", len(events) == len(sent) + 1
                  and all((it != "none") == tls for it in said), f"{len(events)} events, {said}")
    headers = [header for copies in found.values() for header, _ in copies]
    results.check(f"{name}: {server.name}'s Received says {kind}",
                  headers and all(bool(encrypted(header)) == tls for header in headers),
                  headers and headers[0][:400])
    deferred = engine.events("message-deferred", server.domain)
    results.check(f"{name}: nothing had to wait", not deferred, deferred[:1])
    refused(results, engine, server, name, nobody)


def refused(results, engine, server, name, nobody):
    """The sender is told once, in the words of the MTA, about the one who was refused."""
    code, words = words_of(server.port, nobody)
    reports = until(engine.maildrop)
    results.check(f"{name}: one report", len(reports) == 1, f"{len(reports)} reports")
    engine.maildrop(delete=True)
    report = email.message_from_bytes(reports[0] if reports else b"")
    parts = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    status = " ".join(b" ".join(bytes(p) for part in parts for p in part.get_payload())
                      .decode(errors="replace").split())
    results.check(f"{name}: it is about {nobody} alone", status.count("Final-Recipient:") == 1
                  and nobody in status, status)
    results.check(f"{name}: it has the words `{code} {words}`",
                  code == 550 and f"{code} {words}" in status, status)


def out_of(results, engine, server, box, kind):
    """From the MTA to the engine."""
    name = f"{server.name} -> engine, {kind}"
    sent = {which: message(which, body, "a@sender.test", USER) for which, body in bodies()}
    with smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=WAIT) as smtp:
        for text in sent.values():
            smtp.sendmail("a@sender.test", [USER], text, mail_options=["BODY=8BITMIME"])
    until(lambda: len(engine.maildrop()) >= len(sent))
    arrived = engine.maildrop(delete=True)
    found = named(arrived, sent)
    results.arrivals(name, found, sent)
    results.check(f"{name}: nothing else came", len(arrived) == len(sent), f"{len(arrived)}")
    headers = [header for copies in found.values() for header, _ in copies]
    results.check(f"{name}: the engine's Received says {kind}", headers and all(
        bool(encrypted(header)) == (kind == "tls") for header in headers),
        headers and headers[0][:400])


# ---- sinks --------------------------------------------------------------------------------------

def load(loadgen, engine, work, domain):
    """Submits messages to a domain; the file with what was acknowledged."""
    ledger, users = f"{work}/{domain}.sent", f"{work}/users"
    with open(users, "w") as file:
        file.write(f"{USER}:{PASSWORD}\n")
    args = [loadgen, "send", "--target", f"127.0.0.1:{engine.base + 587}", "--tls", "starttls"]
    args += ["--auth", users, "--from", USER, "--rcpt", f"someone@{domain}", "--connections", "4"]
    args += ["--messages", str(MESSAGES), "--ledger", ledger, "--quiet"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=WAIT * 2)
    if done.returncode:
        raise Failed(f"loadgen send: {done.stdout[-300:]} {done.stderr[-300:]}")
    return ledger


def into_smtp_sink(results, engine, server, box, loadgen, work):
    with open(load(loadgen, engine, work, server.domain)) as file:
        due = sorted(line.split()[:2] for line in file)
    until(lambda: len(server.arrived(box)) >= MESSAGES
          and len(engine.events("message-sent", server.domain)) >= MESSAGES)
    found = []
    for text in server.arrived(box):
        header, _, body = text.partition(b"\r\n\r\n")
        which = re.search(rb"^X-Loadgen-Id: (\S+)", header, re.M)
        found.append([which[1].decode() if which else "", hashlib.sha256(body).hexdigest()])
    results.check(f"engine -> smtp-sink: {MESSAGES} messages, once each and unchanged",
                  len(due) == MESSAGES and sorted(found) == due, f"{len(found)} for {len(due)}")


def into_loadgen_sink(results, engine, loadgen, work, port, kind):
    domain, received = f"sink-{kind}.test", f"{work}/received-{kind}"
    args = [loadgen, "sink", "--listen", f"127.0.0.1:{port}", "--ledger", received]
    args += ["--duration", f"{SECONDS}s", "--tls", "starttls" if kind == "tls" else "none"]
    sink = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if not any(line.startswith(b"listening") for line in sink.stdout):
            raise Failed("loadgen sink does not listen")
        sent = load(loadgen, engine, work, domain)
        until(lambda: len(engine.events("message-sent", domain)) >= MESSAGES)
        sink.terminate()
        said = sink.communicate(timeout=WAIT)[0].decode()
    finally:
        sink.kill()
        sink.wait()
    events = engine.events("message-sent", domain)
    done = subprocess.run([loadgen, "verify", "--ledger", sent, "--sink", received],
                          capture_output=True, text=True, timeout=WAIT)
    counted = re.search(r"^messages\s+(\d+)", said, re.M)
    name = f"engine -> loadgen sink, {kind}"
    results.check(f"{name}: {MESSAGES} messages, once each and unchanged", done.returncode == 0
                  and counted and int(counted[1]) == MESSAGES, f"{said} {done.stdout[-500:]}")
    results.check(f"{name}: the engine's log says {kind}", events and all(
        (event["tls"] != "none") == (kind == "tls") for event in events), events[:1])


# ---- all of it ----------------------------------------------------------------------------------

def programs():
    """The engine and loadgen, as they are named or built."""
    named = [os.environ.get("FSMTP_ENGINE"), os.environ.get("LOADGEN")]
    if all(named):
        return [os.path.abspath(path) for path in named]
    build = ["cargo", "build", "--quiet", "--locked", "--profile", "fast"]
    subprocess.run(build + ["--package", "fsmtp-engine", "--package", "loadgen"], check=True,
                   cwd=mtas.ROOT)
    folder = os.path.join(mtas.ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "fast")
    return [path or os.path.join(folder, program)
            for path, program in zip(named, ("fsmtp-engine", "loadgen"))]


def lacking():
    """Why no neighbour can be run here, or nothing."""
    if os.geteuid():
        return "namespaces need root"
    for program in ("unshare", "setpriv", "mount", "openssl", "apt-get", "dpkg"):
        if not shutil.which(program):
            return f"{program} is not installed"
    mounts = "mount --make-rprivate / && mount -t overlay overlay -o lowerdir=/usr:/etc /etc"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", mounts],
                           capture_output=True, text=True)
    return tried.stderr.strip() and f"no namespaces or overlayfs: {tried.stderr.strip()[:160]}"


def obtained(results, wanted):
    """Those of the neighbours that can be had."""
    every = [server for server in [*mtas.NEIGHBOURS, mtas.SmtpSink()]
             if (server.name if server in mtas.NEIGHBOURS else "sinks") in wanted]
    if why := lacking():
        for server in every:
            results.skip(server.name, why)
        return []
    had = []
    for server in every:
        try:
            server.obtain()
            had.append(server)
        except obtain.Absent as reason:
            results.skip(server.name, reason)
    return had


def attempt(results, name, what, *args):
    try:
        what(*args)
    except (Failed, OSError, smtplib.SMTPException, poplib.error_proto,
            subprocess.SubprocessError) as error:
        results.check(name, False, f"{type(error).__name__}: {error}")


def rest(results, engine, domains):
    """What came late would be seen here."""
    results.check("at the end: nothing waits in the engine's queue",
                  until(lambda: not engine.queue()), engine.queue())
    late = engine.maildrop()
    results.check("at the end: the maildrop is empty", not late, late[:1])
    for domain in domains:
        sent = [(event["id"], event["to"]) for event in engine.events("message-sent", domain)]
        results.check(f"at the end: to {domain} nothing was sent twice",
                      sent and len(sent) == len(set(sent)), f"{len(sent)}, {len(set(sent))} differ")


def converse(results, engine, server, loadgen, work, kind):
    """All that is done with one neighbour that has been met."""
    failed = results.failed

    def talk(box):
        try:
            if isinstance(server, mtas.SmtpSink):
                return into_smtp_sink(results, engine, server, box, loadgen, work)
            into(results, engine, server, box, kind)
            out_of(results, engine, server, box, kind)
        finally:
            if results.failed > failed:
                print(server.said(box), flush=True)
    attempt(results, f"{server.name}, {kind}", run, work, server.domain, server, talk)


def main():
    known = [server.name for server in mtas.NEIGHBOURS] + ["sinks"]
    wanted = sys.argv[1:] or known
    if set(wanted) - set(known):
        sys.exit(f"not among {', '.join(known)}: {', '.join(sorted(set(wanted) - set(known)))}")
    def end(*_):
        sys.exit(f"ended by a signal, or not done within {SECONDS} s")
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    results = Results()
    obtain.CACHE = os.path.abspath(
        os.environ.get("PEERS_CACHE") or os.path.expanduser("~/.cache/fsmtp-peers"))
    program, loadgen = programs()
    neighbours = obtained(results, wanted)
    work = tempfile.mkdtemp(prefix="fsmtp-peers.", dir="/var/tmp")
    os.chmod(work, 0o755)  # users of other people's servers pass through it
    signal.alarm(SECONDS)

    # A domain and a port for each neighbour and kind, so that nothing known of one is held
    # against another.
    runs = [(server, kind) for server in neighbours
            for kind in (KINDS if server in mtas.NEIGHBOURS else ["clear"])]
    sinks = [f"sink-{kind}.test" for kind in KINDS if "sinks" in wanted]
    offsets = range(FIRST_PORT, FIRST_PORT + len(runs) + len(sinks))
    base = common.free_base((*common.SERVICES, *offsets))
    ports = [base + offset for offset in offsets]
    domains = [f"{server.name}-{kind}.test" for server, kind in runs] + sinks
    engine = None
    try:
        engine = Engine(program, work, dict(zip(domains, ports)), base)
        for (server, kind), port in zip(runs, ports):
            server.meet(kind == "tls", port, base + 25)
            converse(results, engine, server, loadgen, work, kind)
        for kind, port in zip(KINDS, ports[len(runs):]):
            attempt(results, f"loadgen sink, {kind}", into_loadgen_sink, results, engine, loadgen,
                    work, port, kind)
        attempt(results, "at the end", rest, results, engine, domains)
    finally:
        if engine:
            engine.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{results.passed} checks passed, {results.failed} failed, {results.skipped} skipped")
    sys.exit(1 if results.failed or not results.passed and not results.skipped else 0)


if __name__ == "__main__":
    main()
