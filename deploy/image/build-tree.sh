#!/bin/sh
# Install the service, as uv.lock has it, into a folder of its own: what the image holds beside Python.
#   build-tree.sh <folder> [<python>]
# COMMIT: the git commit that is built, where there is no checkout to ask. UV: the uv to use.
# ARGON2_V3=yes: with argon2 compiled for x86-64-v3 besides, which needs a C compiler; nothing more on other machines.
set -eu

tree=${1:?the folder to make}
python=${2:-python3}
cd "$(dirname "$0")/../.."
uv=${UV:-uv}

# --relocatable: the commands start from wherever the folder is, so the same folder can be tried before it is copied.
"$uv" venv --quiet --clear --relocatable --no-project --python "$python" --no-python-downloads "$tree"
# --frozen: uv.lock, with its hashes, or nothing. --no-dev: no tools, no embedded PostgreSQL. --refresh-package: uv
# would take our own wheels from its cache, however old, for as long as pyproject.toml is the same.
UV_PROJECT_ENVIRONMENT="$tree" "$uv" sync --quiet --frozen --no-dev --no-editable --link-mode copy \
  --refresh-package gatelodge --refresh-package gatelodge-api --no-python-downloads --python "$tree/bin/python"

packages=$("$tree/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [ -n "${COMMIT:-}" ]; then
  printf '%s\n' "$COMMIT" > "$packages/service/COMMIT"
fi

if [ "${ARGON2_V3:-no}" = yes ]; then
  UV="$uv" deploy/image/build-argon2.sh "$packages/gatelodge-argon2-x86-64-v3" "$python"
fi

# Of the commands only our own: the libraries' are of no use here.
for command in "$tree"/bin/*; do
  case ${command##*/} in
    gatelodge | python*) ;;
    *) rm "$command" ;;
  esac
done

# Sources of compiled modules and type stubs: nobody compiles or type-checks here.
find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.pyi' \) -delete

# Without docstrings, asserts and the columns of tracebacks a process is some 4 MiB smaller. Workers inherit it.
cat > "$tree/bin/gatelodge" <<'LAUNCHER'
#!/bin/sh
export PYTHONOPTIMIZE="${PYTHONOPTIMIZE-2}" PYTHONNODEBUGRANGES=1
exec "$(dirname -- "$(realpath -- "$0")")/python" -P -m service "$@"
LAUNCHER
chmod 755 "$tree/bin/gatelodge"
PYTHONOPTIMIZE=2 PYTHONNODEBUGRANGES=1 "$tree/bin/python" -m compileall -q "$packages"

# Anybody may read, only root may write, whatever the umask and the modes in the wheels.
chmod -R u=rwX,go=rX "$tree"
echo "$tree: $(du -sm "$tree" | cut -f1) MB"
