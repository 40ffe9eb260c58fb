"""The packages for node are installed once, and the programs are compiled in each test session."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
EXAMPLES = ROOT / "examples" / "typescript"
NEXT_ROUTE = ROOT / "examples" / "nextjs" / "app" / "api" / "webhooks" / "stripe" / "route.ts"
EDGE_FUNCTION = ROOT / "examples" / "supabase" / "functions" / "stripe-webhook" / "index.ts"
PACKAGE = ROOT / "packages" / "typescript"


def install() -> Path:
    """The folder with the packages of the lock, in .cache; installed on first use, by one process at a time.

    Skips the test where there is no node, or npm cannot install them (no network, or no PostgREST for this machine).
    """
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("node and npm are not installed: apt install nodejs npm")
    lock = (HERE / "package-lock.json").read_bytes()
    home = ROOT / ".cache" / f"typescript-{hashlib.sha256(lock).hexdigest()[:12]}"
    home.mkdir(parents=True, exist_ok=True)
    (home.parent / ".gitignore").write_text("*\n")
    with (home / "install.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(HERE / name, home)
            # so that npm gives up in seconds, not in minutes, if there is no network
            patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
            command = [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error", *patience]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip() or "no reason given").splitlines()[0]
                pytest.skip(f"npm cannot install PostgREST and supabase-js here ({reason})")
            (home / "installed").touch()
    return home / "node_modules"


def compiled(node_modules: Path, folder: Path) -> Path:
    """The examples and scenarios as JavaScript, below ``folder``; a type error fails the test.

    They import the package as a user does: built and packed by npm, then installed. One process at a time.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "compile.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (folder / "compiled").exists():
            for left in ("node_modules", "package", "unpacked", "out"):  # by a process for which it failed
                shutil.rmtree(folder / left, ignore_errors=True)
            _link(node_modules, folder / "node_modules")
            _install_package(node_modules, folder)
            for path in (*EXAMPLES.glob("*.ts"), *HERE.glob("*.ts"), *HERE.glob("*.json"), NEXT_ROUTE):
                shutil.copy(path, folder)
            _tsc(folder)
            (folder / "compiled").touch()
    return folder / "out"


def _link(node_modules: Path, into: Path) -> None:
    into.mkdir()
    for package in node_modules.iterdir():
        (into / package.name).symlink_to(package)


def _install_package(node_modules: Path, folder: Path) -> None:
    source = folder / "package"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("dist", "node_modules"))
    (source / "node_modules").symlink_to(node_modules)
    _tsc(source)
    (source / "node_modules").unlink()
    pack = [shutil.which("npm") or "npm", "pack", "--ignore-scripts", "--loglevel=error", "--pack-destination"]
    done = subprocess.run([*pack, str(folder)], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [packed] = folder.glob("pgonce-*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (folder / "unpacked" / "package").rename(folder / "node_modules" / "pgonce")
    shutil.rmtree(source)


def _tsc(folder: Path) -> None:
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler, "-p", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
