"""How often a server has something put on stable storage, counted by the kernel.

ext4 enters one function for fsync, fdatasync and msync and for each write to a file that was opened
with O_DSYNC, whoever asks for it and by whatever system call, the ring included; its tracepoint is
what is counted. Two instances of tracefs: one follows the server's threads and their children; the
other sees everybody, for a direct write is finished by a thread of the kernel, and of these only what
concerns a file of the server's folder counts.

Called by run.py, outside of what is measured: tracing costs time. Without tracefs or with another
file system, `start` says why there are no counts.
"""
import os, re, subprocess

TRACING = "/sys/kernel/tracing"
EVENT = "events/ext4/ext4_sync_file_enter/enable"
LINE = re.compile(r"-(\d+)\s+\[\d+\].*?(\d+\.\d+): ext4_sync_file_enter: .*\bino (\d+)")
BUFFER_KB = 8192  # for each core; an event takes some 60 bytes, so 100,000 of them fit


class Syncs:
    def __init__(self, folder):
        """`folder` is where the servers write."""
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout
        self.why = None if "ext" in kind else f"{folder} is not on ext4"
        if not self.why and not os.path.exists(f"{TRACING}/instances"):
            # Seen by this script only: it has a mount namespace of its own.
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], capture_output=True)
            if not os.path.exists(f"{TRACING}/{EVENT}"):
                self.why = "the kernel lets nobody trace"
        self.instances = []

    def start(self, threads):
        """Begins to count for these threads."""
        for name in ("server", "all"):
            instance = f"{TRACING}/instances/fsmtp-{os.getpid()}-{name}"
            os.mkdir(instance)
            self.instances.append(instance)
            write(f"{instance}/buffer_size_kb", BUFFER_KB)
            write(f"{instance}/trace_clock", "mono")  # what time.monotonic() reads
            if name == "server":
                write(f"{instance}/options/event-fork", 1)
                write(f"{instance}/set_event_pid", " ".join(threads))
            write(f"{instance}/{EVENT}", 1)

    def stop(self, folder):
        """When each sync began since `start`, in seconds; `folder` is the server's."""
        seen = []
        for instance in self.instances:
            write(f"{instance}/{EVENT}", 0)
            with open(f"{instance}/trace", errors="replace") as file:
                seen.append([match.groups() for match in map(LINE.search, file) if match])
        self.remove()
        own, everybody = seen
        threads = {thread for thread, _, _ in own}
        files = inodes(folder)
        others = [event for event in everybody if event[0] not in threads and event[2] in files]
        return sorted(float(time) for _, time, _ in own + others)

    def remove(self):
        while self.instances:
            os.rmdir(self.instances.pop())


def write(path, value):
    with open(path, "w") as file:
        file.write(f"{value}\n")


def inodes(folder):
    return {str(os.lstat(os.path.join(at, name)).st_ino)
            for at, _, names in os.walk(folder) for name in names}
