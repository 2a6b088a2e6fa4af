#!/bin/bash
# object-store.sh [check]: an S3 store of one container: Ceph's monitor, one OSD and the RADOS Gateway, on one volume.
#
# The first start makes the cluster, later ones only start it. One daemon that ends ends the container, which Docker then
# starts again. `check` is the health check.
set -euo pipefail

readonly DATA=/var/lib/object-store
readonly PORT=7480
readonly USER_ID=forkcast
export CEPH_CONF=$DATA/ceph.conf
# Written last of all that the first start makes: without it, what is there was never a store.
readonly COMPLETE=$DATA/complete
# Seconds that a command to the cluster, or the gateway's first answer, may take on a slow disk.
readonly PATIENCE=120

declare -A names=()

fail() {
    echo "object-store: $*" >&2
    exit 1
}

answers() {
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$PORT" || return 1
    printf 'GET / HTTP/1.0\r\n\r\n' >&3
    read -r -t 4 line <&3 && [[ $line == *" 200 "* ]]
}

patiently() { timeout "$PATIENCE" "$@"; }

read_settings() {
    local name
    for name in S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY; do
        [[ ${!name:-} =~ ^[A-Za-z0-9_+/=.-]{8,}$ ]] ||
            fail "$name is missing, or no word of at least 8 letters, digits and _ + / = . -; make up-full makes one"
    done
    : "${OBJECT_STORE_BYTES:=16G}"
    [[ $OBJECT_STORE_BYTES =~ ^[0-9]+[KMGT]?$ ]] ||
        fail "OBJECT_STORE_BYTES='$OBJECT_STORE_BYTES': expected a size, as 16G"
    mkdir -p "$DATA" 2>/dev/null && [[ -w $DATA ]] || fail "its volume cannot be written by user $(id -u)"
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
# Errors alone, and where Docker reads them.
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
# After a kill the OSD waits as long as its silent neighbours might have gone on for (it has none), and for those of its
# clients that are gone: a minute, with 20 and 30 s.
osd heartbeat interval = 1
osd heartbeat grace = 5
osd client watch timeout = 15
[mon]
keyring = $DATA/mon/keyring
mon data = $DATA/mon
# It ends by itself where less of the disk is free than this: 1 %, not 5.
mon data avail crit = 1
mon data avail warn = 2
[osd]
keyring = $DATA/osd/keyring
osd data = $DATA/osd
osd objectstore = bluestore
# A file with holes: it takes what is stored, up to this.
bluestore block size = $OBJECT_STORE_BYTES
bluestore block create = true
# By itself it would take 4 GB.
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

# Those that need another daemon go before it, so that each can write what it holds.
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
    echo "object-store: making the store"
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
    patiently ceph osd new "$osd" >/dev/null || fail "the new monitor did not answer"
    ceph-osd --mkfs --id 0 --osd-uuid "$osd" || fail "the OSD's file was not made: is the disk full?"
    echo "$fsid" >"$DATA/fsid"
    sync
    touch "$COMPLETE"
    sync
}

# The keys of the environment, and no others. By CEPH_ARGS: everybody may see the arguments of a process.
set_user() {
    local keys verb known key
    keys="--access-key=$S3_ACCESS_KEY_ID --secret-key=$S3_SECRET_ACCESS_KEY"
    verb=modify
    known=$(patiently radosgw-admin user info --uid="$USER_ID" 2>/dev/null) || verb=create
    CEPH_ARGS=$keys patiently radosgw-admin user "$verb" --uid="$USER_ID" --display-name=Forkcast >/dev/null ||
        fail "the S3 user was not made"
    while read -r key; do
        if [[ $key != "$S3_ACCESS_KEY_ID" ]]; then
            patiently radosgw-admin key rm --uid="$USER_ID" --key-type=s3 --access-key="$key" >/dev/null </dev/null
        fi
    done < <(sed -n 's/.*"access_key": "\(.*\)".*/\1/p' <<<"$known")
}

run() {
    local ended why status=0
    read_settings
    # Bash acts on a signal between two commands, and at once while it waits for one in the background.
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
    why="the ${names[$ended]} ended with status $status"
    unset "names[$ended]"
    stop
    fail "$why"
}

umask 077
case ${1:-run} in
    check) answers ;;
    run) run ;;
    *) fail "'$1': expected nothing, or check" ;;
esac
