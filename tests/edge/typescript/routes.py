"""The whole files of examples/, served by their own runtimes: the Next.js route by node, the Edge Function by Deno.

supabase-js puts ``/rest/v1`` before every path. On Supabase a gateway removes it; here a small proxy does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.edge.serving import serving
from tests.edge.typescript import node
from tests.edge.typescript.postgrest import PostgREST, token

SECRET = "whsec_of_the_examples"
LISTENING = re.compile(r"Listening on (http://127\.0\.0\.1:\d+)")


@contextmanager
def gateway(postgrest: PostgREST) -> Iterator[str]:
    """The address of a proxy to PostgREST that removes the prefix."""

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            passed = {"Authorization", "Content-Type", "Prefer", "Accept"}
            answer = postgrest.http.post(
                self.path.removeprefix("/rest/v1/"),
                content=self.rfile.read(length),
                headers={name: value for name, value in self.headers.items() if name.title() in passed},
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Prints nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Gateway)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def _deno(node_modules: Path) -> Path:
    for binary in sorted(node_modules.glob("@deno/*/deno")):
        return binary
    pytest.skip("npm has no deno for this machine")


def _command(runtime: str, node_modules: Path, programs: Path) -> tuple[list[str], Path]:
    if runtime == "node":
        return ["node", str(programs / "serve_route.js")], programs
    folder = programs.parent  # has the node_modules in which npm: names are looked up
    shutil.copy(node.EDGE_FUNCTION, folder / "edge_function.ts")
    options = ["--node-modules-dir=manual", "--no-lock", "--allow-net=127.0.0.1", "--allow-env", "--check"]
    return [str(_deno(node_modules)), "run", *options, "edge_function.ts"], folder


@contextmanager
def serve(runtime: str, node_modules: Path, programs: Path, postgrest: PostgREST) -> Iterator[httpx.Client]:
    """A client for the example's server, which is ready when the block begins."""
    command, folder = _command(runtime, node_modules, programs)
    with gateway(postgrest) as address:
        env = {
            **os.environ,
            "SUPABASE_URL": address,
            "SUPABASE_SERVICE_ROLE_KEY": token("service_role"),
            "STRIPE_API_KEY": "sk_test_none",
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "DENO_SERVE_ADDRESS": "tcp:127.0.0.1:0",
            "DENO_DIR": str(folder / "deno"),
            "DENO_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        }
        with subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield httpx.Client(base_url=_address(process), trust_env=False)
            finally:
                process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := LISTENING.search(line):
            return found[1]
    pytest.fail(f"the example did not start: {''.join(said)}")
