"""Perturbations along eigen-directions of the metric, and the baselines that they must beat.

An attack is made for an encoder and then applied to batches::

    attack = pb.attacks.EigenAttack(encoder, eps=0.5, clip=(0, 1))
    attack(x).latent_distance  # (B,)
"""

from .eigenvector import EigenAttack
from .gradient import GradientAttack
from .pgd import PGDAttack
from .random_direction import RandomAttack
from .records import Perturbation

__all__ = ["EigenAttack", "GradientAttack", "PGDAttack", "Perturbation", "RandomAttack"]
