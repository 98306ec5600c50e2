#!/usr/bin/env bash
# The tests of the cluster against a real Cassandra and a Redis, which are started for them and ended after them:
#
#   tests/cluster/run.sh [TEST...]
#
# They listen on loopback, at ports that are free, with their data in a folder of the run. Status: that
# of cargo test. Where Java or Maven's repository is not to be had, it says so and fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/servers.sh" get

folder=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$here/servers.sh" cassandra "$folder/cassandra" "$port" > "$folder/cassandra.log" 2>&1 &
server=$!
redis_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$here/servers.sh" redis "$folder/redis" "$redis_port" > "$folder/redis.log" 2>&1 &
redis=$!
end() {
    kill "$server" "$redis" 2>&- || true
    wait "$server" "$redis" 2>&- || true
    rm -rf "$folder"
}
trap end EXIT

for _ in $(seq 240); do
    grep -q "Starting listening for CQL clients" "$folder/cassandra.log" && break
    if ! kill -0 "$server" 2>&-; then
        tail -20 "$folder/cassandra.log"
        exit 1
    fi
    sleep 0.5
done
export FSMTP_CASSANDRA=127.0.0.1:$port FSMTP_REDIS=127.0.0.1:$redis_port
cargo test --locked --package fsmtp-cluster --test cassandra --test directory --test mail --test conformance "$@"
# Two engines over it, and what the original has kept in one.
cargo test --locked --package wire-tests --test cluster --test takeover --test redis --test import "$@"
