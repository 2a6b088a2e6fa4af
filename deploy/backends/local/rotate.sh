#!/bin/sh
# Keep Nginx's access log from filling the disk: rotate.sh SECONDS BYTES, run in the stack's folder by supervisord.
# Every so many seconds, a log over so many bytes is set aside (one is kept) and Nginx told to open a new one.
while sleep "$1"; do
    if [ "$(stat -c %s log/access.log 2>/dev/null || echo 0)" -gt "$2" ]; then
        mv log/access.log log/access.log.1
        kill -USR1 "$(cat run/nginx.pid)"
    fi
done
