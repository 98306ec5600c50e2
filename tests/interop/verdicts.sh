#!/usr/bin/env bash
# Public suites of test cases against `fsmtp-engine check`: a name server on loopback answers as
# each case says, and the verdict must be the one that the suite accepts.
#
#   SPF    the suite of RFC 7208, as far as it lies beside the repository
#   ARC    the validation suite of its draft
#   DKIM   messages of two other verifiers' suites, and those that the RFCs print
#
# The suites are other people's and no part of this repository; where they are not there, that is
# said and nothing fails. Needs python3 with dnslib and yaml; FSMTP_ENGINE names the engine, else it
# is built. Exit status 1 when a verdict is another.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/interop/engine.sh

suites=../shared/vectors
if [ ! -e "$suites/authkit.py" ]; then
    echo "skipped: the suites are not there"
    exit 0
fi
if ! /usr/bin/python3 -c 'import dnslib, yaml' >&2; then
    echo "skipped: python3 has no dnslib or no yaml"
    exit 0
fi
engine_path || exit 1
failed=0
suite() { # KIND DATA ARGUMENTS
    local said status
    for _ in 1 2 3; do
        said=$(/usr/bin/python3 "$suites/authkit.py" "$1" --data "$suites/$2" \
            --cmd "$engine check $1 --dns 127.0.0.1:{port} $3" 2>&1)
        status=$?
        # Its name server takes a port that is free for UDP, and somebody may have it for TCP.
        case $said in *"Address already in use"*) ;; *) break ;; esac
    done
    printf '%s:\n%s\n' "$1" "$said"
    [ "$status" -eq 0 ] || failed=1
}
suite spf spf-rfc7208/rfc7208-part.yml '--ip {ip} --helo {helo} --mail-from {mailfrom}'
suite dkim dkim-manifest.json '{file}'
suite arc arc-valimail/arc-draft-validation-part.yml '{file}'
exit "$failed"
