"""Where blocks of 8 MiB were put, so that a file that comes again, by whatever name, need not travel again."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from stoker.store.assembly import BLOCK_BYTES, ZEROS, FilePlan

_WORTH_BYTES = 1 << 20  # a smaller file is sent faster than it is looked for
_REMEMBERED = 100_000  # blocks: 800 GiB, in some 40 MiB of memory


class BlockPlace(NamedTuple):
    """The block starts at `offset` bytes of the file, or did when it was put there: whoever uses it checks."""

    volume_id: str
    path: str
    offset: int


class BlockPlaces:
    """Kept in memory only: what it forgets is uploaded once more."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, BlockPlace] = OrderedDict()

    def learn(self, volume_id: str, plan: FilePlan) -> None:
        """A file was put in its place."""
        if plan.size < _WORTH_BYTES:
            return
        for index, digest in enumerate(plan.blocks):
            if digest != ZEROS:
                self._places[digest] = BlockPlace(volume_id, plan.path, index * BLOCK_BYTES)
                self._places.move_to_end(digest)
        while len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)

    def candidates(self, volume_id: str, plan: FilePlan, index: int) -> list[BlockPlace]:
        """Where to look for a block of a file that is about to be uploaded, likeliest first."""
        if plan.size < _WORTH_BYTES:
            return []
        known = self._places.get(plan.blocks[index])
        here = BlockPlace(volume_id, plan.path, index * BLOCK_BYTES)  # the file that it replaces often differs little
        return [here] if known is None or known == here else [known, here]
