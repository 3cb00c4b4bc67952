"""What one service tells another, without either knowing the other."""

from __future__ import annotations

from stoker.protocol.calls import CallServicer
from stoker.server.services import Services
from stoker.services.apps.apps import App
from stoker.services.calls.call_records import WEB, Call


def connect(services: Services, call_servicer: CallServicer) -> None:
    apps, calls = services.apps, services.calls
    endpoints, scheduler, web_calls = services.endpoints, services.scheduler, services.web_calls

    async def end_app(app: App, drain: bool) -> None:
        endpoints.forget(app.id)
        services.schedules.forget(app.id)
        services.canaries.forget(app.id)
        await calls.cancel_app(app.id)
        await scheduler.stop_app(app.id, drain=drain)

    def call_finished(call: Call) -> None:
        if call.kind == WEB:
            web_calls.finished(call)
        if call.kind == "unary":
            call_servicer.finished(call)
        apps.end_if_idle(apps.get(call.app_id))

    def published(app: App, changed: list[str]) -> None:
        endpoints.publish(app)
        scheduler.redefine(app, changed)
        services.canaries.forget(app.id)
        services.schedules.publish(app)

    def web_suffix_changed(environment_id: str) -> None:
        for app in apps.all(environment_id):
            if not app.is_over:
                endpoints.publish(app)

    services.environments.on_web_suffix = web_suffix_changed
    scheduler.route = services.canaries.route
    services.canaries.on_end = scheduler.retire
    apps.on_publish = published
    apps.on_stop = end_app
    apps.is_busy = calls.unfinished
    calls.on_call_finished = call_finished
