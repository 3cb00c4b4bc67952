from __future__ import annotations

import shlex

import pytest

from stoker.errors import ImageBuildFailed
from stoker.images import dockerfile


def steps(*commands: str) -> list[tuple[str, str]]:
    return [(step.keyword, step.value) for step in dockerfile.parse(commands, {}).final.instructions]


@pytest.mark.parametrize("value", ["plain", "two words", "it's", '"quoted"', "$HOME", "a=b", "back\\slash", "", "ü€"])
def test_env_as_the_client_quotes_it(value: str) -> None:
    assert dockerfile.assignments(f"KEY={shlex.quote(value)}", {"HOME": "/root"}) == {"KEY": value}


def test_env_fills_variables_in_outside_single_quotes() -> None:
    env = {"PATH": "/bin", "EMPTY": ""}
    assert dockerfile.assignments("PATH=/x:$PATH", env) == {"PATH": "/x:/bin"}
    assert dockerfile.assignments('A="${PATH}!" B=${NONE:-d} C=${EMPTY:-e} D=${PATH:+yes} E=\\$PATH', env) == {
        "A": "/bin!",
        "B": "d",
        "C": "e",
        "D": "yes",
        "E": "$PATH",
    }
    assert dockerfile.assignments("OLD form with $PATH", env) == {"OLD": "form with /bin"}


def test_commands_in_pieces_make_one_step() -> None:
    # The client sends the steps of poetry as separate items, with a blank after the backslash.
    assert steps("FROM base", "RUN cd /tmp && \\ ", "  echo a && \\ ", "  echo b", 'CMD ["x"]') == [
        ("RUN", "cd /tmp &&   echo a &&   echo b"),
        ("CMD", '["x"]'),
    ]


def test_comments_and_blank_lines_inside_a_step_are_dropped() -> None:
    assert steps("# top", "FROM base", "RUN a \\\n# why\n\n  b", "run c") == [("RUN", "a   b"), ("RUN", "c")]


def test_here_documents() -> None:
    parsed = dockerfile.parse(
        [
            "FROM base",
            "RUN <<EOF\necho 1\n# kept\nEOF",
            "COPY <<-'A' <<B /dir/\n\tone\n\tA\ntwo\nB",
            "RUN echo '<<NO' $((1<<2))",
        ],
        {},
    )
    run, copy, plain = parsed.final.instructions
    assert run.heredocs == (dockerfile.Heredoc("<<EOF", "EOF", "echo 1\n# kept\n"),)
    assert [(h.token, h.body) for h in copy.heredocs] == [("<<-'A'", "one\n"), ("<<B", "two\n")]
    assert plain.heredocs == ()


def test_an_open_here_document_is_an_error() -> None:
    with pytest.raises(ImageBuildFailed, match="no closing line `EOF`"):
        dockerfile.parse(["FROM base", "RUN <<EOF", "echo"], {})


def test_stages_and_arguments_before_them() -> None:
    parsed = dockerfile.parse(
        ["ARG V=3.11", "ARG W=x", "FROM python:${V}-slim AS build", "RUN a", "FROM --platform=linux/amd64 $W", "RUN b"],
        {"W": "debian"},
    )
    assert [(stage.image, stage.name, len(stage.instructions)) for stage in parsed.stages] == [
        ("python:3.11-slim", "build", 1),
        ("debian", "", 1),
    ]


@pytest.mark.parametrize("commands", [[], ["RUN x"], ["FROM"], ["FROM a b"]])
def test_what_is_no_dockerfile(commands: list[str]) -> None:
    with pytest.raises(ImageBuildFailed):
        dockerfile.parse(commands, {})


def test_command_forms() -> None:
    assert dockerfile.command('["sleep", "172800"]') == ("sleep", "172800")
    assert dockerfile.command("echo $A") == ("/bin/sh", "-c", "echo $A")
    assert dockerfile.command("[]") == ()
