#!/usr/bin/env bash
# Real servers for tests of the cluster, on loopback, each in the foreground until it is ended:
#
#   tests/cluster/servers.sh get                       what is missing: Java, Maven, Redis, Cassandra
#   tests/cluster/servers.sh cassandra FOLDER [PORT]   a node of Cassandra, CQL at PORT (19042)
#   tests/cluster/servers.sh redis FOLDER [PORT]       Redis at PORT (16379)
#
# A server's data lies in FOLDER; starting it there again goes on with it. Cassandra is up when it
# says "Starting listening for CQL clients", after some 15 s; AUTH=yes has it ask for a password
# (cassandra, cassandra). Its jars (66 MB, from Maven Central) are kept outside of the tree.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/fsmtp-cluster
jars=$kept/cassandra-5.0.5

get() {
    local missing=()
    command -v java >&2 || missing+=(openjdk-17-jre-headless)
    [ -e "$jars/complete" ] || command -v mvn >&2 || missing+=(maven)
    command -v redis-server >&2 || missing+=(redis-server)
    if [ ${#missing[@]} -gt 0 ]; then
        local sudo=
        [ "$(id -u)" -eq 0 ] || sudo=sudo
        $sudo apt-get update -qq
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    mkdir -p "$kept"
    exec 9> "$kept/lock"
    flock 9
    if [ ! -e "$jars/complete" ]; then
        mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$jars"
        touch "$jars/complete"
    fi
    exec 9>&-
}

cassandra() {
    local data port flags=() authenticator=AllowAllAuthenticator authorizer=AllowAllAuthorizer
    mkdir -p "$1"
    data=$(cd "$1" && pwd)
    port=${2:-19042}
    if [ "${AUTH:-no}" = yes ]; then
        authenticator=PasswordAuthenticator authorizer=CassandraAuthorizer
    fi
    sed -e "s|@DATA@|$data|g; s|@PORT@|$port|g; s|@STORAGE_PORT@|$((port + 1))|g" \
        -e "s|@AUTHENTICATOR@|$authenticator|; s|@AUTHORIZER@|$authorizer|" \
        "$here/cassandra.yaml.in" > "$data/cassandra.yaml"
    # What Cassandra 5 uses of Java 17 that others may not.
    for one in java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch java.base/java.lang.ref \
        java.base/sun.security.util java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry \
        java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc; do
        flags+=(--add-exports "$one=ALL-UNNAMED")
    done
    for one in java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref \
        java.base/jdk.internal.reflect java.base/jdk.internal.math java.base/jdk.internal.module \
        java.base/jdk.internal.util.jar java.base/sun.nio.ch java.base/java.io java.base/java.lang java.base/java.util \
        java.base/java.nio java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/java.net \
        jdk.management/com.sun.management.internal java.rmi/sun.rmi.transport.tcp; do
        flags+=(--add-opens "$one=ALL-UNNAMED")
    done
    exec java -Xms"${HEAP:-768m}" -Xmx"${HEAP:-768m}" -XX:+UseSerialGC -Djdk.attach.allowAttachSelf=true \
        -Djava.net.preferIPv4Stack=true "${flags[@]}" \
        "-Dcassandra.config=file://$data/cassandra.yaml" "-Dlogback.configurationFile=file://$here/logback.xml" \
        "-Dcassandra.storagedir=$data" -Dcassandra-foreground=yes -Dcassandra.skip_wait_for_gossip_to_settle=0 \
        -Dcassandra.ring_delay_ms=100 -cp "$here:$jars/*" org.apache.cassandra.service.CassandraDaemon
}

case ${1:-} in
    get) get ;;
    cassandra) get; cassandra "${2:?a folder}" "${3:-}" ;;
    redis)
        get
        mkdir -p "${2:?a folder}"
        exec redis-server --bind 127.0.0.1 --port "${3:-16379}" --dir "$2" --save '' --appendonly no --protected-mode yes
        ;;
    *)
        sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
