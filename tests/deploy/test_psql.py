"""`make psql`: the bundled psql on the embedded store, and the example queries of the documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.psql import psql_program
from telemetry.errors import TwinError
from telemetry.stores.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
QUERIES = re.findall(r"```sql\n(.+?)```", (ROOT / "docs" / "live.md").read_text(encoding="utf-8"), re.DOTALL)


def psql(sql: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.psql", "-c", sql]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_it_starts_the_embedded_store_and_answers(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TWIN_TELEMETRY_DSN"}
    command = [sys.executable, "-m", "deploy.psql", "-A", "-t", "-c", "SELECT 6 * 7"]
    environment["TWIN_VAR"] = str(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr


@pytest.mark.parametrize("sql", QUERIES)
def test_the_example_queries_are_answered(postgres_dsn: str, sql: str) -> None:
    migrate(postgres_dsn)
    done = psql(sql, TWIN_TELEMETRY_DSN=postgres_dsn)
    assert done.returncode == 0, done.stderr
    assert psql(sql.replace("FROM", "FROM no_such_"), TWIN_TELEMETRY_DSN=postgres_dsn).returncode == 1


def test_there_are_three_example_queries() -> None:
    assert len(QUERIES) == 3


def test_a_missing_psql_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TwinError, match="apt install postgresql-client"):
        psql_program(packaged=tmp_path)
    (tmp_path / "psql").touch(mode=0o755)
    assert psql_program(packaged=tmp_path / "none") == str(tmp_path / "psql")
