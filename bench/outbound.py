#!/usr/bin/env python3
"""What it costs to take mail in and send it on, side by side in one run.

    bench/outbound.py [--rounds N] [--messages N] [--promise]

Servers take turns, each started anew for a turn, warmed up, measured, ended:

    in         the engine, mail of an account that signed in, to a mailbox of its own
    out        the same, to one site elsewhere: `loadgen sink` behind a route
    signed     the same, signed with DKIM by an Ed25519 and an RSA key
    postfix    Debian's postfix, which takes mail in and sends it on to the same sink

50,000 messages of 4 KiB over 32 connections that are kept, in a closed loop, without TLS. CPU is that
of the server's control group until it rests. The rate counts until the sink has all messages. Printed
in Markdown: medians over the rounds, of the ratios too. --promise ends with 1 unless `out` costs at
most 3 times the CPU of `in`, and has 5 times the rate of `postfix`. Ends with 1 also where a message
is missing or comes twice.

Needs what bench/peers/run.py needs. FSMTP_ENGINE and LOADGEN, or FSMTP_BIN, name the programs.
"""
import argparse, os, re, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "peers"))
import common, obtain
from sandbox import Failed, Group, Sandbox
from servers import Engine, Postfix

ELSEWHERE = "elsewhere.test"
SENDER = f"demo@{common.DOMAIN}"
WARM = 1000
PATIENCE = 300  # seconds until all must have arrived


class Out(Engine):
    name, to, keys = "out", f"u{{}}@{ELSEWHERE}", ()

    def command(self, box):
        data = box.folder("/var/lib/fsmtp")
        config = box.file("engine.toml", f'[dev.routes]\n"{ELSEWHERE}" = "127.0.0.1:{box.sink}"\n')
        for key in self.keys:
            subprocess.run([self.program, "dkim", "create", common.DOMAIN, "--selector", key[:3],
                            "--algorithm", key, "--data", box.path("disk/var/lib/fsmtp")],
                           check=True, stdout=subprocess.DEVNULL)
        box.target, box.auth = box.port - 25 + 587, True
        return [self.program, "--cores", str(self.cores), "--dev", "--ports", str(box.port - 25),
                "--config", config, "--data", data]


class In(Out):
    name, to = "in", SENDER


class Signed(Out):
    name, keys = "signed", ("ed25519", "rsa")


class PostfixOut(Postfix):
    name, to = "postfix", f"u{{}}@{ELSEWHERE}"
    receive = "smtpd_relay_restrictions = permit_mynetworks, reject"

    def command(self, box):
        start = super().command(box)
        box.target, box.auth = box.port, False
        with open(box.path("etc/postfix/main.cf"), "a") as main:
            main.write(f"default_transport = smtp:[127.0.0.1]:{box.sink}\n"
                       "smtp_tls_security_level = none\nsmtp_dns_support_level = disabled\n")
        with open(box.path("etc/postfix/master.cf"), "a") as services:
            services.write("smtp unix - - n - - smtp\nscache unix - - n - 1 scache\n")
        return start


SERVERS = [In, Out, Signed, PostfixOut]


class Turn:
    """One server and a sink, for as long as it is measured."""

    def __init__(self, server, loadgen, work, number):
        self.loadgen, self.to = loadgen, server.to
        folder = f"{work}/{server.name}-{number}"
        os.mkdir(folder)
        self.box = Sandbox(folder, Group(f"fsmtp-outbound-{os.getpid()}-{number}"),
                           common.free_base() + 25)
        self.box.sink = self.box.port + 1
        self.box.start(server.command(self.box), server.env)
        with open(self.box.path("auth"), "w") as file:
            file.write(f"{SENDER}:demo\n")

    def pass_on(self, messages):
        """Sends so many messages; seconds until all had arrived."""
        sink = None
        if ELSEWHERE in self.to:
            args = ["sink", "--listen", f"127.0.0.1:{self.box.sink}", "--messages", str(messages)]
            sink = subprocess.Popen([self.loadgen, *args], stdout=subprocess.PIPE, text=True)
            sink.stdout.readline()
        begun = time.monotonic()
        args = ["--target", f"127.0.0.1:{self.box.target}", "--messages", str(messages),
                "--rcpt", self.to, "--from", SENDER, "--connections", "32", "--pipelining", "off"]
        args += ["--auth", self.box.path("auth")] if self.box.auth else []
        try:
            sent = subprocess.run([self.loadgen, "send", *args], capture_output=True, text=True)
            if sent.returncode:
                raise Failed(f"loadgen: {sent.stdout[-300:]}{sent.stderr[-300:]}")
            taken_in = time.monotonic() - begun
            said = sink.communicate(timeout=PATIENCE)[0] if sink else ""
        except subprocess.TimeoutExpired:
            raise Failed(f"not all of {messages} messages arrived in {PATIENCE} s")
        finally:
            if sink and sink.poll() is None:
                sink.kill()
        return taken_in, time.monotonic() - begun

    def measure(self, messages):
        group = self.box.group
        self.pass_on(WARM)
        before = group.cpu_at_rest()
        taken_in, seconds = self.pass_on(messages)
        cpu = group.cpu_at_rest() - before
        return {"cpu": cpu / messages, "rate": messages / seconds, "in": messages / taken_in}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--only", default="in,out,signed,postfix")
    parser.add_argument("--work", default="/var/tmp", help="a folder on the disk that is measured")
    parser.add_argument("--cache", default=os.path.expanduser("~/.cache/fsmtp-peers"))
    parser.add_argument("--promise", action="store_true")
    args = parser.parse_args()
    obtain.CACHE = args.cache
    engine, loadgen = common.programs("fsmtp-engine", "loadgen")
    Engine.program = engine
    servers = [server() for server in SERVERS if server.name in args.only.split(",")]
    work = tempfile.mkdtemp(prefix="fsmtp-outbound.", dir=args.work)
    os.chmod(work, 0o755)
    seen, number = {server.name: [] for server in servers}, 0
    try:
        for server in servers:
            server.obtain()
        for _ in range(args.rounds):
            for server in servers:
                number += 1
                turn = Turn(server, loadgen, work, number)
                try:
                    seen[server.name].append(turn.measure(args.messages))
                finally:
                    turn.box.stop()
                print(server.name, seen[server.name][-1], file=sys.stderr)
    except Failed as failed:
        sys.exit(f"{server.name}: {failed}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(seen, args)


def report(seen, args):
    def middle(name, figure, of=None):
        return statistics.median(
            turn[figure] / (of and seen[of][n][figure] or 1) for n, turn in enumerate(seen[name]))

    print("| | µs of CPU a message | of `in` | messages/s | of `postfix` | taken in/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in seen:
        of_in = f"{middle(name, 'cpu', 'in'):.2f}" if "in" in seen else ""
        rate = f"{middle(name, 'rate', 'postfix'):.1f}" if "postfix" in seen else ""
        print(f"| {name} | {middle(name, 'cpu'):.0f} | {of_in} | {middle(name, 'rate'):.0f} | {rate} "
              f"| {middle(name, 'in'):.0f} |")
    if args.promise and (middle("out", "cpu", "in") > 3 or middle("out", "rate", "postfix") < 5):
        sys.exit("not as promised")


main()
