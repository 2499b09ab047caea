from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest

from fleet.engine.digest import folder_digest
from fleet.errors import ArtifactError, DigestError, RegistryError
from fleet.registry.door import enter
from fleet.registry.lifecycle import line_of_champions, observe, promote, prune, rollback, settle
from fleet.registry.policy import Case, Evidence, Policy, Verdict, decide
from fleet.registry.status import fleet_status
from fleet.registry.store import ROUTER, Registry, RunRecord
from fleet.registry.version import VersionInfo

PASS = Verdict(True, True, ("good",), {"p": 0.01})
HOLD = Verdict(False, False, ("too weak",))


def artifact(root: Path, content: str) -> Path:
    folder = root / f"artifact-{content}"
    folder.mkdir(exist_ok=True)
    (folder / "expert.json").write_text(json.dumps({"content": content}))
    (folder / "adapter_model.safetensors").write_bytes(content.encode() * 100)
    return folder


def log(registry: Registry, root: Path, content: str, task: str = "sentiment") -> VersionInfo:
    run = RunRecord(
        params={"rank": 16},
        metrics={"macro_f1": 0.8, "seconds": 12.0},
        curves={"loss": [(0, 2.0), (1, 1.0)]},
        tables={"evaluation": [{"text": "good", "wanted": "positive", "given": "positive"}]},
    )
    tags = {"manifest_digest": "m1", "data_digest": "d1", "base_fingerprint": "b1", "seal": "s1"}
    return registry.log_version(task, artifact(root, content), run, tags)


def by_hand(registry: Registry, task: str, version: int) -> None:
    """What a click in the UI does, past all of our code."""
    client = enter().MlflowClient(tracking_uri=registry.tracking_uri, registry_uri=registry.tracking_uri)
    client.set_registered_model_alias(task, "champion", str(version))


def payload(registry: Registry, info: VersionInfo) -> Path:
    """The registered artifact where the store keeps it."""
    root = Path(registry.artifact_root.removeprefix("file://"))
    (found,) = [
        path.parent for path in root.rglob("expert.json") if folder_digest(path.parent) == info.digest
    ]
    return found


class TestVersions:
    def test_a_version_tells_what_it_was_made_of(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        assert (info.task, info.version, info.kind, info.aliases) == ("sentiment", 1, "expert", ())
        assert info.digest == folder_digest(artifact(tmp_path, "a"))
        assert info.metrics == {"macro_f1": 0.8, "seconds": 12.0}
        assert info.tags["manifest_digest"] == "m1"
        assert info.size == sum(path.stat().st_size for path in artifact(tmp_path, "a").iterdir())
        assert registry.versions("sentiment") == [info]

    def test_its_run_holds_params_curves_and_table(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        client = enter().MlflowClient(tracking_uri=registry.tracking_uri)
        run = client.get_run(info.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params == {"rank": "16"}
        assert [(m.step, m.value) for m in client.get_metric_history(info.run_id, "loss")] == [
            (0, 2.0),
            (1, 1.0),
        ]
        assert "evaluation.json" in [entry.path for entry in client.list_artifacts(info.run_id)]

    def test_a_finished_training_is_found_again(self, registry: Registry, tmp_path: Path) -> None:
        assert registry.find("sentiment", manifest_digest="m1") is None
        info = log(registry, tmp_path, "a")
        assert registry.find("sentiment", manifest_digest="m1", data_digest="d1") == info
        assert registry.find("sentiment", manifest_digest="m1", data_digest="other") is None

    def test_the_router_is_registered_beside_the_experts(self, registry: Registry, tmp_path: Path) -> None:
        info = registry.log_version(ROUTER, artifact(tmp_path, "router"), RunRecord(), {}, kind="router")
        promote(registry, ROUTER, info.version)
        assert registry.champions()[ROUTER].digest == info.digest
        assert registry.tasks() == []
        assert folder_digest(registry.fetch(info, tmp_path / "cache")) == info.digest

    def test_an_unknown_version_or_alias_is_a_clear_error(self, registry: Registry, tmp_path: Path) -> None:
        log(registry, tmp_path, "a")
        assert registry.champion("sentiment") is None
        assert registry.champion("nothing") is None
        assert registry.versions("nothing") == []
        with pytest.raises(RegistryError, match="fleet promote sentiment"):
            registry.resolve("sentiment", "champion")
        with pytest.raises(RegistryError, match="version 9"):
            registry.resolve("sentiment", "9")

    def test_two_fleets_share_a_server(self, registry: Registry, tmp_path: Path) -> None:
        log(registry, tmp_path, "a")
        other = Registry(registry.tracking_uri, tmp_path / "artifacts", fleet="other")
        assert registry.tasks() == ["sentiment"]
        assert other.tasks() == []

    def test_a_model_of_another_fleet_is_not_written_into(self, registry: Registry, tmp_path: Path) -> None:
        mine = log(registry, tmp_path, "a")
        other = Registry(registry.tracking_uri, registry.artifact_root, fleet="other")
        with pytest.raises(RegistryError, match="belongs to fleet, not to other"):
            log(other, tmp_path, "b")
        assert registry.versions("sentiment") == [mine]


class TestFetch:
    def test_downloads_once_and_answers_by_digest(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        place = registry.fetch(info, tmp_path / "cache")
        assert place == tmp_path / "cache" / info.digest
        assert folder_digest(place) == info.digest
        shutil.rmtree(payload(registry, info))
        assert registry.fetch(info, tmp_path / "cache") == place

    def test_an_altered_artifact_is_refused(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        (payload(registry, info) / "adapter_model.safetensors").write_bytes(b"other weights")
        with pytest.raises(DigestError, match="altered after it was registered"):
            registry.fetch(info, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_a_file_slipped_in_is_refused(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        (payload(registry, info) / "run_me.py").write_text("")
        with pytest.raises(DigestError):
            registry.fetch(info, tmp_path / "cache")

    def test_a_damaged_cache_is_fetched_anew(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        place = registry.fetch(info, tmp_path / "cache")
        (place / "expert.json").write_text("{}")
        assert folder_digest(registry.fetch(info, tmp_path / "cache")) == info.digest

    def test_a_missing_artifact_is_a_registry_error(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        shutil.rmtree(payload(registry, info))
        with pytest.raises(RegistryError, match="fetch sentiment version 1"):
            registry.fetch(info, tmp_path / "cache")

    def test_a_version_made_elsewhere_has_no_digest(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        registry.set_tags(info, {"digest": "../../etc"})
        with pytest.raises(ArtifactError, match="no digest"):
            registry.fetch(registry.version("sentiment", 1), tmp_path / "cache")


class TestAliases:
    def test_the_first_good_version_is_champion_and_the_next_weak_one_challenger(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        first = log(registry, tmp_path, "a")
        settle(registry, first, PASS, judged_against=None)
        second = log(registry, tmp_path, "b")
        settle(registry, second, HOLD, judged_against=1)
        assert registry.resolve("sentiment", "champion").version == 1
        assert registry.resolve("sentiment", "challenger").version == 2
        assert registry.version("sentiment", 2).tags["verdict.reasons"] == "too weak"
        assert registry.version("sentiment", 1).tags["verdict.p"] == "0.01"
        assert [info.aliases for info in registry.versions("sentiment")] == [("challenger",), ("champion",)]

    def test_a_verdict_of_the_policy_reaches_the_alias(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        case = Case("sentiment", "accuracy", Evidence("version 1", 0.9, (1.0,) * 9 + (0.0,), "r"), floor=0.8)
        settle(registry, info, decide(case, Policy()), judged_against=None)
        champion = registry.resolve("sentiment", "champion")
        assert champion.tags["champion.how"] == "policy"
        assert "meets the floor" in champion.tags["verdict.reasons"]

    def test_promote_takes_the_challenger_and_leaves_an_audit(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        settle(registry, log(registry, tmp_path, "a"), PASS, judged_against=None)
        settle(registry, log(registry, tmp_path, "b"), HOLD, judged_against=1)
        change = promote(registry, "sentiment", by="ann", reason="checked by hand")
        assert (change.before, change.after, change.changed) == (1, 2, True)
        tags = registry.resolve("sentiment", "champion").tags
        assert tags["champion.by"] == "ann"
        assert tags["champion.from"] == "1"
        assert tags["champion.reason"] == "checked by hand"
        assert registry.challenger("sentiment") is None
        assert not promote(registry, "sentiment", 2).changed

    def test_the_user_of_the_machine_is_named_by_default(self, registry: Registry, tmp_path: Path) -> None:
        log(registry, tmp_path, "a")
        promote(registry, "sentiment", 1)
        assert line_of_champions(registry, "sentiment")[-1].by == getpass.getuser()

    def test_promoting_nothing_says_what_to_do(self, registry: Registry, tmp_path: Path) -> None:
        log(registry, tmp_path, "a")
        with pytest.raises(RegistryError, match="no challenger"):
            promote(registry, "sentiment")
        with pytest.raises(RegistryError, match="version 7"):
            promote(registry, "sentiment", 7)

    def test_an_alias_set_by_hand_is_obeyed_at_once(self, registry: Registry, tmp_path: Path) -> None:
        for content in "ab":
            log(registry, tmp_path, content)
        promote(registry, "sentiment", 1)
        assert registry.champions()["sentiment"].version == 1
        by_hand(registry, "sentiment", 2)
        assert registry.resolve("sentiment", "champion").version == 2
        assert registry.champions()["sentiment"].version == 2

    def test_a_champion_set_by_hand_meanwhile_is_not_overruled(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        for content in "abc":
            log(registry, tmp_path, content)
        promote(registry, "sentiment", 1)
        by_hand(registry, "sentiment", 2)
        held = settle(registry, registry.version("sentiment", 3), PASS, judged_against=1)
        assert not held.promote
        assert "became version 2" in str(held)
        assert registry.resolve("sentiment", "champion").version == 2
        assert registry.resolve("sentiment", "challenger").version == 3

    def test_the_verdict_is_written_when_nothing_is_left_to_do(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = log(registry, tmp_path, "a")
        with monkeypatch.context() as patch:
            patch.setattr(registry, "set_alias", lambda *_: (_ for _ in ()).throw(RegistryError("gone")))
            with pytest.raises(RegistryError, match="gone"):
                settle(registry, info, PASS, judged_against=None)
        assert "verdict" not in registry.version("sentiment", 1).tags
        settle(registry, info, PASS, judged_against=None)
        champion = registry.champion("sentiment")
        assert champion is not None
        assert champion.tags["verdict"] == "promoted"


class TestRollback:
    def test_goes_back_one_champion_at_a_time(self, registry: Registry, tmp_path: Path) -> None:
        for number, content in enumerate("abc", start=1):
            log(registry, tmp_path, content)
            promote(registry, "sentiment", number)
        assert rollback(registry, "sentiment", by="bob", reason="wrong answers").after == 2
        assert registry.resolve("sentiment", "champion").tags["champion.how"] == "rollback"
        assert rollback(registry, "sentiment").after == 1
        with pytest.raises(RegistryError, match="no champion before it"):
            rollback(registry, "sentiment")

    def test_knows_of_a_promotion_by_hand(self, registry: Registry, tmp_path: Path) -> None:
        for content in "abc":
            log(registry, tmp_path, content)
        promote(registry, "sentiment", 2)
        by_hand(registry, "sentiment", 3)
        assert rollback(registry, "sentiment").after == 2
        assert [(reign.version, reign.how) for reign in line_of_champions(registry, "sentiment")] == [
            (2, "promote"),
            (3, "observed"),
            (2, "rollback"),
        ]

    def test_a_promotion_by_hand_that_status_saw_can_be_returned_to(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        for content in "abc":
            log(registry, tmp_path, content)
        by_hand(registry, "sentiment", 1)
        fleet_status(registry, {})
        by_hand(registry, "sentiment", 3)
        assert rollback(registry, "sentiment").after == 1

    def test_skips_a_champion_that_was_deleted(self, registry: Registry, tmp_path: Path) -> None:
        for number, content in enumerate("abc", start=1):
            log(registry, tmp_path, content)
            promote(registry, "sentiment", number)
        registry.delete_version(registry.version("sentiment", 2))
        assert rollback(registry, "sentiment").after == 1

    def test_a_broken_history_tag_is_started_anew(self, registry: Registry, tmp_path: Path) -> None:
        log(registry, tmp_path, "a")
        promote(registry, "sentiment", 1)
        registry.set_model_tag("sentiment", "champions", '{"not": "a list"')
        assert [reign.version for reign in observe(registry, "sentiment")] == [1]

    def test_a_long_history_stays_within_a_tag(self, registry: Registry, tmp_path: Path) -> None:
        for content in "ab":
            log(registry, tmp_path, content)
        for number in range(30):
            promote(registry, "sentiment", 1 + number % 2, reason="x" * 500)
        assert rollback(registry, "sentiment").after == 1

    def test_without_a_champion_there_is_nothing_to_roll_back(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        log(registry, tmp_path, "a")
        with pytest.raises(RegistryError, match="no champion to roll back"):
            rollback(registry, "sentiment")


def test_prune_spares_aliases_past_champions_and_the_newest(registry: Registry, tmp_path: Path) -> None:
    for content in "abcdef":
        log(registry, tmp_path, content)
    promote(registry, "sentiment", 1)
    promote(registry, "sentiment", 3)
    registry.set_alias("sentiment", "shadow", 4)
    assert [info.version for info in prune(registry, "sentiment", keep=1)] == [5, 2]
    assert [info.version for info in registry.versions("sentiment")] == [6, 4, 3, 1]


def test_status_shows_drift_and_tasks_on_either_side(registry: Registry, tmp_path: Path) -> None:
    log(registry, tmp_path, "a")
    log(registry, tmp_path, "b", task="gone")
    promote(registry, "sentiment", 1)
    declared = {
        "sentiment": {"manifest_digest": "m2", "data_digest": "d1", "base_fingerprint": "b1"},
        "new": {"manifest_digest": "m9"},
    }
    gone, new, sentiment = fleet_status(registry, declared)
    assert (gone.task, gone.declared, gone.champion) == ("gone", False, None)
    assert (new.task, new.declared, new.champion) == ("new", True, None)
    assert sentiment.champion is not None
    assert sentiment.drift == ("manifest",)
    assert sentiment.age_days(sentiment.champion.created) == 0


class TestPyfunc:
    def test_a_champion_loads_by_alias_and_is_small(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        promote(registry, "sentiment", 1)
        mlflow = enter()
        mlflow.set_tracking_uri(registry.tracking_uri)
        model = mlflow.pyfunc.load_model("models:/sentiment@champion")
        assert [column.name for column in model.metadata.signature.inputs] == ["text"]
        folder = payload(registry, info).parents[1]
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20_000

    def test_an_altered_one_is_refused(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        (payload(registry, info) / "expert.json").write_text("{}")
        mlflow = enter()
        mlflow.set_tracking_uri(registry.tracking_uri)
        with pytest.raises(DigestError, match="altered"):
            mlflow.pyfunc.load_model("models:/sentiment/1")

    def test_no_path_of_this_machine_s_project_is_recorded(self, registry: Registry, tmp_path: Path) -> None:
        info = log(registry, tmp_path, "a")
        described = (payload(registry, info).parents[1] / "MLmodel").read_text()
        assert str(Path(__file__).parents[2]) not in described
        assert str(tmp_path) not in described
