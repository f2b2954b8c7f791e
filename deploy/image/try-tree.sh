#!/bin/sh
# Run a command on what build-tree.sh made, held as a container holds it: every file system read-only, no capabilities,
# no way to gain privileges, and uid 10001, where this is run by root. Other users need user namespaces and keep their uid.
#   try-tree.sh <folder> <command> [<argument>…]     the folder appears as /opt/gatelodge
set -eu

tree=$(realpath "${1:?the folder that build-tree.sh made}")
shift
if [ "$(id -u)" = 0 ]; then
  become='--reuid 10001 --regid 10001 --clear-groups --bounding-set -all'
  namespaces=--mount
else
  become=--bounding-set=-all
  namespaces='--mount --user --map-root-user'
fi
# shellcheck disable=SC2016 # the variables are the inner shell's
# shellcheck disable=SC2086 # both are lists of options
PATH=$PATH:/usr/sbin:/sbin
exec unshare $namespaces --propagation private sh -euc '
  tree=$1 become=$2 python=$(realpath "$1/bin/python")
  prefix=${python%/bin/*}
  shift 2
  root=$(mktemp -d)
  mount -t tmpfs -o mode=755 tmpfs "$root"
  for folder in /usr /etc /dev /proc /sys "$prefix"; do
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
  done
  for link in bin sbin lib lib64; do
    [ ! -e "/$link" ] || ln -s "usr/$link" "$root/$link"
  done
  mkdir -p "$root/opt/gatelodge" "$root/run" "$root/tmp"
  mount --bind "$tree" "$root/opt/gatelodge"
  for folder in ${TRY_BIND:-}; do # what the service is to reach: sockets, secrets
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
  done
  for mounted in $(awk -v root="$root" "index(\$2, root) == 1 { print \$2 }" /proc/mounts); do
    case $mounted in
      "$root"/proc* | "$root"/sys* | "$root"/dev*) ;;
      *) mount -o remount,bind,ro "$mounted" ;;
    esac
  done
  cd "$root"
  exec chroot "$root" setpriv $become --inh-caps -all --no-new-privs "$@"
' sh "$tree" "$become" "$@"
