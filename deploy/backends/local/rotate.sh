#!/bin/sh
# Rotate Nginx's access log so that it cannot fill the disk: rotate.sh SECONDS BYTES. supervisord runs it in `var`.
# Every SECONDS, a log of more than BYTES replaces access.log.1, and Nginx opens a new log on SIGUSR1.
while sleep "$1"; do
    if [ "$(stat -c %s log/access.log 2>/dev/null || echo 0)" -gt "$2" ]; then
        mv log/access.log log/access.log.1
        kill -USR1 "$(cat run/nginx.pid)"
    fi
done
