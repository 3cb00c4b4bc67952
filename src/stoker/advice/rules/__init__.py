"""All rules, by their numbers."""

from __future__ import annotations

from stoker.advice.rules import (
    blocking,
    cache_variable,
    download,
    gpu_snapshot,
    image_tag,
    load_place,
    pins,
    retries,
    scaledown,
    secret,
    single_input,
    video_timeout,
    volume_cache,
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
)

__all__ = ["RULES", "Rule"]
