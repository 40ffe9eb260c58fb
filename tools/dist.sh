#!/bin/sh
# Builds dist/ and checks it: wheel, sdist, and the list of what the package depends on (CycloneDX). Then installs the
# wheel into a new environment and runs the README's quickstart with it.
set -eu
tools/venv.sh .cache/dist dist
bin=.cache/dist/bin
rm -rf dist
$bin/python -m hatchling build -d dist
$bin/twine check --strict dist/*
version=$($bin/python -m hatchling version)
$bin/cyclonedx-py requirements requirements/package.txt --pyproject pyproject.toml --mc-type library \
    --output-reproducible --of JSON -o "dist/pgonce-$version.cdx.json"
$bin/python - "dist/pgonce-$version.cdx.json" "$version" <<'END'
import json, pathlib, sys  # the version is not in pyproject.toml, where cyclonedx-py looks for it
path = pathlib.Path(sys.argv[1])
bill = json.loads(path.read_text())
bill["metadata"]["component"]["version"] = sys.argv[2]
path.write_text(json.dumps(bill, indent=1) + "\n")
END

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
$bin/python -m venv "$fresh/venv"
"$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
"$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps dist/pgonce-"$version"-*.whl
$bin/python tools/quickstart.py README.md "$fresh/venv/bin"
ls -l dist
