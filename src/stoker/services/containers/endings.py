"""How containers end, as it is remembered and told."""

from __future__ import annotations

import enum

from stoker.nodes.endings import Exit, ExitKind


class Ending(str, enum.Enum):
    """How a container ended, as the table of containers and the client's history have it."""

    STOPPED = "stopped"  # because it should, or by itself without complaint
    CRASHED = "crashed"
    OOM = "oom"
    INIT_FAILED = "init_failed"  # importing the app or an @enter method failed
    NOT_STARTED = "not_started"


def ending(exit: Exit, *, stopping: bool, init_failed: bool) -> Ending:
    if init_failed:
        return Ending.INIT_FAILED
    if stopping:
        return Ending.STOPPED
    if exit.kind is ExitKind.KILLED:
        return Ending.CRASHED  # it was stuck, or did not come up
    if exit.kind is ExitKind.EXITED:
        return Ending.CRASHED if exit.code else Ending.STOPPED
    if exit.kind is ExitKind.LIMIT:
        return Ending.CRASHED
    return Ending.OOM if exit.kind is ExitKind.OOM else Ending.NOT_STARTED


def sentence(exit: Exit, *, stop_reason: str, init_failed: bool) -> str:
    """Why a container ended, for the user."""
    if stop_reason:
        return f"The container was stopped: {stop_reason}"
    if exit.kind is ExitKind.FAILED:
        return f"The container could not be started: {exit.detail}"
    if exit.kind is ExitKind.OOM:
        return f"The container ran out of memory. {exit.detail}".strip()
    if exit.kind is ExitKind.LIMIT:
        return exit.detail
    if init_failed:
        return "The container could not start: importing the app or an @enter method failed."
    return f"The container exited by itself with code {exit.code}. {exit.detail}".strip()
