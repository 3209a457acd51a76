#!/usr/bin/env bash
# Builds the wheel, installs it into empty environments, and uses it from there: first alone, then with the extra `demo`.
#
#     tools/try_wheel.sh                  # about three minutes on two cores
#     PYTHON=python3.12 tools/try_wheel.sh
#
# Nothing of the checkout is on the path, and what is made goes away at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD

uv=$checkout/.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv) || { echo "try_wheel: uv is needed: make setup" >&2; exit 1; }
# The build of torch: as in the Makefile.
torch_source=(--torch-backend=auto)
[ -z "${PIP_FIND_LINKS:-}" ] || torch_source=(--find-links "$PIP_FIND_LINKS")

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
unset PYTHONPATH VIRTUAL_ENV

"$uv" build --quiet --wheel --out-dir "$home/dist" "$checkout"
wheels=("$home"/dist/*.whl)
wheel=${wheels[0]}
echo "built $(basename "$wheel"), $(wc -c <"$wheel") bytes"

environment() { # NAME [EXTRAS]: an empty one, with the wheel in it
  "$uv" venv --quiet --python "${PYTHON:-python3}" "$home/$1"
  VIRTUAL_ENV=$home/$1 "$uv" pip install --quiet "${torch_source[@]}" -c "$checkout/constraints.txt" "$wheel${2:-}"
  bin=$home/$1/bin
  mkdir "$home/$1-elsewhere" && cd "$home/$1-elsewhere"
  "$bin/python" -c 'import keepstep, sys; sys.exit(not keepstep.__file__.startswith(sys.prefix))'
  echo "installed${2:+ with $2}: $(VIRTUAL_ENV=$home/$1 "$uv" pip list --quiet | tail -n +3 | wc -l) packages"
}

keepstep() {
  echo "\$ keepstep $*" >&2
  "$bin/keepstep" "$@"
}

environment alone
keepstep --version
keepstep --help
keepstep demo --script
keepstep simulate --steps 1000 --save-every 100 --eval-every 100 --limit 2 --crash-at 500 >/dev/null
# The hook came along, and is found by the command.
keepstep run -- "$bin/python" -c 'import sys; sys.exit(not any(type(one).__module__ == "keepstep_boot" for one in sys.meta_path))'
if "$bin/keepstep" demo 2>"$home/said"; then
  echo "try_wheel: the demonstration ran without what it needs" >&2
  exit 1
fi
cat "$home/said"
grep -qF 'pip install "keepstep[demo]"' "$home/said"

environment with-demo '[demo]'
keepstep demo --script sft_lora >sft_lora.py
"$bin/python" sft_lora.py --help >/dev/null
keepstep demo
echo "try_wheel: all well"
