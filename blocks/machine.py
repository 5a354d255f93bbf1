"""What all blocks of machines have in common."""

import difflib
from typing import Self

from prefect.blocks.core import Block
from pydantic import model_validator


class Machine(Block):
    """A block that refuses fields it does not have: one that is misspelt would otherwise be dropped in silence."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = type(self).model_fields
        for name in self.model_extra or ():
            if name != "block_type_slug":  # how Prefect stores a block within a block
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise ValueError(f"{self._block_type_name} has no field {name!r}; {hint}")
        return self
