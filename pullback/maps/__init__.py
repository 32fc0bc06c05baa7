"""What an encoder or decoder is: x ↦ (mean, std), declared by the user and validated once."""

from .declare import Map, as_map
from .inputs import arrange_given
from .modules import leave_inference_mode
from .outputs import RETURNS, Pick, Signature, combine_noise, stack

__all__ = [
    "RETURNS",
    "Map",
    "Pick",
    "Signature",
    "arrange_given",
    "as_map",
    "combine_noise",
    "leave_inference_mode",
    "stack",
]
