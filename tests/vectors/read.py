"""Prints what the `email` package reads in each message of a folder; tests compare the output."""

import email.policy
import hashlib
import pathlib
import sys


def show(part, depth):
    pad = "  " * depth
    content_type = part.get_content_type()
    print(f"{pad}{content_type} {part.get_filename() or ''}".rstrip())
    if part.defects:
        print(f"{pad}  defects: {part.defects}")
    if content_type in ("message/delivery-status", "message/global-delivery-status"):
        for group in part.iter_parts() if part.is_multipart() else []:
            for name, value in group.items():
                print(f"{pad}  {name}: {value}")
    elif part.is_multipart():
        for inner in part.iter_parts():
            show(inner, depth + 1)
    else:
        content = part.get_payload(decode=True)
        print(f"{pad}  {len(content)} bytes {hashlib.sha256(content).hexdigest()[:16]}")


sys.stdout.reconfigure(encoding="utf-8")
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.eml")):
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    print(path.name)
    for name in ("Subject", "Date", "From", "To", "Cc", "Reply-To", "Auto-Submitted", "In-Reply-To"):
        if name in message:
            print(f"  {name}: {message[name]}")
    show(message, 1)
