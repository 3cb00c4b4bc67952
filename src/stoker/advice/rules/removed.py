"""STK014: what the client does not have (any more)."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator

from stoker.advice import client, edits
from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method
from stoker.advice.mentions import Place, mentions, part_named
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import modal
from stoker.advice.unit import RENAMED, Unit

RENAMES = {
    "modal.Stub": "modal.App",
    "modal.app.Stub": "modal.app.App",
    "modal.stub": "modal.app",
    "modal.web_endpoint": "modal.fastapi_endpoint",
    "modal.functions.gather": "modal.FunctionCall.gather",
    "modal.runner.deploy_stub": "modal.runner.deploy_app",
    "modal.Function.lookup": "modal.Function.from_name",
    "modal.Cls.lookup": "modal.Cls.from_name",
    "modal.Dict.lookup": "modal.Dict.from_name",
    "modal.Queue.lookup": "modal.Queue.from_name",
    "modal.Secret.lookup": "modal.Secret.from_name",
    "modal.Volume.lookup": "modal.Volume.from_name",
    "modal.NetworkFileSystem.lookup": "modal.NetworkFileSystem.from_name",
    "modal.Dict.persisted": "modal.Dict.from_name",
    "modal.Queue.persisted": "modal.Queue.from_name",
    "modal.Volume.persisted": "modal.Volume.from_name",
    "modal.NetworkFileSystem.persisted": "modal.NetworkFileSystem.from_name",
    "modal.Image.from_dockerhub": "modal.Image.from_registry",
    "modal.Image.conda": "modal.Image.micromamba",
    "modal.Image.conda_install": "modal.Image.micromamba_install",
    "modal.Image.run_inside": "modal.Image.imports",
    "modal.Function.call": "modal.Function.remote",
    "modal.Function.web_url": "modal.Function.get_web_url",
    "modal.Function.keep_warm": "modal.Function.update_autoscaler",
}
"""Names of older releases, and what has their place."""
ADVICE = {
    "modal.gpu": 'Name the GPU in a string, such as gpu="A100-80GB:2".',
    "modal.build": "Do it in a step of the image, Image.run_function, or keep what it fetches on a Volume.",
    "modal.Mount": "Add files to the image: Image.add_local_dir, add_local_file or add_local_python_source.",
    "modal.create_package_mounts": "Add the packages to the image: Image.add_local_python_source.",
    "modal.SharedVolume": "Use modal.Volume.",
    "modal.Image.copy_local_dir": "Use Image.add_local_dir, with copy=True where a later step needs the files.",
    "modal.Image.copy_local_file": "Use Image.add_local_file, with copy=True where a later step needs the file.",
    "modal.Image.copy_mount": "Use Image.add_local_dir, with copy=True where a later step needs the files.",
    "modal.Dict.new": "Use modal.Dict.from_name(NAME, create_if_missing=True), or `with modal.Dict.ephemeral()`.",
    "modal.Queue.new": "Use modal.Queue.from_name(NAME, create_if_missing=True), or `with modal.Queue.ephemeral()`.",
    "modal.Volume.new": "Use modal.Volume.from_name(NAME, create_if_missing=True), or `with modal.Volume.ephemeral()`.",
    "modal.NetworkFileSystem.new": "Use modal.Volume.from_name(NAME, create_if_missing=True).",
    "modal.App.spawn_sandbox": "It is modal.Sandbox.create, which this server does not offer: run the program in a function.",
    "modal.App.webhook": "Use @app.function() with @modal.fastapi_endpoint() below it.",
    "modal.App.asgi": "Use @app.function() with @modal.asgi_app() below it.",
    "modal.App.wsgi": "Use @app.function() with @modal.wsgi_app() below it.",
    "modal.App.generator": "Use @app.function(): a function that yields is one.",
    "modal.is_inside": "Use modal.is_local(), which says the opposite.",
    "modal.App.is_inside": "Import what only the image has under `with image.imports()`.",
    "modal.container_app": "Look objects up by their name: modal.Volume.from_name and the like.",
    "modal.Function.from_parametrized": "Declare parameters of a class with modal.parameter().",
}  # fmt: skip
OPTIONS = {
    "allow_concurrent_inputs": "Use the decorator @modal.concurrent(max_inputs=...).",
    "mounts": "Add files to the image: Image.add_local_dir, add_local_file or add_local_python_source.",
    "context_mount": "The files are found by the COPY lines; give context_dir=... where they are elsewhere.",
    "secret": "Use secrets=[...].",
    "shared_volumes": "Use volumes={...}.",
    "interactive": "Call `modal run --interactive`.",
    "checkpointing_enabled": "Use enable_memory_snapshot=True.",
    "show_progress": "Run it under `with modal.enable_output()`.",
    "wait_for_response": "Leave it out: every request is waited for.",
    "allow_cross_region_volumes": "Leave it out.",
    "namespace": "Leave it out.",
}  # fmt: skip


_UNKNOWN = "A newer client may have it: `pip install --upgrade modal`."


def check(app: App) -> Iterator[Finding]:
    yield from _names(app)
    yield from _arguments(app)


# Names


def _names(app: App) -> Iterator[Finding]:
    found: dict[str, list[Place]] = {}
    for name, node in (*mentions(app.scope, app.source.tree), *_members(app)):
        if gone := client.missing(name):
            found.setdefault(gone, []).append(node)
    for gone, places in found.items():
        yield _missing_name(app, gone, places)


def _members(app: App) -> Iterator[tuple[str, Place]]:
    """What is asked of objects of the client: functions of this module, steps of images, and what `from_name` gave."""
    functions = {id(unit.node) for unit in app.units if not unit.is_class}
    for image in app.images:
        if image.base is not None:
            yield from ((f"modal.Image.{method(step)}", step.func) for step in image.steps[1:])
    stored = (
        each
        for each in ast.walk(app.source.tree)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
    )
    set_here = {(ast.unparse(each.value), each.attr) for each in stored}
    for node in ast.walk(app.source.tree):
        if not (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load)
        ):
            continue
        if id(app.scope.defined(node.value)) in functions:
            yield f"modal.Function.{node.attr}", node
            continue
        made = app.scope.assigned(node.value)
        kind = app.scope.dotted(made.func).split(".") if isinstance(made, ast.Call) else []
        if kind[:1] == ["modal"] and len(kind) == 3 and kind[1] in {"Volume", "Dict", "Queue", "Secret"}:
            yield f"modal.{kind[1]}.{node.attr}", node
        elif kind in (["modal", "App"], ["modal", "Stub"]) and (node.value.id, node.attr) not in set_here:
            yield f"modal.App.{node.attr}", node


def _missing_name(app: App, gone: str, places: list[Place]) -> Finding:
    instead = RENAMES.get(gone, "")
    known = bool(instead or gone in ADVICE)
    uses = [place for place in places if not isinstance(place, ast.alias)] or places
    message = f"The client has no `{gone}`" + (" any more" if known else f" in its version {client.version()}")
    advice = ADVICE.get(gone, f"Use `{instead}`." if instead else "")
    if not known and (close := client.similar(gone)):
        advice = f"Perhaps `{close}` is meant."
    elif not advice:
        advice = _UNKNOWN
    changes = _renamed(app, gone, instead, places) if instead else _strings(app, places) if gone == "modal.gpu" else []
    return Finding(
        RULE.id,
        Severity.ERROR if known else Severity.WARNING,
        app.source.place(uses[0]),
        f"{message}: the app fails when it is imported." if known else f"{message}, with which this was checked.",
        Fix(changes) if changes else None,
        help=advice,
    )


def _renamed(app: App, gone: str, instead: str, places: list[Place]) -> list[Edit]:
    """The new name at every place. [] where more than the name is another, or a variable stands for it."""
    (owner, _, old), (new_owner, _, new) = gone.rpartition("."), instead.rpartition(".")
    if owner != new_owner or gone in {"modal.Function.web_url", "modal.Function.keep_warm", "modal.Image.run_inside"}:
        return []
    changes: list[Edit] = []
    for place in places:
        if isinstance(place, ast.alias):
            start = app.source.start(place)
            changes.append(Edit(start, start + len(old), new))
            continue
        part = part_named(place, gone, app.scope) or place
        if isinstance(part, ast.Attribute):
            end = app.source.end(part)
            changes.append(Edit(end - len(old), end, new))
        elif isinstance(part, ast.Name) and part.id == old:
            changes.append(Edit(app.source.start(part), app.source.end(part), new))
        elif not (isinstance(part, ast.Name) and _is_renamed_on_import(app, part)):
            return []
        changes += _created(app, place) if old == "persisted" else []
    return changes


def _is_renamed_on_import(app: App, node: ast.Name) -> bool:
    """Whether the name is another one by `import ... as`, so that it need not change."""
    aliases = (alias for each in ast.walk(app.source.tree) if isinstance(each, ast.ImportFrom) for alias in each.names)
    return any(alias.asname == node.id for alias in aliases)


def _created(app: App, place: ast.expr) -> list[Edit]:
    """`create_if_missing=True` for what `persisted` made by itself."""
    calls = (node for node in ast.walk(app.source.tree) if isinstance(node, ast.Call) and node.func is place)
    return [edit for call in calls for edit in edits.set_options(app.source, call, {"create_if_missing": "True"})]


def _strings(app: App, places: list[Place]) -> list[Edit]:
    """`modal.gpu.A100(size="80GB", count=2)` as "A100-80GB:2". [] when some cannot be written so."""
    changes = []
    for place in places:
        if isinstance(place, ast.alias):
            return []
        call = next((n for n in ast.walk(app.source.tree) if isinstance(n, ast.Call) and n.func is place), None)
        written: ast.expr = call or place
        model = app.scope.dotted(place).rpartition(".")[2]
        given = {keyword.arg: app.scope.value(keyword.value) for keyword in call.keywords} if call else {}
        size, count = given.get("size", given.get("memory")), given.get("count", 1)
        if (
            not isinstance(count, int)
            or not isinstance(size, (str, int, type(None)))
            or (call is not None and call.args)
        ):
            return []
        text = model + (f"-{str(size).removesuffix('GB')}GB" if size else "") + (f":{count}" if count != 1 else "")
        changes.append(Edit(app.source.start(written), app.source.end(written), f'"{text}"'))
    return changes


# Arguments


def _arguments(app: App) -> Iterator[Finding]:
    steps = {id(step): f"modal.Image.{method(step)}" for image in app.images if image.base for step in image.steps[1:]}
    units = {id(unit.decorator): unit for unit in app.units}
    for node in ast.walk(app.source.tree):
        if not isinstance(node, ast.Call):
            continue
        unit = units.get(id(node))
        name = f"modal.App.{method(node)}" if unit else steps.get(id(node)) or app.scope.dotted(node.func)
        taken = client.parameters(name) if name.startswith("modal.") else None
        for keyword in node.keywords if taken is not None else ():
            if (
                keyword.arg is None
                or keyword.arg in (taken or ())
                or keyword.arg.startswith("_")
                or _names_missing(app, keyword)
            ):
                continue
            yield _unknown_argument(app, unit, node, name, keyword)


def _names_missing(app: App, keyword: ast.keyword) -> bool:
    """Whether the value names something that is not there, of which is told already."""
    parts = (node for node in ast.walk(keyword.value) if isinstance(node, (ast.Attribute, ast.Name)))
    return any(client.missing(name) for node in parts if (name := app.scope.dotted(node)).startswith("modal."))


def _unknown_argument(app: App, unit: Unit | None, call: ast.Call, name: str, keyword: ast.keyword) -> Finding:
    source, argument = app.source, str(keyword.arg)
    known = argument in RENAMED or argument in OPTIONS
    advice = OPTIONS.get(argument, f"Use {RENAMED[argument]}=..." if argument in RENAMED else "")
    if not known:
        close = difflib.get_close_matches(argument, client.parameters(name) or (), n=1, cutoff=0.7)
        advice = f"Perhaps `{close[0]}` is meant." if close else _UNKNOWN
    changes: list[Edit] = []
    own = {each.arg for each in call.keywords}
    if argument in RENAMED and unit is not None and RENAMED[argument] not in own:
        start = source.start(keyword)
        changes = [Edit(start, start + len(argument), RENAMED[argument])]
    elif argument == "secret" and "secrets" not in own:
        changes = [Edit(source.start(keyword), source.end(keyword), f"secrets=[{source.segment(keyword.value)}]")]
    elif argument == "allow_concurrent_inputs" and unit is not None and "concurrent" not in unit.decorators:
        limit = f"@{modal(app)}concurrent(max_inputs={source.segment(keyword.value)})"
        changes = [edits.remove_argument(source, call, keyword)]
        if call in unit.node.decorator_list:
            changes.append(edits.add_decorator(source, call, limit))
        else:
            changes = []
    return Finding(
        RULE.id,
        Severity.ERROR if known else Severity.WARNING,
        source.place(keyword),
        f"`{name}` takes no `{argument}`"
        + (" any more." if known else f" in version {client.version()} of the client."),
        Fix(changes) if changes else None,
        help=advice,
    )


RULE = Rule("STK014", "removed-api", "The client has no such thing (any more)", check)
