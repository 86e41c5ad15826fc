"""CLIP and its like as bases: images on one side, texts on the other, adapters in either tower.

Closed tasks tell classes of images by their names. Open ones, as in SG-LoRA (arXiv 2509.10535), find the caption of an
image and the image of a caption among those of one class.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases.base import Base, ObjectiveName, Pooling, with_contrast
from loragen.bases.hub import quiet_loading
from loragen.bases.losses import label_text_loss, pairing_loss
from loragen.bases.pretrained import loading_errors
from loragen.bases.scores import AnyScores, retrieval_scores, scores_of
from loragen.bases.text_encoder import label_text_held_out
from loragen.bases.tokenised import Input, Readout, TaskData, padded_rows, tokens_of
from loragen.bases.wording import Wording
from loragen.errors import ConfigError, TaskError
from loragen.tasks.examples import Examples


@final
@dataclass(frozen=True)
class ImageText(Base):
    """A dual encoder with one space for images and texts."""

    processor: Any = None
    """From images to pixel values."""
    objective: ClassVar[ObjectiveName] = "image_text"
    task_type: ClassVar[str | None] = None

    @classmethod
    def _own_parts(cls, name: str, folder: Path, model: Any, prompt: Wording) -> dict[str, Any]:
        from transformers import AutoImageProcessor

        if not hasattr(model, "get_image_features"):
            raise ConfigError(f"{name} has no image tower; 'image_text' wants a model such as CLIP.")
        with loading_errors(name, "with its image processor"), quiet_loading():
            return {"processor": AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)}

    @property
    def body(self) -> nn.Module:
        """The model itself, both towers."""
        return self.model

    def inputs(self, examples: Examples, *, max_length: int) -> tuple[Input, ...]:
        """The files of the images.

        Raises:
            TaskError: the examples have none.
        """
        if examples.images is None:
            raise TaskError("An image base was given texts alone; name the column of the images: 'source: {image: …}'.")
        return examples.images

    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Names of classes or captions as token ids."""
        return tuple(self.tokenize(texts, max_length=max_length))

    def open_ended(self, examples: Examples, *, max_length: int) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Images and their captions."""
        return self.inputs(examples, max_length=max_length), self.outputs(examples.texts, max_length=max_length)

    def _prepare_told(self, examples: Examples, instruction: str, *, max_length: int) -> TaskData:
        return self._prepare_in_front(examples, instruction, max_length=max_length)

    def keeping_below(self, sites: Iterable[str]) -> Base:
        """The same base, whose inputs are pictures."""
        return self

    def states(self, ids: Sequence[Input], *, pooling: Pooling = "mean") -> Tensor:
        """Projected features of images or of texts, float32 (n, d); differentiable in the factors in use."""
        if all(isinstance(row, Path) for row in ids):
            return self._pooled(self.model.get_image_features(pixel_values=self._pixels(ids)))  # type: ignore[operator]
        padded, lengths = padded_rows(tokens_of(ids), self.tokenizer.pad_token_id or 0)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        texts = {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}
        return self._pooled(self.model.get_text_features(**texts))  # type: ignore[operator]

    @staticmethod
    def _pooled(output: Any) -> Tensor:
        """Features as a tensor; newer versions of transformers wrap them."""
        features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
        return features.float()

    def _pixels(self, files: Sequence[Input]) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        images = []
        for file in files:
            assert isinstance(file, Path)
            try:
                with Image.open(file) as image:
                    images.append(image.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise TaskError(f"The image {file} cannot be read ({error}); mend it, or leave it out.") from error
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.device, next(self.model.parameters()).dtype)

    @property
    def _scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.float().exp()  # type: ignore[operator]
        return scale

    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Contrast of images and captions within the batch; for classes, cross-entropy to their names."""
        images, texts = self.embed(batch.ids), self.embed(batch.label_ids)
        if batch.is_open:
            parts = {"pairing": pairing_loss(images, texts, scale=self._scale)}
            return {"loss": parts["pairing"]} | parts
        targets = batch.targets.to(images.device)
        parts = {"label_text": label_text_loss(images, texts, targets)}
        return with_contrast(parts, images, targets, contrast_weight)

    @torch.inference_mode()
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data`` at once."""
        if not data.is_open:
            return label_text_held_out(self, data, self.encode(data.label_ids), contrast_weight=contrast_weight)
        return float(pairing_loss(self.encode(data.ids), self.encode(data.label_ids), scale=self._scale.cpu()))

    def _read(self, data: TaskData) -> Readout:
        """Embeddings of the images, and CLIP's scaled cosine of each with each caption or class name."""
        images, texts = self.encode(data.ids), self.encode(data.label_ids)
        return Readout(images, float(self._scale) * images @ texts.T, data.targets)

    def _score(self, data: TaskData) -> AnyScores:
        readout = self._read(data)
        return retrieval_scores(readout.logits) if data.is_open else scores_of(readout)
