"""`stoker gc`: removes what the cache and the data directory hold in vain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stoker.cli import console
from stoker.cli.client import Connection, find_server
from stoker.cli.options import Data, Json, data_dir, load_settings
from stoker.cli.status import size
from stoker.images import cachegc
from stoker.images.cachedir import default_cache

Days = Annotated[float, typer.Option("--days", min=0, help="What was not used for so many days goes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]

_LONGEST = 1800.0  # seconds; large layers take their time to go


def gc(days: Days = 30.0, dry_run: DryRun = False, data: Data = None, json: Json = False) -> None:
    """Free the disk of images that nobody uses, and of old bases and unused downloads in the cache that the servers of this machine share.

    An image stays while containers run from it, as long as an app that is not stopped has it in one of its last ten deployments, while
    there is a memory snapshot of such a function, and while it has a name. Images are freed by their server, which must run; others may
    run, too. A base made from Debian's packages goes when it is older than the setting `base_refresh_days`, since the next build
    makes a new one anyway. All of it can be made or fetched again. Results, their blobs and memory snapshots need no command: the server
    removes them when their time is over.

    Examples:

    - `stoker gc --dry-run`
    - `stoker gc --days 7 --json | jq .freed_bytes`
    """
    settings = load_settings(data=data)
    server = find_server(data_dir(data))
    images = _images(server, days, dry_run) if server is not None else []
    found = cachegc.find(
        default_cache(), base_seconds=settings.base_refresh_days * 86_400, download_seconds=days * 86_400
    )
    gone = [item for item in found if dry_run or cachegc.remove(item)]
    total, of_images = sum(item.size for item in gone), sum(item["size"] for item in images)
    if json:
        removed = [{"path": str(item.path), "why": item.why, "size_bytes": item.size} for item in gone]
        freed = [{"kind": item["kind"], "name": item["name"], "size_bytes": item["size"]} for item in images]
        console.print_json(
            {
                "dry_run": dry_run,
                "freed_bytes": total + of_images,
                "removed": removed,
                "images": freed,
                "server": bool(server),
            }
        )
        return
    for image in images:
        console.out().print(f"{size(image['size']):>10}  {image['kind']} {image['name']}", markup=False, soft_wrap=True)
    for why in sorted({item.why for item in gone}):
        items = [item for item in gone if item.why == why]
        for item in items if len(items) <= 10 else ():
            console.out().print(f"{size(item.size):>10}  {item.path}  ({why})", markup=False, soft_wrap=True)
        if len(items) > 10:
            console.out().print(f"{size(sum(i.size for i in items)):>10}  {len(items)} files  ({why})", markup=False)
    kept = len(found) - len(gone)
    if kept:
        console.out().print(f"{kept} in use just now; run the command again later.", markup=False)
    verb = "would be freed" if dry_run else "freed"
    console.out().print(f"{size(total)} {verb} in {default_cache()}.", markup=False)
    if server is not None:
        console.out().print(f"{size(of_images)} of images {verb} in {settings.data}.", markup=False)
    else:
        console.out().print(f"No server runs on {settings.data}, so its images were left alone.", markup=False)


def _images(server: Connection, days: float, dry_run: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.request(
        "GET" if dry_run else "DELETE", f"/_stoker/images/unused?days={days:g}", timeout=_LONGEST
    )
    return found
