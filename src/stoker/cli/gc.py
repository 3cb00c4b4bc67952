"""`stoker gc`: removes what the cache directory holds in vain."""

from __future__ import annotations

from typing import Annotated

import typer

from stoker.cli import console
from stoker.cli.options import Data, Json, load_settings
from stoker.cli.status import size
from stoker.images import cachegc
from stoker.images.cachedir import default_cache

Days = Annotated[float, typer.Option("--days", min=0, help="Downloads that were not used for so many days go.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


def gc(days: Days = 30.0, dry_run: DryRun = False, data: Data = None, json: Json = False) -> None:
    """Remove old bases and unused downloads from the cache that the servers of this machine share.

    A base made from Debian's packages goes when it is older than the setting `base_refresh_days`, since the next build makes a new one
    anyway. All of it can be made or fetched again, and servers may run meanwhile. Results, their blobs and memory snapshots need no
    command: the server removes them when their time is over.

    Examples:

    - `stoker gc --dry-run`
    - `stoker gc --days 7 --json | jq .freed_bytes`
    """
    settings = load_settings(data=data)
    found = cachegc.find(
        default_cache(), base_seconds=settings.base_refresh_days * 86_400, download_seconds=days * 86_400
    )
    gone = [item for item in found if dry_run or cachegc.remove(item)]
    total = sum(item.size for item in gone)
    if json:
        removed = [{"path": str(item.path), "why": item.why, "size_bytes": item.size} for item in gone]
        console.print_json({"dry_run": dry_run, "freed_bytes": total, "removed": removed})
        return
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
