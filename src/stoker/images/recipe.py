"""The Dockerfile that buildah gets for one layer: the client's, with names resolved and with what buildah cannot do rewritten."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stoker.images.dockerfile import Dockerfile, Instruction, Stage

INSIDE = "/run/stoker"
"""Where a build's own directory appears in RUN steps; never part of the image."""

_FROM_FLAG = re.compile(r"(?:^|(?<=[\s,=]))from=([^\s,]+)")
_VARIABLE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")

COMPILE = "compile.py"
COMPILE_SOURCE = r"""
import compileall, concurrent.futures, os, site, sys

def added(since):
    roots = {p for p in [*site.getsitepackages(), *sys.path] if os.path.basename(p) in ("site-packages", "dist-packages")}
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                if name.endswith(".py") and os.lstat(path).st_ctime >= since and not compiled(path):
                    yield path

def compiled(path):
    from importlib.util import cache_from_source
    try:
        return os.path.getsize(cache_from_source(path)) > 0
    except (OSError, NotImplementedError):
        return False

def compile_one(path):
    return compileall.compile_file(path, quiet=2)

if __name__ == "__main__":
    paths = list(added(float(sys.argv[1])))
    if len(paths) < 100:
        for path in paths:
            compile_one(path)
    else:
        with concurrent.futures.ProcessPoolExecutor() as pool:
            list(pool.map(compile_one, paths, chunksize=20))
"""
"""Compiles what the steps since argv[1] (seconds since the epoch) put into site-packages; up-to-date files are left alone."""


@dataclass
class Recipe:
    """`text` is the Dockerfile; `run_files` go to the build's own directory, `context_files` into its context.

    `shown` maps a step as buildah announces it to what the user wrote, None for steps that are ours."""

    text: str = ""
    run_files: dict[str, str] = field(default_factory=dict)
    context_files: dict[str, bytes] = field(default_factory=dict)
    shown: dict[str, str | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    steps: int = 0


async def write(
    source: Dockerfile, resolve: Callable[[str], Awaitable[str]], run_variables: Iterable[str], started: float
) -> Recipe:
    """`resolve` answers the local image for a name that is not a stage. `run_variables` are passed as build arguments of the same
    name and thereby visible to RUN steps only; `started` is when the build began (seconds since the epoch)."""
    recipe = Recipe()
    lines = [*source.directives, *(instruction.text for instruction in source.preamble)]
    variables = sorted(name for name in run_variables if _VARIABLE_NAME.match(name))
    stages: set[str] = set()
    for index, stage in enumerate(source.stages):
        lines.append(await _from(stage, stages, resolve, recipe))
        lines += [_own(f"ARG {name}", recipe) for name in variables] if _runs(stage) else []
        for instruction in stage.instructions:
            lines.append(await _rewritten(instruction, stages, resolve, recipe))
            recipe.steps += 1
        stages |= {stage.name.lower(), str(index)} - {""}
    if _runs(source.final) and _posix_shell(source.final):
        recipe.run_files[COMPILE] = COMPILE_SOURCE
        step = f"RUN python {INSIDE}/{COMPILE} {started:.0f} > /dev/null 2>&1 || true"
        lines.append(_own(step, recipe))
    recipe.text = "\n".join(lines) + "\n"
    return recipe


def changes_files(source: Dockerfile) -> bool:
    """Whether the layer can differ from its base in more than settings."""
    if len(source.stages) > 1:
        return True
    return any(instruction.keyword in ("RUN", "COPY", "ADD") for instruction in source.final.instructions)


def heredoc_script(instruction: Instruction) -> str:
    """A RUN step with here-documents as the text of a script."""
    first = instruction.heredocs[0]
    if instruction.arguments == first.token:
        return first.body
    documents = (f"{heredoc.body}{heredoc.name}\n" for heredoc in instruction.heredocs)
    return "".join((instruction.arguments, "\n", *documents))


def _runs(stage: Stage) -> bool:
    return any(instruction.keyword == "RUN" for instruction in stage.instructions)


def _posix_shell(stage: Stage) -> bool:
    """Whether the shell form of RUN is understood by a POSIX shell at the end of the stage."""
    runs: Sequence[Instruction] = [step for step in stage.instructions if step.keyword == "RUN"]
    shells = [step for step in stage.instructions if step.keyword == "SHELL"]
    if shells and not re.search(r'(?:^|[/"])(?:ba|da|z|k)?sh"', shells[-1].value):
        return False
    # An image without any shell can only have steps in the list form.
    return any(not step.arguments.startswith("[") for step in runs)


def _own(line: str, recipe: Recipe) -> str:
    recipe.shown[line] = None
    return line


async def _from(stage: Stage, stages: set[str], resolve: Callable[[str], Awaitable[str]], recipe: Recipe) -> str:
    image = stage.image
    if image.lower() not in stages and image != "scratch":
        local = await resolve(image)
        recipe.names[local] = image
        image = local
    flags = "".join(f"{flag} " for flag in stage.source.flags)
    recipe.steps += 1
    return f"FROM {flags}{image}" + (f" AS {stage.name}" if stage.name else "")


async def _rewritten(
    instruction: Instruction, stages: set[str], resolve: Callable[[str], Awaitable[str]], recipe: Recipe
) -> str:
    text = instruction.text
    for flag in instruction.flags:
        match = _FROM_FLAG.search(flag.removeprefix("--"))
        if match and match.group(1).lower() not in stages and "$" not in match.group(1):
            local = await resolve(match.group(1))
            recipe.names[local] = match.group(1)
            text = text.replace(flag, flag.replace(match.group(1), local), 1)
    if not instruction.heredocs:
        return text
    number = len(recipe.run_files) + len(recipe.context_files)
    flags = "".join(f"{flag} " for flag in instruction.flags)
    if instruction.keyword == "RUN":
        return _run_heredoc(instruction, flags, f"step-{number}", recipe)
    arguments = instruction.arguments
    for heredoc in instruction.heredocs:
        name = f".stoker-{number}/{heredoc.name}"
        recipe.context_files[name] = heredoc.body.encode()
        arguments = arguments.replace(heredoc.token, name, 1)
    rewritten = f"{instruction.keyword} {flags}{arguments}"
    recipe.shown[rewritten] = f"{instruction.keyword} {instruction.value}"
    return rewritten


def _run_heredoc(instruction: Instruction, flags: str, name: str, recipe: Recipe) -> str:
    """The step as a file that the step's own shell reads, or that is run when it says by what."""
    recipe.run_files[name] = script = heredoc_script(instruction)
    rewritten = f"RUN {flags}{'' if script.startswith('#!') else '. '}{INSIDE}/{name}"
    recipe.shown[rewritten] = f"RUN {instruction.value}"
    return rewritten
