"""What `stoker status` shows."""

from __future__ import annotations

import shutil
import time
from typing import Any

from stoker import __version__
from stoker.gateway.api.images import builds_document
from stoker.server.services import Services


def status(services: Services, *, started_at: float, grpc_url: str, http_url: str) -> dict[str, Any]:
    """A JSON document; `started_at` in seconds since the epoch, sizes in bytes."""
    s = services
    disk = shutil.disk_usage(s.data.path)
    apps = [a for a in s.apps.all() if not a.is_over]
    names = {a.id: a.name or a.description for a in apps}
    return {
        "version": __version__,
        "uptime_seconds": time.time() - started_at,
        "urls": {"grpc": grpc_url, "http": http_url},
        "runtime": s.settings.runtime,
        "workspace": s.settings.workspace,
        "apps": [
            {"id": a.id, "name": names[a.id], "state": a.state, "containers": len(s.scheduler.tasks(a.id))}
            for a in apps
        ],
        "functions": [
            {
                "id": r.function.id,
                "name": r.function.name,
                "app": names.get(r.function.app_id, r.function.app_id),
                "pending": r.pool.backlog,
                "running": r.pool.running,
                "containers": len(r.tasks),
            }
            for r in s.scheduler.runners()
        ],
        "containers": [
            {
                "id": t.id,
                "function": t.function_id,
                "app": names.get(t.app_id, t.app_id),
                "state": "running" if t.started_at else "starting",
                "started_at": t.started_at or t.enqueued_at,
            }
            for t in s.scheduler.tasks()
        ],
        "builds": builds_document(s.images),
        "schedules": [
            {
                "function": s.functions.get(plan.function_id).name,
                "app": names.get(plan.app_id, plan.app_id),
                "schedule": str(plan.schedule),
                "next_at": plan.next_at,
                "last_at": plan.last_at,
            }
            for plan in s.schedules.all()
        ],
        "damaged": [
            {"kind": d.kind, "name": d.name, "detail": d.detail, "found_at": d.found_at} for d in s.damages.all()
        ],
        "engine": s.engine.inventory(),
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
    }
