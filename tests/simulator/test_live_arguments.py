"""The live simulator's arguments are judged before anything is started for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from simulator.live import main


def test_arguments_that_can_be_run_are_told_so_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check", "--for", "60", "--inject", "overheating=#1@20s+15s", "--regime", "hot-summer@60s"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--for", "0"], "for_s is 0.0"),
        (["--speed", "nan"], "speed is nan"),
        (["--inject", "overheating"], "is no injection"),
        (["--regime", "winter@1s"], "is no regime"),
    ],
)
def test_what_cannot_be_run_is_a_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", *arguments]) == 2
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--for", "abc"], ["--batteries", "0"], ["--nope"]])
def test_what_is_no_argument_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--check", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_make_run_asks_before_the_pipeline() -> None:
    root = Path(__file__).resolve().parents[2]
    command = ["make", "--dry-run", "run", "FOR=abc", "ARGS=--speed 2"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    modules = [line.split("-m ")[1].strip() for line in said.splitlines() if line.startswith("python -m ")]
    assert modules == [
        "simulator.live --check --for abc --speed 2",
        "training.experiment --default",
        "deploy.up --for abc --speed 2",
    ]
