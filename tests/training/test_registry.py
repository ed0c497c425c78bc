"""Model registry on MLflow: registration, promotion, rollback, alias changes from outside, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.state import STATE_VERSION
from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.training.small_models import GATE, GATE_BATTERIES, TRAIN_BATTERIES, ModelFiles
from training.registry.__main__ import main
from training.registry.events import Aliases
from training.registry.promotion import outside_changes, promote, rollback, synchronise
from training.registry.registration import (
    PromotionPolicy,
    Provenance,
    RegistrationReport,
    RegistrationResult,
    register_all,
)
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
    assert "for other targets" in result_of(report, "soh").reasons[-1]
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
    assert "better than the champion, version 1," in result_of(report, "soh").reasons[1]
    assert store.aliases().champions == {"soh": 2, "rul": 1}
    assert {t: m.version for t, m in read_release(store.client, "battery", 2).models.items()} == {"soh": 2, "rul": 1}


def test_worse_model_stays_challenger(register: Register, models: ModelFiles, store: RegistryStore) -> None:
    models.train("soh", noise=0.1)
    register()
    models.train("soh", noise=1.0)
    report = register()
    assert result_of(report, "soh").state == "challenger"
    assert "not better than the champion, version 1, error" in result_of(report, "soh").reasons[1]
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


def test_target_not_available_from_the_source_is_reported(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh")
    models.write_not_available("rul", "no battery reached its end of life")
    report = register()
    assert result_of(report, "rul").state == "not available"
    assert result_of(report, "rul").reasons == ("no battery reached its end of life",)
    assert result_of(report, "temperature").reasons == ("it was not trained",)
    assert store.unavailable()["rul"] == "no battery reached its end of life"
    assert set(store.unavailable()) == {"rul", "temperature", "failure"}
    models.train("rul")
    register()
    assert set(store.unavailable()) == {"temperature", "failure"}


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


def test_champion_trained_on_the_gate_batteries_is_not_replaced(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh", noise=1.0, train_batteries=TRAIN_BATTERIES + GATE_BATTERIES)
    register()
    models.train("soh", noise=0.1)
    report = register()
    assert "on 0 gate batteries, 5 excluded because it was trained on them" in result_of(report, "soh").reasons[1]
    assert [one.gate for one in store.registered("soh")] == ["passed", "undecided"]


def test_champion_of_another_state_version_counts_as_none(
    register: Register, models: ModelFiles, store: RegistryStore, provenance: Provenance
) -> None:
    for target in ("soh", "rul"):
        models.train(target, state_version=STATE_VERSION + 1)
    register()
    assert store.aliases().champions == {}, "this code promotes nothing that it cannot serve"
    promote(store, GATE, {"soh": 1, "rul": 1}, reason="older code", by="Ada", force=True)
    models.train("soh")
    report = register_all(store, models.folder, models.metrics, GATE, provenance, by="a test", policy=PromotionPolicy())
    soh = result_of(report, "soh")
    assert soh.state == "champion"
    assert soh.reasons[1:] == (
        "there is no champion yet",
        f"the champion counts as none: version 1 has state version {STATE_VERSION + 1}, this code has {STATE_VERSION}",
    )
    release = read_release(store.client, "battery", 2)
    assert release.state_version == STATE_VERSION
    assert {target: pinned.version for target, pinned in release.models.items()} == {"soh": 2}
    assert any("rul is no longer served: version 1 has state version" in text for text in store.events()[-1].warnings)


def test_models_of_several_state_versions_are_never_mixed_in_a_release(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh")
    models.train("rul")
    register()
    models.train("soh", noise=0.02, state_version=STATE_VERSION + 1)
    report = register()
    assert result_of(report, "soh").state == "challenger"
    assert "this code cannot serve it: version 2 has state version" in result_of(report, "soh").reasons[0]
    store.client.set_registered_model_alias("battery-soh", "champion", "2")
    event = synchronise(store, GATE)
    assert event is not None
    assert any("would lose rul" in text for text in event.warnings)
    assert store.aliases().release == 1


def remove_files(store: RegistryStore) -> None:
    run = store.client.get_model_version("battery-soh", "1").run_id
    (store.settings.artifact_root / "battery" / run / "artifacts" / "model" / "model.onnx").unlink()


def rename_feature(store: RegistryStore) -> None:
    run = store.client.get_model_version("battery-soh", "1").run_id
    file = store.settings.artifact_root / "battery" / run / "artifacts" / "model" / "fit.json"
    fit = json.loads(file.read_text())
    file.write_text(json.dumps({**fit, "feature_names": ["removed", *fit["feature_names"][1:]]}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_files, "version 1 has no model.onnx"),
        (rename_feature, "version 1 needs features that this code does not have: removed"),
    ],
)
def test_champion_that_cannot_be_served_counts_as_none(
    damage: Callable[[RegistryStore], None],
    reason: str,
    register: Register,
    models: ModelFiles,
    store: RegistryStore,
    provenance: Provenance,
) -> None:
    models.train("soh", noise=0.05)
    register()
    damage(store)
    models.train("soh", noise=0.5)  # worse, but there is nothing to compare it with
    report = register_all(store, models.folder, models.metrics, GATE, provenance, by="a test", policy=PromotionPolicy())
    assert result_of(report, "soh").state == "champion"
    assert f"the champion counts as none: {reason}" in result_of(report, "soh").reasons
    assert store.aliases().champions == {"soh": 2}


def delete_release(store: RegistryStore) -> None:
    store.client.delete_model_version("battery-twin", "2")


def delete_alias(store: RegistryStore) -> None:
    store.client.delete_registered_model_alias("battery-twin", "champion")


def remove_release_file(store: RegistryStore) -> None:
    (file,) = (
        path for path in store.settings.artifact_root.rglob("release.json") if '"version": 2' in path.read_text()
    )
    file.unlink()


def delete_model_of_the_other_release(store: RegistryStore) -> None:
    """The alias points at a release one model of which was deleted."""
    store.client.delete_model_version("battery-soh", "1")
    store.client.set_registered_model_alias("battery-twin", "champion", "1")


LOST_RELEASES = [delete_release, delete_alias, remove_release_file, delete_model_of_the_other_release]


@pytest.fixture
def two_releases(register: Register, models: ModelFiles) -> None:
    """Release 1 with soh 1 and rul 1, and its successor, the champion, with soh 2."""
    models.train("rul")
    models.train("soh", noise=1.0)
    register()
    models.train("soh", noise=0.1)
    register()


@pytest.mark.usefixtures("two_releases")
@pytest.mark.parametrize("damage", LOST_RELEASES)
def test_registering_makes_a_lost_release_again_from_the_champions(
    damage: Callable[[RegistryStore], None],
    models: ModelFiles,
    store: RegistryStore,
    provenance: Provenance,
    settings: Settings,
) -> None:
    damage(store)
    models.train("soh", noise=0.5)  # worse than the champion, which still is one
    report = register_all(store, models.folder, models.metrics, GATE, provenance, by="a test", policy=PromotionPolicy())
    assert result_of(report, "soh").state == "challenger"
    assert "not better than the champion, version 2" in result_of(report, "soh").reasons[1]
    assert store.aliases().champions == {"soh": 2, "rul": 1}
    loaded = load_release("battery", settings=settings)
    assert (loaded.version, report.release) == (3, 3)
    assert {target: model.version for target, model in loaded.models.items()} == {"soh": 2, "rul": 1}
    assert report.outside is not None
    assert any("a release of the champions that exist replaces it" in text for text in report.outside.warnings)
    assert register_all(store, models.folder, models.metrics, GATE, provenance, by="a test").outside is None, "once"


@pytest.mark.usefixtures("two_releases")
@pytest.mark.parametrize("damage", LOST_RELEASES)
def test_promotion_after_a_lost_release_keeps_the_other_champions(
    damage: Callable[[RegistryStore], None], models: ModelFiles, store: RegistryStore, register: Register
) -> None:
    models.train("soh", noise=1.5)
    assert result_of(register(), "soh").version == 3
    damage(store)
    synchronise(store, GATE)
    assert store.aliases().champions == {"soh": 2, "rul": 1}
    outcome = promote(store, GATE, {"soh": 3}, reason="I like it", by="Ada", force=True)
    assert outcome.event is not None
    assert outcome.event.after.champions == {"soh": 3, "rul": 1}
    pinned = read_release(store.client, "battery", outcome.event.after.release or 0).models
    assert {target: one.version for target, one in pinned.items()} == {"soh": 3, "rul": 1}


@pytest.mark.usefixtures("two_releases")
def test_rollback_after_a_lost_release_goes_back_to_the_one_before(store: RegistryStore) -> None:
    delete_release(store)
    synchronise(store, GATE)
    assert store.aliases().release == 3
    rollback(store, reason="alarms", by="Ada")
    assert store.aliases() == Aliases({"soh": 1, "rul": 1}, store.aliases().challengers, 1)


@pytest.mark.usefixtures("two_releases")
def test_release_with_a_deleted_model_is_not_restored_and_no_alias_is_moved(store: RegistryStore) -> None:
    store.client.delete_model_version("battery-soh", "1")
    before = store.aliases()
    for to in (None, 1):
        with pytest.raises(TwinError, match=r"needs battery-soh version 1, deleted since; --to .* \(existing: 1, 2\)"):
            rollback(store, reason="alarms", by="Ada", to=to)
    assert store.aliases() == before
    store.client.delete_model_version("battery-twin", "1")
    with pytest.raises(TwinError, match="battery-twin version 1 was deleted"):
        rollback(store, reason="alarms", by="Ada")


@pytest.mark.usefixtures("two_releases")
def test_deleted_champion_model_is_left_out_and_registered_again(
    store: RegistryStore, register: Register, settings: Settings
) -> None:
    store.client.delete_model_version("battery-soh", "2")
    event = synchronise(store, GATE)
    assert event is not None
    assert event.after.champions == {"rul": 1}
    assert "battery-twin version 2 needs battery-soh version 2, deleted since" in event.warnings[0]
    assert set(load_release("battery", settings=settings).models) == {"rul"}
    report = register()
    assert (result_of(report, "soh").version, result_of(report, "soh").state) == (3, "champion")
    assert set(load_release("battery", settings=settings).models) == {"soh", "rul"}


def test_lost_release_without_a_usable_champion_is_recorded_once(
    register: Register, models: ModelFiles, store: RegistryStore
) -> None:
    models.train("soh")
    register()
    remove_files(store)
    store.client.delete_model_version("battery-twin", "1")
    assert synchronise(store, GATE) is not None
    assert store.aliases().release is None
    assert synchronise(store, GATE) is None
    with pytest.raises(TwinError, match=r"nothing to roll back; --to .* \(existing: none\)"):
        rollback(store, reason="alarms", by="Ada")


def test_later_champions_are_promoted_by_a_person(
    models: ModelFiles, provenance: Provenance, store: RegistryStore
) -> None:
    def register(noise: float) -> RegistrationReport:
        models.train("soh", noise=noise)
        return register_all(
            store, models.folder, models.metrics, GATE, provenance, by="a test", policy=PromotionPolicy()
        )

    first = register(1.0)
    assert (result_of(first, "soh").state, first.command) == ("champion", None)
    report = register(0.05)
    assert result_of(report, "soh").state == "challenger"
    assert result_of(report, "soh").reasons[-1] == "it is promoted by a person"
    assert report.command == 'python -m training.registry promote soh=2 --reason "passed the gate"'
    assert store.aliases().champions == {"soh": 1}
    assert register(0.05).command == report.command, "also the next time"


def test_experiment_registers_a_challenger_and_moves_no_other_alias(
    models: ModelFiles, provenance: Provenance, store: RegistryStore
) -> None:
    """Also in an empty registry, and if an alias was moved outside before, which stays to be recorded."""
    experiment = replace(provenance, experiment="fewer-trials")

    def register(noise: float, provenance: Provenance) -> RegistrationReport:
        models.train("soh", noise=noise)
        return register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")

    report = register(1.0, experiment)
    assert store.aliases() == Aliases({}, {"soh": 1}, None)
    assert report.release is None
    command = 'promote soh=1 --reason "experiment fewer-trials passed the gate"'
    assert report.command == f"python -m training.registry {command}"
    version = store.client.get_model_version("battery-soh", "1")
    assert version.tags["experiment"] == "fewer-trials"
    assert store.client.get_run(version.run_id).data.tags["experiment"] == "fewer-trials"

    register(0.5, provenance)
    assert store.aliases().champions == {"soh": 2}, "the negative control: the pipeline promotes"
    store.client.set_registered_model_alias("battery-soh", "champion", "1")
    moved = outside_changes(store)
    assert moved == ["battery-soh@champion 2 -> 1"]
    report = register(0.05, experiment)
    assert store.aliases() == Aliases({"soh": 1}, {"soh": 3}, 1)
    assert store.events()[-1].reason == "experiment fewer-trials: registered soh 3, none promoted"
    assert outside_changes(store) == moved
    event = synchronise(store, GATE)
    assert event is not None
    assert store.aliases().release == 2


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
    assert "rollback by Ada: live error" in result_of(report, "soh").reasons[-1]
    assert report.command is not None
    assert "promote soh=2" in report.command
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


def rows(text: str) -> list[tuple[str, ...]]:
    """Model, version and alias of the rows that `list` prints."""
    cells = ([cell.strip() for cell in line.split("│")[1:4]] for line in text.splitlines() if "│" in line)
    return [tuple(row) for row in cells if row[0]]


def everything(store: RegistryStore) -> dict[str, Any]:
    """All registered models, versions, aliases, tags (with the events) and runs."""
    client = store.client
    experiments = [one.experiment_id for one in client.search_experiments()]
    return {
        "models": [(dict(model), dict(model.tags)) for model in client.search_registered_models()],
        "versions": [(dict(one), dict(one.tags)) for one in client.search_model_versions()],
        "runs": [run.to_dictionary() for run in client.search_runs(experiments)],
    }


class TestCommand:
    @pytest.fixture
    def run(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str]]:
        monkeypatch.setenv("TWIN_VAR", str(settings.var))
        monkeypatch.setenv("COLUMNS", "200")
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"gate": {"min_skill": dict(GATE.min_skill)}}))

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
        assert "battery-twin@champion: version 1" in text
        assert rows(text) == [("battery-soh", "1", "champion")], "the champion is not its own challenger"
        models.train("soh", noise=1.0)
        register()

        code, text = run("promote", "--target", "soh", "--reason", "newest", "--by", "Ada")
        assert code == 1
        assert "fails the gate" in text
        assert "--force" in text
        code, text = run("promote", "--target", "soh", "--reason", "newest", "--by", "Ada", "--force")
        assert code == 0
        assert "release 2 is champion, with soh 2" in text
        code, text = run("rollback", "--reason", "as expected", "--by", "Bob")
        assert code == 0
        assert text.strip() == "release 1 is champion again, with soh 1"

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
        listed = json.loads(text)
        assert listed["champions"] == {"soh": 1}
        assert [(one["version"], one["gate"]) for one in listed["versions"]["soh"]] == [(1, "passed"), (2, "failed")]
        code, text = run("list")
        assert rows(text) == [("battery-soh", "1", "champion"), ("battery-soh", "2", "challenger")]
        assert "passed: skill" in text
        assert "failed: skill" in text

        for command in ("history", "list"):
            monkeypatch.delenv("COLUMNS")
            code, text = run(command)
            assert all("…" not in line for line in text.splitlines())
            assert max(len(line) for line in text.splitlines()) > 120, "in a pipe a row is one line"
            monkeypatch.setenv("COLUMNS", "80")
            code, text = run(command)
            assert max(len(line) for line in text.splitlines()) <= 80
            assert "…" not in text
        code, text = run("history")
        assert events[-1]["time"] in text, "the time is not wrapped in a narrow terminal"
        monkeypatch.setenv("COLUMNS", "200")
        code, text = run("rollback", "--to", "42", "--reason", "r")
        assert (code, text.strip()) == (1, "there is no version 42 of battery-twin; existing: 1, 2")
        code, text = run("promote", "--target", "soh", "--version", "99", "--reason", "r")
        assert (code, text.strip()) == (1, "there is no version 99 of battery-soh; existing: 1, 2")
        code, text = run("list", "--domain", "nope")
        assert (code, text.strip()) == (2, "the registry has no model namespace nope; existing: battery")

    def test_commands_that_read_change_nothing_and_report_aliases_that_were_moved_outside(
        self, run: Callable[..., tuple[int, str]], register: Register, models: ModelFiles, store: RegistryStore
    ) -> None:
        for noise in (0.1, 1.0):
            models.train("soh", noise=noise)
            register()
        assert "moved outside" not in run("list")[1]
        store.client.set_registered_model_alias("battery-soh", "champion", "2")
        before = everything(store)
        for command in (("list",), ("list", "--json"), ("history",), ("history", "--json")):
            code, text = run(*command)
            assert code == 0
            if "--json" not in command:
                assert "moved outside and not recorded yet: battery-soh@champion 1 -> 2" in text
            assert everything(store) == before, command
        assert json.loads(run("list", "--json")[1])["not_recorded"] == ["battery-soh@champion 1 -> 2"]

        code, text = run("rollback", "--reason", "it was not meant")
        assert "aliases were moved outside this command: moved outside: battery-soh@champion 1 -> 2" in text
        assert "fails the gate" in text
        assert "release 1 is champion again, with soh 1" in text
        assert everything(store) != before
        assert [event.kind for event in store.events()[-2:]] == ["outside", "rollback"]

    def test_after_a_rollback_the_newer_version_can_be_promoted(
        self, run: Callable[..., tuple[int, str]], register: Register, models: ModelFiles, store: RegistryStore
    ) -> None:
        for noise in (0.8, 0.05):
            models.train("soh", noise=noise)
            register()
        assert run("rollback", "--reason", "alarms")[0] == 0
        code, text = run("promote", "soh=2", "--reason", "it was the sensor")
        assert code == 0
        assert "soh version 2 passes the gate: skill" in text
        assert "release 3 is champion, with soh 2" in text
        assert "nothing to promote" in run("promote", "soh=2", "--reason", "again")[1]
        with pytest.raises(SystemExit):
            run("promote", "soh:2", "--reason", "r")

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
