"""docs/compatibility.md, made from the declarations of the servicers: `python -m stoker.protocol.compatibility > docs/compatibility.md`."""

from __future__ import annotations

import sys

from stoker.protocol.commands import COMMANDS, LOCAL, UNTESTED
from stoker.protocol.servicers import SERVICERS
from stoker.rpc.methods import SERVICE, Declaration, declared_by
from stoker.rpc.rights import Scope
from stoker.unoffered import FEATURES, of_rpc

CLOUD_ONLY = frozenset(
    name for name in SERVICE.methods_by_name if (feature := of_rpc(name)) is not None and feature.cloud
)
"""RPCs that only make sense in Modal's own cloud: billing, roles, audit, static addresses, their second data plane."""

_HEAD = """\
# Compatibility

Made from the code by `make docs`; do not edit. The protocol is the one of the `modal` client {version}.

{offered} of {total} RPCs are offered, {cloud} only make sense in Modal's cloud, {missing} are not offered yet.
The clients in JavaScript (tested from 0.5 on) and Go (which sends the same requests, and is not tested) call functions, too. An argument that they
send may have up to 1 GiB, as with Modal.
An RPC that is not offered answers `UNIMPLEMENTED`, and says what is not offered and [what to use instead](#what-is-not-offered). The client
shows that.

The last three columns say who may call: a client with a token, code in a container, and code in a container of a function with
`restrict_modal_access=True`. "yes" means whatever the request names, "no" that the answer is `PERMISSION_DENIED`; other words say which
requests are allowed. [security.md](security.md) explains them. "anybody" needs no token.

| RPC | State | Client | Container | Restricted container |
|---|---|---|---|---|
"""

_COMMANDS_HEAD = """
## Commands of the client

A command that is not offered ends with a code other than 0 and says what to use instead.

| Command | State | Run in the tests of the command line |
|---|---|---|
"""

_FEATURES_HEAD = """
## What is not offered

A function that asks for one of these is refused when it is deployed. Often its image has been built by then, because the client sends the
options of a function last. `stoker check` finds it in the code before that ([advice.md](advice.md#stk015)).

| Not offered | Instead |
|---|---|
"""


def compatibility_table() -> str:
    """The whole page."""
    from importlib.metadata import version

    offered = {name: declared for servicer in SERVICERS for name, (_, declared) in declared_by(servicer).items()}
    names = sorted(SERVICE.methods_by_name)
    states = {
        name: "offered" if name in offered else "cloud only" if name in CLOUD_ONLY else "not yet" for name in names
    }
    counts = {state: list(states.values()).count(state) for state in ("offered", "cloud only", "not yet")}
    head = _HEAD.format(
        version=version("modal"),
        offered=counts["offered"],
        total=len(names),
        cloud=counts["cloud only"],
        missing=counts["not yet"],
    )
    rpcs = "".join(f"| {name} | {states[name]} | {' | '.join(_callers(offered.get(name)))} |\n" for name in names)
    commands = "".join(f"| `modal {name}` | {COMMANDS[name]} | {_shown(name)} |\n" for name in sorted(COMMANDS))
    features = "".join(f"| {feature.title} | {feature.instead} |\n" for feature in FEATURES)
    return head + rpcs + _COMMANDS_HEAD + commands + _FEATURES_HEAD + features


def _callers(declared: Declaration | None) -> tuple[str, str, str]:
    """Who may call an RPC: the cells for a client, a container and a restricted container."""
    if declared is None:
        return "", "", ""
    rights = declared.rights
    client = "anybody" if rights.open else "yes" if rights.clients else "no"
    return client, _words(rights.containers), _words(rights.restricted)


def _words(scope: Scope | None) -> str:
    return "no" if scope is None else scope.words


def _shown(name: str) -> str:
    if COMMANDS[name] == LOCAL:
        return ""
    return f"no: {UNTESTED[name]}" if name in UNTESTED else "yes"


if __name__ == "__main__":
    sys.stdout.write(compatibility_table())
