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
python3 tests/interop/signatures.py samples "$work/samples" || exit 1
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
    if "$python" tests/interop/signatures.py verify "$work/keys" "$work"/signed/* >"$work/dkimpy"; then
        passed=$((passed + $(tail -n 1 "$work/dkimpy")))
    else
        fail "dkimpy:"
        cat "$work/dkimpy"
    fi
else
    skip "dkimpy or PyNaCl is not installed"
fi

# OpenDKIM's filter reads single messages with -t; installed, or unpacked with what it needs from
# Debian's packages, so that no service is set up.
opendkim=$(PATH=$PATH:/usr/sbin command -v opendkim || true)
libraries=
lacking() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances opendkim 2>"$work/depends" | grep '^lib' | sort -u |
        while read -r package; do
            dpkg -s "$package" >"$work/status" 2>&1 || echo "$package"
        done
}
if [ -z "$opendkim" ] && command -v apt-get >"$work/have" && command -v dpkg >"$work/have"; then
    mkdir "$work/package"
    (
        cd "$work/package" || exit
        apt-get download -qq opendkim >log 2>&1
        # shellcheck disable=SC2046 # words of their own
        apt-get download -qq $(lacking) >>log 2>&1
        for package in *.deb; do dpkg -x "$package" . >>log 2>&1; done
    )
    opendkim=$work/package/usr/sbin/opendkim
    libraries=$(find "$work/package" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
fi
printf 'Mode v\nTestPublicKeys %s/keys\n' "$work" >"$work/opendkim.conf"
with_opendkim() { # FILE: what it found is in $work/opendkim
    LD_LIBRARY_PATH=$libraries "$opendkim" -x "$work/opendkim.conf" -t "$1" -vv \
        >"$work/opendkim" 2>&1
}
if [ -x "$opendkim" ] && LD_LIBRARY_PATH=$libraries "$opendkim" -V >"$work/version" 2>&1; then
    known=rsa
    if grep -q ed25519-sha256 "$work/version"; then
        known='rsa ed25519'
    else
        skip "this OpenDKIM does not know Ed25519"
    fi
    for domain in $known; do
        for signed in "$work"/signed/*."$domain.test"; do
            # dkimpy verifies these. OpenDKIM wants an address in From, ends a body at a NUL, does not
            # verify a relaxed body whose last line has no end, and with -t it drops white space
            # behind colons.
            case $(basename "$signed") in
                empty-from.* | nul.* | no-last-newline.*-relaxed.*) continue ;;
                folded.simple-* | odd-spacing.simple-*) continue ;;
            esac
            if with_opendkim "$signed" && grep -q "dkim=pass .*header.d=$domain.test" "$work/opendkim"; then
                pass
            else
                fail "OpenDKIM does not verify $(basename "$signed"): $(grep dkim= "$work/opendkim")"
            fi
        done
        # It can say no, too.
        { cat "$work/signed/plain.relaxed-relaxed.$domain.test"; printf 'more\r\n'; } >"$work/changed"
        with_opendkim "$work/changed"
        if grep -q 'dkim=fail' "$work/opendkim"; then pass; else fail "OpenDKIM verifies a changed message"; fi
    done
else
    skip "OpenDKIM is not to be had: $(tail -n 1 "$work/version" 2>&1)"
fi

if [ "$passed" -eq 0 ] && [ "$skipped" -lt 2 ]; then fail "nothing was verified"; fi
echo "$passed verified, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
