#!/usr/bin/env python3
"""How well `loadgen send` keeps its schedule, up to 80 % of what it can do at most.

    bench/schedule.py [ROUNDS]      5 unless it is said

The target is the canned responder of the runtime (`engine/rt/examples/canned.rs`) on one processor,
loadgen has one executor on another; 64 connections, 4 KiB, pipelined. Its own limit is the highest
rate of an open loop at which its core is not busy for more than 90 % of the time, for beyond that it
prints no latencies; each round looks for it anew, below the rate of a closed loop. Then come open
loops of 20, 50 and 80 % of that limit, five seconds each. Slip is how late loadgen was though it had
a free connection. *Machine* is how late a thread on that processor wakes up that sleeps a millisecond
at a time, in the same round: what a virtual machine's host takes away. Medians over the rounds; exit status 1 when the slip's p99.9 at 80 % is over 1 ms.
FSMTP_BIN names the folder of the programs, else they are built. Takes two and a half minutes.
"""
import os, re, statistics, subprocess, sys, time

from common import ROOT, free_base, programs

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SHARES = (20, 50, 80)
BUSY_MAX, STEPS = 90, 5
(LOADGEN,) = programs("loadgen")


def canned():
    folder = os.environ.get("FSMTP_BIN")
    if not folder:
        build = "cargo build --quiet --locked --release --package fsmtp-rt --example canned"
        subprocess.run(build.split(), check=True, cwd=ROOT)
        folder = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release")
    return os.path.join(folder, "examples", "canned")


def send(port, *more):
    args = [LOADGEN, "send", "--quiet", "--target", f"127.0.0.1:{port}", "--pin", "--connections", "64"]
    done = subprocess.run([*args, *more], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"loadgen: {done.stdout}{done.stderr}")
    found = re.findall(r"^(rate|own_busiest_core|slip_\w+) ([\d.]+)", done.stdout, re.M)
    return {name: float(value) for name, value in found}


def machine():
    """How late a sleep of a millisecond ends, p99 and p99.9 of two seconds, in microseconds."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    late = []
    for _ in range(2000):
        due = time.monotonic() + 0.001
        time.sleep(0.001)
        late.append((time.monotonic() - due) * 1e6)
    os.sched_setaffinity(0, allowed)
    late.sort()
    return {"p99": late[1980], "p999": late[1998]}


def limit(port):
    """The highest rate below that of a closed loop that leaves a tenth of the core."""
    low, high = 0, send(port, "--duration", "3s")["rate"]
    for _ in range(STEPS):
        middle = (low + high) / 2
        busy = send(port, "--rate", f"{middle:.0f}/s", "--duration", "2s")["own_busiest_core"]
        low, high = (low, middle) if busy > BUSY_MAX else (middle, high)
    return low


def main():
    port = free_base((0,))
    responder = subprocess.Popen([canned(), "1", str(port)], stdout=subprocess.DEVNULL)
    try:
        send(port, "--messages", "1000")
        rounds = []
        for _ in range(ROUNDS):
            figures = {"machine": machine(), "limit": {"rate": limit(port)}}
            for share in SHARES:
                rate = figures["limit"]["rate"] * share / 100
                figures[share] = send(port, "--rate", f"{rate:.0f}/s", "--duration", "5s")
            rounds.append(figures)
    finally:
        responder.terminate()
        responder.wait()
    median = lambda part, name: statistics.median(r[part].get(name, float("inf")) for r in rounds)
    print(f"machine: p99 {median('machine', 'p99'):.0f} p999 {median('machine', 'p999'):.0f} us late")
    print(f"own limit {median('limit', 'rate'):.0f}/s")
    for share in SHARES:
        slips = " ".join(f"{name} {median(share, f'slip_{name}'):.0f}" for name in ("p50", "p99", "p999"))
        busy = median(share, "own_busiest_core")
        print(f"{share} %: {median(share, 'rate'):.0f}/s, busy {busy:.0f} %, slip in us {slips}")
    sys.exit(median(SHARES[-1], "slip_p999") > 1000)


main()
