"""`longthink curate`: from a recipe to a data set and its card."""

import argparse
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

from longthink import storage
from longthink.curation.card import write_card
from longthink.curation.output import write_output
from longthink.curation.recipe import load_curation
from longthink.curation.run import STOPPING, curate
from longthink.errors import CheckpointError, RecipeError
from longthink.machine import usable_cores
from longthink.progress import Progress

__all__ = ["command"]


def command(args: argparse.Namespace) -> int:
    """0, or 130 when it was interrupted: the same command goes on. Raises: LongthinkError."""
    recipe = load_curation(Path(args.recipe), args.set)
    if args.workers < 0:
        raise RecipeError(f"curate: --workers {args.workers}; expected at least 1, or 0 for one a core")
    folder = args.out or Path("curated") / recipe.name
    storage.make_folder(folder)
    held = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    if held and "steps" not in held:
        raise RecipeError(f"{folder} holds {held[0]} and is no curation's folder; give another with --out")
    try:
        with (
            storage.lock(folder, "a curation"),
            Progress("curate", len(recipe.source) + len(recipe.step), stopping=STOPPING) as progress,
        ):
            funnel = curate(recipe, folder, args.workers or usable_cores(), progress)
            if funnel is not None:
                progress.phase("writing")
                splits = write_output(recipe, folder, funnel)
                card = write_card(recipe, folder, funnel, splits)
                if lost := funnel[-1]["kept"] - sum(splits.values()):
                    progress.note(
                        f"output: {lost:,} rows have no answer and are among the rejects; `extract` or `vote` finds answers"
                    )
    except BrokenExecutor:
        raise CheckpointError(
            "a process of this step was killed, as when memory runs out; what is whole is kept, the same command goes on "
            "(--workers 1 takes the least memory)"
        ) from None
    except OSError as e:
        raise CheckpointError(
            f"{e.filename or folder}: {e.strerror or e}; what is whole is kept, the same command goes on"
        ) from None
    if funnel is None:
        print(f"interrupted; the same command goes on in {folder}")
        return 130
    if not sum(splits.values()):
        print(f"no row is left; {folder / 'data' / 'rejects.parquet'} says why of each", file=sys.stderr)
        return 1
    print(f"{', '.join(f'{count:,} rows of {split}' for split, count in splits.items())} in {folder / 'data'}; read {card}")
    return 0
