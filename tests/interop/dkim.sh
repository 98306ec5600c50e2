#!/usr/bin/env bash
# Other people's verifiers against our signatures: messages of many shapes, signed by
# `fsmtp-engine dkim sign` with RSA and Ed25519 in all four canonical forms, must verify, and must
# not any more once something was changed.
#
#   dkimpy (Debian's python3-dkim, with python3-nacl for Ed25519): every signature, and the changes
#   OpenDKIM (Debian's opendkim, started for single messages only): RSA; Ed25519 if it was built in
#
# Keys are read from a file, no DNS is asked. A verifier that is not to be had is skipped, with a
# line that says so. Exit status 1 when anything fails. Needs bash, coreutils and python3;
# FSMTP_ENGINE names the engine, else it is built.
set -u
cd "$(dirname "$0")/../.." || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/fsmtp-dkim.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
. tests/interop/engine.sh
engine_path || exit 1

passed=0
failed=0
skipped=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED: $*"; }
skip() { skipped=$((skipped + 1)); echo "skipped: $*"; }

# ---- keys and messages --------------------------------------------------------------------------

: >"$work/keys"
for algorithm in rsa ed25519; do
    "$engine" --data "$work/data" dkim create "$algorithm.test" --algorithm "$algorithm" \
        --selector s1 --json >"$work/record" || exit 1
    python3 -c 'import json, sys
for key in json.load(sys.stdin): print(key["name"], key["value"])' <"$work/record" >>"$work/keys"
done
mkdir "$work/samples" "$work/signed"
python3 tests/interop/dkim.py samples "$work/samples" || exit 1
for sample in "$work"/samples/*; do
    for domain in rsa.test ed25519.test; do
        for form in {simple,relaxed}/{simple,relaxed}; do
            signed=$work/signed/$(basename "$sample").${form/\//-}.$domain
            "$engine" --data "$work/data" dkim sign "$sample" --domain "$domain" \
                --canonicalization "$form" >"$signed" ||
                fail "$(basename "$sample") is not signed"
        done
    done
done

# ---- verifiers ----------------------------------------------------------------------------------

# The python3 that comes first may be another than the one that Debian's packages belong to.
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import dkim, nacl' 2>"$work/import"; then
        python=$candidate
        break
    fi
done
if [ -n "$python" ]; then
    if "$python" tests/interop/dkim.py verify "$work/keys" "$work"/signed/* >"$work/dkimpy"; then
        passed=$((passed + $(tail -n 1 "$work/dkimpy")))
    else
        fail "dkimpy:"
        cat "$work/dkimpy"
    fi
else
    skip "dkimpy or PyNaCl is not installed"
fi
