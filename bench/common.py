"""What the scripts of this folder share: the programs, free ports, an engine that is ready.

FSMTP_BIN names a folder of built programs; FSMTP_ENGINE and LOADGEN name single ones. What none of
them names is built with `--release`. Whatever goes wrong ends the script with a sentence.
"""
import os, socket, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DOMAIN = "example.test"
# Offsets from a base of what `--dev` listens on.
SERVICES = (25, 110, 465, 587, 995)
VARIABLES = {"fsmtp-engine": "FSMTP_ENGINE", "loadgen": "LOADGEN"}


def programs(*names):
    """Absolute paths of built programs, in the order of their names."""
    folder = os.environ.get("FSMTP_BIN")
    paths = {name: os.environ.get(VARIABLES.get(name, "")) for name in names}
    if not folder and not all(paths.values()):
        build = ["cargo", "build", "--quiet", "--locked", "--release"]
        packages = {name if name in VARIABLES else "bench" for name in names}
        build += [word for package in sorted(packages) for word in ("--package", package)]
        subprocess.run(build, check=True, cwd=ROOT)
        folder = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release")
    return [os.path.abspath(paths[name] or os.path.join(folder, name)) for name in names]


def free_base(offsets=SERVICES):
    """A number from which on the ports at these offsets are free on loopback."""
    # An arbitrary range below the ports that the system gives out by itself.
    for base in range(12000 + os.getpid() % 8000, 30000, 7):
        try:
            for offset in offsets:
                with socket.socket() as s:
                    s.bind(("127.0.0.1", base + offset))
            return base
        except OSError:
            continue
    sys.exit("no free ports")


def start(args):
    """A program that says `ready` on its output when it is; whoever asked for it ends it."""
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if line.startswith(b"ready"):
            return process
    sys.exit(f"{args[0]} did not get ready")
