"""A workflow in the API format: {node id: {"class_type": ..., "inputs": {name: value, or [node id, output index]}}}."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_extras import nodes_testing
from nodes import NODES, Node, Run

ALL_NODES: dict[str, Node] = NODES | nodes_testing.NODES
Tell = Callable[..., None]
"""tell(event, **data): sends a message of the run to whoever asked for it."""


class NodeFailed(Exception):
    """`node` is the id of the node that raised `__cause__`; `executed` are those that ran before it."""

    def __init__(self, node: str, class_type: str, executed: list[str]) -> None:
        super().__init__(f"{class_type} ({node})")
        self.node, self.class_type, self.executed = node, class_type, executed


class Graph:
    """Runs workflows one at a time and remembers what each node gave for the same inputs."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._cache: dict[str, Any] = {}

    def execute(self, workflow: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """{output node: what it saved}. Raises NodeFailed, and whatever tell("progress") raises when the run is to stop."""
        order = list(execution_order(workflow))
        keys = {node: signature(workflow, node) for node in order}
        tell("execution_cached", nodes=[node for node in order if keys[node] in self._cache])
        results: dict[str, Any] = {}
        executed: list[str] = []
        saved = {}
        for node in order:
            kind = ALL_NODES[workflow[node]["class_type"]]
            if keys[node] in self._cache:
                results[node] = self._cache[keys[node]]
            else:
                tell("executing", node=node, display_node=node)
                results[node] = self._run(workflow[node], node, kind, results, executed, tell)
                executed.append(node)
            if kind.is_output:
                saved[node] = results[node]
                tell("executed", node=node, display_node=node, output=results[node])
        self._cache = {keys[node]: results[node] for node in order}
        return saved

    def _run(
        self, step: dict[str, Any], node: str, kind: Node, results: dict[str, Any], executed: list[str], tell: Tell
    ) -> Any:
        inputs = {
            name: results[value[0]][value[1]] if is_link(value) else value for name, value in step["inputs"].items()
        }
        run = Run(self._workspace, lambda value, maximum: tell("progress", value=value, max=maximum, node=node))
        try:
            return kind.function(run, **inputs)
        except Exception as cause:
            raise NodeFailed(node, step["class_type"], executed) from cause


def problems(workflow: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """(what is wrong in one sentence, {node: its errors}); both empty when the workflow can run."""
    for node, step in workflow.items():
        if step.get("class_type") not in ALL_NODES:
            name = step.get("class_type")
            missing = {
                "type": "missing_node_type",
                "message": f"Node '{name}' not found.",
                "details": f"Node ID '#{node}'",
            }
            return missing | {"extra_info": {"node_id": node, "class_type": name}}, {}
    outputs = [node for node, step in workflow.items() if ALL_NODES[step["class_type"]].is_output]
    if not outputs:
        return {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}, {}
    errors = {
        node: {"errors": wrong, "dependent_outputs": outputs, "class_type": step["class_type"]}
        for node, step in workflow.items()
        if (wrong := list(input_errors(workflow, step)))
    }
    if not errors:
        return {}, {}
    message = "Prompt outputs failed validation"
    return {"type": "prompt_outputs_failed_validation", "message": message, "details": "", "extra_info": {}}, errors


def input_errors(workflow: dict[str, Any], step: dict[str, Any]) -> Any:
    given = step.get("inputs", {})
    for name, kind in ALL_NODES[step["class_type"]].inputs.items():
        value = given.get(name)
        wrong = ""
        if name not in given:
            wrong = "required_input_missing"
        elif is_link(value):
            wrong = "" if value[0] in workflow else "bad_linked_input"
        elif isinstance(kind[0], list):
            wrong = "" if value in kind[0] else "value_not_in_list"
        elif kind[0] in ("INT", "FLOAT"):
            number = isinstance(value, int if kind[0] == "INT" else (int, float))
            wrong = "" if number and kind[1]["min"] <= value <= kind[1]["max"] else "invalid_input_type"
        if wrong:
            message = wrong.replace("_", " ").capitalize()
            yield {
                "type": wrong,
                "message": message,
                "details": f"{name}: {value!r}",
                "extra_info": {"input_name": name},
            }


def execution_order(workflow: dict[str, Any]) -> list[str]:
    """The nodes that the output nodes need, each after those it needs itself."""
    order: list[str] = []

    def visit(node: str) -> None:
        if node not in order:
            for value in workflow[node]["inputs"].values():
                if is_link(value):
                    visit(value[0])
            order.append(node)

    for node, step in workflow.items():
        if ALL_NODES[step["class_type"]].is_output:
            visit(node)
    return order


def signature(workflow: dict[str, Any], node: str) -> str:
    """Equal for two nodes that give the same: class, values, and the signatures of what feeds them."""
    step = workflow[node]
    inputs = {
        name: [signature(workflow, value[0]), value[1]] if is_link(value) else value
        for name, value in sorted(step["inputs"].items())
    }
    return json.dumps([step["class_type"], inputs])


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
