"""Matrices in eight bits: a number from -127 to 127 for each value, times a step that a block of a row shares.

For values that are normal within a block the error is some .6 % of their root mean square, at a quarter of the bytes of
float32. Steps are bfloat16, so that what was rounded once is rounded to itself, to the bit: the largest value of a
block is 127 steps, which float32 holds and divides without a rest.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 64
"""Values of a row that share a step."""
_TINY = torch.finfo(torch.float32).tiny
_ROWS = 64
"""Rows that are worked on at once."""


def to_eight_bits(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (k, d) as numbers (k, d) of int8 and steps (k, blocks) of bfloat16."""
    numbers = torch.empty(matrix.shape, dtype=torch.int8)
    steps = torch.empty(len(matrix), blocks(matrix.shape[1]), dtype=torch.bfloat16)
    for at in range(0, len(matrix), _ROWS):
        part = _in_blocks(matrix[at : at + _ROWS].float())
        step = (part.abs().amax(-1) / 127).bfloat16()
        whole = (part / step.float().clamp_min(_TINY)[..., None]).round()
        numbers[at : at + _ROWS] = whole.flatten(1)[:, : matrix.shape[1]].to(torch.int8)
        steps[at : at + _ROWS] = step
    return numbers, steps


def from_eight_bits(numbers: Tensor, steps: Tensor) -> Tensor:
    """The matrix (k, d) of float32 that `to_eight_bits` rounded."""
    matrix = numbers.float()
    for start in range(0, len(matrix), _ROWS):
        part = matrix[start : start + _ROWS]
        part.copy_((_in_blocks(part) * steps[start : start + _ROWS, :, None].float()).flatten(1)[:, : matrix.shape[1]])
    return matrix


def blocks(length: int) -> int:
    """Blocks of a row."""
    return -(-length // BLOCK)


def _in_blocks(rows: Tensor) -> Tensor:
    """Rows (n, d) as (n, blocks, BLOCK), the last block filled up with zeros."""
    return pad(rows, (0, -rows.shape[1] % BLOCK)).reshape(len(rows), -1, BLOCK)
