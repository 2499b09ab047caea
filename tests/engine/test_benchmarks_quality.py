from __future__ import annotations

import random
from pathlib import Path

import pytest
from sklearn.metrics import f1_score

from benchmarks import quality
from benchmarks.judging import smoke
from benchmarks.judging.configuration import recommended, with_settings
from benchmarks.judging.datasets import DATA_SETS, draw, hold_out
from benchmarks.judging.run import Result
from fleet.engine.specs import Example, FullSpec


def _examples(count: int, labels: int = 3) -> list[Example]:
    return [Example({"text": f"text {i}"}, f"label {i % labels}") for i in range(count)]


def _results(folder: Path) -> dict[str, Result]:
    return {file.stem: Result.read(file) for file in (folder / "results" / "quality").glob("*.json")}


def test_a_run_is_made_once_and_its_test_rows_can_be_answered_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke.write(tmp_path)
    for command in smoke.COMMANDS:
        quality.main([*command, *smoke.places(tmp_path)])
    made = _results(tmp_path)
    methods = {(r.configuration["task"], r.configuration["method"]) for r in made.values()}
    assert methods == {
        ("tweet_emotion", "tfidf"),
        ("tweet_emotion", "zero_shot"),
        ("tweet_emotion", "lora"),
        ("snips", "lora"),
    }
    assert all(result.test is not None for result in made.values())
    shown = capsys.readouterr().out
    # Two commands trained this one or found it trained: the second only answered the test rows.
    assert shown.count("tweet_emotion: preparing") == 1
    assert f"skipped banking77: {tmp_path / 'data' / 'banking77'} has no train.jsonl" in shown
    cut = next(result for result in made.values() if result.configuration["task"] == "snips")
    assert cut.reduced.startswith("rows 16 -> ")
    assert cut.train_rows < cut.available_rows == 16

    quality.main([*smoke.COMMANDS[3], *smoke.places(tmp_path)])
    assert "found quality/tweet_emotion-lora-8-" in capsys.readouterr().out
    assert _results(tmp_path) == made


def test_without_any_data_every_data_set_is_skipped_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke.write(tmp_path)
    places = [*smoke.places(tmp_path), "--data", str(tmp_path / "nowhere")]
    quality.main(["run", "--task", "sst2", *places])
    quality.main(["sweep", "k", *places])
    quality.main(["table", "--markdown", *places])
    shown = capsys.readouterr().out
    assert "skipped sst2:" in shown
    assert "skipped tweet_emotion:" in shown
    assert all(
        f"skipped {name}: {tmp_path / 'nowhere' / name} has no train.jsonl" in shown for name in DATA_SETS
    )
    assert not (tmp_path / "results").exists()


def test_the_key_is_of_what_the_method_depends_on() -> None:
    lora = recommended("tweet_emotion")
    tfidf = recommended("tweet_emotion", method="tfidf")
    slower = ["train.learning_rate=1e-5"]
    assert with_settings(lora, slower).key("data", "base") != lora.key("data", "base")
    assert with_settings(tfidf, slower).key("data", "base") == tfidf.key("data", "base")
    assert lora.key("data", "other") != lora.key("data", "base")
    assert tfidf.key("data", "other") == tfidf.key("data", "base")
    assert lora.key("other", "base") != lora.key("data", "base")


def test_settings_name_the_adapter_of_the_method() -> None:
    changed = with_settings(recommended("sst2"), ["lora.rank=4", "lora.layers=[0,18]", r"suffix=\n\nMood:"])
    assert (changed.adapter.layers, changed.suffix) == ((0, 18), "\n\nMood:")
    full = with_settings(recommended("sst2", method="full"), ["full.layers=[9,18]"])
    assert full.adapter == FullSpec((9, 18))
    with pytest.raises(ValueError, match=r"no setting called 'train\.epoch'"):
        with_settings(changed, ["train.epoch=3"])


def test_held_out_rows_depend_on_content_alone_and_keep_groups_whole() -> None:
    examples = _examples(60)
    train, validation = hold_out(examples, 10)
    assert len(validation) == 10
    assert not {row.fields["text"] for row in train} & {row.fields["text"] for row in validation}
    shuffled = random.Random(1).sample(examples, 60)
    assert {row.fields["text"] for row in hold_out(shuffled, 10)[1]} == {
        row.fields["text"] for row in validation
    }
    groups = [i // 4 for i in range(60)]
    _, whole = hold_out(examples, 10, groups)
    held = {row.fields["text"] for row in whole}
    for group in range(15):
        members = {f"text {i}" for i in range(60) if groups[i] == group}
        assert members <= held or not members & held


def test_few_rows_are_drawn_from_the_classes_in_turn() -> None:
    examples = [Example({"text": str(i)}, "rare" if i < 6 else "common") for i in range(300)]
    drawn = draw(examples, 10, seed=0)
    assert sum(row.output == "rare" for row in drawn) == 5
    assert drawn == draw(examples, 10, seed=0) != draw(examples, 10, seed=1)
    assert len(draw(examples, 1000, seed=0)) == 300


def test_f1_of_irony_is_that_of_one_class() -> None:
    generator = random.Random(0)
    wanted = [generator.choice(("irony", "non irony")) for _ in range(50)]
    given = [generator.choice(("irony", "non irony")) for _ in range(50)]
    measured = DATA_SETS["tweet_irony"].score(wanted, given)
    assert measured.value == pytest.approx(f1_score(wanted, given, pos_label="irony"))
    assert measured.low < measured.value < measured.high
