#!/usr/bin/env bash
# The first minutes on a GPU: builds, tests and measures within MINUTES, what matters most first.
#
#     bash benchmarks/gpu/first_run.sh OUT [MINUTES] [more options of python -m benchmarks.gpu]
#
# OUT then holds summary.md, results.csv and run.tar.gz, after every phase anew: what ends this early
# leaves what was found. Needs a CUDA torch with numpy, safetensors and triton, nvcc and g++; no
# index, no git, no setuptools. PYTHON names another interpreter.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$(realpath -m "$1") minutes=${2:-14}
shift $(( $# > 1 ? 2 : 1 ))
cd "$(dirname "$0")/../.."
python=${PYTHON:-}
for candidate in .venv/bin/python python3 python; do
  [ -n "$python" ] || ! command -v "$candidate" >/dev/null || python=$candidate
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m benchmarks.gpu --out "$out" --minutes "$minutes" --archive "$@"
