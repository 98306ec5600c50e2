#!/usr/bin/env python3
"""What UIDL of a very large mailbox costs an engine over Cassandra:

    tests/cluster/uidl.py 127.0.0.1:9042 [COUNT]

Fills the mailbox of --dev's account with COUNT messages (1,000,000) in a keyspace of its own, starts
an engine over it, and asks UIDL by POP3, line by line. Prints how long opening and UIDL took and the
engine's resident memory before, while the mailbox is open, and its peak during the listing. The
keyspace stays: its name is printed. Status 1 when a line is missing.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time

CARGO = ["cargo", "run", "-q", "--profile", "fast"]


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def free_base():
    """A base of ports of which those for SMTP and POP3 are free."""
    for base in range(20000, 60000, 1000):
        try:
            for port in (25, 110, 587):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + port))
            return base
        except OSError:
            continue
    raise RuntimeError("no free ports")


def main():
    server, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    keyspace = f"uidl_{os.getpid()}"
    subprocess.run(["cargo", "build", "-q", "--profile", "fast", "-p", "fsmtp-engine", "-p", "fsmtp-cluster",
                    "--examples", "--bins"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "uidl.toml")
        base = free_base()
        with open(config, "w") as file:
            file.write(f"[dev]\nports = {base}\n[cluster]\ncontacts = [\"{server}\"]\nkeyspace = \"{keyspace}\"\n"
                       "copies = 1\ntimeout_s = 20\n")
        engine = [*CARGO, "-p", "fsmtp-engine", "--"]
        subprocess.run([*engine, "store", "create", "--config", config], check=True, stdout=subprocess.DEVNULL)
        begun = time.monotonic()
        subprocess.run([*CARGO, "-p", "fsmtp-cluster", "--example", "mailbox", "--", server, "--fill", keyspace,
                        str(count)], check=True)
        print(f"keyspace {keyspace}: {count} messages, filled in {time.monotonic() - begun:.0f} s")
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        process = subprocess.Popen([os.path.join(target, "fast", "fsmtp-engine"), "--cores", "1", "--dev", "--config",
                                    config, "--data", os.path.join(folder, "data")], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        try:
            return listing(process, base, count)
        finally:
            process.terminate()
            process.wait(60)


def listing(process, base, count):
    while not (line := process.stdout.readline()).startswith("ready"):
        if not line:
            raise RuntimeError("the engine has ended")
    before = resident(process.pid)
    with socket.create_connection(("127.0.0.1", base + 110)) as connection:
        lines = connection.makefile("rwb")
        lines.readline()

        def command(text):
            lines.write(text + b"\r\n")
            lines.flush()
            answer = lines.readline()
            if not answer.startswith(b"+OK"):
                raise RuntimeError(answer)

        command(b"USER demo@example.test")
        begun = time.monotonic()
        command(b"PASS demo")
        opened = time.monotonic() - begun
        held = peak = resident(process.pid)
        begun, seen = time.monotonic(), 0
        command(b"UIDL")
        for line in lines:
            if line == b".\r\n":
                break
            seen += 1
            if seen % 50_000 == 0:
                peak = max(peak, resident(process.pid))
        listed = time.monotonic() - begun
        begun = time.monotonic()
        command(b"QUIT")
        ended = time.monotonic() - begun
    print(f"opened in {opened:.2f} s, UIDL of {seen} lines in {listed:.2f} s, QUIT in {ended:.2f} s")
    print(f"resident: {before:.0f} MiB before, {held:.0f} MiB with the mailbox open, {peak:.0f} MiB at most during UIDL")
    return 0 if seen == count else 1


if __name__ == "__main__":
    sys.exit(main())
