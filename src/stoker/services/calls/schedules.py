"""Runs functions when their schedules say so, while their app is deployed.

What has run is remembered by nothing but the calls themselves: the id of a scheduled call is made from its function and the moment at which it
was due, so that no moment brings two calls, whatever becomes of the server in between. A run missed while the server was away is made up for
once, by the latest of the missed moments, unless that is too long ago. So is a run that could not begin for a reason that may pass, such as a
full disk: it is tried until it begins, or its function's next moment has come.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

from stoker.aio.jobs import Jobs
from stoker.core.schedules import Schedule, last_run, next_run
from stoker.errors import Damaged, FailedPrecondition, InvalidArgument, NotFound, StokerError
from stoker.services.apps.apps import DEPLOYED, App, Apps
from stoker.services.calls.calls import Calls
from stoker.services.functions.functions import Functions
from stoker.services.functions.wire import Wire
from stoker.services.telemetry.logs import INFO, Logs

_LONGEST_SLEEP = 60.0  # seconds after which the clock is looked at again: somebody may have set it
_PATIENCE = 10.0  # seconds for which the end of the server waits for calls that are being stored
_TRY_AGAIN = 30.0  # seconds until a run is tried again for which there was no room
_LASTING = (NotFound, FailedPrecondition, InvalidArgument, Damaged)  # errors that another try would meet again
_log = structlog.get_logger(__name__)


@dataclass
class Plan:
    """The schedule of one function. `anchor` is when its app was deployed; times in seconds since the epoch."""

    app_id: str
    function_id: str
    schedule: Schedule
    anchor: float
    next_at: float | None
    last_at: float | None = None  # as far as this server knows


class Schedules:
    """The plans of all deployed functions with a schedule, and the timer for the next of them. Told of deployments and of the ends of apps."""

    def __init__(
        self, *, apps: Apps, functions: Functions, calls: Calls, logs: Logs, wire: Wire, catch_up: float
    ) -> None:
        """catch_up: seconds for which a missed run is still made up for. No longer than calls are kept, or it could run twice."""
        self._apps = apps
        self._functions = functions
        self._calls = calls
        self._logs = logs
        self._wire = wire
        self._catch_up = catch_up
        self._plans: dict[str, list[Plan]] = {}  # by app
        self._timer: asyncio.TimerHandle | None = None
        self._runs = Jobs("schedules")

    def publish(self, app: App) -> None:
        """Event: the functions of an app are the ones it names now, also after a restart of the server."""
        self.forget(app.id)
        if app.state != DEPLOYED or app.deployed_at is None:
            return
        now = time.time()
        plans = []
        for function_id in dict.fromkeys(app.function_ids.values()):
            definition = self._functions.get(function_id).current
            if definition is None or definition.spec.schedule is None:
                continue
            schedule, anchor = definition.spec.schedule, app.deployed_at
            plan = Plan(app.id, function_id, schedule, anchor, next_run(schedule, anchor, now))
            missed = last_run(schedule, anchor, now)
            if missed is not None and missed >= now - self._catch_up:
                self._run(plan, missed)
            plans.append(plan)
        if plans:
            self._plans[app.id] = plans
            self._set_timer()

    def forget(self, app_id: str) -> None:
        """Event: an app is over, or its functions change."""
        self._plans.pop(app_id, None)

    def all(self) -> list[Plan]:
        return [plan for plans in self._plans.values() for plan in plans]

    async def close(self) -> None:
        """Waits for calls that are being stored."""
        self._plans.clear()
        if self._timer is not None:
            self._timer.cancel()
        await self._runs.close(patience=_PATIENCE)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((plan.next_at for plan in self.all() if plan.next_at is not None), default=None)
        if due is not None:
            delay = min(max(0.001, due - time.time()), _LONGEST_SLEEP)
            self._timer = asyncio.get_running_loop().call_later(delay, self._alarm)

    def _alarm(self) -> None:
        now = time.time()
        for plan in self.all():
            if plan.next_at is not None and plan.next_at <= now:
                # The latest moment only: after a leap of the clock the others have passed as if the server had been away.
                self._run(plan, last_run(plan.schedule, plan.anchor, now) or plan.next_at)
            if plan.next_at is not None:
                # Anew each time: the clock may have been set back, and what was next by the wrong time is then far away.
                plan.next_at = next_run(plan.schedule, plan.anchor, now)
        self._set_timer()

    def _run(self, plan: Plan, moment: float, *, again: bool = False) -> None:
        plan.last_at = moment
        self._runs.start(f"run {plan.function_id}", self._call(plan, moment, again))

    def _run_again(self, plan: Plan, moment: float) -> None:
        """Unless the next moment has come, the app is over or its function has no schedule any more."""
        for current in self._plans.get(plan.app_id, ()):  # of a new deployment, maybe
            if current.function_id == plan.function_id and current.last_at in (None, moment):
                self._run(current, moment, again=True)

    async def _call(self, plan: Plan, moment: float, again: bool) -> None:
        payload, invocation = self._wire.scheduled_input()
        key = f"schedule/{plan.function_id}/{moment:.3f}"
        try:
            await self._calls.start(
                plan.function_id, "unary", invocation, "", [(0, payload)], spawned=True, key=key, repeated=True
            )
        except _LASTING as error:
            self._say(plan, f"could not begin: {error}")
        except Exception as error:
            if not isinstance(error, StokerError):
                _log.exception("scheduled run failed to begin", function=plan.function_id)
            if not again:
                self._say(plan, f"could not begin and is tried again: {error}")
            if time.time() + _TRY_AGAIN < moment + self._catch_up:
                asyncio.get_running_loop().call_later(_TRY_AGAIN, self._run_again, plan, moment)

    def _say(self, plan: Plan, text: str) -> None:
        name = self._functions.get(plan.function_id).name
        self._logs.write(plan.app_id, INFO, f"The scheduled run of {name} {text}\n", function_id=plan.function_id)
