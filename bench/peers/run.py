#!/usr/bin/env python3
"""What a durable message costs the engine and what it costs other servers, side by side in one run.

    bench/peers/run.py [--rounds N] [--only engine,postfix] [--workloads W1,W2] [--promise]

Servers take turns (A B C, A B C, ...), each started anew for a turn, warmed up, measured, ended:

    W1    a connection for each message of 4 KiB
    W2    connections kept
    W3    messages of 1 MiB, connections kept
    W4    as W2, with MAIL, RCPT and DATA in one packet

32 connections (where a server bears them), one recipient, `loadgen send` in a closed loop on the
same cores, no TLS. CPU is that of
the server's control group, all its processes and what they do behind the 250 included, until it rests.
Printed in Markdown: medians over the rounds, of the ratios too. --promise ends with 1 unless Debian's
postfix takes 12 times the engine's CPU in W1 and 20 times in W2. Ends with 1 also where a server
failed or refused mail, and 2 where it cannot work.

Packages are unpacked into a cache, see obtain.py; nothing is installed. Needs root, Linux with cgroup2
and overlayfs, and what the peers need: apt-get, node and npm, go with a C compiler, pip, openssl; a
peer that cannot be had is in the table with the reason. FSMTP_ENGINE and LOADGEN, or FSMTP_BIN, name the
programs, else they are built. --duration seconds for each turn: ten servers, four workloads and five
rounds of 4 s take 45 minutes.
"""
import argparse, json, os, shutil, signal, smtplib, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import common, obtain, report
from sandbox import Failed, Group, Sandbox, kernel_threads
from servers import ABSENT, SERVERS
from syncs import Syncs

KEPT, ONCE = ["--pipelining", "off"], ["--pipelining", "off", "--messages-per-connection", "1"]
# Name: what is sent, arguments of loadgen, messages at most (for the disk) and to warm up.
WORKLOADS = {
    "W1": ("a connection for each message, 4 KiB", ONCE, 200_000, 400),
    "W2": ("connections kept, 4 KiB", KEPT, 200_000, 1000),
    "W3": ("connections kept, 1 MiB", KEPT + ["--size", "1048576"], 4_000, 64),
    "W4": ("connections kept, 4 KiB, pipelined", ["--pipelining", "on"], 200_000, 1000),
}
SOURCES = 8  # addresses of clients: the ports of one would not do for some 10,000 connections/s
ALONE = 10  # messages sent one by one to see what is synced before each 250
PROMISE = {"W1": 12, "W2": 20}


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    listed = lambda text: text.split(",")
    add("--rounds", type=int, default=5)
    add("--only", type=listed, default=[s.name for s in SERVERS], metavar="NAME,NAME")
    add("--workloads", type=listed, default=list(WORKLOADS), metavar="W1,W2")
    add("--duration", type=float, default=4, help="seconds that a turn sends for")
    add("--cores", type=int, default=2, help="cores of the engine, workers of those that can be told")
    add("--cache", default=os.path.expanduser("~/.cache/fsmtp-peers"))
    add("--work", default="/var/tmp", help="a folder on the disk that is to be measured")
    add("--markdown", metavar="FILE", help="the tables, also to a file")
    add("--json", metavar="FILE", help="every figure of every turn")
    add("--plots", metavar="FOLDER", help="peers-cpu.svg and peers-rate.svg")
    add("--promise", action="store_true")
    args = parser.parse_args()
    unknown = set(args.only) - {s.name for s in SERVERS} | set(args.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    return args


class NotOffered(Exception):
    """The workload needs an extension that the server does not have: no failure."""


class Bench:
    def __init__(self, args, loadgen):
        self.args, self.loadgen = args, loadgen
        self.work = tempfile.mkdtemp(prefix="fsmtp-peers.", dir=args.work)
        os.chmod(self.work, 0o755)  # other users' servers pass through it
        self.syncs = Syncs(self.work)
        self.turns, self.box = 0, None
        self.figures = {}  # server, workload: a list of turns
        self.durable, self.absent, self.failed = {}, {}, {}

    def start(self, server):
        self.turns += 1
        name = f"{server.name}-{self.turns}"
        os.mkdir(f"{self.work}/{name}")
        port, self.connections = common.free_base() + 25, server.connections
        group = Group(f"fsmtp-peers-{os.getpid()}-{self.turns}")
        self.speaks = ["--lmtp"] if server.lmtp else []
        self.box = Sandbox(f"{self.work}/{name}", group, port)
        self.box.start(server.command(self.box), server.env)

    def stop(self):
        self.syncs.remove()
        if self.box:
            self.box, box = None, self.box
            box.stop()

    def send(self, arguments):
        """One run of loadgen; what it measured."""
        file = self.box.path("sent.json")
        args = [self.loadgen, "send", "--target", f"127.0.0.1:{self.box.port}", "--connections"]
        args += [str(self.connections), "--sources", str(SOURCES), "--timeout", "20s", "--json", file]
        done = subprocess.run(args + self.speaks + arguments, capture_output=True, text=True,
                              timeout=120 + 10 * self.args.duration)
        if not os.path.exists(file):
            raise Failed(done.stderr.strip().split("\n")[-1][:200])
        said = json.load(open(file))
        if done.returncode or said["errors_count"] or said["messages"]["unfinished"]:
            if any(e["kind"] == "not_offered" for e in said["errors"]):
                raise NotOffered
            errors = [f"{e['phase']} {e['kind']} {e['count']}" for e in said["errors"]]
            errors += [f"{r['phase']} {r['code']} {r['count']}" for r in said["replies"]
                       if r["code"] >= 400]
            errors = ", ".join(errors) or done.stderr.strip()[-200:]
            raise Failed(f"{errors} of {said['messages']['begun']} messages")
        return said

    def turn(self, server, workload):
        _, arguments, most, warm = WORKLOADS[workload]
        self.start(server)
        self.send(arguments + ["--messages", str(warm)])
        group = self.box.group
        before = group.cpu_at_rest()
        kernel = kernel_threads()
        group.watch()
        until = ["--messages", str(most), "--duration", f"{self.args.duration}s"]
        said = self.send(arguments + until)
        cpu = group.cpu_at_rest() - before
        kernel = kernel_threads(kernel)
        memory, latency = group.watch(), said["latencies"]
        count = said["messages"]["acknowledged"]
        return {
            "messages": count, "cpu_us": cpu / count, "kernel_us": kernel / count,
            "rate": said["rate"], "memory": memory,
            "p50_us": latency and latency["actual"]["p50_us"],
            "p99_us": latency and latency["actual"]["p99_us"], "load": os.getloadavg()[0],
        }

    def look(self, server):
        """What is synced before a 250, and for each message when many come."""
        if self.syncs.why:
            return {"why": self.syncs.why}
        self.start(server)
        self.send(WORKLOADS["W2"][1] + ["--messages", "64"])
        self.syncs.start(self.box.group.threads())
        times = alone(smtplib.LMTP if server.lmtp else smtplib.SMTP, self.box.port)
        done = self.syncs.stop(self.box.work)
        seen = {"alone": min(sum(a <= t <= b for t in done) for a, b in times)}
        for name, count in (("W1", 300), ("W2", 1000)):
            self.syncs.start(self.box.group.threads())
            self.send(WORKLOADS[name][1] + ["--messages", str(count)])
            self.box.group.cpu_at_rest()
            seen[name] = len(self.syncs.stop(self.box.work)) / count
        return seen

    def attempt(self, server, what, *args):
        """What is done with a started server; it is ended and what went wrong is kept."""
        try:
            return what(server, *args)
        except NotOffered:
            self.figures[(server.name, *args)] = []
            return None
        except (Failed, OSError, smtplib.SMTPException, subprocess.TimeoutExpired) as error:
            self.failed[" ".join((server.name, *args))] = str(error)
            print(f"{server.name} {' '.join(args)}: {error}", file=sys.stderr, flush=True)
            return None
        finally:
            self.stop()

    def run(self):
        servers = []
        for server in SERVERS:
            if server.name in self.args.only:
                try:
                    server.obtain()
                    servers.append(server)
                except obtain.Absent as reason:
                    self.absent[server.name] = str(reason)
        for server in servers:
            self.durable[server.name] = self.attempt(server, self.look)
        for round in range(self.args.rounds):
            for workload in self.args.workloads:
                for server in servers:
                    if figures := self.attempt(server, self.turn, workload):
                        figures["round"] = round
                        self.figures.setdefault((server.name, workload), []).append(figures)
                        print(f"round {round + 1} {workload} {server.name}: "
                              f"{figures['cpu_us']:.0f} us, {figures['rate']:.0f}/s",
                              file=sys.stderr, flush=True)
        return servers


def alone(protocol, port):
    """Sends messages one by one; from when to when each was under way."""
    times = []
    with protocol("127.0.0.1", port, "client.test", timeout=20) as smtp:
        for number in range(ALONE):
            begun = time.monotonic()
            text = f"Subject: {number}\r\n\r\n" + "sixteen letters.\r\n" * 200
            smtp.sendmail("loadgen@sender.test", "demo@example.test", text)
            times.append((begun, time.monotonic()))
            time.sleep(0.2)  # what is done behind the 250 is not the next one's
    return times


def main():
    args = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so ends what it has started
    if os.geteuid():
        sys.exit("control groups and namespaces need root")
    if not os.environ.get("FSMTP_PEERS_INSIDE"):
        # What is mounted from here on is seen by nobody else, and gone when this ends.
        os.environ["FSMTP_PEERS_INSIDE"] = "1"
        private = ["unshare", "--mount", "--propagation", "private"]
        os.execvp(private[0], [*private, sys.executable, *sys.argv])
    engine, loadgen = common.programs("fsmtp-engine", "loadgen")
    obtain.CACHE = os.path.abspath(args.cache)
    for server in SERVERS:
        server.cores = args.cores
        if server.name == "engine":
            server.program = engine
    bench = Bench(args, loadgen)
    began = os.getloadavg()[0]
    try:
        servers = bench.run()
    finally:
        bench.stop()
        shutil.rmtree(bench.work, ignore_errors=True)
    bench.absent |= ABSENT
    whole = report.document(bench, servers, WORKLOADS, PROMISE, began)
    text = report.markdown(whole)
    print(text)
    if args.markdown:
        with open(args.markdown, "w") as file:
            file.write(text)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(whole, file, indent=1)
    if args.plots:
        report.plots(whole, args.plots)
    broken = [w for w, held in whole["promise"].items() if not held["holds"]]
    broken = broken or len(whole["promise"]) < len(PROMISE)
    sys.exit(1 if bench.failed or args.promise and broken else 0)


if __name__ == "__main__":
    main()
