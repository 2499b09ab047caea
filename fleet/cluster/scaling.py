"""How many replicas there should be, by the jobs that are going on: Serve's own way counts requests.

A request may hold 256 jobs, so replicas report theirs and Serve's autoscaler is told to go by that sum. Serve
copies this module into its controller, so it imports next to nothing. Knows nothing of what a job is.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

JOBS = "jobs"
"""Under which a replica reports how many it has that are not ended."""
JOBS_PER_REPLICA = 16
"""That a replica should have at a time, half of what it answers together."""
UP_SECONDS, DOWN_SECONDS = 30.0, 600.0
"""For how long there must be too many, or too few, before a replica is added or leaves."""
LOOK_BACK_SECONDS = 30.0
"""Over which jobs are averaged."""


def by_jobs(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """How many replicas the jobs need; Serve's bounds and delays come after it."""
    reported = (context.aggregated_metrics or {}).get(JOBS)
    if not reported:  # all of them are beginning
        return float(context.target_num_replicas), {}
    # One that begins has nothing to report yet: what is there is shared out among all.
    return sum(reported.values()) / context.config.target_ongoing_requests, {}


def bounds(fewest: int, most: int) -> AutoscalingConfig:
    """For a deployment that reports ``JOBS``."""
    return AutoscalingConfig(
        min_replicas=fewest,
        max_replicas=most,
        target_ongoing_requests=JOBS_PER_REPLICA,  # Serve's word; by_jobs reads it as jobs
        upscale_delay_s=UP_SECONDS,
        downscale_delay_s=DOWN_SECONDS,
        look_back_period_s=LOOK_BACK_SECONDS,
        policy=AutoscalingPolicy(policy_function=f"{__name__}:{by_jobs.__name__}"),
    )
