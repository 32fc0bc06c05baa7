"""What an encoder or decoder is: x ↦ (mean, std), declared by the user and validated once."""

from .declare import Map, Signature, as_map, ordinary
from .outputs import RETURNS

__all__ = ["RETURNS", "Map", "Signature", "as_map", "ordinary"]
