"""A server in a world of its own: where it may write, what it spends, and its end.

Each runs in mount and process namespaces and in a control group that are its own. Packages that were
only unpacked lie over /usr and /etc there, users that only it has stand in its /etc/passwd, and
nothing of that is seen outside or outlives it. Its CPU is that of the group, ended processes included.

Called by run.py; servers.py says what is in it. Needs root, cgroup2 and overlayfs, else it says so.
tests/interop/peers.py, which measures nothing, calls it without a control group.
"""
import os, shutil, signal, socket, subprocess, sys, threading, time

FIRST_UID = 64500  # arbitrary, above what Debian gives out by itself
MOUNTED = ("/var/spool", "/var/lib", "/var/log", "/var/mail")  # get a tmpfs each when something lies below them
REST_US = 2_000  # a server that spends less in a second has come to rest
REST_SECONDS = 20  # and one that does not rest for so long is measured all the same


class Failed(Exception):
    """A server that does not start or does not do what it is asked; says why."""


class Group:
    """A control group: CPU time in microseconds, anonymous memory in bytes."""

    def __init__(self, name):
        self.folders, self.stat = [], None
        for line in open("/proc/mounts"):
            _, folder, kind, options = line.split()[:4]
            path = os.path.join(folder, name)
            if kind == "cgroup2" or kind == "cgroup" and "memory" in options.split(","):
                os.mkdir(path)
                self.folders.append(path)
            if kind == "cgroup2":
                self.own = path
            # The memory controller belongs to one of the two.
            if path in self.folders and os.path.exists(f"{path}/memory.stat"):
                self.stat = f"{path}/memory.stat"
        if not hasattr(self, "own"):
            sys.exit("no cgroup2 is mounted")
        self.peak, self.sampling = 0, None

    def join(self):
        """Puts the process that calls it into the group."""
        for folder in self.folders:
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write("0")

    def cpu(self):
        return field(f"{self.own}/cpu.stat", "usage_usec")

    def cpu_at_rest(self):
        """CPU once what goes on behind the last reply is done."""
        before, until = -REST_US, time.monotonic() + REST_SECONDS
        while (now := self.cpu()) - before >= REST_US and time.monotonic() < until:
            before = now
            time.sleep(1.2)  # the engine's index merges what has waited for a second
        return now

    def threads(self):
        with open(f"{self.own}/cgroup.threads") as file:
            return file.read().split()

    def memory(self):
        """Anonymous memory now, or None where no controller counts it."""
        if not self.stat:
            return None
        return field(self.stat, "rss" if "/memory/" in self.stat else "anon")

    def watch(self):
        """Samples memory five times a second until it is called again; returns the peak so far."""
        if self.sampling:
            self.sampling.set()
            self.sampling = None
            return self.peak or None
        self.peak, ended = self.memory() or 0, threading.Event()
        self.sampling = ended

        def sample():
            while self.stat and not ended.wait(0.2):
                self.peak = max(self.peak, self.memory())
        threading.Thread(target=sample, daemon=True).start()

    def remove(self):
        until = time.monotonic() + 20
        while self.threads() and time.monotonic() < until:
            time.sleep(0.05)
        for folder in self.folders:
            os.rmdir(folder)


def field(path, name):
    with open(path) as file:
        return int(next(line.split()[1] for line in file if line.split()[0] == name))


def kernel_threads(before=None):
    """CPU time of the kernel's own threads, which no group is charged with: microseconds of each, by
    its number; or how much they have spent since `before`."""
    spent = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
            if parent == "2":
                with open(f"/proc/{pid}/schedstat") as file:
                    spent[pid] = int(file.read().split()[0]) / 1000
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended; what it spent since it was looked at is not known
    if before is None:
        return spent
    return sum(us - before.get(pid, 0) for pid, us in spent.items())


class Sandbox:
    """What a server finds when it starts, and the server while it runs."""

    def __init__(self, work, group, port):
        self.work, self.group, self.port = work, group, port
        self.over = {"usr": [], "etc": [f"{work}/etc"]}
        self.users, self.binds, self.process = {}, {}, None
        os.makedirs(f"{work}/etc")
        # No server looks names up: what it could ask for stands in its own hosts.
        self.file("/etc/hosts", "".join(f"127.0.0.{n} host{n}.test\n" for n in range(2, 17))
                  + "127.0.0.1 localhost mx.example.test\n")
        self.file("/etc/resolv.conf", "lookup file bind\nnameserver 127.0.0.1\n"
                  "options timeout:1 attempts:1\n")
        self.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")

    def package(self, root):
        for name, layers in self.over.items():
            if os.path.isdir(f"{root}/{name}"):
                layers.append(f"{root}/{name}")

    def file(self, path, text, mode=0o644):
        """A file below /etc, or in the working folder by a name without `/` in front."""
        path = self.work + path if path.startswith("/etc/") else self.path(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def path(self, name):
        return os.path.join(self.work, name)

    def user(self, *names, home="/nonexistent"):
        for name in names:
            self.users.setdefault(name, (FIRST_UID + len(self.users), home))

    def folder(self, path, user="root", mode=0o755):
        """A folder on the disk that is measured, found by the server at `path`."""
        here = self.path("disk" + path)
        os.makedirs(here)
        os.chmod(here, mode)
        if user != "root":
            os.chown(here, self.users[user][0], self.users[user][0])
        self.binds[path] = here
        return here

    def start(self, command, env=None):
        passwd, group = open("/etc/passwd").read(), open("/etc/group").read()
        for name, (uid, home) in self.users.items():
            passwd += f"{name}:x:{uid}:{uid}::{home}:/bin/false\n"
            group += f"{name}:x:{uid}:\n"
        self.file("/etc/passwd", passwd)
        self.file("/etc/group", group)
        script = ["set -e", "mount --make-rprivate /", "mount -t proc proc /proc"]
        for name, layers in self.over.items():
            if layers:
                lower = ":".join(layers + [f"/{name}"])
                script.append(f"mount -t overlay overlay -o lowerdir={lower} /{name}")
        script.append("mount -t tmpfs tmpfs /run")
        for parent in MOUNTED:
            if any(path.startswith(parent + "/") for path in self.binds):
                script.append(f"mount -t tmpfs tmpfs {parent}")
        for path, here in self.binds.items():
            script.append(f"mkdir -p {path}; mount --bind {here} {path}")
        # The shell stays: as the first process of its namespace it buries the orphans of others.
        script += ["ulimit -n $(ulimit -Hn)", f"cd {self.work}", '"$@" & wait']
        enter = self.file("enter.sh", "\n".join(script) + "\n")
        world = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
        log = open(self.path("log"), "wb")
        self.process = subprocess.Popen(
            world + ["--kill-child", "sh", enter] + command, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, preexec_fn=self.group.join, env={**os.environ, **(env or {})})
        self.wait()

    def wait(self):
        """Until it greets on its port."""
        until = time.monotonic() + 30
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 10) as conn:
                    if conn.recv(3) == b"220":
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failed(f"does not get ready: {self.tail()}")

    def tail(self):
        with open(self.path("log"), errors="replace") as file:
            return " / ".join(line.strip() for line in file.readlines()[-3:])

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.group.remove()
        shutil.rmtree(self.work, ignore_errors=True)
