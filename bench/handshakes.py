#!/usr/bin/env python3
"""What a full TLS 1.3 handshake costs the engine, beside rustls alone, side by side in one run.

    bench/handshakes.py [ROUNDS]      7 unless it is said

In each round in turn, once with X25519 and once with X25519MLKEM768:

    engine    STARTTLS at an engine that runs with --dev on two cores, and the same dialogue in clear
    floor     the same at `bench --bin tls_floor`: rustls, blocking sockets, canned replies
    memory    `bench --bin handshake`: rustls's calls, client and server in memory, on both cores

Each with 8 and with 64 connections at the same time. CPU time is that of the server's threads, from
/proc in nanoseconds. Printed: medians in microseconds for a connection, and medians of the ratios of
the rounds. FSMTP_BIN names the folder of the programs, else they are built. Takes eight minutes.
"""
import re, statistics, subprocess, sys, tempfile

from common import free_base, programs, start

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
GROUPS = {"x25519": "X25519", "x25519mlkem768": "X25519MLKEM768"}


def ask(loadgen, process, port, group, connections):
    address = f"127.0.0.1:{port}"
    args = [loadgen, "handshakes", "--tls", "starttls", "--group", group, "--rounds", "1"]
    args += ["--connections", str(connections), "--count", "1500"]
    args += ["--target", address, "--clear", address, "--pid", str(process.pid)]
    said = subprocess.run(args, check=True, capture_output=True, text=True).stdout
    return {name: float(re.search(rf"^{name} ([\d.]+)", said, re.M)[1])
            for name in ("server_cpu", "server_cpu_clear", "server_cpu_of_tls")}


def in_memory(handshake, group):
    said = subprocess.run([handshake, GROUPS[group]], check=True, capture_output=True, text=True).stdout
    return float(re.findall(rf"^{GROUPS[group]} .*median +([\d.]+)", said, re.M)[-1])


def main():
    engine, loadgen, handshake, floor = programs("fsmtp-engine", "loadgen", "handshake", "tls_floor")
    base = free_base()
    with tempfile.TemporaryDirectory() as folder:
        args = [engine, "--cores", "2", "--dev", "--ports", str(base), "--data", folder]
        both = {"engine": (start(args), base + 25), "floor": (start([floor, str(base)]), base)}
        try:
            measure(loadgen, handshake, both)
        finally:
            for process, _ in both.values():
                process.terminate()
                process.wait()


def measure(loadgen, handshake, both):
    for group in GROUPS:
        for connections in (8, 64):
            rounds = []
            for _ in range(ROUNDS):
                round = {who: ask(loadgen, *at, group, connections) for who, at in both.items()}
                round["memory"] = in_memory(handshake, group)
                rounds.append(round)
            median = lambda figure: statistics.median(figure(round) for round in rounds)
            print(f"{group}, {connections} connections at a time")
            for who in both:
                of = lambda name: median(lambda round: round[who][name])
                print(f"  {who:<6} connection {of('server_cpu'):.0f}, in clear "
                      f"{of('server_cpu_clear'):.0f}, TLS {of('server_cpu_of_tls'):.0f}")
            print(f"  memory handshake {median(lambda round: round['memory']):.0f}")
            tls = lambda round, who: round[who]["server_cpu_of_tls"]
            whole = lambda round, who: round[who]["server_cpu"]
            print(f"  engine to floor: connection "
                  f"{median(lambda r: whole(r, 'engine') / whole(r, 'floor')):.2f}, TLS "
                  f"{median(lambda r: tls(r, 'engine') / tls(r, 'floor')):.2f}; TLS to memory: engine "
                  f"{median(lambda r: tls(r, 'engine') / r['memory']):.2f}, floor "
                  f"{median(lambda r: tls(r, 'floor') / r['memory']):.2f}", flush=True)


main()
