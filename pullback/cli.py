"""The commands of ``pullback`` on the shell: a data set under one's own encoder, and its scores."""

import logging
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from . import start, terminal
from .archive import compare, merge, read_manifest, verify
from .archive.run import find_failures, scan
from .archive.summary import DOUBTFUL, Doubts, plain_text, summary, tabulate
from .jobs import (
    EncoderSpec,
    FolderOptions,
    Framing,
    Images,
    Settings,
    Workers,
    open_images,
    score_images,
)
from .jobs.encoders import load_decoder
from .jobs.images import BadImageError
from .maps import Map, Pick
from .options import make_parser
from .terminal import say

log = logging.getLogger("pullback")

INTERRUPTED = 130
SOME_FAILED = 3
_SHOWN_FAILURES = 10


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status.

    0 is done, 1 refused, 2 an unknown option, 3 done except for some images; 128 + n is stopped by
    signal n, 130 by Ctrl-C.
    """
    start.finish()
    terminal.open_streams()
    try:
        try:
            return _run(_parse(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()  # what the help has printed
    except BrokenPipeError:  # who reads has seen enough
        terminal.silence()
        return 0
    except OSError as error:
        terminal.silence()
        print(f"pullback: {error}: 'standard output'", file=sys.stderr)
        return 1


def _parse(arguments: list[str]) -> Namespace:
    """The options, with the command itself among them."""
    options = make_parser().parse_args(arguments)
    options[options.subcommand].command = shlex.join(["pullback", *arguments])
    return options


def _run(options: Namespace) -> int:
    chosen = options[options.subcommand]
    handler = logging.StreamHandler()
    handler.setFormatter(terminal.PlainFormatter("%(message)s"))
    level = logging.WARNING if chosen.get("quiet") else logging.INFO
    logging.basicConfig(handlers=[handler], level=level)
    commands: dict[str, Callable[[Namespace], int]]
    commands = {
        "score": _score,
        "merge": _merge,
        "verify": _verify,
        "info": _info,
        "report": _report,
        "compare": _compare,
    }
    try:
        with terminal.stopping_signals():
            return commands[options.subcommand](chosen)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        way_on = "; the same command again resumes the run"
        print("interrupted" + way_on * (options.subcommand == "score"), file=sys.stderr)
        return 128 + number
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError) as error:
        what = f"{type(error).__name__}: " if isinstance(error, RuntimeError | MemoryError) else ""
        message = " ".join(f"{what}{error}".splitlines())
        print(plain_text(f"pullback {options.subcommand}: {message}"), file=sys.stderr)
        return 1


def _folder_options(options: Namespace) -> FolderOptions:
    return FolderOptions(
        Framing(options.crop, options.resize),
        options.glob,
        options.recursive,
        options.split,
        options.labels,
        options.skip_bad,
    )


def _score(options: Namespace) -> int:
    settings = Settings(
        options.k,
        options.seed,
        options.directions,
        options.method,
        options.tol,
        options.latents,
        options.entropy_tol,
    )
    share, workers = _share(options.shards), _workers(options)
    # What a factory draws at random should be the same when the run is resumed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        images = open_images(options.data, _folder_options(options))
    pick = _names(options.pick)
    encoder = EncoderSpec(options.encoder, options.returns, options.weights, pick, options.seed)
    try:
        score_images(
            encoder,
            images,
            options.out,
            settings,
            batch_size=options.batch_size,
            shard_size=options.shard_size,
            device=options.device,
            loaders=options.loaders,
            accept_changes=options.accept_change,
            share=share,
            merge=not options.no_merge,
            progress=not options.quiet,
            workers=workers,
        )
    except TypeError as error:
        if options.returns is None and "pb.as_map" in str(error):
            message = (
                f"{error}; on the command line, --returns declares it, and --pick takes a part"
            )
            raise TypeError(message) from error
        raise
    except BadImageError as error:
        raise ValueError(f"{error}; --skip-bad notes such images as failed and goes on") from error
    except ValueError as error:
        if images.names is not None and "cannot be applied to a batch of shape" in str(error):
            message = f"{error}; --crop and --resize give images another shape"
            raise ValueError(message) from error
        raise
    failures = find_failures(options.out)
    if not options.quiet:
        say(plain_text(_what_is_done(images.count, Path(options.out), options.shards)))
        doubts = Doubts()
        for table in scan(options.out, DOUBTFUL):
            doubts.add(table)
        say("\n".join(doubts.lines()))
    for index, reason in list(failures.items())[:_SHOWN_FAILURES]:
        log.warning("image %s could not be scored: %s", index, reason)
    if len(failures) > _SHOWN_FAILURES:
        log.warning("and more images: pullback info %s", options.out)
    return SOME_FAILED if failures else 0


def _what_is_done(count: int, run: Path, shards: str | None) -> str:
    if shards is not None:
        return f"share {shards} of {count} images is scored; when all are: pullback merge {run}"
    if Path(run, "archive.h5").exists():
        return f"{count} images are scored into {run / 'archive.h5'}; next: pullback info {run}"
    return f"{count} images are scored; next: pullback merge {run}"


def _share(shards: str | None) -> tuple[int, int] | None:
    """3/16 as (3, 16)."""
    if shards is None:
        return None
    number, _, of = shards.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(f"--shards {shards} must be I/N with 1 ≤ I ≤ N, such as 3/16")
    return int(number), int(of)


def _workers(options: Namespace) -> Workers | None:
    if options.workers is not None:
        return Workers(options.workers, options.ray_address, options.threads, options.gpus)
    for name in ("ray_address", "threads", "gpus"):
        if options[name] is not None:
            raise ValueError(f"--{name.replace('_', '-')} is about workers; give --workers N, too")
    return None


def _names(pick: str | int | None) -> Pick | None:
    """A name, an index, or a pair of them separated by a comma."""
    if pick is None:
        return None
    parts = [part.strip() for part in str(pick).split(",")]
    names = [int(part) if part.removeprefix("-").isdecimal() else part for part in parts]
    if len(names) > 2 or "" in names:
        raise ValueError(f"--pick {pick} must be a name, an index, or two separated by a comma")
    return names[0] if len(names) == 1 else (names[0], names[1])


def _merge(options: Namespace) -> int:
    say(plain_text(f"wrote {merge(Path(options.run))}"))
    return 0


def _verify(options: Namespace) -> int:
    found = verify(options.run)
    merged = ", and archive.h5" if found.archive else ""
    say(f"{found.finished} of {found.all} shards are there and whole{merged}")
    return 0


def _info(options: Namespace) -> int:
    say(summary(Path(options.run)))
    return 0


def _report(options: Namespace) -> int:
    from .report import write_report  # draws, with what not everyone has

    path = write_report(
        options.run,
        *_open_shown(options, read_manifest(options.run)),
        out=options.out,
        extremes=options.extremes,
        eps=options.eps,
        save_figures=options.figures,
        command=options.command,
    )
    say(plain_text(f"wrote {path}"))
    return 0


def _open_shown(
    options: Namespace, manifest: dict[str, Any]
) -> tuple[Images | None, Map | None, Map | None]:
    """Images, encoder and decoder, as far as they are given."""
    _refuse_orphans(options)
    images = encoder = decoder = None
    # What is drawn at random by the first two should be what was scored.
    seed, held = manifest["score"]["seed"], manifest["encoder"]
    if options.data is not None:
        torch.manual_seed(seed)
        images = open_images(options.data, _folder_options(options))
    if options.encoder is not None:
        declared = held.get("returns"), options.weights, held.get("pick")
        encoder, _ = EncoderSpec(options.encoder, *declared, seed).load()
    if options.decoder is not None:
        decoder = load_decoder(options.decoder, options.decoder_weights)
    return images, encoder, decoder


def _refuse_orphans(options: Namespace) -> None:
    """Refuse options about what is not given: they would do nothing."""
    about = {"weights": "encoder", "decoder_weights": "decoder"}
    of_data = ("crop", "resize", "glob", "recursive", "split", "labels", "skip_bad")
    about |= dict.fromkeys(of_data, "data")
    for name, what in about.items():
        if options[name] not in (None, False) and options[what] is None:
            spelt = name.replace("_", "-")
            raise ValueError(f"--{spelt} is about what --{what} names; give that, too")


def _compare(options: Namespace) -> int:
    comparison = compare(options.a, options.b)
    say(tabulate(comparison))
    if options.picture is not None:
        from .report import draw_comparison

        say(plain_text(f"wrote {draw_comparison(comparison, options.picture)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
