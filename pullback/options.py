"""The options of each command."""

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from .archive.manifest import ACCEPTABLE
from .eigen import METHODS
from .jobs.pixels import PIXELS
from .jobs.sources import FORMATS
from .maps import RETURNS
from .version import __version__

DESCRIPTION = "Robustness scores of images from the pullback metric of one's own encoder."


# What jsonargparse says of a wrong value, and what is meant.
_SAID = {
    r"Expected a <class '(\w+)'>\. Got value: ": r"expected \1, got ",
    r"Does not validate .* Subtypes: \[<class '(\w+)'>,.* Given value: ": r"expected \1, got ",
}


class _Parser(ArgumentParser):
    """Says in one line what is wrong, with options as they are written on the command line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        command = getattr(ex, "subcommand_parser", self).prog.replace(" [options]", "")
        text = " ".join(message.split()).rstrip(".")
        _, missing, absent = text.partition("the following arguments are required: ")
        if missing:  # score.encoder, score.out
            names = [name.partition(".") for name in absent.split(", ")]
            command = f"{command} {names[0][0]}"
            text = f"{', '.join(_spell(name) for *_, name in names)} must be given"
        for pattern, said in _SAID.items():
            text = re.sub(pattern, said, text)
        text = re.sub(r'Parser key "(\w+)"', lambda found: _spell(found[1]), text)
        sys.stderr.write(f"{command}: {text}; see {command} --help\n")
        sys.exit(2)


def _spell(name: str) -> str:
    """An option or a positional argument by the name that its value is kept under."""
    if name in ("run", "a", "b"):
        return name.upper()
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def make_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="pullback", description=DESCRIPTION, version=__version__)
    commands = parser.add_subcommands()

    score = _Parser(description="Score every image of a data set into a run folder.")
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
    score.add_argument("--data", required=True, type=str, help=f"{FORMATS}. {PIXELS}")
    _add_folder_options(score)
    score.add_argument("--out", required=True, type=str, metavar="RUN", help="the run folder")
    score.add_argument("-k", type=int, default=5, help="eigenpairs per image")
    score.add_argument(
        "--batch-size",
        type=int | None,
        metavar="N",
        help="images per product; by default 32 to 512, the more the smaller they are",
    )
    score.add_argument(
        "--shard-size",
        type=int | None,
        metavar="N",
        help="images per file; by default 512 to 4096, the more the smaller they are",
    )
    score.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1, …")
    score.add_argument(
        "--loaders",
        type=int | None,
        metavar="N",
        help="processes that read images while others are scored; by default one for each core, at "
        "most 8, for image files on a GPU, and none otherwise",
    )
    score.add_argument("--seed", type=int, default=0, help="of starting vectors and probes")
    score.add_argument("--method", type=str, default="auto", help=", ".join(("auto", *METHODS)))
    score.add_argument("--directions", action="store_true", help="store the eigenvectors as well")
    score.add_argument("--tol", type=float, default=1e-4, help="of eigenpairs, relative")
    score.add_argument(
        "--entropy-tol", type=float, default=1e-3, help="standard error of the entropy, in nats"
    )
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
    score.add_argument(
        "--shards",
        type=str | None,
        metavar="I/N",
        help="score the I-th of N shares of the shards only, for N processes that each do one",
    )
    _add_workers(score)
    score.add_argument(
        "--no-merge", action="store_true", help="leave the shards; shares never merge"
    )
    score.add_argument("--quiet", action="store_true", help="say only what went wrong")
    commands.add_subcommand("score", score, help="score a data set")

    for name, text in (
        ("merge", "gather a finished run into RUN/archive.h5"),
        ("verify", "hold every file of a run against its manifest"),
        ("info", "say what a run holds"),
    ):
        command = _Parser(description=text)
        command.add_argument("run", type=str, metavar="RUN", help="the run folder")
        commands.add_subcommand(name, command, help=text)
    _add_looking(commands)
    return parser


def _add_folder_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--glob",
        type=str | None,
        metavar="PATTERN",
        help="which images of a folder, by their names within it; they are read in natural order, "
        "2.png before 10.png",
    )
    parser.add_argument(
        "--split",
        type=str | None,
        metavar="FILE:NUMBER",
        help="those to which a text file gives this number, such as list_eval_partition.txt:2 for "
        "CelebA's test split; a line of it is a name and a number, and it is looked for in and "
        "beside the folder as well",
    )
    parser.add_argument(
        "--labels",
        type=str | None,
        metavar="FILE",
        help="a text file of that kind, with labels; "
        "FILE:COLUMN takes those of a table, such as list_attr_celeba.txt:Smiling",
    )
    parser.add_argument("--recursive", action="store_true", help="images in subfolders as well")
    parser.add_argument(
        "--crop", type=int | None, metavar="SIDE", help="cut a square from the centre of each image"
    )
    parser.add_argument(
        "--resize",
        type=int | None,
        metavar="SIDE",
        help="make a square image, or what --crop cuts, as large as this (bilinear)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="note images that are damaged, unlike the first or not finite as failed, and go on",
    )


def _add_workers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int | None,
        metavar="N",
        help="score shards in N processes side by side, which Ray starts",
    )
    parser.add_argument(
        "--ray-address",
        type=str | None,
        metavar="ADDRESS",
        help="of a running Ray whose machines the workers are on, or auto for that of this machine",
    )
    parser.add_argument(
        "--threads",
        type=int | None,
        metavar="N",
        help="of each worker; by default the cores of this machine are shared out, or 1 where Ray "
        "is joined",
    )
    parser.add_argument(
        "--gpus",
        type=float | None,
        metavar="N",
        help="of each worker, with --device cuda: 0.5 for two workers on one; 1 by default",
    )


def _add_looking(commands: Any) -> None:
    text = "write RUN/report.html, a page that opens offline"
    report = _Parser(description=text)
    report.add_argument("run", type=str, metavar="RUN", help="the run folder")
    report.add_argument(
        "--out", type=str | None, metavar="FOLDER", help="where it is written; RUN by default"
    )
    report.add_argument("--data", type=str | None, help="its images, to show some: " + FORMATS)
    _add_folder_options(report)
    report.add_argument("--extremes", type=int, default=6, help="images to show at each end")
    report.add_argument(
        "--encoder",
        type=str | None,
        metavar="FILE_OR_MODULE:FACTORY",
        help="its encoder, to show images after a step along their first direction",
    )
    report.add_argument("--weights", type=str | None, help="those of the encoder")
    report.add_argument(
        "--decoder",
        type=str | None,
        metavar="FILE_OR_MODULE:FACTORY",
        help="a callable without arguments that returns a decoder, to show reconstructions of both",
    )
    report.add_argument("--decoder-weights", type=str | None, help="those of the decoder")
    report.add_argument(
        "--eps", type=float | None, help="norm of the step; sqrt(N)/20 by default, of N values"
    )
    report.add_argument(
        "--figures", action="store_true", help="write the pictures into a folder figures as well"
    )
    commands.add_subcommand("report", report, help=text)

    text = "say how far the scores of two runs differ, with bootstrap intervals"
    comparing = _Parser(description=text)
    comparing.add_argument("a", type=str, metavar="A", help="the run that is compared with")
    comparing.add_argument("b", type=str, metavar="B", help="the other; differences are B - A")
    comparing.add_argument("--picture", type=str | None, metavar="FILE", help=".png, .svg or .pdf")
    commands.add_subcommand("compare", comparing, help=text)
