"""What schemathesis makes of an endpoint's own OpenAPI page: valid, odd and invalid requests, by the dozen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.conftest import Web

_CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


def test_an_endpoint_answers_as_its_schema_says(web: Web, tmp_path: Path) -> None:
    schema = web.base + web.path("inference-api", "/openapi.json")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", schema, "--seed", "1"]
    limits = ["--phases", "coverage,fuzzing", "--max-examples", "10", "--checks", _CHECKS, "--request-timeout", "60"]
    done = subprocess.run([*command, *limits], capture_output=True, text=True, timeout=250, cwd=tmp_path)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr + web.server.log_tail())
    assert " passed" in done.stdout
    assert web.get("model-describe").status == 200
