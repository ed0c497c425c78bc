"""Model registry on MLflow: registration, promotion, rollback, alias changes from outside, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.training.small_models import GATE, GATE_BATTERIES, TRAIN_BATTERIES, ModelFiles
from training.registry.__main__ import main
from training.registry.promotion import promote, rollback, synchronise
from training.registry.registration import Provenance, RegistrationReport, RegistrationResult, register_all
from training.registry.registry_store import RegistryStore
from training.release import load_release, model_name, read_release

Register = Callable[[], RegistrationReport]


@pytest.fixture
def register(store: RegistryStore, models: ModelFiles, provenance: Provenance) -> Register:
    return lambda: register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")


def result_of(report: RegistrationReport, target: str) -> RegistrationResult:
    return next(model for model in report.models if model.target == target)


def test_first_models_become_champions_in_one_release(
    register: Register, trained: ModelFiles, store: RegistryStore, settings: Settings
) -> None:
    report = register()
    assert [model.state for model in report.models] == ["champion"] * 4
    aliases = store.aliases()
    assert aliases.champions == aliases.challengers == dict.fromkeys(TARGET_NAMES, 1)
    assert aliases.release == report.release == 1
    (event,) = store.events()
    assert (event.kind, event.by, event.after) == ("register", "a test", aliases)
    assert set(load_release("battery", settings=settings).models) == set(TARGET_NAMES)


def test_registering_again_changes_nothing(register: Register, trained: ModelFiles, store: RegistryStore) -> None:
    register()
    again = register()
    assert again.event is None
    assert again.outside is None
    assert not any(model.new for model in again.models)
    assert [model.state for model in again.models] == ["champion"] * 4
    assert store.versions("soh") == [1]
    assert len(store.events()) == 1


def test_only_promotable_targets_are_promoted_with_the_training_reason_recorded(
    models: ModelFiles, provenance: Provenance, store: RegistryStore
) -> None:
    for noise in (1.0, 0.1):
        models.train("soh", noise=noise)
        models.train("temperature", noise=noise)
        report = register_all(
            store,
            models.folder,
            models.metrics,
            GATE,
            replace(provenance, tags={"retrain_reason": "it drifts"}),
            by="a test",
            why="it drifts",
            promotable=TARGET_NAMES if noise == 1.0 else ["temperature"],
        )
    assert store.aliases().champions == {"soh": 1, "temperature": 2}
    assert store.aliases().challengers == {"soh": 2, "temperature": 2}
    assert result_of(report, "soh").state == "challenger"
    assert "for other targets" in result_of(report, "soh").reasons[0]
    assert store.events()[-1].reason == "it drifts: passed the gate: temperature 2"
    version = store.client.get_model_version("battery-temperature", "2")
    assert version.tags["retrain_reason"] == "it drifts"
    assert store.client.get_run(version.run_id).data.tags["retrain_reason"] == "it drifts"


def test_empty_registry_gets_the_same_release_from_the_same_files(
    register: Register, models: ModelFiles, provenance: Provenance, settings: Settings, empty_registry: Path
) -> None:
    models.train("soh")
    register()
    (settings.var / "fresh").mkdir()
    fresh = Settings(var=settings.var / "fresh")
    (fresh.var / "mlflow.db").write_bytes(empty_registry.read_bytes())
    store = RegistryStore.open(fresh, "battery")
    register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    first, second = (load_release("battery", settings=where).release for where in (settings, fresh))
    assert first == second


def test_better_model_replaces_the_champion_and_other_targets_are_unchanged(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh", noise=1.0)
    models.train("rul")
    register()
    models.train("soh", noise=0.1)
    report = register()
    assert result_of(report, "soh").state == "champion"
    assert result_of(report, "soh").version == 2
    assert "not worse than the champion, version 1," in result_of(report, "soh").reasons[1]
    assert store.aliases().champions == {"soh": 2, "rul": 1}
    assert {t: m.version for t, m in read_release(store.client, "battery", 2).models.items()} == {"soh": 2, "rul": 1}


def test_worse_model_stays_challenger(register: Register, models: ModelFiles, store: RegistryStore) -> None:
    models.train("soh", noise=0.1)
    register()
    models.train("soh", noise=1.0)
    report = register()
    assert result_of(report, "soh").state == "challenger"
    assert "worse than the champion, version 1, error" in result_of(report, "soh").reasons[1]
    assert store.aliases().champions == {"soh": 1}
    assert store.aliases().challengers == {"soh": 2}
    assert report.release == 1
    assert store.events()[-1].kind == "register"


@pytest.mark.parametrize("target", ["soh", "failure"])
def test_model_trained_without_signal_stays_challenger(
    register: Register, models: ModelFiles, store: RegistryStore, target: str
) -> None:
    """Negative control: labels that are independent of the features."""
    models.train(target, signal=0.0)
    report = register()
    assert result_of(report, target).state == "challenger"
    assert "not above the required 0.02" in result_of(report, target).reasons[0]
    assert report.release is None
    assert store.aliases().champions == {}


def test_target_not_available_from_the_source_is_reported(register: Register, models: ModelFiles) -> None:
    models.train("soh")
    models.write_not_available("rul", "no battery reached its end of life")
    report = register()
    assert result_of(report, "rul").state == "not available"
    assert result_of(report, "rul").reasons == ("no battery reached its end of life",)
    assert result_of(report, "temperature").reasons == ("it was not trained",)


def test_model_whose_onnx_differs_from_scikit_learn_is_not_registered(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh", noise=1.0)
    other = (models.folder / "soh" / "model.onnx").read_bytes()
    models.train("soh", noise=0.1)
    (models.folder / "soh" / "model.onnx").write_bytes(other)
    report = register()
    assert result_of(report, "soh").state == "not registered"
    assert "ONNX differs from scikit-learn" in result_of(report, "soh").reasons[0]
    assert store.aliases().challengers == {}


def test_champion_trained_on_the_gate_batteries_is_not_replaced(register: Register, models: ModelFiles) -> None:
    models.train("soh", noise=1.0, train_batteries=TRAIN_BATTERIES + GATE_BATTERIES)
    register()
    models.train("soh", noise=0.1)
    assert "trained on every gate battery" in result_of(register(), "soh").reasons[1]


def test_new_state_version_is_compared_with_baselines_and_never_mixed(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh")
    models.train("rul")
    register()
    models.train("soh", state_version=2)
    report = register()
    assert result_of(report, "soh").state == "challenger"
    assert "would lose rul" in result_of(report, "soh").reasons[-1]
    models.train("rul", state_version=2)
    report = register()
    assert result_of(report, "soh").state == result_of(report, "rul").state == "champion"
    assert "cannot be run on these rows (it has state version 1" in result_of(report, "rul").reasons[1]
    assert read_release(store.client, "battery", 2).state_version == 2


def test_rollback_restores_all_models_of_the_release(
    register: Register, trained: ModelFiles, store: RegistryStore
) -> None:
    for target in TARGET_NAMES:
        trained.train(target, noise=0.8)
    register()
    first = store.aliases()
    for target in ("soh", "rul"):
        trained.train(target, noise=0.05)
    register()
    assert store.aliases().champions != first.champions

    event = rollback(store, reason="live error", by="Ada")
    assert store.aliases().champions == first.champions
    assert store.aliases().release == first.release == 1
    assert (event.kind, event.by, event.reason) == ("rollback", "Ada", "live error")
    with pytest.raises(TwinError, match="first release"):
        rollback(store, reason="once more", by="Ada")


def test_register_does_not_undo_a_rollback(register: Register, models: ModelFiles, store: RegistryStore) -> None:
    models.train("soh", noise=0.8)
    register()
    models.train("soh", noise=0.05)
    register()
    rollback(store, reason="live error", by="Ada")
    report = register()
    assert store.aliases().champions == {"soh": 1}
    assert "rollback by Ada: live error" in result_of(report, "soh").reasons[0]
    outcome = promote(store, GATE, {"soh": 2}, reason="it was the sensor", by="Ada")
    assert outcome.event is not None
    assert store.aliases().champions == {"soh": 2}


def test_repeated_rollbacks_go_back_one_release_each(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    for noise in (1.0, 0.5, 0.05):
        models.train("soh", noise=noise)
        register()
    assert store.aliases().champions == {"soh": 3}
    for version in (2, 1):
        rollback(store, reason="further back", by="Ada")
        assert store.aliases().champions == {"soh": version}
    rollback(store, reason="and forward", by="Ada", to=3)
    assert store.aliases().champions == {"soh": 3}


def test_model_that_fails_the_gate_is_promoted_only_by_force(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh", noise=0.1)
    register()
    models.train("soh", noise=1.0)
    register()
    refused = promote(store, GATE, {"soh": 2}, reason="I like it", by="Ada")
    assert refused.event is None
    assert store.aliases().champions == {"soh": 1}

    forced = promote(store, GATE, {"soh": 2}, reason="I like it", by="Ada", force=True).event
    assert forced is not None
    assert forced.forced
    assert "fails the gate" in forced.warnings[0]
    assert store.aliases().champions == {"soh": 2}


def test_champion_alias_moved_outside_creates_a_release_and_is_evaluated_by_the_gate(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh", noise=0.1)
    models.train("rul")
    register()
    models.train("soh", noise=1.0)
    register()
    store.client.set_registered_model_alias(model_name("battery", "soh"), "champion", "2")

    event = synchronise(store, GATE)
    assert event is not None
    assert (event.kind, event.by) == ("outside", "outside this command")
    assert "battery-soh@champion 1 -> 2" in event.reason
    assert len(event.warnings) == 1
    assert "soh version 2 fails the gate" in event.warnings[0]
    assert store.aliases().release == 2
    assert {t: m.version for t, m in read_release(store.client, "battery", 2).models.items()} == {"soh": 2, "rul": 1}
    assert synchronise(store, GATE) is None


def test_release_alias_moved_outside_moves_the_model_aliases(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    for noise in (0.8, 0.05):
        models.train("soh", noise=noise)
        register()
    store.client.set_registered_model_alias("battery-twin", "champion", "1")
    event = register().outside
    assert event is not None
    assert "battery-twin@champion 2 -> 1" in event.reason
    assert store.aliases().champions == {"soh": 1}


def test_champion_not_registered_by_this_project_is_a_warning(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh")
    register()
    run = store.client.create_run("0")
    store.client.log_text(run.info.run_id, "nothing", "model/readme.txt")
    store.client.create_model_version("battery-soh", f"runs:/{run.info.run_id}/model", run.info.run_id)
    store.client.set_registered_model_alias("battery-soh", "champion", "2")
    event = synchronise(store, GATE)
    assert event is not None
    assert any("has no model.onnx" in warning for warning in event.warnings)
    assert any("the release was not updated" in warning for warning in event.warnings)
    assert store.aliases().release == 1
    assert synchronise(store, GATE) is None


def test_concurrent_events_do_not_overwrite_each_other(store: RegistryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.registry.promotion import record_event

    monkeypatch.setattr(RegistryStore, "_event_tags", lambda self: [])  # both read the events before either writes
    record_event(store, "promote", by="Ada", reason="one")
    record_event(store, "promote", by="Bob", reason="two")
    monkeypatch.undo()
    assert {event.by for event in store.events()} == {"Ada", "Bob"}


class TestCommand:
    @pytest.fixture
    def run(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str]]:
        monkeypatch.setenv("TWIN_VAR", str(settings.var))
        monkeypatch.setenv("COLUMNS", "200")
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"gate": {"min_skill": dict(GATE.min_skill), "tolerance": 0.0}}))

        def call(*arguments: str) -> tuple[int, str]:
            code = main([*arguments, "--params", str(params)])
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        return call

    def test_promote_rollback_history_and_list(
        self,
        run: Callable[..., tuple[int, str]],
        register: Register,
        models: ModelFiles,
        store: RegistryStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        models.train("soh", noise=0.1)
        register()
        code, text = run("list")
        row = next(line for line in text.splitlines() if "battery-soh" in line)
        assert [cell.strip() for cell in row.split("│")[1:-1]] == ["battery-soh", "1", "–", "1"], (
            "the champion is not its own challenger"
        )
        models.train("soh", noise=1.0)
        register()

        code, text = run("promote", "--target", "soh", "--reason", "newest", "--by", "Ada")
        assert code == 1
        assert "fails the gate" in text
        assert "--force" in text
        code, text = run("promote", "--target", "soh", "--reason", "newest", "--by", "Ada", "--force")
        assert code == 0
        assert "release 2 is champion" in text
        code, text = run("rollback", "--reason", "as expected", "--by", "Bob")
        assert code == 0
        assert "release 1 is champion again" in text

        code, text = run("history", "--json")
        events = json.loads(text)
        assert [(e["kind"], e["by"], e["after"]["champions"]) for e in events[-2:]] == [
            ("promote", "Ada", {"soh": 2}),
            ("rollback", "Bob", {"soh": 1}),
        ]
        code, text = run("history")
        for word in ("promote (forced)", "Ada", "newest", "fails the gate", "as expected"):
            assert word in text
        code, text = run("list", "--json")
        assert json.loads(text)["champions"] == {"soh": 1}
        code, text = run("list")
        assert "battery-soh" in text
        row = next(line for line in text.splitlines() if "battery-soh" in line)
        assert [cell.strip() for cell in row.split("│")[1:-1]] == ["battery-soh", "1", "2", "2"]

        monkeypatch.setenv("COLUMNS", "80")
        code, text = run("history")
        assert events[-1]["time"] in text, "the time is not wrapped in a narrow terminal"
        code, text = run("rollback", "--to", "42", "--reason", "r")
        assert (code, text.strip()) == (1, "there is no version 42 of battery-twin; existing: 1, 2")
        code, text = run("promote", "--target", "soh", "--version", "99", "--reason", "r")
        assert (code, text.strip()) == (1, "there is no version 99 of battery-soh; existing: 1, 2")
        code, text = run("list", "--domain", "nope")
        assert (code, text.strip()) == (2, "the registry has no model namespace nope; existing: battery")

    def test_alias_moved_outside_is_reported_by_the_next_command(
        self, run: Callable[..., tuple[int, str]], register: Register, models: ModelFiles, store: RegistryStore
    ) -> None:
        for noise in (0.1, 1.0):
            models.train("soh", noise=noise)
            register()
        store.client.set_registered_model_alias("battery-soh", "champion", "2")
        code, text = run("list")
        assert code == 0
        assert "moved outside this command" in text
        assert "fails the gate" in text

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("promote", "--target", "soh", "--reason", "r"), "has no challenger"),
            (("promote", "--version", "1", "--reason", "r"), "needs a --target"),
            (
                ("promote", "--target", "soh", "--version", "7", "--reason", "r"),
                "there is no version 7 of battery-soh; existing: none",
            ),
            (("rollback", "--reason", "r"), "nothing to roll back"),
        ],
    )
    def test_errors_are_one_sentence(
        self, run: Callable[..., tuple[int, str]], arguments: tuple[str, ...], sentence: str
    ) -> None:
        code, text = run(*arguments)
        assert code == 1
        assert sentence in text
        assert "Traceback" not in text

    def test_reason_is_required(self, run: Callable[..., tuple[int, str]]) -> None:
        with pytest.raises(SystemExit):
            run("promote", "--target", "soh")
        with pytest.raises(SystemExit):
            run("promote", "--target", "soh", "--reason", " ")

    @pytest.mark.parametrize("domain", ["a b/../c", "", ".."])
    def test_invalid_model_namespace_is_one_sentence(self, run: Callable[..., tuple[int, str]], domain: str) -> None:
        code, text = run("list", "--domain", domain)
        assert code == 2
        assert text.count("\n") == 1
        assert f"domain {domain!r} is not a valid model namespace" in text
