#!/bin/sh
# Stands in for the HAProxy binary (RAY_SERVE_HAPROXY_BINARY_PATH). Ray's template binds its metrics and
# statistics pages to every interface ("bind :PORT", "bind *:PORT") and has no setting for it; here they are
# moved to loopback before the real HAProxy ($RAYDECK_HAPROXY_BINARY) reads the file. Arguments are passed
# on, except the file after -f, which becomes the rewritten copy beside it.
set -eu
: "${RAYDECK_HAPROXY_BINARY:?names the real HAProxy binary}"
count=$#
after_f=no
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    if [ "$after_f" = yes ]; then
        sed -E 's/^([[:space:]]*bind )\*?:/\1127.0.0.1:/' "$argument" >"$argument.loopback"
        argument="$argument.loopback"
        after_f=no
    elif [ "$argument" = "-f" ]; then
        after_f=yes
    fi
    set -- "$@" "$argument"
done
exec "$RAYDECK_HAPROXY_BINARY" "$@"
