"""Mirrors of package indexes: what an image's commands name by its public address is taken from where the site keeps it.

An app says `extra_index_url="https://..."`, and that stays so; where the address cannot be reached, or should not be, the commands of the build
run with the mirror's address instead. The image's id comes from the commands as they were written, and nothing of the mirror is
stored in the image. Only the commands themselves are looked at: addresses inside requirements files and project files stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from stoker.errors import InvalidArgument
from stoker.images.dockerfile import Dockerfile, Heredoc, Instruction, Stage

_PLAIN = re.compile(r"http://(?:[^\s/@]*@)?([^\s/@,]+)")


class IndexMirrors:
    """`mirrors` maps the address of an index to that of its mirror, or to a directory of this machine (absolute, "file:" implied)."""

    def __init__(self, mirrors: Mapping[str, str]) -> None:
        self._mirrors = {_index(url): _mirror(url, mirror) for url, mirror in mirrors.items()}
        longest_first = sorted(self._mirrors, key=len, reverse=True)
        # An address ends where no more of it could follow, so that ".../cu12" is not found in ".../cu128".
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})(?![\\w.~%-])") if mirrors else None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Directories that commands must be able to read."""
        paths = (Path(urlsplit(mirror).path) for mirror in self._mirrors.values() if mirror.startswith("file:"))
        # The pages of an index may link to files beside it.
        return tuple(path.parent if path.name == "simple" else path for path in paths)

    @property
    def plain_hosts(self) -> set[str]:
        """Servers (host:port) that are not asked through TLS, which pip must be told to trust."""
        return {urlsplit(mirror).netloc for mirror in self._mirrors.values() if mirror.startswith("http:")}

    def used(self, source: Dockerfile) -> dict[str, str]:
        """The mirrors that stand in for an index in some command."""
        texts = [instruction.text for instruction in _runs(source)]
        texts += [heredoc.body for instruction in _runs(source) for heredoc in instruction.heredocs]
        found = {match.group(1) for text in texts if self._pattern for match in self._pattern.finditer(text)}
        return {url: self._mirrors[url] for url in sorted(found)}

    def apply(self, source: Dockerfile, elsewhere: Mapping[str, str]) -> Dockerfile:
        """The same Dockerfile with the mirrors' addresses in its commands. elsewhere: servers (host:port) that steps reach at another place."""
        if self._pattern is None:
            return source
        pattern = self._pattern

        def text(original: str) -> str:
            return pattern.sub(lambda match: moved(self._mirrors[match.group(1)], elsewhere), original)

        def instruction(step: Instruction) -> Instruction:
            if step.keyword != "RUN":
                return step
            heredocs = tuple(Heredoc(doc.token, doc.name, text(doc.body)) for doc in step.heredocs)
            return Instruction(step.keyword, text(step.value), text(step.text), heredocs)

        def stage(original: Stage) -> Stage:
            return replace(original, instructions=tuple(map(instruction, original.instructions)))

        return replace(source, stages=tuple(map(stage, source.stages)))


def plain_servers(text: str) -> set[str]:
    """The servers (host:port) of all addresses in `text` that are asked without TLS."""
    return {match[1] for match in _PLAIN.finditer(text)}


def moved(text: str, elsewhere: Mapping[str, str]) -> str:
    """`text` with the places that `elsewhere` names for servers."""
    return _PLAIN.sub(lambda match: match[0].replace(match[1], elsewhere.get(match[1], match[1])), text)


def _runs(source: Dockerfile) -> Iterator[Instruction]:
    return (step for stage in source.stages for step in stage.instructions if step.keyword == "RUN")


def _index(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise InvalidArgument(
            f"`package_indexes` maps addresses of package indexes to mirrors; {url!r} is not an http address."
        )
    return url.rstrip("/")


def _mirror(url: str, mirror: str) -> str:
    if mirror.startswith("/"):
        if not Path(mirror).is_dir():
            raise InvalidArgument(
                f"`package_indexes` has the directory {mirror} stand in for {url}, but there is none."
            )
        return Path(mirror).as_uri()
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
        raise InvalidArgument(
            f"`package_indexes` has {mirror!r} stand in for {url}; it must be an http address or an absolute directory."
        )
    if "@" in urlsplit(mirror).netloc:
        raise InvalidArgument(
            f"The mirror of {url} in `package_indexes` has a password in its address, which build logs would show. Put a proxy that knows "
            "the password in between, or name the index with its password in the pip configuration of this machine."
        )
    return mirror.rstrip("/")
