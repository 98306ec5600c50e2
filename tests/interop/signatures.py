"""What tests/interop/dkim.sh signs, and dkimpy's opinion of what came out.

    signatures.py samples FOLDER          writes messages of many shapes
    signatures.py verify KEYS FILE...     every signature of each must verify, and none after a change;
                                    prints how many verified. KEYS: a record's name and value a line
"""

import sys

HEAD = b"From: Al <al@sender.test>\r\nTo: b@example.test\r\nSubject: %s\r\n"


def samples():
    """Names and messages, the ends of lines as they are sent."""
    yield "plain", HEAD % b"plain" + b"\r\nHi.\r\n\r\nBye.\r\n"
    yield "no-body", HEAD % b"no body" + b"\r\n"
    yield "no-empty-line", HEAD % b"no empty line"
    yield "newlines-only", HEAD % b"newlines" + b"\r\n" + b"\r\n" * 7
    yield "newlines-first", HEAD % b"newlines" + b"\r\n" + b"\r\n" * 3 + b"text\r\n"
    yield "newlines-last", HEAD % b"newlines" + b"\r\ntext\r\n" + b"\r\n" * 5000
    yield "no-last-newline", HEAD % b"unended" + b"\r\nHi.\r\nBye."
    yield "spaces-only", HEAD % b"spaces" + b"\r\n  \r\n \t \r\n\t\r\n"
    yield "spaces-at-ends", HEAD % b"spaces" + b"\r\n a \r\n\tb\t\r\nc  d \t e\r\n  \r\nf \r\n \r\n"
    yield "tabs", HEAD % b"tabs" + b"\r\n" + b"int\tmain(void)\t{\r\n\t\treturn 0;\r\n\t}\r\n" * 3000
    yield "dots", HEAD % b"dots" + b"\r\n.\r\n..\r\n...\r\n.x\r\n"
    yield "from-lines", HEAD % b"from" + b"\r\nFrom here on\r\n>From there\r\n"
    yield "looks-like-header", HEAD % b"twice" + b"\r\nFrom: x@y.test\r\nSubject: z\r\n\r\n"
    yield "long-lines", HEAD % b"long" + b"\r\n" + b"y" * 996 + b"\r\n" + b"z " * 4000 + b"\r\n"
    yield "utf-8", HEAD % "gr\u00fc\u00dfe \U0001f4ee".encode() + "\r\ngr\u00fc\u00dfe\r\n".encode()
    yield "latin-1", HEAD % b"eight bits" + b"\r\n" + bytes(range(128, 256)) + b"\r\n"
    yield "odd-letters", HEAD % b"odd" + b"\r\n\x01\x0b\x0c \x7f;=:\r\n"
    yield "nul", HEAD % b"nul" + b"\r\na\x00 b\r\n"
    yield "empty-subject", HEAD % b"" + b"\r\nHi.\r\n"
    yield "folded", (
        b"From: Al\r\n <al@sender.test>\r\nTo: b@example.test,\r\n\tc@example.test,\r\n"
        b"   d@example.test\r\nSubject: \t folded\r\n \t more   than \t once\t\r\n  and on\r\n"
        b"X-Other: a\r\n b\r\n\r\nHi.\r\n"
    )
    yield "odd-spacing", b"FROM:al@sender.test\r\nsubject:   x   \r\nTo:\tb@example.test\t\r\n\r\nHi.\r\n"
    yield "duplicates", (
        b"Received: from a\r\nReceived: from b\r\nFrom: al@sender.test\r\nSubject: one\r\n"
        b"To: one@example.test\r\nSubject: two\r\nTo: two@example.test\r\nX: 1\r\nX: 2\r\n"
        b"Resent-To: a@example.test\r\nResent-To: b@example.test\r\nCc: c@example.test\r\n\r\nHi.\r\n"
    )
    yield "every-field", b"".join(
        b"%s: value %d\r\n" % (name, number)
        for number, name in enumerate(
            b"Sender Reply-To Date Message-ID Cc MIME-Version Content-Type Content-ID References "
            b"Content-Transfer-Encoding Content-Description In-Reply-To Resent-Date Resent-From "
            b"List-Id List-Unsubscribe List-Unsubscribe-Post List-Archive Autocrypt".split()
        )
    ) + HEAD % b"all" + b"\r\nHi.\r\n"
    yield "many-fields", HEAD % b"many" + b"Cc: x@example.test\r\n" * 300 + b"\r\nHi.\r\n"
    yield "long-header", HEAD % b"long" + b"References:" + b" <0123456789@example.test>\r\n" * 500 + b"\r\n"
    yield "signed-before", b"DKIM-Signature: v=1; a=rsa-sha256; d=x.test; s=y; h=from; bh=; b=\r\n" + (
        HEAD % b"signed" + b"\r\nHi.\r\n"
    )
    yield "empty-from", b"From:\r\nTo: b@example.test\r\nSubject: nobody\r\n\r\nHi.\r\n"
    yield "large", HEAD % b"large" + b"\r\n" + b"A line that comes again  and again. \r\n" * 50_000


def changes(message):
    """The message with something in it that no signature may bear."""
    head, _, body = message.partition(b"\r\n\r\n")
    yield "a line more", message.rstrip(b"\r\n \t") + b"\r\n\r\nmore\r\n"
    for field in [b"From: x@y.test", b"Subject: other", b"To: x@y.test", b"Cc: x@y.test"]:
        yield field.decode(), head + b"\r\n" + field + b"\r\n\r\n" + body
        yield field.decode() + " in front", field + b"\r\n" + message


def verify(keys, paths):
    import dkim

    def record(name, timeout=5):
        return keys.get(name.rstrip(b"."))

    def good(message):
        try:
            return dkim.DKIM(message).verify(dnsfunc=record)
        except dkim.DKIMException:
            return False

    verified = 0
    for path in paths:
        with open(path, "rb") as file:
            message = file.read()
        name = path.rsplit("/", 1)[-1]
        if not good(message):
            sys.exit(f"does not verify: {name}")
        verified += 1
        for what, changed in changes(message):
            if good(changed):
                sys.exit(f"verifies although changed ({what}): {name}")
    print(verified)


def main():
    match sys.argv[1:]:
        case ["samples", folder]:
            for name, message in samples():
                with open(f"{folder}/{name}", "wb") as file:
                    file.write(message)
        case ["verify", keys, *paths]:
            with open(keys, "rb") as file:
                records = dict(line.rstrip(b"\n").split(b" ", 1) for line in file)
            verify(records, paths)
        case _:
            sys.exit(__doc__)


main()
