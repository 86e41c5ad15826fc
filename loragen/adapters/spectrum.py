"""Singular value decompositions of updates, and their best factors of a rank (Eckart-Young)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_NEGLIGIBLE = torch.finfo(torch.float32).eps
"""Singular values below this share of the largest are rounding errors of float32 factors, and count as zero."""


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values of one update (out, in), and its leading singular vectors; all float64."""

    left: Tensor
    """(out, m), orthonormal columns; zero where the singular value is."""
    singular: Tensor
    """All of them, (n,) with n >= m, largest first."""
    right: Tensor
    """(m, in), orthonormal rows; zero where the singular value is."""

    @classmethod
    def of_factors(cls, lora_a: Tensor, lora_b: Tensor) -> "Spectrum":
        """That of lora_b (out, r) @ lora_a (r, in), with n = m = min(r, in, out); the product is not made.

        By QR, B = Q_B R_B and Aᵀ = Q_A R_A, the singular values are those of the small R_B R_Aᵀ (LoRA-Squeeze, arXiv
        2602.10993).
        """
        q_b, triangle_b = torch.linalg.qr(lora_b.detach().double())
        q_a, triangle_a = torch.linalg.qr(lora_a.detach().double().T)
        left, singular, right = torch.linalg.svd(triangle_b @ triangle_a.T, full_matrices=False)
        return cls(q_b @ left, _without_rounding(singular), right @ q_a.T)

    @classmethod
    def of_dense(cls, delta: Tensor, *, most: int | None = None) -> "Spectrum":
        """That of a whole delta weight (out, in), with singular vectors for the ``most`` largest values.

        By the eigenvectors of the smaller Gram matrix, which takes less time than a singular value decomposition.
        """
        delta = delta.double()
        is_wide = delta.shape[1] > delta.shape[0]
        squares, vectors = torch.linalg.eigh(delta @ delta.T if is_wide else delta.T @ delta)  # ascending
        singular = _without_rounding(squares.flip(0).clamp(min=0).sqrt())
        vectors = vectors.flip(1)[:, :most]
        inverse = torch.where(singular > 0, 1 / singular, 0)[: vectors.shape[1]]
        if is_wide:
            return cls(vectors, singular, inverse[:, None] * (vectors.T @ delta))
        return cls(delta @ vectors * inverse, singular, vectors.T)

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of the update."""
        return float(self.singular.square().sum())

    def lost(self, rank: int) -> float:
        """Squared Frobenius norm of what the best update of a rank lacks."""
        return float(self.singular[rank:].square().sum())

    def rank(self, energy: float = 1.0) -> int:
        """The smallest rank that keeps this share of the squared Frobenius norm; 0 where the update is zero."""
        lost = self.singular.square().flip(0).cumsum(0).flip(0)  # by rank, from 0
        return int((lost > (1 - energy) * lost[0]).sum())

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """A (k, in) and B (out, k), float32, of the nearest update of rank k = min(rank, m), in canonical form.

        Singular values are in descending order and shared equally, A Aᵀ = Bᵀ B = diag(S), and in every row of A the
        first entry of about the largest magnitude is positive. Where singular values are equal, vectors are not unique.
        """
        left, right = self.left[:, :rank], self.right[:rank]
        root = self.singular[: len(right)].sqrt()
        signs = _leading_signs(right)
        return (signs[:, None] * root[:, None] * right).float(), (left * root * signs).float()


def _without_rounding(singular: Tensor) -> Tensor:
    return torch.where(singular > _NEGLIGIBLE * singular.max(), singular, 0)


def _leading_signs(rows: Tensor) -> Tensor:
    """Sign of the first entry of each row that is within a thousandth of the row's largest magnitude, (n,)."""
    sizes = rows.abs()
    leading = (sizes >= 0.999 * sizes.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
    return rows.gather(1, leading).sign()[:, 0]
