"""Masks in MATLAB files, the format of PASCAL Context and COCO-Stuff 10k."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordmask.datasets.reading import Table, Target, look_up
from wordmask.errors import WordmaskError
from wordmask.extras import need


@dataclass(frozen=True, eq=False)
class MatlabMask:
    """A MATLAB file with a map of numbers, and their labels; call it to read the labels."""

    path: Path
    variable: str
    table: Table

    def __call__(self) -> Target:
        """The labels, (H, W) uint16.

        Raises:
            WordmaskError: scipy is not installed, the file is missing or damaged, has no such
                variable, or holds a value that is not in the table.
        """
        files = need("scipy.io", "evaluate", "a MATLAB file")
        try:
            found = files.loadmat(self.path, variable_names=[self.variable])
        except FileNotFoundError:
            raise WordmaskError(f"there is no mask {self.path}") from None
        except Exception as error:  # scipy raises nearly every kind of error on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WordmaskError(f"the mask {self.path} is damaged: {reason}") from None
        if self.variable not in found:
            raise WordmaskError(
                f"the mask {self.path} has no variable {self.variable}; it is another annotation"
            )
        values = np.asarray(found[self.variable])
        if values.dtype.kind == "f" and (values == values.astype(np.int32)).all():
            values = values.astype(np.int32)  # MATLAB's numbers are doubles by default
        return look_up(values, self.table, str(self.path))
