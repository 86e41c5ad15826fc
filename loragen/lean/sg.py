"""SG-LoRA's generation in numpy: `loragen.generators.sg.model` without torch and without training.

The condition is {μ*, σ*²} of the nearest experts; z is drawn from the learned prior p(z | c), and decoded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loragen.config import read_yaml
from loragen.lean.arrays import Array, finite, read_arrays
from loragen.lean.errors import require
from loragen.lean.factors import Factors, from_factors
from loragen.lean.noise import Noise
from loragen.lean.zoo import LeanNeighbour, neighbours_in

MANIFEST, TENSORS, FRAME = "generator.yaml", "generator.safetensors", "frame.safetensors"
EDITS = "edits"
_PRIOR, _DECODER = (0, 3), (0, 3, 6)
"""Places of the linear layers, between which are ReLU and dropout."""
Double = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LeanSG:
    """A trained SG-LoRA."""

    manifest: Mapping[str, Any]
    arrays: Mapping[str, Array]
    """Of its network, library and codec, by their names in the file."""
    frame: Mapping[str, Array]
    """Site → A (R, in)."""
    out_features: Mapping[str, int]
    """Site → features that it writes."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a generator.

        Raises:
            NotLeanError: it is none, or its frame has a basis of what is written.
            ConfigError: its manifest is damaged.
        """
        manifest = read_yaml(folder / MANIFEST)
        require(manifest["kind"] == "sg" and not manifest["fan_in_fan_out"], "another kind of generator")
        require(not any((folder / EDITS).glob("[!.]*.safetensors")), "the generator has forgotten experts by edits")
        arrays, _ = read_arrays(folder / TENSORS)
        frame, metadata = read_arrays(folder / FRAME)
        out_features: dict[str, int] = json.loads(metadata["out_features"])
        require(frame.keys() == out_features.keys(), "the frame has a basis of what is written")
        finite(*arrays.values(), *frame.values())
        sg = cls(manifest, arrays, {site: frame[site] for site in out_features}, out_features)
        n, size = len(manifest["experts"]), sum(out * len(sg.frame[site]) for site, out in out_features.items())
        require(arrays["library.embeddings"].shape[0] == n == len(arrays["library.means"]), "the library is damaged")
        require(arrays["codec.centre"].shape == (size,), "the codec does not fit the frame")
        return sg

    def neighbours(self, embedding: Array) -> tuple[LeanNeighbour, ...]:
        """The experts of the condition for a description's embedding (d,)."""
        config, ids = self.manifest["config"], self.manifest["experts"]
        found = self.arrays["library.embeddings"]
        return neighbours_in(ids, found, embedding, config["top_k"], temperature=config["temperature"])

    def generate(self, neighbours: tuple[LeanNeighbour, ...], *, seed: int, samples: int) -> list[Factors]:
        """Draw adapters for the experts of a condition."""
        config, noise = self.manifest["config"], Noise(seed)
        by_id = {one.id: one.weight for one in neighbours}
        weights = np.array([by_id.get(name, 0.0) for name in self.manifest["experts"]])
        means, variances = (self.arrays[f"library.{name}"].astype(np.float64) for name in ("means", "variances"))
        mean = weights @ means
        between = np.maximum(weights @ np.square(means) - np.square(mean), 0.0)
        features = np.concatenate([mean, np.log(weights @ variances + between + 1e-6)])
        centre, log_variance = np.split(self._mlp("prior", _PRIOR, features), 2)
        adapters = []
        for _ in range(samples):
            z = centre + config["prior_scale"] * noise.draw(len(centre)) * np.exp(0.5 * log_variance)
            code = self._mlp("decoder", _DECODER, np.concatenate([z, features]))
            adapters.append(self._adapter(mean + code if config["decoder"] == "residual" else code))
        return adapters

    def _mlp(self, name: str, places: tuple[int, ...], x: Double) -> Double:
        for place in places:
            weight, bias = (self.arrays[f"network.{name}.{place}.{kind}"] for kind in ("weight", "bias"))
            x = weight.astype(np.float64) @ x + bias
            x = x if place == places[-1] else np.maximum(x, 0.0)
        return x

    def _adapter(self, code: Double) -> Factors:
        """The adapter of a code (k,)."""
        basis, scale, centre = (self.arrays.get(f"codec.{name}") for name in ("basis", "scale", "centre"))
        assert scale is not None
        assert centre is not None
        scaled = code if basis is None else code.astype(np.float32) @ basis
        coordinates = (scaled * scale + centre).astype(np.float32)
        lora_B, start = {}, 0
        for site, a in self.frame.items():
            size = self.out_features[site] * len(a)
            lora_B[site] = coordinates[start : start + size].reshape(-1, len(a))
            start += size
        return from_factors(self.frame, lora_B, base=self.manifest["base"], task_type=self.manifest["task_type"])
