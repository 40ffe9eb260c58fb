"""A real PostgREST on a free port of 127.0.0.1, called over plain HTTP and by programs on node."""

from __future__ import annotations

import hmac
import json
import os
import re
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.conftest import ROLES, wait_until

JWT_SECRET = "a secret of at least thirty-two characters"
AUTHENTICATOR = "authenticator"  # the one role PostgREST logs in as; it becomes the role that the token names

# Its threads log at the same time: the port may be followed by the date of the next line instead of a line end.
LISTENING = re.compile(r"Listening on port (\d+?)(?:\d\d/\w+/\d{4}:|\n)")


def token(role: str) -> str:
    """A JSON web token for a role, signed as Supabase signs its keys (RFC 7519, HS256)."""

    def part(content: bytes) -> bytes:
        return urlsafe_b64encode(content).rstrip(b"=")

    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps({"role": role}).encode())
    return (signed + b"." + part(hmac.digest(JWT_SECRET.encode(), signed, "sha256"))).decode()


@dataclass(frozen=True)
class PostgREST:
    """A running PostgREST and the programs that talk to it."""

    http: httpx.Client
    programs: Path

    def request(self, method: str, path: str, role: str, body: object = None) -> httpx.Response:
        headers = {} if role == "anon" else {"Authorization": f"Bearer {token(role)}"}
        return self.http.request(method, path, json=body, headers=headers)

    def call(self, function: str, arguments: object) -> httpx.Response:
        """Call a function with JSON arguments, as service_role."""
        return self.request("POST", f"rpc/{function}", "service_role", arguments)

    def is_ready(self) -> bool:
        """It prints "Listening" a moment before it listens, and loads the schema after that."""
        try:
            return self.call("get_checkpoint", {"p_seed_name": "any"}).is_success
        except httpx.ConnectError:
            return False

    def start(self, scenario: str, *args: object) -> subprocess.Popen[str]:
        command = ["node", str(self.programs / "scenarios.js"), scenario, *map(json.dumps, args)]
        env = {**os.environ, "POSTGREST_URL": str(self.http.base_url), "SERVICE_ROLE_KEY": token("service_role")}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, scenario: str, *args: object) -> Any:
        """What a scenario of scenarios.ts returns."""
        with self.start(scenario, *args) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return json.loads(out)


@contextmanager
def serve(binary: Path, programs: Path, database: str) -> Iterator[PostgREST]:
    """PostgREST on ``database``, with Supabase's roles; ready when the block begins."""
    password = uuid4().hex
    with psycopg.connect(database, autocommit=True) as conn:
        if not conn.execute("select 1 from pg_roles where rolname = %s", [AUTHENTICATOR]).fetchone():
            conn.execute(f"create role {AUTHENTICATOR} login noinherit".encode())
        conn.execute(f"alter role {AUTHENTICATOR} password '{password}'".encode())
        conn.execute(f"grant {', '.join(ROLES)} to {AUTHENTICATOR}".encode())
    parts = urlsplit(database)
    host = parts.netloc.rpartition("@")[2]
    settings = {
        "DB_URI": urlunsplit(parts._replace(netloc=f"{AUTHENTICATOR}:{quote(password)}@{host}")),
        "DB_SCHEMAS": "public",
        "DB_ANON_ROLE": "anon",
        "JWT_SECRET": JWT_SECRET,
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": "0",
    }
    env = {f"PGRST_{name}": value for name, value in settings.items()}
    with subprocess.Popen([binary], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := LISTENING.search(line):
                    break
            else:
                pytest.fail(f"PostgREST did not start: {said}")
            with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", verify=False, trust_env=False) as http:
                server = PostgREST(http, programs)
                wait_until(server.is_ready, "PostgREST serves the functions")
                yield server
        finally:
            process.terminate()
