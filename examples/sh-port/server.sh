#!/bin/sh
# A shell script in front of any server: it prepares, then becomes the server, here busybox's, with CGI scripts.
set -eu
mkdir -p /tmp/site
echo "hello from $(uname -s)" > /tmp/site/index.html
exec busybox httpd -f -p "${PORT:-8080}" -h /tmp/site
