#!/bin/bash
# object-store.sh [check]: an S3 store in one container: Ceph's monitor, one OSD and the RADOS Gateway, on one volume.
#
# The first start creates the cluster, and later starts only start it. If a daemon ends, the container ends, and Docker
# starts it again. `check` is the health check.
set -euo pipefail

readonly DATA=/var/lib/object-store
readonly PORT=7480
readonly USER_ID=forkcast
export CEPH_CONF=$DATA/ceph.conf
# The first start creates this file last: without it the data is incomplete, and the store is created again.
readonly COMPLETE=$DATA/complete
# A command to the cluster may take this long on a slow disk.
readonly TIMEOUT_SECONDS=120

declare -A names=()

fail() {
    echo "object-store: $*" >&2
    exit 1
}

check_health() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$PORT" || return 1
    printf 'GET / HTTP/1.0\r\n\r\n' >&3
    read -r -t 4 line <&3 && [[ $line == *" 200 "* ]]
}

with_timeout() { timeout "$TIMEOUT_SECONDS" "$@"; }

read_settings() {
    local name
    for name in S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY; do
        [[ ${!name:-} =~ ^[A-Za-z0-9_+/=.-]{8,}$ ]] ||
            fail "$name: expected at least 8 letters, digits or _ + / = . - (make up-full creates one)"
    done
    : "${OBJECT_STORE_BYTES:=16G}"
    [[ $OBJECT_STORE_BYTES =~ ^[0-9]+[KMGT]?$ ]] ||
        fail "OBJECT_STORE_BYTES='$OBJECT_STORE_BYTES': expected a size, such as 16G"
    mkdir -p "$DATA" 2>/dev/null && [[ -w $DATA ]] || fail "the volume at $DATA cannot be written by user $(id -u)"
}

write_config() { # fsid
    mkdir -p /tmp/run
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $1
mon host = v2:127.0.0.1:3300
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth allow insecure global id reclaim = false
keyring = $DATA/admin.keyring
run dir = /tmp/run
admin socket =
pid file =
crash dir = /tmp
# Only errors are logged, and to standard error, where Docker reads them.
log file =
mon cluster log file =
log to stderr = false
err to stderr = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
# After a kill the OSD waits until other OSDs would have noticed (there are none), and until lost clients have timed out.
# With the defaults of 20 s and 30 s that takes a minute.
osd heartbeat interval = 1
osd heartbeat grace = 5
osd client watch timeout = 15
[mon]
keyring = $DATA/mon/keyring
mon data = $DATA/mon
# The monitor ends itself if less of the disk than this is free (percent). Default: 5
mon data avail crit = 1
mon data avail warn = 2
[osd]
keyring = $DATA/osd/keyring
osd data = $DATA/osd
osd objectstore = bluestore
# This file is sparse: it takes as much of the disk as is stored, up to this size.
bluestore block size = $OBJECT_STORE_BYTES
bluestore block create = true
# With autotune the cache would grow to 4 GB.
bluestore cache autotune = false
bluestore cache size = 134217728
[client.rgw.a]
keyring = $DATA/rgw/keyring
rgw data = $DATA/rgw
rgw frontends = beast port=$PORT
rgw thread pool size = 16
rgw enable usage log = false
CONF
}

start() { # name, command..
    local name=$1
    shift
    "$@" &
    names[$!]=$name
}

pid_of() { # name
    local pid
    for pid in "${!names[@]}"; do
        if [[ ${names[$pid]} == "$1" ]]; then echo "$pid"; fi
    done
}

# A daemon that needs another one is stopped before it, so that each can write its data.
stop() {
    local name pid
    trap '' TERM INT
    for name in gateway OSD monitor; do
        pid=$(pid_of "$name")
        if [[ $pid ]] && kill -TERM "$pid" 2>/dev/null; then
            wait "$pid" || true
        fi
    done
}

start_monitor() { start monitor ceph-mon --foreground --id a; }
start_osd() { start OSD ceph-osd --foreground --id 0; }

make_cluster() {
    local fsid osd
    echo "object-store: creating the store"
    find "$DATA" -mindepth 1 -delete
    mkdir -p "$DATA"/{mon,osd,rgw}
    fsid=$(</proc/sys/kernel/random/uuid)
    osd=$(</proc/sys/kernel/random/uuid)
    write_config "$fsid"
    monmaptool --create --fsid "$fsid" --addv a '[v2:127.0.0.1:3300]' /tmp/monmap >/dev/null
    ceph-authtool --create-keyring "$DATA/admin.keyring" --gen-key --name client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
    ceph-authtool --create-keyring "$DATA/osd/keyring" --gen-key --name osd.0 \
        --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd' >/dev/null
    ceph-authtool --create-keyring "$DATA/rgw/keyring" --gen-key --name client.rgw.a \
        --cap mon 'allow rw' --cap osd 'allow rwx' >/dev/null
    ceph-authtool --create-keyring /tmp/keyring --gen-key --name mon. --cap mon 'allow *' >/dev/null
    for keyring in "$DATA"/{admin.keyring,osd/keyring,rgw/keyring}; do
        ceph-authtool /tmp/keyring --import-keyring "$keyring" >/dev/null
    done
    ceph-mon --mkfs --id a --monmap /tmp/monmap --keyring /tmp/keyring
    rm -f /tmp/monmap /tmp/keyring
    start_monitor
    with_timeout ceph osd new "$osd" >/dev/null || fail "the new monitor did not answer"
    ceph-osd --mkfs --id 0 --osd-uuid "$osd" || fail "the OSD's file was not created: is the disk full?"
    echo "$fsid" >"$DATA/fsid"
    sync
    touch "$COMPLETE"
    sync
}

# Give the S3 user the key of the environment, and remove all others. Secrets are passed in CEPH_ARGS, because every user
# of a host can read the arguments of its processes.
set_user() {
    local keys verb known key
    keys="--access-key=$S3_ACCESS_KEY_ID --secret-key=$S3_SECRET_ACCESS_KEY"
    verb=modify
    known=$(with_timeout radosgw-admin user info --uid="$USER_ID" 2>/dev/null) || verb=create
    CEPH_ARGS=$keys with_timeout radosgw-admin user "$verb" --uid="$USER_ID" --display-name=Forkcast >/dev/null ||
        fail "the S3 user was not created or changed"
    while read -r key; do
        if [[ $key != "$S3_ACCESS_KEY_ID" ]]; then
            with_timeout radosgw-admin key rm --uid="$USER_ID" --key-type=s3 --access-key="$key" >/dev/null </dev/null
        fi
    done < <(sed -n 's/.*"access_key": "\(.*\)".*/\1/p' <<<"$known")
}

run() {
    local ended reason status=0
    read_settings
    # Bash runs a trap between two commands, and at once during `wait`.
    trap 'stop; exit 0' TERM INT
    trap stop EXIT
    if [[ -e $COMPLETE ]]; then
        write_config "$(<"$DATA/fsid")"
        start_monitor
    else
        make_cluster
    fi
    start_osd
    set_user
    start gateway radosgw --foreground --name client.rgw.a
    echo "object-store: started"
    wait -n -p ended "${!names[@]}" || status=$?
    trap - EXIT
    reason="the ${names[$ended]} ended with status $status"
    unset "names[$ended]"
    stop
    fail "$reason"
}

umask 077
case ${1:-run} in
    check) check_health ;;
    run) run ;;
    *) fail "argument '$1': expected none, or check" ;;
esac
