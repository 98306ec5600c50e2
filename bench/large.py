#!/usr/bin/env python3
"""Large messages, side by side in one run: the engine, and a bare loop that receives and writes.

    bench/large.py [ROUNDS]      7 unless it is said

In each round in turn, 1 MiB messages to one recipient over 8 connections that are kept (`loadgen
send`), 400 each, to

    floor     `bench --bin bulk_floor`: a socket, an aligned block, one durable write, a canned 250
    sealed    an engine on two cores that seals, as by default
    clear     one that does not

CPU time is that of the server's threads, from /proc in nanoseconds. Printed: medians, and medians of
the ratios of the rounds to the floor's. What is written lies in one folder of the current one, in all
some 20 GB with seven rounds, and is removed. FSMTP_BIN names the folder of the programs, else they
are built. Takes two minutes.
"""
import re, statistics, subprocess, sys, tempfile

from common import free_base, programs, start

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
ENGINE, LOADGEN, FLOOR = programs("fsmtp-engine", "loadgen", "bulk_floor")


def engine(folder, sealing):
    name = "sealed" if sealing else "clear"
    with open(f"{folder}/{name}.toml", "w") as config:
        config.write(f"[store]\nsealing = {str(sealing).lower()}\n[log]\nlevel = \"warn\"\n")
    base = free_base()
    args = [ENGINE, "--cores", "2", "--dev", "--ports", str(base)]
    args += ["--config", config.name, "--data", f"{folder}/{name}"]
    return start(args), base + 25


def floor(folder):
    port = free_base()
    return start([FLOOR, str(port), folder]), port


def load(process, port):
    """Messages a second and microseconds of the server's CPU for each."""
    args = [LOADGEN, "send", "--target", f"127.0.0.1:{port}", "--server-pid", str(process.pid)]
    args += ["--messages", "400", "--size", "1m", "--connections", "8", "--pipelining", "off"]
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"loadgen: {done.stdout}{done.stderr}")
    figure = lambda name: float(re.search(rf"^{name} ([\d.]+)", done.stdout, re.M)[1])
    return figure("rate"), figure("server_cpu")


def main():
    with tempfile.TemporaryDirectory(dir=".") as folder:
        servers = {}
        try:
            servers["floor"] = floor(folder)
            servers["sealed"] = engine(folder, True)
            servers["clear"] = engine(folder, False)
            for server in servers.values():
                load(*server)
            rounds = [{name: load(*server) for name, server in servers.items()}
                      for _ in range(ROUNDS)]
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()
    print(f"{'':8} {'messages/s':>10} {'of floor':>9} {'us of CPU':>10} {'of floor':>9}")
    for name in servers:
        figures = []
        for part in (0, 1):
            figures.append(statistics.median(r[name][part] for r in rounds))
            figures.append(statistics.median(r[name][part] / r["floor"][part] for r in rounds))
        print(f"{name:8} {figures[0]:10.0f} {figures[1]:9.2f} {figures[2]:10.0f} {figures[3]:9.2f}")


main()
