#!/bin/sh
# What a burst of connections comes to, with the kernel's and the process's limits as given:
#
#     unshare -n tuning/burst.sh ENGINE LOADGEN SOMAXCONN OPEN-FILES [CONNECTIONS]
#
# In a network namespace of its own, so the machine's setting stays as it is; loopback only. Each of
# CONNECTIONS (3000) sends one message, all at once. Prints what loadgen says of it, and how many
# connections the kernel dropped because the queue was full. Needs root for the namespace.
set -eu
engine=$1 loadgen=$2 somaxconn=$3 files=$4 connections=${5:-3000}
test "$(grep -c : /proc/net/dev)" = 1 || { echo "unshare -n first" >&2; exit 2; }
echo "$somaxconn" > /proc/sys/net/core/somaxconn
ip link set lo up
folder=$(mktemp -d)
# The hard limit as well: the engine raises its own up to that.
sh -c 'ulimit -n "$1"; shift; exec "$@"' - "$files" \
    "$engine" --cores 2 --dev --data "$folder/data" --ports 21400 > "$folder/out" 2> "$folder/err" &
process=$!
trap 'kill $process 2> /dev/null || true; wait $process 2> /dev/null || true; rm -rf "$folder"' EXIT
tries=0
until grep -q '^ready' "$folder/out"; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ] || ! kill -0 $process; then cat "$folder/err" >&2; exit 1; fi
    sleep 0.1
done
"$loadgen" send --target 127.0.0.1:21425 --connections "$connections" --messages "$connections" \
    --messages-per-connection 1 --timeout 10s |
    grep -E '^(messages|seconds|error |reply banner|phase (connect|banner))' || true
awk '/^TcpExt/ { if (!seen) { split($0, name); seen = 1 } else { split($0, value)
    for (i in name) if (name[i] == "ListenOverflows") print "dropped by the kernel", value[i] } }' \
    /proc/net/netstat
