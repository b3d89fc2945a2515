#!/usr/bin/env bash
# The benchmark, the reference training and its evaluation on a machine with a GPU that is lent for a while.
#
#   scripts/gpu_run.sh frames.lapa          each part in turn; call it again until it says "all done"
#   scripts/gpu_run.sh frames.lapa train    one part: bench, train or evaluate
#
# Needs no network: the data is one packed store, and packages that the machine lacks are installed from wheels.
# Each part ends within MINUTES; training that was cut short goes on where it was, a finished part is not repeated.
#
#   PRESET=breakout_rgb     what is trained
#   OVERRIDES=""            options for it, such as "training.compile=true"
#   BENCH=""                options for the benchmark
#   MINUTES=9.5             at most so long a part
#   RUN=checkpoints/gpu     where the run is
#   RESULTS=results         where figures and pictures go
#   WHEELS=wheels           a folder of wheels, if there is one
#   PYTHON=python3
set -euo pipefail
cd "$(dirname "$0")/.."

STORE=${1:?"name the packed store, such as bulk_videos/.lapa/frames.lapa"}
PARTS=${2:-"bench train evaluate"}
PRESET=${PRESET:-breakout_rgb}
OVERRIDES=${OVERRIDES:-}
BENCH=${BENCH:-}
MINUTES=${MINUTES:-9.5}
RUN=${RUN:-checkpoints/gpu}
RESULTS=${RESULTS:-results}
WHEELS=${WHEELS:-wheels}
PYTHON=${PYTHON:-python3}
SITE=$RUN/site

[ -f "$STORE" ] || { echo "gpu_run: $STORE: no such packed store" >&2; exit 2; }
mkdir -p "$RUN" "$RESULTS"

# Installed, not merely on the path: plugins are found by the package's metadata.
if ! "$PYTHON" -c "from importlib.metadata import version; version('lapa')" 2>/dev/null; then
    export PYTHONPATH=$PWD/$SITE${PYTHONPATH:+:$PYTHONPATH}
    if [ ! -d "$SITE" ]; then
        rm -rf "$SITE.part"
        install=("$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$SITE.part")
        if compgen -G "$WHEELS/*.whl" >/dev/null; then
            "${install[@]}" "$WHEELS"/*.whl
        fi
        "${install[@]}" --no-build-isolation .
        mv "$SITE.part" "$SITE"
    fi
fi

# Runs a part, within the limit, and leaves a stamp when it is done. Exit code 75: call again.
part() {
    local name=$1 status=0
    shift
    if [ -e "$RUN/$name.done" ]; then
        echo "gpu_run: $name: done before"
        return
    fi
    echo "gpu_run: $name"
    timeout --signal=TERM --kill-after=60 "${MINUTES}m" "$@" || status=$?
    case $status in
        0) touch "$RUN/$name.done" ;;
        124 | 143) echo "gpu_run: $name: time is up; call again to go on"; exit 75 ;;
        *) echo "gpu_run: $name: failed with exit code $status" >&2; exit "$status" ;;
    esac
}

for name in $PARTS; do
    case $name in
        bench)
            # shellcheck disable=SC2086 # the options are words
            part bench "$PYTHON" scripts/benchmark.py --data "$STORE" --out "$RESULTS" $BENCH
            ;;
        train)
            # shellcheck disable=SC2086
            part train "$PYTHON" -m lapa.cli train --resume --preset "$PRESET" \
                "data.root=$STORE" "training.out=$RUN/run" $OVERRIDES
            ;;
        evaluate)
            part evaluate "$PYTHON" -m lapa.cli evaluate \
                --checkpoint "$RUN/run/best.pt" --data "$STORE" --out "$RUN/report"
            cp "$RUN/report/metrics.json" "$RESULTS/$PRESET.json"
            cp "$RUN/report/pairs.png" "$RESULTS/$PRESET.png"
            cp "$RUN/run/run.json" "$RESULTS/$PRESET-run.json"
            ;;
        *) echo "gpu_run: no part '$name'; there are bench, train and evaluate" >&2; exit 2 ;;
    esac
done
echo "gpu_run: all done"
