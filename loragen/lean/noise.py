"""Standard normal numbers as `torch.randn` draws them on the CPU from a seed, without torch.

Both draw 32-bit words of MT19937 (Matsumoto and Nishimura 1998), as Python's `random` does, and turn pairs of uniform
numbers into pairs of normal ones (Box and Muller 1958). torch does so in blocks of 16 float32 numbers, where there are
16 or more, and one by one in double precision for fewer.
"""

import math
import random

import numpy as np
from numpy.typing import NDArray

BLOCK = 16
_WORDS = 624
"""Of the state of MT19937."""


class Noise:
    """The state of a `torch.Generator` that was seeded."""

    def __init__(self, seed: int) -> None:
        word = (seed if seed >= 0 else seed + 2**64) % 2**32
        state = [word]
        for place in range(1, _WORDS):
            word = (1812433253 * (word ^ (word >> 30)) + place) % 2**32
            state.append(word)
        self._random = random.Random()
        self._random.setstate((3, (*state, _WORDS), None))
        self._spare: float | None = None
        """The second number of a pair of which one was drawn."""

    def draw(self, size: int) -> NDArray[np.float32]:
        """The next numbers, (size,), equal to torch's up to the rounding of its logarithms and sines."""
        if size < BLOCK:
            return np.array([self._one() for _ in range(size)], dtype=np.float32)
        uniform = self._uniform(size)
        drawn = np.empty(size, dtype=np.float32)
        for start in range(0, size - BLOCK + 1, BLOCK):
            drawn[start : start + BLOCK] = _block(uniform[start : start + BLOCK])
        if size % BLOCK:  # the last block is drawn anew
            drawn[-BLOCK:] = _block(self._uniform(BLOCK))
        return drawn

    def _uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers of 24 bits in [0, 1)."""
        words = [self._random.getrandbits(32) for _ in range(size)]
        return (np.array(words, dtype=np.int64) % 2**24) / 2**24

    def _one(self) -> float:
        if self._spare is not None:
            spare, self._spare = self._spare, None
            return spare
        angle, length = self._double(), self._double()
        radius = math.sqrt(-2 * math.log1p(-length))
        self._spare = radius * math.sin(2 * math.pi * angle)
        return radius * math.cos(2 * math.pi * angle)

    def _double(self) -> float:
        """A number of 53 bits in [0, 1), of two words, the first of which is the upper one."""
        upper = self._random.getrandbits(32)
        return float((upper << 32 | self._random.getrandbits(32)) % 2**53) / 2**53


def _block(uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Normal numbers from as many uniform ones: the first half gives radii, the second angles."""
    half = len(uniform) // 2
    radius = np.sqrt(-2 * np.log(1 - uniform[:half]))
    angle = 2 * math.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).astype(np.float32)
