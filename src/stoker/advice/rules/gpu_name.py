"""STK016: a GPU that neither Modal nor this server knows by that name."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method
from stoker.advice.rules.base import Rule

NAMES = (
    "T4", "L4", "A10", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H200", "B200", "B300", "GH200", "RTX-PRO-6000", "ANY",
)  # fmt: skip
_PRODUCTS = re.compile(
    r"RTX|GTX|GEFORCE|QUADRO|TITAN|TESLA|^(V100|P100|P4|P40|A2|A16|A30|A40|A4000|A5000|A6000|L2|L20|L40|H20|H800)\b"
)
"""What NVIDIA sells besides, which a server can have: it goes by its product name."""
_MEANT = {
    "L40": "L40S",
    "H100-80GB": "H100",
    "H200-141GB": "H200",
    "A10-24GB": "A10",
    "A10G-24GB": "A10G",
    "T4-16GB": "T4",
    "L4-24GB": "L4",
}
_OTHER_PLACES = {"with_options", "run_commands", "pip_install", "uv_pip_install", "run_function", "dockerfile_commands"}


def check(app: App) -> Iterator[Finding]:
    told: set[int] = set()
    for node in _requests(app):
        values = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
        for each in values:
            finding = None if id(each) in told else _judge(app, each)
            told.add(id(each))
            if finding is not None:
                yield finding


def _requests(app: App) -> Iterator[ast.expr]:
    """The values of all `gpu=`."""
    yield from (unit.options["gpu"] for unit in app.units if "gpu" in unit.options)
    for node in ast.walk(app.source.tree):
        if isinstance(node, ast.Call) and method(node) in _OTHER_PLACES:
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "gpu")


def _judge(app: App, node: ast.expr) -> Finding | None:
    value = app.scope.value(node)
    if isinstance(value, (bool, int, float)) and value is not False:
        message = f'gpu={value!r} is refused by the client, which takes a name such as "A10" or "H100:2".'
        return Finding(RULE.id, Severity.ERROR, app.source.place(node), message, help=_known())
    if not isinstance(value, str) or not value:
        return None
    name, colon, count = value.partition(":")
    if colon and not (count.isdigit() and int(count)):
        message = f"{value!r} does not say how many GPUs: behind the colon stands a number from 1."
        return Finding(
            RULE.id, Severity.ERROR, app.source.place(node), message, _fix(app, node, value, name), help=_known()
        )
    wanted = name.upper().removesuffix("!").removesuffix("+")
    if wanted in NAMES:
        return None
    meant = _meant(wanted)
    if not meant and _PRODUCTS.search(wanted):
        message = f"{name!r} is none of Modal's names for GPUs. Here it must be the product's name, as `stoker status` shows it on the machine that has one."
        return Finding(RULE.id, Severity.NOTE, app.source.place(node), message, help=_known())
    fix = _fix(app, node, value, f"{meant}{colon}{count}") if meant else None
    message = f"There is no GPU {name!r}, so that no call of this can run."
    return Finding(
        RULE.id,
        Severity.ERROR,
        app.source.place(node),
        message,
        fix,
        help=_known() if not meant else f'"{meant}" is probably meant.',
    )


def _meant(wanted: str) -> str:
    """The known name that another way of writing stands for, or one with a slip; "" for none."""
    plain = re.sub(r"[\s_]+", "-", wanted).removeprefix("NVIDIA-").removeprefix("GPU-")
    plain = re.sub(
        r"(\d)-?G(I?B)?$", r"\1GB", re.sub(r"^(A100|H100|H200|L40S|A10G?|L4|T4)-?(\d+)(GI?B?)?$", r"\1-\2GB", plain)
    )
    if plain in NAMES:
        return plain
    if plain in _MEANT:
        return _MEANT[plain]
    trimmed = re.sub(r"-(SXM\d?|PCIE|HBM\d\w?|NVL).*$", "", plain)
    if trimmed in NAMES:
        return trimmed
    if _PRODUCTS.search(plain):
        return ""
    close = difflib.get_close_matches(plain, NAMES, n=1, cutoff=0.75)
    return close[0] if close else ""


def _fix(app: App, node: ast.expr, value: str, text: str) -> Fix | None:
    written = isinstance(node, ast.Constant) and node.value == value
    return Fix([Edit(app.source.start(node), app.source.end(node), f'"{text}"')]) if written else None


def _known() -> str:
    return f"Modal's names are {', '.join(NAMES[:-1])} and any; a number of them follows a colon."


RULE = Rule("STK016", "unknown-gpu", "There is no such GPU", check)
