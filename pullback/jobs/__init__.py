"""A data set scored into a run folder: sources of images, encoders by name, the serial driver."""

from .encoders import load_encoder, load_weights
from .serial import Settings, check_folder, score_images
from .sources import FORMATS, Images, from_array, open_images, read_idx

__all__ = [
    "FORMATS",
    "Images",
    "Settings",
    "check_folder",
    "from_array",
    "load_encoder",
    "load_weights",
    "open_images",
    "read_idx",
    "score_images",
]
