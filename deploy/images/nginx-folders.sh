#!/bin/sh
# The folders that nginx.conf names, on the one file system that may be written.
mkdir -p /tmp/run /tmp/tmp
