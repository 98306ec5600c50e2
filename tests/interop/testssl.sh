#!/usr/bin/env bash
# testssl.sh against every encrypted port of an engine: fails at a finding of medium severity or
# worse, and at a scan that did not get to its end.
#
#   tests/interop/testssl.sh            all ports
#   tests/interop/testssl.sh 465 995    only these services
#
# The engine's certificate comes from an authority that is made here and that the scanner is told to
# trust, so that findings about trust, names and times are real ones too. A port takes a minute or
# two, which is why .ci/run does not call this. Needs bash, openssl, and Debian's testssl.sh;
# FSMTP_ENGINE names the engine, else it is built.
set -u
cd "$(dirname "$0")/../.." || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/fsmtp-testssl.XXXXXX") || exit 1
. tests/interop/engine.sh
finish() {
    engine_stop
    rm -rf "$work"
}
trap finish EXIT

# Findings that are allowed, by id; all of them warnings about the scanner's own openssl.
allowed=(
    engine_problem           # it has no engine for GOST
    sessionresumption_ticket # with OpenSSL 3 testssl.sh 3.0 cannot tell whether a session is resumed
    sessionresumption_ID     # the same
)
# Fewer lines than this mean that the scanner gave up; a whole scan of a port has 100 to 130.
findings_min=90

scanner=$(command -v testssl || command -v testssl.sh) || {
    echo "testssl.sh is not installed"
    exit 1
}
engine_path || exit 1

# An authority and a certificate that a scanner has nothing to say about. Nobody asks for the list of
# revocations that it names.
{
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
        -subj "/O=Interop/CN=Interop Authority" -keyout "$work/ca.key" -out "$work/ca.pem"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=localhost" -keyout "$work/mx.key" -out "$work/mx.csr"
    cat >"$work/mx.ext" <<EXTENSIONS
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
crlDistributionPoints = URI:http://localhost/none.crl
EXTENSIONS
    openssl x509 -req -in "$work/mx.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -days 90 \
        -set_serial "0x$(openssl rand -hex 15)" -extfile "$work/mx.ext" -out "$work/mx.pem"
} >"$work/openssl" 2>&1 || {
    cat "$work/openssl"
    exit 1
}
cat >"$work/fsmtp.toml" <<TOML
[[tls.certificate]]
chain = "$work/mx.pem"
key = "$work/mx.key"
TOML
engine_start --config "$work/fsmtp.toml" || exit 1

failed=0
scan() { # SERVICE [STARTTLS protocol]
    local report=$work/report.$1 began=$SECONDS starttls=()
    [ $# -eq 2 ] && starttls=(--starttls "$2")
    "$scanner" --quiet --warnings batch --color 0 --ip 127.0.0.1 --add-ca "$work/ca.pem" \
        --csvfile "$report" "${starttls[@]}" "localhost:$((base + $1))" </dev/null \
        >"$work/scan.$1" 2>&1
    local lines bad=0
    lines=$(wc -l <"$report")
    if [ "$lines" -lt "$findings_min" ]; then
        tail -n 20 "$work/scan.$1"
        echo "FAILED: service $1: the scan has $lines lines only"
        failed=1
        return
    fi
    # Columns in quotes: id, host, port, severity, finding, CVE, CWE. WARN: could not be tested.
    while IFS= read -r line; do
        local id=${line#\"}
        id=${id%%\"*}
        case " ${allowed[*]-} " in *" $id "*) continue ;; esac
        echo "FAILED: service $1: $line"
        bad=1
    done < <(grep -E '^"[^"]*","[^"]*","[^"]*","(WARN|MEDIUM|HIGH|CRITICAL|FATAL)"' "$report")
    [ "$bad" -eq 0 ] || failed=1
    printf 'service %s: %s findings, %s of them low, %s s\n' "$1" "$((lines - 1))" \
        "$(grep -cE '^"[^"]*","[^"]*","[^"]*","LOW"' "$report")" "$((SECONDS - began))"
    grep -E '^"[^"]*","[^"]*","[^"]*","LOW"' "$report" | sed 's/^/    low: /'
}

services=("$@")
[ ${#services[@]} -gt 0 ] || services=(25 587 465 110 995)
for service in "${services[@]}"; do
    case $service in
    25 | 587) scan "$service" smtp ;;
    110) scan "$service" pop3 ;;
    *) scan "$service" ;;
    esac
done
exit "$failed"
