#!/bin/sh
# Writes requirements/*.txt, each with hashes, from pyproject.toml and requirements/*.in: tools/lock.sh [--upgrade]
# Without --upgrade the versions of lock.txt stay. Uses uv, from PATH or from an environment of its own.
set -eu
uv=$(command -v uv || echo .cache/lock/bin/uv)
if ! [ -x "$uv" ]; then
    "${PYTHON:-python3}" -m venv .cache/lock
    .cache/lock/bin/pip install --quiet uv
fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi

compile() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "requirements/$out" "$@"
}
compile lock.txt "$@" --all-extras pyproject.toml requirements/build.in requirements/dist.in \
    requirements/docs.in requirements/uv.in
# the parts of it that one purpose needs: pip cannot install a part of a file with hashes
compile run.txt --constraint requirements/lock.txt --extra embedded --extra serve --extra console --extra examples \
    pyproject.toml requirements/build.in
compile dev.txt --constraint requirements/lock.txt --extra all --extra examples --extra dev \
    pyproject.toml requirements/build.in
compile package.txt --constraint requirements/lock.txt --extra all pyproject.toml
compile dist.txt --constraint requirements/lock.txt requirements/dist.in
compile docs.txt --constraint requirements/lock.txt requirements/docs.in
compile uv.txt --constraint requirements/lock.txt requirements/uv.in
