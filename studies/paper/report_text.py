"""What the report says whatever the archives hold."""

from .gp import SCATTERS
from .verdicts import RULES

INTRODUCTION = f"""\
# The paper, checked

Claims of Khan & Storkey, *Adversarial robustness of VAEs through the lens of local geometry*
(AISTATS 2023), each with the numbers that decide it. `python -m studies report` made this page and
its figures from the archives in [{{root}}]({{root}}), which `python -m studies` says how to make.
Its option `--reference` names the table of the authors' published scores.

What the verdicts mean:

{RULES}
Where a number comes from:

- *Over β*: rank correlations, with permutation tests. The values of β are chosen, not drawn, so
  that a bootstrap over them would mean nothing. A Gaussian process over log β with learned noise
  gives the curve that trainings share, its slope, and how far a training lies from it.
- *Between trainings*: several seeds of the same β; Welch's t-interval of the logarithms.
- *Over images*: percentile bootstraps of one training, the same images on both sides. They say
  nothing of another training, so the scatter of trainings is added: that of several seeds where
  there are such, else that around the curve over β, of at least {SCATTERS} β, mixup taken to
  scatter as much.
- "Extension" marks what the paper does not say.
"""
LIMITS = """\
What differs from the paper and from its authors' code:

- Fewer epochs than theirs, which are 100: how many is said below. Means of the codes are decoded,
  as in their code.
- The authors step with the sign that their eigenvector happens to have, and do not clip. An
  eigenvector has no sign: we take the one that moves the code further, which is the worse for the
  VAE, and clip to [0, 1], as any image is. So our errors are those of a stronger attack with a
  smaller step. Errors without clipping are in the archives, too, and in the comparison with the
  published scores.
- Errors are MSE(x, g(μ(x_c))), of the corrupted image's reconstruction to the *original*, as the
  paper has it. MSE(x_c, g(μ(x_c))), to the corrupted image, is named where it is used.
- The authors' code trains with another mixup than the text: squares of both norms, the divergence
  of the mixed images added with weight 1, one α for a batch, and for z_m an α and pairs drawn anew,
  so that z_m belongs to other images than x_m. The decoder then learns to make one mixture from the
  code of another. "Mixup" here is the text's; theirs is a variant. In both, an image is never mixed
  with itself.
- CelebA (Figure 4) is not among the archives that come with the project: its images are not at
  hand. `python -m studies gallery --dataset celeba` makes that figure where they are.
"""
