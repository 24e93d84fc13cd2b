#!/bin/sh
# Runs a mail server as if its Debian package were installed, though Debian allows only one of them at a time:
# in a mount namespace of its own (unshare --mount), with the package's files over /usr, a configuration over
# /etc, and empty folders where it keeps its state.
#
#   unshare --mount sh installed.sh PACKAGE_DIR ETC_DIR COMMAND...
set -e
package=$1 etc=$2
shift 2
mount -t overlay overlay -o "lowerdir=$etc:/etc" /etc
mount -t overlay overlay -o "lowerdir=$package/usr:/usr" /usr
for folder in /var/lib /var/spool /run; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd
chmod 711 /var/lib/opensmtpd/empty /var/spool/smtpd
exec "$@"
