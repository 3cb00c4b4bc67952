"""STK012: a secret in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.credentials import SECRET_NAME, Credential, credentials
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import modal
from stoker.advice.scope import parent
from stoker.advice.unit import Unit

_VARIABLES = {
    "a Hugging Face token": "HF_TOKEN", "an AWS access key": "AWS_ACCESS_KEY_ID", "a GitHub token": "GITHUB_TOKEN",
    "a Slack token": "SLACK_TOKEN", "a Google API key": "GOOGLE_API_KEY", "a private key": "PRIVATE_KEY",
}  # fmt: skip


def check(app: App) -> Iterator[Finding]:
    named = {app.scope.value(call.args[0]) for call in _calls_of(app, "modal.Secret.from_name") if call.args}
    for found in credentials(app.source.tree):
        if found.text in named:
            continue  # what the Secret is called
        variable = found.name.upper() if SECRET_NAME.search(found.name) else _VARIABLES.get(found.kind, "API_KEY")
        name = variable.lower().replace("_", "-")
        changes = _changes(app, found, variable, name)
        yield Finding(
            RULE.id,
            Severity.ERROR,
            app.source.place(found.node),
            f"This is {found.kind}, readable by everyone who sees the file, its history or the image.",
            Fix(changes) if changes else None,
            help=f"Revoke it, and keep its successor on the server: `modal secret create {name} {variable}=...`.",
        )


def _changes(app: App, found: Credential, variable: str, name: str) -> list[Edit]:
    """Takes the text out, and gives the Secret to the units that need it."""
    source, node = app.source, found.node
    entry = _env_entry(app, node)
    if entry is not None:
        changes = [_without(app, *entry)]
    elif isinstance(parent(source.tree, node), (ast.JoinedStr, ast.Compare)) or _is_fall_back(app, node):
        return []
    else:
        # On import the variable need not be there: the machine that deploys may not have it.
        read = f'os.environ["{variable}"]' if _in_function(source.tree, node) else f'os.environ.get("{variable}")'
        changes = [*edits.add_import(source, "import os"), Edit(source.start(node), source.end(node), read)]
    if _is_given_to_a_secret(app, node):
        return changes
    secret = f'{modal(app)}Secret.from_name("{name}", required_keys=["{variable}"])'
    for unit in app.units:
        if unit.open or not _needs(unit, found, entry[0] if entry else None):
            continue
        given = unit.options.get("secrets")
        if given is None:
            changes += unit.set_options(source, {"secrets": f"[{secret}]"})
        elif isinstance(given, ast.List) and any(keyword.value is given for keyword in unit.decorator.keywords):
            changes += edits.add_items(source, given, [secret])
    return changes


def _needs(unit: Unit, found: Credential, entry: ast.Dict | None) -> bool:
    if entry is not None:
        return unit.image is not None and any(entry in step.args for step in unit.image.steps)
    inside = any(node is found.node for node in ast.walk(unit.node))
    return inside or any(isinstance(node, ast.Name) and node.id == found.name for node in ast.walk(unit.node))


def _env_entry(app: App, node: ast.Constant) -> tuple[ast.Dict, int] | None:
    """The dict of an image's `.env({...})` that the constant is a value of, and its position there."""
    for image in app.images:
        for step in image.steps:
            if method(step) == "env" and step.args and isinstance(step.args[0], ast.Dict):
                for position, value in enumerate(step.args[0].values):
                    if value is node:
                        return step.args[0], position
    return None


def _without(app: App, mapping: ast.Dict, position: int) -> Edit:
    """Takes an entry out of a dict that is written in full."""
    source = app.source
    if len(mapping.values) == 1:
        return Edit(source.start(mapping), source.end(mapping), "{}")
    key = mapping.keys[position]
    following = mapping.keys[position + 1] if position + 1 < len(mapping.keys) else None
    if key is not None and following is not None:
        return Edit(source.start(key), source.start(following), "")
    return Edit(source.end(mapping.values[position - 1]), source.end(mapping.values[position]), "")


def _is_given_to_a_secret(app: App, node: ast.Constant) -> bool:
    """Whether the text goes into a Secret in the making: the machine that deploys needs it, containers get it by that."""
    return any(inner is node for call in _calls_of(app, "modal.Secret.") for inner in ast.walk(call))


def _is_fall_back(app: App, node: ast.Constant) -> bool:
    """Whether it is the second argument of `os.environ.get` and the like."""
    call = parent(app.source.tree, node)
    return isinstance(call, ast.Call) and len(call.args) == 2 and app.scope.dotted(call.func).startswith("os.")


def _calls_of(app: App, begin: str) -> Iterator[ast.Call]:
    for node in ast.walk(app.source.tree):
        if isinstance(node, ast.Call) and app.scope.dotted(node.func).startswith(begin):
            yield node


def _in_function(tree: ast.AST, node: ast.AST) -> bool:
    functions = (each for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return any(inner is node for function in functions for statement in function.body for inner in ast.walk(statement))


RULE = Rule("STK012", "secret-in-code", "A secret is written in the code", check)
