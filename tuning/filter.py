#!/usr/bin/env python3
"""Runs a command under the unit's filter of system calls, where no systemd runs the machine.

    tuning/filter.py COMMAND [ARGUMENT...]

Reads SystemCallFilter= of fsmtp-engine.service as systemd does, in order, and lets systemd-analyze
say what a group holds. A call that is not allowed ends the process (SIGSYS), which the unit does not
do: here it is to be seen. Memory that can be written and executed is refused as well, as by
MemoryDenyWriteExecute= (Linux 6.3). Needs systemd-analyze and libseccomp; fails where either is
missing, and never runs the command then.
"""

import ctypes
import os
import pathlib
import subprocess
import sys

KILL, ALLOW = 0x80000000, 0x7FFF0000
PR_SET_MDWE, REFUSE_GAIN = 65, 1


def members(name):
    """The calls of a group, or the call."""
    if not name.startswith("@"):
        return {name}
    asked = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    lines = (line.strip() for line in said.splitlines()[1:])
    return {call for line in lines if line and line[0] != "#" for call in members(line)}


def allowed(unit):
    calls = set()
    for line in unit.splitlines():
        key, _, value = line.partition("=")
        if key != "SystemCallFilter":
            continue
        named = {call for name in value.lstrip("~").split() for call in members(name)}
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    unit = pathlib.Path(__file__).with_name("fsmtp-engine.service").read_text()
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(KILL)))
    # What systemd's own start needs is in @system-service: execve.
    for call in allowed(unit):
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:  # the others are of other architectures
            seccomp.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0)
    if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_GAIN, 0, 0, 0) != 0:
        sys.exit("the kernel cannot refuse writable code")
    if seccomp.seccomp_load(context) != 0:
        sys.exit("the filter was not taken")
    os.execvp(sys.argv[1], sys.argv[1:])


main()
