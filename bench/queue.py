#!/usr/bin/env python3
"""A queue of a million messages to ten thousand sites: what it holds in memory, and how it answers.

    bench/queue.py [--messages N] [--sites N] [--cores N] [--promise]

Sends messages of 512 octets through submission to as many sites as are asked for, all of which are
down, waits until each message waits for its next turn (tried, or put off with its site), and then
measures

    memory     resident memory of the engine beyond that of an empty one, for each message
    list       the slowest of ten `queue list`: its first page, and the counts of all
    start      from the start of the program to `ready`, with the whole queue; killed: behind SIGKILL

--promise ends with 1 unless memory is at most 256 bytes, list 1 s and start 10 s. FSMTP_ENGINE and
LOADGEN, or FSMTP_BIN, name the programs. Writes some 3 GB to the current folder and removes them.
"""
import argparse, json, os, socket, subprocess, sys, tempfile, time

import common

SENDER = f"demo@{common.DOMAIN}"
PATIENCE = 900


class Engine:
    def __init__(self, program, folder, cores):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            down = nobody.getsockname()[1]
        self.program, self.data, self.process = program, f"{folder}/data", None
        self.base, self.cores = common.free_base(), cores
        self.config = f"{folder}/engine.toml"
        with open(self.config, "w") as config:
            config.write(f'[dev.routes]\n"*" = "127.0.0.1:{down}"\n[log]\nlevel = "error"\n'
                         '[queue]\nretry = "4h"\nmessages_max = 2000000\n')

    def start(self):
        begun = time.monotonic()
        args = [self.program, "--cores", str(self.cores), "--dev", "--ports", str(self.base)]
        self.process = common.start(args + ["--config", self.config, "--data", self.data])
        return time.monotonic() - begun

    def stop(self, kill=False):
        if self.process:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait()
            self.process = None

    def resident(self):
        """Bytes; pages of files that are mapped do not count."""
        with open(f"/proc/{self.process.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["RssAnon"].split()[0]) * 1024

    def queue(self, *args):
        """What `queue` says as JSON, and how long it took."""
        begun = time.monotonic()
        args = [self.program, "queue", *args, "--json", "--data", self.data]
        done = subprocess.run(args, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"queue: {done.stderr}")
        return done.stdout, time.monotonic() - begun

    def counts(self):
        return json.loads(self.queue("list")[0])["counts"]

    def settled(self, count):
        """Waits until so many messages wait because their site is down; seconds."""
        begun = time.monotonic()
        down = ["unreachable", "site-paused"]
        while sum((counts := self.counts()).get(why, 0) for why in down) < count:
            if time.monotonic() - begun > PATIENCE:
                sys.exit(f"after {PATIENCE} s the queue is still {counts}")
            time.sleep(1)
        return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--promise", action="store_true")
    args = parser.parse_args()
    program, loadgen = common.programs("fsmtp-engine", "loadgen")
    with tempfile.TemporaryDirectory(prefix="queue.", dir=".") as folder:
        engine = Engine(program, os.path.abspath(folder), args.cores)
        try:
            seen = measure(engine, loadgen, folder, args)
        finally:
            engine.stop(kill=True)
    for name, (figure, unit, limit) in seen.items():
        print(f"{name:10} {figure:10.2f} {unit}" + (f", promised {limit}" if limit else ""))
    if args.promise and any(limit and figure > limit for figure, _, limit in seen.values()):
        sys.exit("not as promised")


def send(engine, loadgen, folder, messages, sites):
    with open(f"{folder}/auth", "w") as file:
        file.write(f"{SENDER}:demo\n")
    begun = time.monotonic()
    args = [loadgen, "send", "--target", f"127.0.0.1:{engine.base + 587}", "--auth", file.name]
    args += ["--rcpt", "somebody@site{}.test", "--mailboxes", str(sites), "--size", "512"]
    args += ["--connections", "64", "--messages", str(messages)]
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"loadgen: {done.stdout}{done.stderr}")
    return messages / (time.monotonic() - begun)


def measure(engine, loadgen, folder, args):
    engine.start()
    send(engine, loadgen, folder, 1000, 1000)
    engine.settled(1000)
    empty = engine.resident()
    rate = send(engine, loadgen, folder, args.messages, args.sites)
    count = args.messages + 1000
    print(f"taken in at {rate:.0f}/s", file=sys.stderr)
    tried = engine.settled(count)
    print(f"tried {tried:.0f} s after the last", file=sys.stderr)
    full = engine.resident()
    lists = [engine.queue("list")[1] for _ in range(10)]
    engine.stop()
    start = engine.start()
    fresh = engine.resident()
    if sum(engine.counts().values()) != count:
        sys.exit(f"after a restart the queue is {engine.counts()}")
    engine.stop(kill=True)
    again = engine.start()
    return {
        "taken in": (rate, "messages/s", None),
        "memory": ((full - empty) / args.messages, "bytes a message", 256),
        "restarted": ((fresh - empty) / args.messages, "bytes a message", 256),
        "list": (max(lists), "s", 1),
        "start": (start, "s", 10),
        "killed": (again, "s", 10),
    }


main()
