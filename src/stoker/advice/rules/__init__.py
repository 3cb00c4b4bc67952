"""All rules, by their numbers."""

from __future__ import annotations

from stoker.advice.rules import (
    blocking,
    cache_variable,
    download,
    gpu_name,
    gpu_snapshot,
    image_tag,
    load_place,
    not_offered,
    pins,
    removed,
    retries,
    scaledown,
    schedule,
    secret,
    single_input,
    snapshot_state,
    video_timeout,
    volume_cache,
    volume_locks,
)
from stoker.advice.rules.base import Rule

RULES: tuple[Rule, ...] = (
    volume_cache.RULE,
    cache_variable.RULE,
    scaledown.RULE,
    single_input.RULE,
    gpu_snapshot.RULE,
    video_timeout.RULE,
    retries.RULE,
    download.RULE,
    image_tag.RULE,
    pins.RULE,
    blocking.RULE,
    secret.RULE,
    load_place.RULE,
    removed.RULE,
    not_offered.RULE,
    gpu_name.RULE,
    schedule.RULE,
    snapshot_state.RULE,
    volume_locks.RULE,
)

__all__ = ["RULES", "Rule"]
