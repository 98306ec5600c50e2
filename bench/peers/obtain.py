"""Gets the peers by the ordinary clients of Debian, npm, Go and PyPI, into a cache; installs nothing.

Called by servers.py, also for tests/interop/peers.py. A package that is in the cache is not asked for
again: remove the cache for newer ones. What cannot be had raises `Absent` with what the client said,
without addresses of hosts.
"""
import json, os, re, shutil, subprocess, sys

CACHE = None  # the folder; who imports this sets it
SECONDS = 900  # for one package, Go compiling included


class Absent(Exception):
    """A peer that cannot be had here; says why."""


def client(args, folder, **env):
    """Runs a package client; what it wrote on its output."""
    if not shutil.which(args[0]):
        raise Absent(f"{args[0]} is not installed")
    try:
        done = subprocess.run(args, cwd=folder, capture_output=True, text=True, timeout=SECONDS,
                              env={**os.environ, **env})
    except subprocess.TimeoutExpired:
        raise Absent(f"{args[0]} took more than {SECONDS} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if "warn" not in line]
        # Neither addresses of hosts nor paths of this machine.
        said = re.sub(r"\w+://\S+|\s/\S+|\s+", " ", " ".join(said)).strip()
        raise Absent(f"{args[0]}: {said[:160]}")
    return done.stdout


def cached(name, fill):
    """The folder of a package, filled by `fill` when it is not there whole."""
    folder = os.path.join(CACHE, name)
    if not os.path.exists(folder):
        partial = folder + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        print(f"getting {name}", file=sys.stderr, flush=True)
        fill(partial)
        os.rename(partial, folder)
    return folder


def debian(package):
    """A package and those it depends on that this machine lacks, unpacked; (folder, version)."""
    def fill(folder):
        os.makedirs(f"{folder}/packages/partial")
        client(["apt-get", "download", "-qq", package], f"{folder}/packages")
        quiet = ["-qq", "-y", "--no-install-recommends", "--download-only"]
        archives = ["-o", f"Dir::Cache::Archives={folder}/packages"]
        client(["apt-get", "install", *quiet, *archives, package], folder)
        for name in sorted(os.listdir(f"{folder}/packages")):
            if name.endswith(".deb"):
                client(["dpkg", "-x", f"packages/{name}", "."], folder)
            if name.startswith(f"{package}_"):
                version = client(["dpkg-deb", "-f", f"packages/{name}", "Version"], folder)
        for name in ("lib", "bin", "sbin"):  # the same as those below /usr
            if os.path.isdir(f"{folder}/{name}"):
                shutil.copytree(f"{folder}/{name}", f"{folder}/usr/{name}", dirs_exist_ok=True)
        with open(f"{folder}/version", "w") as file:
            file.write(version)
    folder = cached(f"debian-{package}", fill)
    return folder, open(f"{folder}/version").read().strip()


def npm(package, version):
    # Scripts would compile optional parts that nothing here uses.
    args = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]
    return cached(f"npm-{package}-{version}",
                  lambda folder: client(args + [f"{package}@{version}"], folder))


def go(module, version, command):
    """A program of a module, built from its folder `command`; its path."""
    def fill(folder):
        said = json.loads(client(["go", "mod", "download", "-json", f"{module}@{version}"], folder))
        # In a copy of its own, since replacements count in the main module only, and no list of all
        # versions is asked for, as `go install` would.
        source = shutil.copytree(said["Dir"], f"{folder}/source", copy_function=shutil.copyfile)
        for at, _, _ in os.walk(source):
            os.chmod(at, 0o755)  # copied from where nothing may be written
        client(["go", "build", "-o", "../program", f"./{command}"], source)
        shutil.rmtree(source)
    return os.path.join(cached(f"go-{os.path.basename(module)}-{version}", fill), "program")


def pypi(package, version):
    args = [sys.executable, "-m", "pip", "install", "--quiet", "--target", "."]
    return cached(f"pypi-{package}-{version}",
                  lambda folder: client(args + [f"{package}=={version}"], folder))
