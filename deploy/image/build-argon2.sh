#!/bin/sh
# Compile the argon2-cffi-bindings that uv.lock has for x86-64-v3, into a folder of their own: src/service/auth/argon2_bindings.py
# takes them where the processor can run them. Needs a C compiler and Python's headers.
#   build-argon2.sh <folder> [<python>]
# UV: the uv to use.
set -eu

folder=${1:?the folder to make}
python=${2:-python3}
cd "$(dirname "$0")/../.."
uv=${UV:-uv}

if [ "$(uname -m)" != x86_64 ]; then
  echo "$(uname -m) is not x86-64: argon2 stays the wheel's" >&2
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The source, and all that builds it, by their hashes in uv.lock: hence the group, and no isolated build, whose tools would be
# whatever is newest. The flags are settings of the build, not the environment's, so that uv's cache keeps what they give apart
# from what others build. Its CMake takes opt.c, argon2's vectorised core, on x86-64.
"$uv" venv --quiet --no-project --python "$python" --no-python-downloads "$work"
UV_PROJECT_ENVIRONMENT="$work" "$uv" sync --quiet --frozen --only-group argon2-build --no-python-downloads --python "$work/bin/python" \
  --no-binary-package argon2-cffi-bindings --no-build-isolation-package argon2-cffi-bindings \
  --config-settings-package 'argon2-cffi-bindings:cmake.define.CMAKE_C_FLAGS=-O3 -march=x86-64-v3'

package=$("$work/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/_argon2_cffi_bindings
mkdir -p "$folder"
cp -r "$package" "$folder"
"$work/bin/python" -m compileall -q "$folder"
