"""Encoders of other packages at small random configurations, and what makes a map of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import pullback as pb


@dataclass(frozen=True, eq=False)
class Specimen:
    """A model of another package, and the glue that makes it a map.

    Attributes:
        package: the package's name.
        model: the model's, and what sets it apart from others of its class.
        make: the model, with random weights; called by :meth:`module`.
        glue: what a user writes to declare it.
        event_shape: of its input.
        captured: whether its products come from captured graphs.
        options: handed on to ``make``.
        precision: of its coarsest step, whatever the dtype of its input.
    """

    package: str
    model: str
    make: Callable[..., nn.Module]
    glue: Callable[[Any], pb.Map]
    event_shape: tuple[int, ...]
    captured: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    precision: torch.dtype = torch.float64

    def __str__(self) -> str:
        return f"{self.package} {self.model}"

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model in eval mode; its weights are the same whatever the dtype."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.make(**self.options).eval()
        return module.double() if dtype == torch.float64 else module

    def inputs(self, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """``(count, *event_shape)``, the same in each dtype to the rounding of float32."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(count, *self.event_shape, generator=generator).to(dtype)


# What makes the models. The packages are imported when they are needed: it takes seconds.


def _autoencoder_kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=8,
    )


def _vq_model() -> nn.Module:
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        num_vq_embeddings=16,
        sample_size=8,
    )


def _autoencoder_tiny() -> nn.Module:
    from diffusers import AutoencoderTiny

    channels, blocks = (8, 8), (1, 1)
    return AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )


def _autoencoder_dc() -> nn.Module:
    from diffusers import AutoencoderDC

    blocks, channels, layers = ("ResBlock", "EfficientViTBlock"), (8, 8), (1, 1)
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
    )


_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_IMAGES: dict[str, Any] = {"image_size": 8, "patch_size": 4}


def _bert(attention: str) -> nn.Module:
    from transformers import BertConfig, BertModel

    options: dict[str, Any] = {
        "vocab_size": 11,
        "max_position_embeddings": 8,
        "attn_implementation": attention,
    }
    return BertModel(BertConfig(**_TRANSFORMER, **options))


def _vit(attention: str) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_TRANSFORMER, **_IMAGES, attn_implementation=attention))


def _clip_vision(attention: str) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**_TRANSFORMER, **_IMAGES, attn_implementation=attention)
    return CLIPVisionModel(config)


def _dinov2(attention: str) -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**_TRANSFORMER, **_IMAGES, attn_implementation=attention))


# The glue, as a user writes it; the table of the zoo shows it.


def _latent_distribution(vae: Any) -> pb.Map:
    return pb.as_map(vae.encode, "distribution", pick="latent_dist")


def _latents(vae: Any) -> pb.Map:
    return pb.as_map(vae.encode, "mean", pick="latents")


def _latent(vae: Any) -> pb.Map:
    return pb.as_map(vae.encode, "mean", pick="latent")


def _decoded(vae: Any) -> pb.Map:
    return pb.as_map(vae.decode, "mean", pick="sample")


def _from_embeddings(bert: Any) -> pb.Map:
    return pb.as_map(lambda x: bert(inputs_embeds=x), "mean", pick="last_hidden_state", module=bert)


def _hidden_state(model: Any) -> pb.Map:
    return pb.as_map(model, "mean", pick="last_hidden_state")


_IMAGE, _LATENT = (3, 8, 8), (4, 4, 4)

SPECIMENS = [
    Specimen("diffusers", "AutoencoderKL", _autoencoder_kl, _latent_distribution, _IMAGE),
    Specimen("diffusers", "AutoencoderKL's decoder", _autoencoder_kl, _decoded, _LATENT),
    Specimen("diffusers", "VQModel", _vq_model, _latents, _IMAGE),
    Specimen("diffusers", "AutoencoderTiny", _autoencoder_tiny, _latents, _IMAGE),
    Specimen(
        "diffusers",
        "AutoencoderDC",
        _autoencoder_dc,
        _latent,
        _IMAGE,
        precision=torch.float32,
    ),
    *(
        Specimen(
            "transformers",
            f"{name}, {attention}",
            make,
            glue,
            event_shape,
            options={"attention": attention},
            precision=precision if attention == "eager" else torch.float64,
        )
        for name, make, glue, event_shape, precision in (
            ("BERT from embeddings", _bert, _from_embeddings, (5, 16), torch.float64),
            ("ViT", _vit, _hidden_state, _IMAGE, torch.float32),
            ("CLIP vision", _clip_vision, _hidden_state, _IMAGE, torch.float32),
            ("DINOv2", _dinov2, _hidden_state, _IMAGE, torch.float64),
        )
        for attention in ("sdpa", "eager")
    ),
]
