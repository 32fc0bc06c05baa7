"""Images with their first directions, where these lead, and what a decoder makes of it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..archive.run import read
from ..arguments import require_positive
from ..attacks import EigenAttack
from ..eigen import ConvergenceWarning, RankWarning
from ..jobs import Images
from ..maps import Map, as_map
from ..metrics import Encoder
from ..products import library_call
from .identity import require_same_encoder, require_same_images, require_same_pixels
from .thumbnails import draw_direction, draw_image, is_picture

# Root mean square of a step, over the values of an image.
_STEP = 0.05
_BATCH = 16


@dataclass(frozen=True)
class Gallery:
    """What images of a run can be shown with.

    Attributes:
        run: the folder.
        manifest: what the run was made from.
        images: its data set, if known.
        encoder, decoder: its encoder, if known, and what makes images of codes.
        eps: norm of the step along the first direction.
    """

    run: Path
    manifest: dict[str, Any]
    images: Images | None
    encoder: Map | None
    decoder: Map | None
    eps: float

    @classmethod
    def of(
        cls,
        run: Path,
        manifest: dict[str, Any],
        images: Images | None = None,
        encoder: Encoder | None = None,
        decoder: Encoder | None = None,
        eps: float | None = None,
    ) -> "Gallery":
        """See :func:`pullback.report.write_report`.

        Raises:
            ValueError: images or encoder are not those of the run, or one is missing.
        """
        if encoder is None and (decoder is not None or eps is not None):
            raise ValueError("first directions need the encoder of the run (--encoder)")
        if encoder is not None and images is None:
            raise ValueError("first directions need the images of the run (--data)")
        own = None if encoder is None else as_map(encoder)
        if images is not None:
            require_same_images(images, manifest)
        if own is not None:
            require_same_encoder(own, manifest)
        if eps is None:
            eps = _STEP * math.sqrt(math.prod(manifest["data"]["event_shape"]))
        decodes = None if decoder is None else as_map(decoder)
        return cls(run, manifest, images, own, decodes, require_positive("eps", eps))

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.manifest["data"]["event_shape"])

    @property
    def has_images(self) -> bool:
        """Whether images are shown."""
        return self.images is not None and is_picture(self._shape)

    @property
    def has_directions(self) -> bool:
        """Whether first directions are shown."""
        known = "directions" in self.manifest["columns"] or self.encoder is not None
        return known and is_picture(self._shape)

    def check(self, indices: NDArray[np.integer]) -> None:
        """Refuse images to be shown that are not those that were scored.

        Raises:
            ValueError: they are others.
        """
        if self.images is not None:
            require_same_pixels(self.images, self.run, self.manifest, indices)

    def show(self, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        """For each of the images ``pictures``: PNG files by their names.

        With an encoder, ``moved`` is how far the mean of the code did, for a step of norm ``step``.
        """
        for start in range(0, len(indices), _BATCH):
            some = indices[start : start + _BATCH]
            if self.encoder is None or not is_picture(self._shape):
                yield from ({"pictures": self._draw_what_is_there(index)} for index in some)
            else:
                yield from self._follow(self.encoder, some)

    def _draw_what_is_there(self, index: int) -> dict[str, bytes]:
        pictures = {}
        if self.has_images:
            pictures["image"] = draw_image(self._read_image(index))
        if self.has_directions:
            found = read(self.run, ["directions"], slice(index, index + 1))["directions"]
            direction = found[0, 0].reshape(self._shape)
            # As good as its opposite: the one that does not darken is shown.
            pictures["direction"] = draw_direction(direction * (-1 if direction.sum() < 0 else 1))
        return pictures

    def _read_image(self, index: int) -> NDArray[np.floating]:
        assert self.images is not None
        return self.images.read_finite(index, index + 1)[0]

    def _follow(self, encoder: Map, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        """A step along the first direction, with the sign that moves the code further."""
        pixels = np.stack([self._read_image(index) for index in indices])
        own = next((t.device for m in encoder.modules() for t in m.parameters()), None)
        x = torch.from_numpy(pixels).to(own, getattr(torch, self.manifest["score"]["dtype"]))
        clip = (0, 1) if pixels.min() >= 0 and pixels.max() <= 1 else None
        tol = self.manifest["score"].get("tol", 1e-4)
        attack = EigenAttack(encoder, eps=self.eps, clip=clip, tol=tol)
        with warnings.catch_warnings():  # the page says what has not converged
            warnings.simplefilter("ignore", RankWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            attacked = attack(x)
        shown = {"attacked": attacked.x}
        if self.decoder is not None:
            shown |= {"decoded": self._decode(encoder, x)}
            shown |= {"attacked-decoded": self._decode(encoder, attacked.x)}
        arrays = {name: tensor.cpu().numpy() for name, tensor in shown.items()}
        for i, image in enumerate(pixels):
            drawn = {name: draw_image(array[i], like=image) for name, array in arrays.items()}
            direction = draw_direction(attacked.step[i].cpu().numpy())
            yield {
                "pictures": {"image": draw_image(image), "direction": direction, **drawn},
                "moved": attacked.latent_distance[i].item(),
                "step": attacked.clipped_norm[i].item(),
            }

    @library_call
    def _decode(self, encoder: Map, x: Tensor) -> Tensor:
        """What the decoder makes of the mean code, as images."""
        assert self.decoder is not None
        code = encoder(x)[0]
        shape = self.decoder.check(code).mean_shape
        if shape.numel() != math.prod(self._shape):
            raise ValueError(
                f"the decoder's mean has shape {tuple(shape)} for one code; an image has shape "
                f"{self._shape}"
            )
        return self.decoder(code)[0].reshape(x.shape)
