#!/usr/bin/env python3
"""What sealing costs, side by side in one run: an engine that seals and one that does not.

    bench/sealing.py [ROUNDS]      5 unless it is said, 4 at least

Both run with --dev on two cores over folders of their own and take turns in each round:

    taking    4 KiB messages, one recipient, 100 mailboxes in turn (`loadgen send`)
    first     RETR of 1,000 messages of 4 KiB that nobody has read yet, each from a mailbox whose
              windows need RSA; sign-in and list not counted
    second    the same again

CPU time is that of the engine's threads, from /proc in nanoseconds, background work of the index
included: it is read once the engine has come to rest. Printed: medians, and the median of the ratios
of the rounds. FSMTP_ENGINE and LOADGEN name the programs, else they are built. Takes two minutes.
"""
import os, shutil, socket, statistics, subprocess, sys, tempfile, time

from common import DOMAIN, free_base, programs, start

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
MAILBOXES, MESSAGES, OCTETS, READ = 100, 20_000, 4096, 1000
PASSWORD = "secret"


class Engine:
    def __init__(self, work, name, sealing):
        self.name, self.folder, self.base = name, f"{work}/{name}", free_base()
        os.mkdir(self.folder)
        config = f"{work}/{name}.toml"
        with open(config, "w") as file:
            file.write(f"[store]\nsealing = {str(sealing).lower()}\n[log]\nlevel = \"warn\"\n")
        # Mail is deleted between the rounds by nobody: the folder grows, by 100 MB a round.
        args = [ENGINE, "--cores", "2", "--dev", "--ports", str(self.base), "--config", config]
        args += ["--data", self.folder]
        self.process = start(args)
        for n in range(MAILBOXES):
            add = [ENGINE, "adduser", f"u{n}@{DOMAIN}", "--data", self.folder, "--config", config]
            password = (PASSWORD + "\n").encode()
            done = subprocess.run(add + ["--password-stdin"], input=password, capture_output=True)
            if done.returncode:
                sys.exit(done.stderr.decode())

    def cpu(self):
        """Nanoseconds of all threads, once they rest."""
        before = -1
        while (now := self.cpu_now()) - before > 2_000_000:
            before = now
            time.sleep(1.3)  # the index merges what has waited for a second
        return now

    def cpu_now(self):
        task, sum = f"/proc/{self.process.pid}/task", 0
        for thread in os.listdir(task):
            with open(f"{task}/{thread}/schedstat") as file:
                sum += int(file.read().split()[0])
        return sum

    def shows(self, text):
        """Whether a file of the folder has `text` in it."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        if any(text in piece for piece in iter(lambda: file.read(1 << 24), b"")):
                            return True
        return False

    def take(self):
        before = self.cpu()
        send = [LOADGEN, "send", "--target", f"127.0.0.1:{self.base + 25}", "--rcpt"]
        send += [f"u{{}}@{DOMAIN}", "--mailboxes", str(MAILBOXES), "--size", str(OCTETS)]
        send += ["--messages", str(MESSAGES), "--connections", "32", "--pipelining", "off"]
        done = subprocess.run(send, capture_output=True, timeout=120)
        if done.returncode:
            sys.exit(done.stderr.decode())
        return (self.cpu() - before) / MESSAGES / 1e3

    def read(self, mailbox, first):
        """Fetches the messages from number `first` on; microseconds for each."""
        with socket.create_connection(("127.0.0.1", self.base + 110)) as conn:
            file = conn.makefile("rb")
            ask = lambda text: (conn.sendall(text), file.readline())[1]
            file.readline()
            for text in (f"USER u{mailbox}@{DOMAIN}\r\n", f"PASS {PASSWORD}\r\n", "STAT\r\n"):
                answer = ask(text.encode())
                if not answer.startswith(b"+OK"):
                    sys.exit(f"{self.name}: {answer}")
            count = int(answer.split()[1])
            if count < first + READ - 1:
                sys.exit(f"{self.name}: {count} messages only")
            before, size = self.cpu_now(), 0
            for number in range(first, first + READ):
                answer = ask(b"RETR %d\r\n" % number)
                if not answer.startswith(b"+OK"):
                    sys.exit(f"{self.name}: {answer}")
                while (line := file.readline()) != b".\r\n":
                    size += len(line)
            if size < READ * OCTETS:
                sys.exit(f"{self.name}: {size} bytes only")
            ask(b"QUIT\r\n")
            return (self.cpu_now() - before) / READ / 1e3

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def main():
    global ENGINE, LOADGEN
    # The warm-up is a round of sending, too.
    if (least := -(-READ * MAILBOXES // MESSAGES) - 1) > ROUNDS:
        sys.exit(f"to read {READ} messages takes {least} rounds of sending")
    ENGINE, LOADGEN = programs("fsmtp-engine", "loadgen")
    work = tempfile.mkdtemp(prefix="fsmtp-sealing.")
    engines = []
    try:
        for name, sealing in (("clear", False), ("sealed", True)):
            engines.append(Engine(work, name, sealing))
        figures = {(e.name, what): [] for e in engines for what in ("taking", "first", "second")}
        for engine in engines:
            engine.take()  # not counted: both are warm then
            if engine.shows(b"Subject: load") == (engine.name == "sealed"):
                sys.exit(f"{engine.name} is not what it says")
        for round in range(ROUNDS):
            for engine in engines if round % 2 else reversed(engines):
                figures[engine.name, "taking"].append(engine.take())
        # Sending gives each mailbox 200 messages a round; what is read is another mailbox each time.
        rounds = min(ROUNDS, MAILBOXES)
        for round in range(rounds):
            for engine in engines if round % 2 else reversed(engines):
                figures[engine.name, "first"].append(engine.read(round, 1))
                figures[engine.name, "second"].append(engine.read(round, 1))
        print(f"{ROUNDS} rounds; CPU of the engine in microseconds for each message, medians")
        print(f"{'':8} {'clear':>8} {'sealed':>8} {'ratio':>6}")
        for what in ("taking", "first", "second"):
            clear, sealed = figures["clear", what], figures["sealed", what]
            ratio = statistics.median(s / c for c, s in zip(clear, sealed))
            print(f"{what:8} {statistics.median(clear):8.1f} {statistics.median(sealed):8.1f} {ratio:6.2f}")
    finally:
        for engine in engines:
            engine.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
