"""``pullback score``, ``merge`` and ``info``: a data set under one's own encoder, on the shell."""

import logging
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from .archive import COLUMNS, merge, read_manifest
from .archive.manifest import ACCEPTABLE
from .archive.run import scan
from .archive.shards import list_shards
from .eigen import METHODS, expected_products
from .eigen.cost import choose_method
from .jobs import Settings, open_images, score_images
from .jobs.encoders import load_encoder
from .jobs.sources import FORMATS
from .maps import RETURNS, Pick

DESCRIPTION = "Robustness scores of images from the pullback metric of one's own encoder."
INTERRUPTED = 130
_DOUBTFUL = ("converged", "eigenvalues", "entropy_error")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 1 refused, 130 interrupted)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    options = _parser().parse_args(arguments)
    command: Callable[[Namespace], None] = {"score": _score, "merge": _merge, "info": _info}[
        options.subcommand
    ]
    try:
        command(options[options.subcommand])
    except KeyboardInterrupt:
        print("interrupted; the same command again resumes the run", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        what = f"{type(error).__name__}: " if isinstance(error, RuntimeError | MemoryError) else ""
        message = " ".join(f"{what}{error}".splitlines())
        print(plain_text(f"pullback {options.subcommand}: {message}"), file=sys.stderr)
        return 1
    return 0


def plain_text(text: str) -> str:
    """One line of what cannot change a terminal: names and messages come from anywhere."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(plain_text, super().format(record).splitlines()))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="pullback", description=DESCRIPTION)
    commands = parser.add_subcommands()

    score = ArgumentParser(description="Score every image of a data set into a run folder.")
    score.add_argument("--config", action="config", help="a YAML file with any of these options")
    score.add_argument(
        "--encoder",
        required=True,
        type=str,
        metavar="FILE_OR_MODULE:FACTORY",
        help="a callable without arguments that returns a module or a map, in eval mode",
    )
    score.add_argument(
        "--returns",
        type=str | None,
        metavar="{" + ",".join(RETURNS) + "}",
        help="what the encoder returns; not needed for a tensor, a distribution or a map",
    )
    score.add_argument(
        "--pick",
        type=str | int | None,
        metavar="NAME[,NAME]",
        help="what to take from what the encoder returns: a key, an attribute or an index, "
        "or two of them",
    )
    score.add_argument("--weights", type=str | None, help="safetensors or torch state dictionary")
    score.add_argument("--data", required=True, type=str, help=FORMATS)
    score.add_argument("--out", required=True, type=str, metavar="RUN", help="the run folder")
    score.add_argument("-k", type=int, default=5, help="eigenpairs per image")
    score.add_argument("--batch-size", type=int, default=64, help="images per product")
    score.add_argument("--shard-size", type=int, default=512, help="images per file")
    score.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1, …")
    score.add_argument("--seed", type=int, default=0, help="of starting vectors and probes")
    score.add_argument("--method", type=str, default="auto", help=", ".join(("auto", *METHODS)))
    score.add_argument("--directions", action="store_true", help="store the eigenvectors as well")
    score.add_argument("--tol", type=float, default=1e-4, help="of eigenpairs, relative")
    score.add_argument(
        "--latents",
        type=bool | None,
        metavar="{true,false}",
        help="store mean and standard deviation of the codes as well; by default, where a code has "
        "at most 1024 numbers",
    )
    score.add_argument(
        "--accept-change",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME",
        help="what may differ from the run that is resumed: " + ", ".join(ACCEPTABLE),
    )
    commands.add_subcommand("score", score, help="score a data set")

    for name, text in (
        ("merge", "gather a finished run into RUN/archive.h5"),
        ("info", "say what a run holds"),
    ):
        command = ArgumentParser(description=text)
        command.add_argument("run", type=str, metavar="RUN", help="the run folder")
        commands.add_subcommand(name, command, help=text)
    return parser


def _score(options: Namespace) -> None:
    settings = Settings(
        options.k,
        options.seed,
        options.directions,
        options.method,
        options.tol,
        options.latents,
    )
    # An encoder without given weights should be the same one when the run is resumed.
    torch.manual_seed(options.seed)
    images = open_images(options.data)
    encoder, provenance = load_encoder(
        options.encoder, options.returns, options.weights, _names(options.pick)
    )
    try:
        score_images(
            encoder,
            images,
            options.out,
            settings,
            batch_size=options.batch_size,
            shard_size=options.shard_size,
            device=options.device,
            provenance=provenance,
            accept_changes=options.accept_change,
        )
    except TypeError as error:
        if options.returns is None and "pb.as_map" in str(error):
            message = (
                f"{error}; on the command line, --returns declares it, and --pick takes a part"
            )
            raise TypeError(message) from error
        raise
    print(plain_text(f"{images.count} images are scored; next: pullback merge {options.out}"))
    doubts = _Doubts()
    for table in scan(options.out, _DOUBTFUL):
        doubts.add(table)
    print("\n".join(doubts.lines()))


def _names(pick: str | int | None) -> Pick | None:
    """A name, an index, or a pair of them separated by a comma."""
    if pick is None:
        return None
    parts = [part.strip() for part in str(pick).split(",")]
    names = [int(part) if part.removeprefix("-").isdecimal() else part for part in parts]
    if len(names) > 2 or "" in names:
        raise ValueError(f"--pick {pick} must be a name, an index, or two separated by a comma")
    return names[0] if len(names) == 1 else (names[0], names[1])


def _merge(options: Namespace) -> None:
    print(plain_text(f"wrote {merge(Path(options.run))}"))


def _info(options: Namespace) -> None:
    print(summary(Path(options.run)))


def summary(run: Path) -> str:
    """What a run holds, as a text: encoder, data, progress, quantiles of the scores, doubts."""
    manifest = read_manifest(run)
    files = list(list_shards(run, manifest))
    finished = sum(shard.path.exists() for shard in files)
    encoder, data, settings = manifest["encoder"], manifest["data"], manifest["score"]
    archived = "merged into archive.h5" if Path(run, "archive.h5").exists() else "not merged yet"
    lines = [
        f"encoder    {encoder.get('factory', '?')}, returns "
        f"{encoder.get('returns') or 'as found'}, weights {encoder['weights'][:12]}",
        f"data       {data['name']}: {data['count']} images of shape {tuple(data['event_shape'])}",
        f"settings   k = {settings['k']}, seed {settings['seed']}, {settings['dtype']}",
        *_cost_model(manifest),
        f"shards     {finished} of {len(files)} finished, {archived}",
    ]
    columns, doubts = _look_through(run, manifest["columns"])
    if not doubts.count:
        return "\n".join(map(plain_text, lines))
    lines += ["", f"{'':18}{'median':>12}{'5 %':>12}{'95 %':>12}"]
    for name, values in columns.items():
        # Values that occur, since there is nothing between −∞ and a number.
        quantiles = np.quantile(values, [0.5, 0.05, 0.95], method="inverted_cdf")
        numbers = "".join(f"{q:12.4g}" for q in quantiles)
        lines.append(f"{name:18}{numbers}  {COLUMNS[name].long_name}")
    return "\n".join(map(plain_text, [*lines, "", *doubts.lines()]))


def _look_through(run: Path, held: Iterable[str]) -> tuple[dict[str, np.ndarray], "_Doubts"]:
    """The scores with one number for each image, and what is to be doubted; never all in memory."""
    doubts, parts = _Doubts(), []
    names = [n for n in held if COLUMNS[n].dimensions == ("sample",) and COLUMNS[n].dtype is None]
    shown = [name for name in names if not name.endswith("_error")]
    for table in scan(run, {*shown, *_DOUBTFUL}):
        doubts.add(table)
        parts.append([table[name] for name in shown])
    columns = zip(shown, map(np.concatenate, zip(*parts, strict=True)), strict=False)
    return dict(columns), doubts


def _cost_model(manifest: dict) -> list[str]:
    """The method, and what each would cost; nothing for runs that do not say."""
    settings = manifest["score"]
    if "method" not in settings:
        return []
    shape = manifest["encoder"]["outputs"], math.prod(manifest["data"]["event_shape"])
    expected = expected_products(*shape, settings["k"])
    cost = ", ".join(f"{name} {products}" for name, products in expected.items())
    method = settings["method"]
    chosen = f"auto, that is {choose_method(*shape, settings['k'])}" if method == "auto" else method
    return [f"method     {chosen}", f"cost model {cost} Jacobian products per image"]


class _Doubts:
    """What is to be doubted of the scores of a run, counted table by table."""

    def __init__(self) -> None:
        self.count = self._unconverged = self._deficient = 0
        self._error = 0.0

    def add(self, columns: dict[str, np.ndarray]) -> None:
        self.count += len(columns["converged"])
        self._unconverged += int((columns["converged"] == 0).any(axis=1).sum())
        self._deficient += int((columns["eigenvalues"] == 0).any(axis=1).sum())
        self._error = max(self._error, float(columns["entropy_error"].max()))

    def lines(self) -> list[str]:
        right = self.count - self._unconverged
        return [
            f"{right} of {self.count} images have all eigenpairs converged",
            f"{self._deficient} of {self.count} images have a rank below k (their eigenvalues end "
            "in zeros)",
            f"the largest standard error of an entropy is {self._error:.1e} nat",
        ]


if __name__ == "__main__":
    sys.exit(main())
