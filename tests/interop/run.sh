#!/usr/bin/env bash
# Other people's clients against the engine: each sends every sample, each fetches everything, and
# what comes back must be what went in, byte for byte, behind the engine's own trace headers.
#
#   senders   swaks, curl, Python's smtplib, Postfix's smtp-source; curl and smtplib also sign in to
#             submission, over TLS from the first byte and over STARTTLS; msmtp, mutt and openssl's
#             s_client do both
#   fetchers  curl, Python's poplib, each also over TLS and STLS; s_client, mpop and mutt over both;
#             getmail over TLS; fetchmail
#
# A client that is not installed is skipped, with a line that says so. Exit status 1 when anything
# differs. Needs bash and coreutils; FSMTP_ENGINE names the engine, else it is built.
set -u
cd "$(dirname "$0")/../.." || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/fsmtp-interop.XXXXXX") || exit 1
engine_pid=
. tests/interop/engine.sh
stop() {
    engine_stop
    rm -rf "$work"
}
trap stop EXIT

user=demo@example.test
password=demo
passed=0
failed=0
skipped=0
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED: $*"; }
skip() { skipped=$((skipped + 1)); echo "skipped: $*"; }
have() { command -v "$1" >"$work/have" 2>&1; }

# ---- the engine ---------------------------------------------------------------------------------

engine_path || exit 1
engine_start || exit 1
smtp=$((base + 25))
pop=$((base + 110))

# ---- the samples --------------------------------------------------------------------------------

mkdir "$work/samples"
sample() { # NAME: standard input, with LF, becomes a sample with CRLF
    sed 's/$/\r/' >"$work/samples/$1"
}
# All that a submitted message must have, so that nothing is added to it.
header() {
    printf 'Date: Sun, 22 Nov 2026 10:00:00 +0000\nMessage-ID: <%s@client.test>\n' "$1"
    printf 'From: <%s>\nTo: <%s>\nSubject: %s\n\n' "$user" "$user" "$1"
}
{ header plain; printf 'One line.\n\nAnother.\n'; } | sample 1-plain
{ header dots; printf '.\n..\n...\n.x\n..x\nx.\n\n.\n'; } | sample 2-dots
{ header long; head -c 996 /dev/zero | tr '\0' y; echo; head -c 500 /dev/zero | tr '\0' z; echo; } |
    sample 3-long
{ header utf8; printf 'gr\303\274\303\237e, \344\275\240\345\245\275, \360\237\223\256\n'; } | sample 4-eight-bits
{ header latin1; printf 'gr\374\337e\n'; } | sample 5-latin1
{ header ends; printf 'ends in empty lines\n\n\n\n'; } | sample 6-empty-lines
{ header large; for n in $(seq 20000); do printf '%08d the same line again and again\n' "$n"; done; } |
    sample 7-large

# ---- sending ------------------------------------------------------------------------------------

with_swaks() {
    # Left to itself it takes a dot off the end and adds an empty line; so it is given the wire form,
    # less the last line's end, which it adds.
    { sed 's/^\./../' "$1"; printf .; } >"$work/wire"
    swaks --server 127.0.0.1 --port "$smtp" --helo client.test --from a@sender.test --to "$user" \
        --data "@$work/wire" --no-data-fixup --hide-all
}
with_curl() {
    curl --silent --show-error --url "smtp://127.0.0.1:$smtp/client.test" \
        --mail-from a@sender.test --mail-rcpt "$user" --upload-file "$1"
}
with_smtplib() {
    python3 - "$smtp" "$user" "$1" <<'PYTHON'
import smtplib, sys
port, user, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test") as s:
    s.sendmail("a@sender.test", [user], open(path, "rb").read())
PYTHON
}
with_curl_tls() {
    curl --silent --show-error --insecure --url "smtps://127.0.0.1:$((base + 465))/client.test" \
        --user "$user:$password" --mail-from "$user" --mail-rcpt "$user" --upload-file "$1"
}
with_smtplib_tls() {
    python3 - "$((base + 587))" "$user" "$password" "$1" <<'PYTHON'
import smtplib, ssl, sys
port, user, password, path = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test") as s:
    s.starttls(context=context)
    s.login(user, password)
    s.sendmail(user, [user], open(path, "rb").read())
PYTHON
}
with_msmtp() { # FILE SERVICE on|off, the latter for STARTTLS. It ends lines by itself.
    tr -d '\r' <"$1" | msmtp --file= --host=127.0.0.1 --port="$((base + $2))" --domain=client.test \
        --auth=plain --user="$user" --passwordeval="echo $password" --from="$user" \
        --tls=on --tls-starttls="$3" --tls-certcheck=off \
        --set-from-header=off --set-date-header=off --set-msgid-header=off "$user"
}
with_msmtp_starttls() { with_msmtp "$1" 587 on; }
with_msmtp_tls() { with_msmtp "$1" 465 off; }

# Mutt wants a terminal, and is given one; keys are pushed. Its bouncing sends a message as it is,
# behind headers that begin with Resent-.
# mutt's SASL library takes SCRAM-SHA-256-PLUS where that is offered, without being able to bind to
# the channel, and then gives up; so it is told what to use.
mutt_rc() { # More settings, one a line: writes $work/muttrc
    cat >"$work/muttrc" <<RC
set certificate_file=$work/data/tls/cert.pem
set ssl_verify_host=no
set ssl_force_tls=yes
set folder=$work mbox_type=Maildir confirmappend=no copy=no header_cache="" message_cachedir=""
set smtp_authenticators=plain pop_authenticators=user
set hostname=client.test from=$user envelope_from_address=$user use_from=yes
set bounce=yes quit=yes delete=yes pop_delete=no sleep_time=0 wait_key=no timeout=1
$1
RC
}
with_keys() { # FOLDER KEYS: runs mutt
    TERM=xterm timeout 20 script --quiet --return --command \
        "mutt -F '$work/muttrc' -f '$1' -e 'push $2'" "$work/terminal" </dev/null >"$work/mutt" 2>&1
}
with_mutt() { # FILE URL
    rm -rf "$work/bounce"
    mkdir -p "$work/bounce/cur" "$work/bounce/new" "$work/bounce/tmp"
    tr -d '\r' <"$1" >"$work/bounce/new/1.client"
    mutt_rc "set smtp_url=$2"
    with_keys "$work/bounce" "<bounce-message>$user<enter><exit>"
}
with_mutt_starttls() { with_mutt "$1" "smtp://$user:$password@localhost:$((base + 587))/"; }
with_mutt_tls() { with_mutt "$1" "smtps://$user:$password@localhost:$((base + 465))/"; }

# One conversation through s_client: each step is a line that is sent, once the line before it was
# answered with the code that is due.
s_client() { # ARGUMENTS: then $to and $from are its ends
    coproc CLIENT { openssl s_client -quiet -verify_quiet "$@" 2>"$work/s_client"; }
    to=${CLIENT[1]} from=${CLIENT[0]} client_pid=$CLIENT_PID
}
due() { # CODE: reads replies up to the last line of the one with this code
    local line
    while read -r -t 20 line <&"$from"; do
        case $line in "$1 "*) return 0 ;; [45]??[\ -]* | -ERR*) break ;; esac
    done
    echo "not $1 but $line"
    return 1
}
with_s_client() { # FILE ARGUMENTS
    local file=$1 to from client_pid plain
    shift
    plain=$(printf '\0%s\0%s' "$user" "$password" | base64)
    s_client "$@"
    {
        if [ "$1" != -starttls ]; then due 220; fi &&
            printf 'EHLO client.test\r\n' >&"$to" && due 250 &&
            printf 'AUTH PLAIN %s\r\n' "$plain" >&"$to" && due 235 &&
            printf 'MAIL FROM:<%s>\r\n' "$user" >&"$to" && due 250 &&
            printf 'RCPT TO:<%s>\r\n' "$user" >&"$to" && due 250 &&
            printf 'DATA\r\n' >&"$to" && due 354 &&
            { sed 's/^\./../' "$file" && printf '.\r\n'; } >&"$to" && due 250 &&
            printf 'QUIT\r\n' >&"$to" && due 221
    } || {
        kill "$client_pid" 2>"$work/kill"
        return 1
    }
    wait "$client_pid" 2>"$work/wait"
    return 0
}
with_s_client_starttls() {
    with_s_client "$1" -starttls smtp -name client.test -connect "127.0.0.1:$((base + 587))"
}
with_s_client_tls() { with_s_client "$1" -connect "127.0.0.1:$((base + 465))"; }
with_smtp_source() {
    # It ends every message with an empty line of its own, which is due in what comes back.
    tr -d '\r' <"$1" >"$work/lf"
    MAIL_CONFIG=$work/postfix LD_LIBRARY_PATH=${postfix_libraries:-} \
        "$smtp_source" -F "$work/lf" -m 1 -f a@sender.test -t "$user" "inet:127.0.0.1:$smtp"
}

# Postfix's load generator: installed, named by SMTP_SOURCE, or unpacked from Debian's package.
mkdir "$work/postfix" && : >"$work/postfix/main.cf"
smtp_source=${SMTP_SOURCE:-$(command -v smtp-source || true)}
if [ -z "$smtp_source" ] && have apt-get && have dpkg; then
    mkdir "$work/package"
    (cd "$work/package" && apt-get download -qq postfix >log 2>&1 && dpkg -x postfix_*.deb .)
    if [ -x "$work/package/usr/sbin/smtp-source" ]; then
        smtp_source=$work/package/usr/sbin/smtp-source
        postfix_libraries=$work/package/usr/lib/postfix
    fi
fi

# Shards deliver each in its own time, so two messages taken one after the other on two connections
# may come in either order: each is waited for before the next is sent, so that the Nth message sent
# is the Nth in the maildrop.
maildrop() { # How many messages the maildrop holds
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$pop" || return 1
    printf 'USER %s\r\nPASS %s\r\nSTAT\r\nQUIT\r\n' "$user" "$password" >&3
    for _ in greeting USER PASS STAT; do read -r -t 30 line <&3; done
    cat <&3 >"$work/quit"
    exec 3>&-
    line=${line#+OK }
    echo "${line%% *}"
}
arrived() { # NUMBER: waits until the maildrop holds as many messages
    local holds
    for _ in $(seq 300); do
        holds=$(maildrop 2>"$work/maildrop")
        [ "$holds" = "$1" ] && return 0
        sleep 0.1
    done
    fail "the maildrop holds $holds messages, not $1"
}

sent=()
send_all() { # NAME: sends every sample with the function with_NAME
    for file in "$work"/samples/*; do
        due=$file
        if [ "$1" = smtp_source ]; then
            due=$work/due.$(basename "$file")
            { cat "$file"; printf '\r\n'; } >"$due"
        fi
        if "with_$1" "$file" >"$work/send" 2>&1; then
            sent+=("$1:$due")
            arrived ${#sent[@]}
        else
            fail "$1 does not send $(basename "$file"): $(tail -n 3 "$work/send")"
        fi
    done
}
if have swaks; then send_all swaks; else skip "swaks is not installed"; fi
if have curl; then send_all curl && send_all curl_tls; else skip "curl is not installed"; fi
if have python3; then send_all smtplib && send_all smtplib_tls; else skip "python3 is not installed"; fi
if have msmtp; then send_all msmtp_starttls && send_all msmtp_tls; else skip "msmtp is not installed"; fi
if have openssl; then
    send_all s_client_starttls && send_all s_client_tls
else
    skip "openssl is not installed"
fi
if have mutt && have script; then
    send_all mutt_starttls && send_all mutt_tls
else
    skip "mutt is not installed, or util-linux's script"
fi
probe() {
    MAIL_CONFIG=$work/postfix LD_LIBRARY_PATH=${postfix_libraries:-} "$smtp_source" -m 1 \
        -f a@sender.test -t discard@example.test "inet:127.0.0.1:$smtp" >"$work/probe" 2>&1
}
if [ -n "$smtp_source" ] && probe; then
    send_all smtp_source
else
    skip "smtp-source is not to be had: $([ -f "$work/probe" ] && tail -n 1 "$work/probe")"
fi

# ---- fetching -----------------------------------------------------------------------------------

# Whether FETCHED is SENT behind trace headers only.
same() { # SENT FETCHED
    size=$(stat -c %s "$1")
    tail -c "$size" "$2" | cmp -s - "$1" || return 1
    ! head -c "-$size" "$2" | grep -qvE '^(Return-Path: |Received: |X-Fannst-|Resent-|[[:blank:]])'
}
compare() { # FETCHER: holds fetched.N against the Nth message sent; its lines may end in LF
    number=0
    for entry in "${sent[@]}"; do
        number=$((number + 1))
        file=${entry#*:}
        got=$work/$1.$number
        if [ -f "$got" ] && [[ " fetchmail mpop mpop-stls getmail mutt mutt-stls " = *" $1 "* ]]; then
            # They hand messages to programs and folders with the line ends of Unix.
            tr -d '\r' <"$got" >"$got.lf"
            tr -d '\r' <"$file" >"$work/sent.lf"
            got=$got.lf
            file=$work/sent.lf
        fi
        if [ -f "$got" ] && same "$file" "$got"; then
            pass
        else
            fail "$1 fetched something else than ${entry%%:*} sent: $(basename "${entry#*:}")"
        fi
    done
}

if have curl; then
    for number in $(seq ${#sent[@]}); do
        curl --silent --show-error --user "$user:$password" --output "$work/curl.$number" \
            "pop3://127.0.0.1:$pop/$number" || fail "curl does not fetch message $number"
        curl --silent --show-error --insecure --user "$user:$password" \
            --output "$work/curl-tls.$number" "pop3s://127.0.0.1:$((base + 995))/$number" ||
            fail "curl does not fetch message $number over TLS"
    done
    compare curl
    compare curl-tls
fi
if have python3; then
    python3 - "$pop" "$user" "$password" "$work" <<'PYTHON' || fail "poplib does not fetch"
import poplib, ssl, sys
port, user, password, work = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for name in ["poplib", "poplib-stls"]:
    drop = poplib.POP3("127.0.0.1", port)
    if name == "poplib-stls":
        drop.stls(context)
    drop.user(user)
    drop.pass_(password)
    for number in range(1, drop.stat()[0] + 1):
        lines = drop.retr(number)[1]
        open(f"{work}/{name}.{number}", "wb").write(b"".join(line + b"\r\n" for line in lines))
    drop.quit()
PYTHON
    compare poplib
    compare poplib-stls
fi
deliver_script() { # NAME: a program that takes messages on standard input, in their order
    cat >"$work/deliver.$1" <<SCRIPT
#!/bin/sh
n=1
while [ -e "$work/$1.\$n" ]; do n=\$((n + 1)); done
cat >"$work/$1.\$n"
SCRIPT
    chmod 700 "$work/deliver.$1"
}
if have openssl; then
    for name in s_client s_client-stls; do
        arguments=(-connect "127.0.0.1:$((base + 995))")
        [ "$name" = s_client ] || arguments=(-starttls pop3 -connect "127.0.0.1:$pop")
        # Everything in one go: PIPELINING (RFC 2449 §6.6).
        {
            printf 'USER %s\r\nPASS %s\r\n' "$user" "$password"
            for number in $(seq ${#sent[@]}); do printf 'RETR %s\r\n' "$number"; done
            printf 'QUIT\r\n'
        } | timeout 30 openssl s_client -quiet -verify_quiet "${arguments[@]}" >"$work/$name" 2>"$work/s_client"
        # A reply with octets in it begins a message, a lone dot ends it, a doubled one is one.
        LC_ALL=C awk -v name="$work/$name." '
            !inside && /^\+OK [0-9]+ octets/ { inside = 1; n++; file = name n; printf "" >file; next }
            inside && $0 == ".\r" { inside = 0; close(file); next }
            inside { sub(/^\.\./, "."); print >file }' "$work/$name"
        compare "$name"
    done
fi
if have mutt && have script; then
    for name in mutt mutt-stls; do
        mkdir -p "$work/box.$name/cur" "$work/box.$name/new" "$work/box.$name/tmp"
        mutt_rc 'set sort=mailbox-order'
        url=pops://${user/@/%40}:$password@localhost:$((base + 995))/
        [ "$name" = mutt ] || url=pop://${user/@/%40}:$password@localhost:$pop/
        with_keys "$url" "<tag-pattern>~A<enter><tag-prefix><copy-message>$work/box.$name<enter><exit>"
        # The names are TIME.PID_SEQUENCE.HOST. It adds two headers to every copy.
        number=0
        for file in $(find "$work/box.$name/new" -type f | sort -t_ -k2 -n); do
            number=$((number + 1))
            sed -E '1,/^$/{/^(Content-Length|Lines): /d}' "$file" >"$work/$name.$number"
        done
        compare "$name"
    done
fi
if have mpop; then
    for name in mpop mpop-stls; do
        deliver_script "$name"
        tls=(--port=$((base + 995)) --tls-starttls=off)
        [ "$name" = mpop ] || tls=(--port="$pop" --tls-starttls=on)
        mpop --file= --host=127.0.0.1 "${tls[@]}" --tls=on --tls-certcheck=off --auth=user \
            --user="$user" --passwordeval="echo $password" --keep=on --quiet \
            --received-header=off --uidls-file="$work/uidls.$name" \
            --delivery=mda,"$work/deliver.$name" >"$work/mpop-log" 2>&1 ||
            tail -n 5 "$work/mpop-log"
        compare "$name"
    done
else
    skip "mpop is not installed"
fi
if have getmail; then
    deliver_script getmail
    mkdir "$work/getmail"
    (
        umask 077
        cat >"$work/getmail/getmailrc" <<RC
[retriever]
type = SimplePOP3SSLRetriever
server = 127.0.0.1
port = $((base + 995))
username = $user
password = $password
[destination]
type = MDA_external
path = $work/deliver.getmail
allow_root_commands = true
[options]
delivered_to = false
received = false
read_all = true
verbose = 0
RC
    )
    getmail --getmaildir="$work/getmail" --rcfile=getmailrc >"$work/getmail-log" 2>&1 ||
        tail -n 5 "$work/getmail-log"
    compare getmail
else
    skip "getmail is not installed"
fi
if have fetchmail; then
    deliver_script fetchmail
    (
        umask 077
        cat >"$work/fetchmailrc" <<RC
set invisible
poll 127.0.0.1 service $pop protocol POP3 auth password
    user "$user" password "$password"
    mda "$work/deliver.fetchmail" sslproto "" fetchall no rewrite no mimedecode no dropstatus
RC
    )
    FETCHMAILHOME=$work fetchmail --fetchmailrc "$work/fetchmailrc" --nodetach --nosyslog \
        >"$work/fetchmail-log" 2>&1
    compare fetchmail
    left=$(curl --silent --user "$user:$password" "pop3://127.0.0.1:$pop/" 2>"$work/left" |
        grep -c '^[0-9]')
    if have curl; then
        if [ "$left" -eq 0 ]; then pass; else fail "fetchmail deleted, and $left messages are left"; fi
    fi
    [ "$failed" -gt 0 ] && tail -n 5 "$work/fetchmail-log"
else
    skip "fetchmail is not installed"
fi

# ---- tickets ------------------------------------------------------------------------------------

resumed() { # ARGUMENTS: whether a second connection goes on with the session of the first
    printf 'EHLO client.test\r\nQUIT\r\n' |
        timeout 20 openssl s_client -quiet -sess_out "$work/session" "$@" >"$work/s_client" 2>&1
    printf 'EHLO client.test\r\nQUIT\r\n' |
        timeout 20 openssl s_client -ign_eof -sess_in "$work/session" "$@" 2>&1 | grep -q '^Reused, '
}
if have openssl; then
    for version in -tls1_2 -tls1_3; do
        for port in "-connect 127.0.0.1:$((base + 465))" \
            "-starttls smtp -name client.test -connect 127.0.0.1:$((base + 587))"; do
            # shellcheck disable=SC2086 # words of their own
            if resumed "$version" $port; then pass; else fail "no session is resumed: $version $port"; fi
        done
    done
fi

if [ "$passed" -eq 0 ]; then fail "no client sent and fetched anything"; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
