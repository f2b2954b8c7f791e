#!/bin/sh
# Draw the secrets that compose.yaml mounts, into secrets/ beside this file. What is there already is kept: PostgreSQL
# takes its password when its data is first made, and the signing keys are lost without their master secret.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets

drawn() { # 48 characters, letters and digits: they need no escaping in a URL
  LC_ALL=C tr -dc 'A-Za-z0-9' < /dev/urandom | head -c 48
}

keep() {
  if [ -e "secrets/$1" ]; then
    echo "kept   secrets/$1"
  else
    printf '%s' "$2" > "secrets/$1"
    echo "drew   secrets/$1"
  fi
  # Containers read them as users of their own; the folder, which they do not see, keeps everybody else out.
  chmod 0444 "secrets/$1"
}

keep auth__master_secret "$(drawn)"
keep grafana_password "$(drawn)"
keep postgres_password "$(drawn)"
keep database__url "postgresql://gatelodge:$(cat secrets/postgres_password)@postgres:5432/gatelodge"
