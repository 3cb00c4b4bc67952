"""The blocks are those of the text, to the letter; and the examples are made of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mission import mission

EXAMPLES = Path(__file__).parents[2] / "examples"


def lines(code: str) -> list[str]:
    return [line.strip() for line in code.splitlines() if line.strip()]


def blocks_of_the_text() -> list[list[str]]:
    """The lines after each line `python` up to the next heading: in this text no line of code starts with a capital, and every heading does."""
    found: list[list[str]] = []
    in_code = False
    for line in lines(mission.text()):
        if line == "python":
            found.append([])
        in_code = line == "python" or (in_code and not line[0].isupper())
        if in_code and line != "python":
            found[-1].append(line)
    return found


def test_every_block_of_the_text_is_here_to_the_letter() -> None:
    ours = [lines(mission.block(name)) for name in mission.BLOCKS]
    assert blocks_of_the_text() == ours
    code = {line for block in ours for line in block}
    left = [line for line in lines(mission.text()) if line not in code and line != "python"]
    assert not [line for line in left if set(line) & set("@{}[]=")], "lines of code that belong to no block"


@pytest.mark.parametrize("name", mission.BLOCKS)
def test_blocks_are_python(name: str) -> None:
    ast.parse(mission.block(name))


def defined(code: str) -> dict[str, ast.stmt]:
    """Functions, classes and assignments by name, methods as Class.method."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = method
    return found


@pytest.mark.parametrize(
    ("block", "example", "names"),
    [
        ("image", "images/app.py", ["image"]),
        ("endpoint", "diffusion/app.py", ["inference_api"]),
        ("comfyui", "comfyui/app.py", ["ComfyUI.launch_server", "ComfyUI.run_workflow"]),
    ],
)
def test_the_examples_keep_the_code(block: str, example: str, names: list[str]) -> None:
    ours, theirs = defined((EXAMPLES / example).read_text()), defined(mission.block(block))
    for name in names:
        assert ast.dump(ours[name]) == ast.dump(theirs[name])


@pytest.mark.parametrize(
    ("block", "example", "name"),
    [
        ("comfyui", "comfyui/app.py", "ComfyUI"),
        ("diffusion", "diffusion/app.py", "DiffusionAPI"),
        ("diffusion", "diffusion/mochi.py", "DiffusionAPI"),
    ],
)
def test_the_examples_keep_the_options(block: str, example: str, name: str) -> None:
    """All that the text's decorators say is said by the example's; it may name its image besides."""
    options = [
        [{keyword.arg: ast.dump(keyword.value) for keyword in decorator.keywords} for decorator in found.decorator_list]
        for found in (defined(mission.block(block))[name], defined((EXAMPLES / example).read_text())[name])
    ]
    theirs, ours = options
    assert len(ours) == len(theirs)
    for said, kept in zip(theirs, ours, strict=True):
        assert {key: value for key, value in said.items() if key != "image"}.items() <= kept.items()
