"""The eight public data sets as tasks of one fleet: how people ask for each, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SETS", "Known"]


@dataclass(frozen=True, slots=True)
class Known:
    task: str
    folder: str
    column: str
    examples: Sequence[str]
    """Instructions that fits see."""
    unseen: str
    """One that is only tested."""


SETS = (
    Known(
        "banking",
        "banking77",
        "label",
        (
            "What does this customer want from the bank?",
            "Sort this banking question",
            "Which banking topic is it?",
        ),
        "Name the banking issue of this message",
    ),
    Known(
        "assistant",
        "clinc150",
        "label",
        (
            "What is the user asking the assistant to do?",
            "Find the intent of this voice command",
            "Which command is this?",
        ),
        "Tell me the intent of the request",
    ),
    Known(
        "moderation",
        "moderation_10_languages",
        "label",
        ("Is this hateful?", "Does this comment break our rules?", "Check this post for hate speech"),
        "Should this be removed for hate?",
    ),
    Known(
        "slots",
        "snips",
        "intent",
        (
            "Fill in the slots of this request",
            "Turn this command into a record",
            "Pull the parameters out of this",
        ),
        "Which values does this command contain?",
    ),
    Known(
        "reviews",
        "sst2",
        "label",
        ("Did the critic like the film?", "Is this film review positive?", "Sentiment of this movie review"),
        "Good or bad review of a movie?",
    ),
    Known(
        "emotion",
        "tweet_emotion",
        "label",
        ("Which emotion is in this tweet?", "How does the writer feel?", "Joy, anger, sadness or optimism?"),
        "Name the feeling behind this post",
    ),
    Known(
        "irony",
        "tweet_irony",
        "label",
        ("Is this tweet ironic?", "Does the writer mean the opposite?", "Is this sarcasm?"),
        "Sarcastic or meant seriously?",
    ),
    Known(
        "entities",
        "wnut17",
        "entities",
        ("Extract the people and places", "Which names are in this text?", "List the named entities"),
        "Who and what is named here?",
    ),
)
