#!/bin/sh
# Write the locks again from pyproject.toml. Needs uv on PATH; reads the package registry.
# Called bare it keeps every pin that still fits; with --upgrade it takes the newest of each.
set -eu

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

resolve() { # resolve OUTPUT ARGUMENT...: one resolution for Python 3.11 to 3.13, Linux and macOS
    output=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-emit-index-url --no-annotate --no-header --output-file "$output" "$@"
    # Where pyproject.toml's two platforms are all there is, a marker that names both says nothing.
    sed "s/ ; sys_platform == 'darwin' or sys_platform == 'linux'//; s/ and (sys_platform == 'darwin' or sys_platform == 'linux')//" \
        "$output" > "$output.short"
    mv "$output.short" "$output"
}

# An entry is a requirement line and the indented lines of digests under it.
split() { # split keep|drop: the GPU build of torch and what only it needs, or everything else
    awk -v mode="$1" '
        /^[A-Za-z0-9]/ { gpu = ($0 ~ /^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==/) }
        (mode == "keep") == gpu { print }
    ' "$scratch/all.txt"
}

cat requirements/puna.txt requirements/torch-gpu.txt 2>/dev/null |
    grep -v '^#' > "$scratch/all.txt" || : # the present pins are where the resolver starts from
printf 'torch==2.13.0\n' > "$scratch/torch.in"
# Wheels only: installing from sources runs a stranger's code. rouge-score has wheels up to 0.0.4; sqlitedict and word2number have
# none, and lm-eval loads them only for a cache and for tasks that are not used here.
printf 'rouge-score<0.0.5\n' > "$scratch/wheels.in"
resolve "$scratch/all.txt" "${1:---quiet}" pyproject.toml --extra test "$scratch/torch.in" --constraint "$scratch/wheels.in" \
    --no-emit-package sqlitedict --no-emit-package word2number

{
    echo "# Everything but torch: what runs, tests and checks a release. Written by requirements/lock.sh."
    split drop
} > requirements/puna.txt
{
    echo "# PyTorch with CUDA and what only that needs. Written by requirements/lock.sh."
    split keep
} > requirements/torch-gpu.txt

# pydantic: mypy reads its classes with the plugin that comes with it.
printf 'ruff>=0.14,<1\nmypy>=1.18,<3\nshellcheck-py>=0.11,<1\npydantic\n' > "$scratch/dev.in"
printf 'uv\n' > "$scratch/uv.in"
for name in dev uv; do
    grep -v '^#' "requirements/$name.txt" > "$scratch/$name.txt" 2>/dev/null || :
    resolve "$scratch/$name.txt" "${1:---quiet}" "$scratch/$name.in" --constraint requirements/puna.txt
done
{
    echo "# Linters and the type checker. Written by requirements/lock.sh."
    cat "$scratch/dev.txt"
} > requirements/dev.txt
{
    echo "# uv, used only where pip does not know the CPU build of torch. Written by requirements/lock.sh."
    cat "$scratch/uv.txt"
} > requirements/uv.txt
