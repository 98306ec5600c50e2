#!/usr/bin/env python3
"""What the generator itself spends on a message, beside Postfix's smtp-source, on the same work.

    bench/loadgen-cost.py PORT [ROUNDS]

PORT is a server on 127.0.0.1 that takes any mail and costs little, so that the generators are what is measured. Each
round runs smtp-source and `loadgen send` in turn: 32 connections, 4 KiB, one recipient; a connection for each message
(W1) and connections kept (W2), without pipelining, and loadgen also with it. Prints user and system CPU time of the
generator's process, microseconds a message, medians, and the medians of the rounds' ratios.

SMTP_SOURCE is the command of smtp-source (default: smtp-source), LOADGEN that of loadgen.
"""
import os
import shlex
import statistics
import subprocess
import sys

PORT = int(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
SOURCE = shlex.split(os.environ.get("SMTP_SOURCE", "smtp-source"))
LOADGEN = shlex.split(os.environ.get("LOADGEN", "target/fast/loadgen"))
MESSAGES = {"W1": 5000, "W2": 20000}


def spent(command):
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command[0]}: {errors.decode()}")
    return usage.ru_utime + usage.ru_stime


def source(work, count):
    keep = ["-d"] if work == "W2" else []
    return spent(SOURCE + ["-s", "32", "-m", str(count), "-l", "4096", "-f", "bench@sender.test"]
                 + ["-t", "demo@example.test"] + keep + [f"inet:127.0.0.1:{PORT}"])


def loadgen(work, count, pipelining):
    once = ["--messages-per-connection", "1"] if work == "W1" else []
    return spent(LOADGEN + ["send", "--target", f"127.0.0.1:{PORT}", "--connections", "32", "--messages", str(count)]
                 + ["--pipelining", pipelining] + once)


for work, count in MESSAGES.items():
    rows = {"smtp-source": [], "loadgen": [], "loadgen, pipelined": []}
    for round in range(ROUNDS + 1):
        taken = [source(work, count), loadgen(work, count, "off"), loadgen(work, count, "on")]
        if round:  # the first one warms up
            for row, time in zip(rows.values(), taken):
                row.append(time / count * 1e6)
    base = rows["smtp-source"]
    for name, row in rows.items():
        ratio = statistics.median(a / b for a, b in zip(row, base))
        print(f"{work} {name}: {statistics.median(row):.1f} us/message, ratio {ratio:.2f} "
              f"({min(row):.1f} to {max(row):.1f})")
