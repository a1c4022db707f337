"""Writing of an exported folder: the model, the check, what it costs to use, and its card."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError

from bench.common.errors import DiskFullError, InputError
from bench.common.files import umask
from bench.common.messages import echo, one_line
from bench.common.progress import progress_bar
from bench.export.card import CARD, card, int8_line
from bench.export.check import check
from bench.export.figures import measure
from bench.export.formats import Format
from bench.export.trained import Trained
from bench.export.training import write_training
from bench.plan.metrics import metric_of
from bench.results.exports import EXPORTS, FORMS, Figures
from bench.results.facts import read_facts

_PART: Final = ".export-"
_LOCK: Final = ".lock"
_OLD_S: Final = 3600
_ROUNDING: Final = 1e-9  # of a difference of scores


def export(
    trained: Trained,
    logits: NDArray[np.float32],
    runs: Path,
    folder: Path,
    form: Format,
    *,
    settings: int | None,
    max_int8_loss: float,
) -> tuple[dict[str, str], Figures]:
    """Write a trained cell in a format into a new folder, which is there only once all is done;
    check that it gives the cell's own logits [N, C] in fp32 on dev, in the unit of the labels; and
    measure what it costs to use, which is kept next to the CSV. Returns the versions of the
    libraries that checked it, and the costs. `settings` is the number of those among which the cell
    was chosen by score; None: it was not.

    InputError if the folder does not predict as the cell does, its model in int8 scores less than
    in fp32 by more than `max_int8_loss`, or its libraries fail. DiskFullError if it can't be
    written.
    """
    facts = read_facts(runs).get(trained.row.data_digest)
    with _new_folder(folder) as part, progress_bar(2 + len(FORMS)) as show:
        show(0, f"writing {form.name}")
        form.write(trained, part)
        form.copy_scripts(part)
        write_training(trained, part)
        show(1, f"checking {len(trained.dev):,} dev examples in a fresh process")
        answer = check(trained, part, logits)
        figures = measure(
            trained, part, form, logits, lambda done, name: show(2 + done, f"measuring {name}")
        )
        if form.name == "onnx" and (figures.int8_loss or 0) > max_int8_loss + _ROUNDING:
            most = metric_of(figures.metric).size(max_int8_loss)
            raise InputError(
                f"--to {folder}: {int8_line(figures)}, where at most {most} is allowed; nothing "
                "was left there; allow more by --max-int8-loss, or take another --format"
            )
        text = card(trained, part, figures, facts, format=form, compared=settings)
        (part / CARD).write_text(text, encoding="utf-8")
    if not trained.refitted:
        try:
            EXPORTS.update(runs, trained.row.cell_id, lambda _: figures)
        except (DiskFullError, InputError) as error:  # the model itself is there
            echo(f"note: what it costs to use is not kept: {error}", err=True)
    return answer.libraries, figures


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder, in a temporary one of this user, that becomes `folder` at the end, and of which
    nothing stays after an error. If the export is killed, the next one in that place removes it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        with TemporaryDirectory(
            prefix=_PART, dir=folder.parent, ignore_cleanup_errors=True
        ) as part:
            model = Path(part, "model")
            model.mkdir()
            with FileLock(Path(part, _LOCK)):
                yield model
            for path in (model, *model.rglob("*")):  # safetensors' files are for their owner alone
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
            model.rename(folder)  # an empty folder is replaced
    except (OSError, SafetensorError) as error:  # the latter of a full disk, too
        reason = one_line(getattr(error, "strerror", None) or str(error))
        raise DiskFullError(
            f"--to {folder}: can't be written ({reason}); nothing was left there"
        ) from error


def _remove_stale(place: Path) -> None:
    """Remove the temporary folders of exports of this user that were killed."""
    for path in place.glob(f"{_PART}*"):
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _OLD_S:
                with FileLock(path / _LOCK, timeout=0):  # its process has ended
                    shutil.rmtree(path)
