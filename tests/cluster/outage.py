#!/usr/bin/env python3
"""What happens to a node while its Cassandra stands still: mail is taken, memory stays, then it
catches up.

    tests/cluster/outage.py [--seconds 300] [--rate 200] [--profile fast]

Starts a Cassandra and an engine on loopback, sends mail of 4 KiB at an even rate before, while and
after Cassandra is stopped (SIGSTOP), and counts what is in the mailbox over POP3 once all of it has
to be there. Prints rate, slowest 1 % and resident memory of the engine for each stretch, and how
long it took to catch up. Status 1 when mail was refused, is missing or doubled, when memory grew by
over 64 MiB, or when the rate was not kept. Needs python3, Java, and what servers.sh needs.
"""

import argparse
import json
import os
import poplib
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
GROWTH_MAX = 64 * 1024 * 1024


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, seconds, attempt):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = attempt()
        if done is not None:
            return done
        time.sleep(0.25)
    raise SystemExit(f"{what}: not within {seconds} s")


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Run:
    """A Cassandra and an engine over it, in a folder of their own."""

    def __init__(self, folder, binaries):
        self.binaries, self.folder, self.started = binaries, folder, []
        self.base = 20000 + os.getpid() % 20000
        port = free_port()
        log = os.path.join(folder, "cassandra.log")
        self.cassandra = self.start([f"{HERE}/servers.sh", "cassandra", f"{folder}/cassandra", str(port)], log)
        wait_for("Cassandra", 120, lambda: "Starting listening for CQL" in open(log).read() or None)
        self.config = os.path.join(folder, "fsmtp.toml")
        with open(self.config, "w", encoding="utf-8") as config:
            config.write(f'[cluster]\ncontacts = ["127.0.0.1:{port}"]\ncopies = 1\n')
        subprocess.run([self.engine_path(), "store", "create", "--config", self.config], check=True, stdout=subprocess.DEVNULL)
        log = os.path.join(folder, "engine.log")
        self.log = log
        self.engine = self.start(
            [self.engine_path(), "--cores", "1", "--dev", "--ports", str(self.base), "--config", self.config, "--data", f"{folder}/data"], log
        )
        wait_for("the engine", 60, lambda: "\nready" in open(log).read() or None)

    def engine_path(self):
        return os.path.join(self.binaries, "fsmtp-engine")

    def start(self, words, log):
        child = subprocess.Popen(words, stdout=open(log, "w"), stderr=subprocess.STDOUT, start_new_session=True)
        self.started.append(child)
        return child

    def cassandra_pids(self):
        """The server and what has started it."""
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(self.cassandra.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()] or [self.cassandra.pid]

    def signal_cassandra(self, number):
        for pid in self.cassandra_pids():
            os.kill(pid, number)

    def send(self, name, rate, seconds):
        """Sends for a while; accepted, rate, slowest 1 %, most memory."""
        out = os.path.join(self.folder, f"{name}.json")
        words = [os.path.join(self.binaries, "loadgen"), "send", "--no-tui", "--target", f"127.0.0.1:{self.base + 25}"]
        words += ["--rate", str(rate), "--duration", f"{seconds}s", "--rcpt", "demo@example.test", "--json", out]
        sender = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        most = 0
        while sender.poll() is None:
            most = max(most, resident(self.engine.pid))
            time.sleep(0.5)
        with open(out, encoding="utf-8") as figures:
            return json.load(figures), most

    def mailbox(self):
        """Unique-ids in the mailbox, none while it cannot be opened."""
        try:
            pop = poplib.POP3("127.0.0.1", self.base + 110, timeout=60)
            pop.user("demo@example.test")
            pop.pass_("demo")
            ids = [line.split()[1] for line in pop.uidl()[1]]
            pop.quit()
            return ids
        except (poplib.error_proto, OSError):
            return None

    def end(self):
        for child in reversed(self.started):
            if child is self.cassandra:
                self.signal_cassandra(signal.SIGCONT)
                self.signal_cassandra(signal.SIGTERM)
            else:
                child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()


def main():
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    words.add_argument("--seconds", type=int, default=300)
    words.add_argument("--rate", type=int, default=200)
    words.add_argument("--profile", default="fast")
    args = words.parse_args()
    subprocess.run([f"{HERE}/servers.sh", "get"], check=True)
    build = ["cargo", "build", "--quiet", "--locked", "--profile", args.profile, "-p", "fsmtp-engine", "-p", "loadgen"]
    subprocess.run(build, cwd=TOP, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target"))
    binaries = os.path.join(target, "debug" if args.profile == "dev" else args.profile)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, binaries)
        try:
            return measure(run, args)
        finally:
            run.end()


def measure(run, args):
    sent, failed = 0, []
    before = None
    print(f"{'':<8} {'accepted':>9} {'refused':>8} {'p99 ms':>8} {'MiB':>6}", flush=True)
    for name, seconds in [("before", 30), ("away", args.seconds), ("after", 30)]:
        if name == "away":
            run.signal_cassandra(signal.SIGSTOP)
        if name == "after":
            run.signal_cassandra(signal.SIGCONT)
            back = time.monotonic()
        figures, memory = run.send(name, args.rate, seconds)
        accepted, refused = figures["messages"]["acknowledged"], figures["errors_count"]
        latencies = figures["latencies"]
        slow = latencies["intended"]["p99_us"] / 1000 if latencies else float("nan")
        print(f"{name:<8} {accepted:>9} {refused:>8} {slow:>8.1f} {memory // 1024 // 1024:>6}", flush=True)
        sent += accepted
        before = before or memory
        if refused or accepted < 0.98 * args.rate * seconds:
            failed.append(f"{name}: {accepted} accepted, {refused} refused")
        if memory > before + GROWTH_MAX:
            failed.append(f"{name}: memory grew by {(memory - before) // 1024 // 1024} MiB")

    def complete():
        ids = run.mailbox()
        return ids if ids is not None and len(ids) >= sent else None

    ids = wait_for("all of the mail", 600, complete)
    print(f"all {sent} are there {time.monotonic() - back:.0f} s after it came back")
    if len(ids) != sent or len(set(ids)) != sent:
        failed.append(f"{len(ids)} in the mailbox, {len(set(ids))} of them different, {sent} sent")
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
