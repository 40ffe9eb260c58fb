#!/bin/sh
# Creates or updates an environment: tools/venv.sh DIRECTORY PURPOSE, from the root of the project. PURPOSE is run, dev,
# lock (everything), dist or docs (these two without pgonce itself). It installs what requirements/PURPOSE.txt names, and checks each file
# against its hash. It uses the uv on PATH. Otherwise python3 -m venv and pip install uv, which installs the rest in 11 s; pip
# needs 63 s. Where uv is not to be had or fails, pip installs everything. It asks no questions; if nothing works, one line
# says which package to install. PYTHON names the interpreter.
set -eu
venv=$1 locked=requirements/$2.txt editable=$(case $2 in dist | docs) ;; *) echo yes ;; esac)

say() { echo "pgonce: $*" >&2; }
say_installing() { say "installing $locked into $venv with $1 (again only when dependencies change)"; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has() { "$1" -c "import $2" 2>/dev/null; }

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    # python3 first: if it is new enough, it is the one that the system's packages belong to
    if new_enough "$candidate"; then python=$candidate; break; fi
done

with_uv() {
    uv=$1
    new_enough "$venv/bin/python" || "$uv" venv --quiet --clear --python "${python:->=3.11}" "$venv" || return 1
    say_installing uv
    "$uv" pip install --quiet --python "$venv/bin/python" --require-hashes --requirement "$locked" || return 1
    [ -z "$editable" ] ||
        "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
}

with_uv_from_pip() {
    pip_install --require-hashes --requirement requirements/uv.txt || return 1
    # uv does not read what pip is told of certificates and of the index
    index=$("$venv/bin/python" -m pip config list | sed -n "s/^[a-z:]*\.index-url='\(.*\)'\$/\1/p" | head -n 1)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"
    with_uv "$venv/bin/uv"
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --no-input "$@"
}

with_pip() {
    # An environment may exist and not work: Python was upgraded since, or uv created it, without pip.
    if ! new_enough "$venv/bin/python" || ! has "$venv/bin/python" pip; then
        if [ -z "$python" ]; then
            say "needs Python 3.11 or newer: apt install python3 python3-venv (if that is older:" \
                "python3.11 python3.11-venv), or name one: make PYTHON=/path/to/python3.12"
            exit 1
        fi
        if ! has "$python" "ensurepip, venv"; then  # Debian's python3 without python3-venv
            case $python in */python3 | python3) package=python3-venv ;; *) package=${python##*/}-venv ;; esac
            say "$python cannot create an environment: apt install $package"
            exit 1
        fi
        "$python" -m venv --clear "$venv" || return 1
    fi
    if with_uv_from_pip; then return 0; fi
    say_installing "pip, which takes longer"
    # the file names every package, so that pip has nothing to find out
    pip_install --no-deps --require-hashes --requirement "$locked" || return 1
    [ -z "$editable" ] || pip_install --no-deps --no-build-isolation --editable .  # a folder has no hash: a step of its own
}

if command -v uv >/dev/null; then
    if with_uv uv; then exit 0; fi
    say "uv failed (see above): trying python3 -m venv and pip"
fi
with_pip || {
    say "could not install the dependencies (see above): is the package index reachable, and does it have packages" \
        "for $("$venv/bin/python" --version 2>/dev/null || echo it)? If not, name another Python: make PYTHON=python3.14"
    exit 1
}
