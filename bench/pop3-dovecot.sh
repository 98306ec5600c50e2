#!/usr/bin/env bash
# What a POP3 session costs the engine and what it costs Dovecot, side by side in one run.
#
#   bench/pop3-dovecot.sh [ROUNDS]      5 unless it is said
#
# 16 accounts with 1,000 messages of 4 KiB each; 16 clients in a loop: sign in, UIDL, 20 RETR, QUIT
# (`loadgen pop3`). Three servers are up all the time and take turns in each round:
#
#   engine    started with --dev on two cores, filled over SMTP
#   stock     Dovecot with the settings that it comes with: a process for each sign-in and each session
#   fast      Dovecot in its high-performance mode: processes stay and serve one client after another,
#             sign-ins are cached, flags are not written, folders that look unchanged are not read
#
# Dovecot has the messages of the engine's first account in a Maildir for each account, named and
# with line ends as its own delivery does it, all of them read before; passwords are in clear in a
# file, so no hash is charged to it. The engine checks Argon2id once for each account, before what
# is measured, and remembers the password for ten minutes. CPU time is that of the process and of
# all its descendants, ended ones too. Printed: medians over the rounds, of the ratios too.
#
# FSMTP_ENGINE and LOADGEN name the programs, else they are built; SESSIONS is how many of them in
# a round for each server (800). Needs bash, python3 and Debian's dovecot-pop3d 2.3; without these
# it says so and ends with 0. As root it runs Dovecot as nobody. Takes some two minutes.
set -u
cd "$(dirname "$0")/.." || exit 1

rounds=${1:-5}
sessions=${SESSIONS:-800}
accounts=16
messages=1000
octets=4096
domain=example.test
password=secret

skip() { echo "skipped: $*"; exit 0; }
have() { command -v "$1" >/dev/null 2>&1; }
have python3 || skip "python3 is not installed"
dovecot=$(command -v dovecot || ls /usr/sbin/dovecot 2>/dev/null) || skip "dovecot is not installed"
[ -x /usr/lib/dovecot/pop3 ] || skip "dovecot-pop3d is not installed"
version=$("$dovecot" --version)
case $version in 2.3.*) ;; *) skip "the settings here are for dovecot 2.3, this is $version" ;; esac

engine=${FSMTP_ENGINE:-}
loadgen=${LOADGEN:-}
if [ -z "$engine" ] || [ -z "$loadgen" ]; then
    cargo build --quiet --locked --release --package fsmtp-engine --package loadgen || exit 1
    engine=${engine:-${CARGO_TARGET_DIR:-target}/release/fsmtp-engine}
    loadgen=${loadgen:-${CARGO_TARGET_DIR:-target}/release/loadgen}
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/fsmtp-pop3.XXXXXX") || exit 1
pids=()
stop() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    for _ in $(seq 100); do
        alive=
        for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && alive=1; done
        [ -z "$alive" ] && break
        sleep 0.1
    done
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM
die() { # MESSAGE [LOG]
    echo "$1" >&2
    [ $# -gt 1 ] && tail -n 20 "$2" >&2
    exit 1
}

taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_ports() { # OFFSET...: sets base
    for _ in $(seq 50); do
        base=$((12000 + RANDOM % 18000))
        for offset in "$@"; do taken $((base + offset)) && continue 2; done
        return 0
    done
    die "no free ports"
}
answers() { # PORT PID LOG: waits until a server listens
    for _ in $(seq 100); do
        taken "$1" && return 0
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    die "a server did not get ready:" "$3"
}

# ---- the engine and its mail ----------------------------------------------------------------------

free_ports 25 110 465 587 995
"$engine" --cores 2 --dev --data "$work/data" --ports "$base" >"$work/engine.out" 2>"$work/engine.log" &
engine_pid=$!
pids+=("$engine_pid")
engine_port=$((base + 110))
answers "$engine_port" "$engine_pid" "$work/engine.log"
for n in $(seq 0 $((accounts - 1))); do
    "$engine" adduser "u$n@$domain" --data "$work/data" --password-stdin <<<"$password" \
        >"$work/adduser" 2>&1 || die "no account u$n:" "$work/adduser"
done
for n in $(seq 0 $((accounts - 1))); do
    timeout 120 "$loadgen" send --target "127.0.0.1:$((base + 25))" --rcpt "u$n@$domain" \
        --connections 16 --messages $messages --size $octets >"$work/fill" 2>&1 ||
        die "u$n is not filled:" "$work/fill"
done

# ---- the same for Dovecot -------------------------------------------------------------------------

mkdir "$work/mail"
timeout 120 python3 - "$engine_port" "u0@$domain" "$password" "$work/mail" "$domain" $accounts $messages \
    <<'PYTHON' || die "the Maildirs are not made"
import os, poplib, shutil, sys, time
port, user, password, mail, domain, accounts, messages = sys.argv[1:]
until = time.monotonic() + 60
while True:  # delivery follows the 250 by some milliseconds
    drop = poplib.POP3("127.0.0.1", int(port))
    drop.user(user)
    drop.pass_(password)
    count = drop.stat()[0]
    if count == int(messages):
        break
    drop.quit()
    if time.monotonic() > until:
        sys.exit(f"{user} has {count} messages")
    time.sleep(0.2)
first = os.path.join(mail, f"u0@{domain}")
for folder in ["cur", "new", "tmp"]:
    os.makedirs(os.path.join(first, folder))
for number in range(1, count + 1):
    lines = drop.retr(number)[1]
    text = b"".join(line + b"\n" for line in lines)
    name = f"{1700000000 + number}.M{number}P1.bench,S={len(text)},W={len(text) + len(lines)}:2,S"
    with open(os.path.join(first, "cur", name), "wb") as file:
        file.write(text)
drop.quit()
for number in range(1, int(accounts)):
    shutil.copytree(first, os.path.join(mail, f"u{number}@{domain}"))
PYTHON
for n in $(seq 0 $((accounts - 1))); do echo "u$n@$domain:{PLAIN}$password"; done >"$work/passwd"

as=()
user=$(id -un)
group=$(id -gn)
if [ "$(id -u)" -eq 0 ]; then
    # Dovecot gives nobody with uid 0 his mail.
    user=nobody
    group=$(id -gn nobody)
    as=(setpriv --reuid "$user" --regid "$group" --clear-groups)
fi

configure() { # NAME PORT: more settings on standard input; writes NAME.conf
    mkdir -p "$work/$1/run" "$work/$1/state"
    # Each has Maildirs of its own, for the indexes that it keeps in them.
    cp -a "$work/mail" "$work/$1/mail"
    {
        cat <<CONF
base_dir = $work/$1/run
state_dir = $work/$1/state
log_path = $work/$1/log
protocols = pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:$work/$1/mail/%u
first_valid_uid = 1
default_internal_user = $user
default_internal_group = $group
default_login_user = $user
passdb {
  driver = passwd-file
  args = username_format=%u $work/passwd
}
userdb {
  driver = static
  args = uid=$(id -u "$user") gid=$(getent group "$group" | cut -d: -f3) home=$work/$1/mail/%u
}
service anvil {
  chroot =
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = $2
  }
  inet_listener pop3s {
    port = 0
  }
}
CONF
        cat
    } >"$work/$1.conf"
}
free_ports 1 2
stock_port=$((base + 1))
fast_port=$((base + 2))
configure stock $stock_port </dev/null
# What its manual says of the high-performance mode of logins, and the same for the sessions: a
# process waits for each client, serves one at a time and does not end.
configure fast $fast_port <<CONF
auth_cache_size = 10M
auth_cache_ttl = 1 hour
pop3_no_flag_updates = yes
maildir_very_dirty_syncs = yes
service pop3-login {
  service_count = 0
  process_min_avail = 2
}
service pop3 {
  service_count = 1000000
  process_min_avail = $accounts
}
service auth {
  client_limit = 2048
}
CONF
chmod 711 "$work"
chown -R "$user:$group" "$work/stock" "$work/fast"
for name in stock fast; do
    "${as[@]}" "$dovecot" -F -c "$work/$name.conf" >"$work/$name.out" 2>&1 &
    pids+=("$!")
    eval "${name}_pid=$!"
    port=${name}_port
    answers "${!port}" "$!" "$work/$name.out"
done

# ---- in turn ---------------------------------------------------------------------------------------

echo "dovecot $version, $rounds rounds of $sessions sessions for each server"
measure() { # NAME: one round; adds "CPU RATE" to NAME.figures
    port=${1}_port
    pid=${1}_pid
    timeout 300 "$loadgen" pop3 --target "127.0.0.1:${!port}" --pid "${!pid}" --accounts $accounts \
        --clients 16 --domain "$domain" --password "$password" --sessions "$sessions" \
        >"$work/round" 2>"$work/why" || {
        tail -n 5 "$work/$1/log" "$work/$1.out" >&2 2>/dev/null
        die "$1 does not serve:" "$work/why"
    }
    awk '$1 == "server_cpu" { cpu = $2 } $1 == "rate" { rate = $2 }
        $1 == "server_cpu_first" { first = $2 } END { print cpu, rate, first }' "$work/round"
}
# A round that is not counted: processes, indexes and caches are there after it.
counted=$sessions
sessions=$((accounts * 4))
for name in engine stock fast; do measure $name >"$work/$name.first"; done
sessions=$counted
for round in $(seq "$rounds"); do
    for name in engine stock fast; do measure $name >>"$work/$name.figures"; done
    echo "round $round, ms of CPU for a session: $(for name in engine stock fast; do
        echo "$name $(tail -n 1 "$work/$name.figures" | cut -d' ' -f1)"
    done | paste -sd' ')"
done

median() { # of a column of numbers
    sort -n | awk '{ all[NR] = $1 } END { print (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'
}
column() { cut -d' ' -f"$2" "$work/$1.figures"; } # NAME NUMBER
for name in engine stock fast; do
    echo "$name: $(column $name 1 | median) ms of CPU for a session," \
        "$(column $name 2 | median) sessions/s;" \
        "the first look at an account: $(cut -d' ' -f3 "$work/$name.first") ms"
done
# Of each round by itself: what else the machine does changes from round to round.
for name in stock fast; do
    paste -d' ' <(column engine 1) <(column $name 1) | awk '{ print $1 / $2 }' | median |
        awk -v name=$name '{ printf "engine / %s: %.3f, one %.1fth\n", name, $1, 1 / $1 }'
done
