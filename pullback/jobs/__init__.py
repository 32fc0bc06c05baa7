"""A data set scored into a run folder: sources of images, encoders by name, the drivers."""

from .encoders import EncoderSpec
from .folders import FolderOptions
from .images import Images, from_array
from .pixels import Framing
from .scoring import score_images
from .settings import Settings
from .sources import open_images
from .workers import Workers

__all__ = [
    "EncoderSpec",
    "FolderOptions",
    "Framing",
    "Images",
    "Settings",
    "Workers",
    "from_array",
    "open_images",
    "score_images",
]
