"""Children: processes that load torch and answer in JSON, so that their parent need not load it.

A child is a module with `serve`. It reads its request, a JSON value, from stdin and writes a JSON
text sequence to stdout (RFC 7464: each answer is between a record separator and a line end), so
that what libraries print there is no answer. Bad input ends it with exit code 2 and a line that
begins with `error: ` on stderr.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from bench.common.errors import InputError, RefusedError
from bench.common.messages import last_error

_RECORD: Final = "\x1e"
_ERROR: Final = "error: "
_BAD_INPUT: Final = 2


class ChildError(Exception):
    """A child ended otherwise than with an answer or bad input; the message is a phrase on that."""


class LateError(ChildError):
    """It took too long."""


def serve(answers_to: Callable[[Any], Iterable[Any]]) -> int:
    """Answer the request on stdin, each answer as soon as it is known; returns the exit code."""
    try:
        for answer in answers_to(json.load(sys.stdin)):
            sys.stdout.write(f"{_RECORD}{json.dumps(answer)}\n")
            sys.stdout.flush()
    except (InputError, RefusedError) as error:
        sys.stderr.write(f"{_ERROR}{' '.join(str(error).split())}\n")
        return _BAD_INPUT
    return 0


def ask(module: str, request: object, **options: Any) -> Iterator[Any]:
    """The answers of the child that is a module of this project; as `ask_by`."""
    return ask_by([sys.executable, "-m", module], request, **options)


def ask_by(
    argv: Sequence[str],
    request: object,
    *,
    env: Mapping[str, str] | None = None,
    patience_s: float | None = None,
) -> Iterator[Any]:
    """The answers of a child, as they come. It is killed if they are not read to their end.
    InputError for bad input, with the child's message. ChildError if it can't be started, is late,
    or ends without an answer. It may take `patience_s` seconds; None: any number."""
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile("w+b") as stderr:
        json.dump(request, stdin)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                argv, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
            )
        except OSError as error:
            raise ChildError(f"no process can be started: {error.strerror}") from error
        count = 0
        try:
            for count, answer in enumerate(_answers(process, patience_s), start=1):  # noqa: B007
                yield answer
            code = process.wait()
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver that hangs can keep it from ending
                process.wait(timeout=1)
        if code == 0 and count:
            return
        stderr.seek(0)
        text = stderr.read().decode(errors="replace")
        errors = [line for line in text.splitlines() if line.startswith(_ERROR)]
        if code == _BAD_INPUT and errors:  # what libraries write as they unload may follow it
            raise InputError(errors[-1].removeprefix(_ERROR))
        raise ChildError(f"signal {-code}" if code < 0 else last_error(text) or f"exit code {code}")


def _answers(process: "subprocess.Popen[bytes]", patience_s: float | None) -> Iterator[Any]:
    assert process.stdout is not None  # noqa: S101 (a pipe)
    end = None if patience_s is None else time.monotonic() + patience_s
    rest = b""
    with process.stdout as stdout:
        while True:
            left_s = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([stdout], [], [], left_s)[0]:
                raise LateError(f"no answer in {patience_s:g} s")
            data = os.read(stdout.fileno(), 2**16)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _, separator, text = line.rpartition(_RECORD.encode())
                if separator:
                    with suppress(ValueError):
                        yield json.loads(text)
            if not data:
                return
