"""Jobs as they come over HTTP, checked. Knows nothing of who answers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from fleet.job import Job

MAX_JOBS = 256
"""Jobs of one request."""
MAX_TASKS = 32
"""Tasks that one job may name."""
MAX_SECONDS = 600.0

Name = Annotated[str, Field(min_length=1, max_length=64)]


class JobIn(BaseModel):
    """One job: a text or named fields, perhaps for one or several named tasks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None = Field(default=None, description="The job's text; or give fields.")
    fields: dict[str, str] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Named fields, as the task's manifest lists them.",
    )
    task: Name | Annotated[list[Name], Field(min_length=1, max_length=MAX_TASKS)] | None = Field(
        default=None, description="Give the job to this task, or to each of several; the router is not asked."
    )
    all: bool = Field(
        default=False,
        description="If the router finds that the job needs several tasks, let all of them answer from one "
        "pass. Without it the decision `compound` lists them, and nothing is run.",
    )
    id: str | None = Field(default=None, max_length=256, description="Comes back with the result.")

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.fields is None):
            raise ValueError("a job has either text or fields")
        if self.all and self.task is not None:
            raise ValueError("all goes with a job that names no task: with a task no router is asked")
        return self

    def job(self, default_id: str) -> Job:
        task = tuple(dict.fromkeys(self.task)) if isinstance(self.task, list) else self.task
        id = self.id if self.id is not None else default_id
        return Job(id, self.text, self.fields, task, all=self.all)


class Options(BaseModel):
    """What holds for all jobs of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top: int = Field(
        default=1,
        ge=1,
        le=MAX_TASKS,
        description="Let the likeliest so many experts answer; a job for several tasks goes to all or none.",
    )
    seconds: float | None = Field(
        default=None, gt=0, le=MAX_SECONDS, description="How long an answer may take; then it fails with 504."
    )


class OneJob(JobIn, Options):
    """A job and how to answer it."""

    stream: bool = Field(default=False, description="Answer with server-sent events.")


class ManyJobs(Options):
    """Several jobs, answered side by side."""

    jobs: list[JobIn] = Field(min_length=1, max_length=MAX_JOBS)

    @model_validator(mode="before")
    @classmethod
    def _all_is_of_jobs(cls, value: Any) -> Any:
        if isinstance(value, dict) and "all" in value:
            raise ValueError(
                "all is said of each job: put it into those of jobs that may go to several tasks"
            )
        return value


def _kind(value: Any) -> str:
    jobs = value.get("jobs") if isinstance(value, dict) else getattr(value, "jobs", None)
    return "one" if jobs is None else "many"


JobsIn = Annotated[Annotated[OneJob, Tag("one")] | Annotated[ManyJobs, Tag("many")], Discriminator(_kind)]
"""What ``POST /v1/jobs`` takes; an object with ``jobs`` is several."""
