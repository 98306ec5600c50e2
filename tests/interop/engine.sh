# An engine for the scripts beside this file, which read it with `.` from the root of the repository.
#
# engine_path says which: FSMTP_ENGINE, else one that is built. engine_start starts it with --dev on
# free ports below $work and waits until it is ready; then $base is the base of its ports. Whoever
# called it stops it with engine_stop, by its process id.
# shellcheck shell=bash

engine=
engine_pid=
base=

engine_path() {
    engine=${FSMTP_ENGINE:-}
    [ -n "$engine" ] && return 0
    cargo build --quiet --locked --profile fast --package fsmtp-engine --bin fsmtp-engine || return 1
    engine=${CARGO_TARGET_DIR:-target}/fast/fsmtp-engine
}

# Whether something listens on a port of this machine.
taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>"$work/taken"; }

engine_start() { # More arguments of the engine
    for _ in 1 2 3 4 5; do
        base=$((12000 + RANDOM % 18000))
        for service in 25 110 465 587 995; do
            if taken $((base + service)); then continue 2; fi
        done
        "$engine" --cores 2 --dev --data "$work/data" --ports "$base" "$@" \
            >"$work/out" 2>"$work/log" &
        engine_pid=$!
        for _ in $(seq 300); do
            grep -q '^ready' "$work/out" && return 0
            kill -0 "$engine_pid" 2>"$work/alive" || break
            sleep 0.1
        done
        engine_stop
    done
    echo "the engine did not get ready:"
    cat "$work/log"
    return 1
}

engine_stop() {
    [ -n "$engine_pid" ] || return 0
    kill -KILL "$engine_pid" 2>"$work/kill" && wait "$engine_pid" 2>"$work/wait"
    engine_pid=
}
