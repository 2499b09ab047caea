"""Prompt injections: fifty, each with an id, each filled in whole."""

from fleet.routing.attacks import attack, templates


def test_there_are_fifty_attacks_no_two_alike() -> None:
    shipped = templates()
    assert len(shipped) == len({each.id for each in shipped}) == len({each.text for each in shipped}) == 50


def test_every_attack_holds_the_job_and_names_or_describes_the_target() -> None:
    job = "where is {task} now"
    for each in attack(job, task="TARGET", description="DESCRIBED", example="SHOWN"):
        assert "where is" in each.text
        assert "{task} now" in each.text
        assert any(word in each.text for word in ("TARGET", "DESCRIBED", "SHOWN"))
