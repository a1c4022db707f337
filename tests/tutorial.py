"""What the commands of docs/tutorial.md print: `python -m tests.tutorial` runs them in an empty
folder and writes their output into the page; with `same`, only those that print no times.

Blocks of kind `decided` or `undecided` are run where the recommendation is that, else left as they
are. Those of `undecided` take the command that it printed, and the cell that it trains first."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<kind>same|times|decided|undecided) (?P<digest>\w*) -->\n)?"
    r"```(?:sh|console)\n(?:\$ (?P<shown>[^\n]*)\n)?(?P<text>.*?)```",
    re.DOTALL,
)


def digest(block):
    return hashlib.sha256(f"{block['shown']}\n{block['text']}".encode()).hexdigest()[:12]


def outputs(kinds, folder):
    """The page's text with what its commands of some kinds print now, run in a folder."""
    kinds = [None, *kinds]
    answer = {}  # of an undecided recommendation: the command that it prints, and its first cell

    def renewed(block):
        if block["kind"] not in kinds:
            return block[0]
        shown, is_undecided = block["shown"], block["kind"] == "undecided"
        if is_undecided:
            trains = shown.startswith("python -m bench.grid")
            shown = answer["train"] if trains else shown.replace(shown.split()[3], answer["cell"])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["/bin/sh", "-c", shown or block["text"]], cwd=folder, text=True, check=False,
            env=os.environ | {"PATH": path, "COLUMNS": "80", "PYTHONPATH": str(PAGE.parents[1])},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if is_undecided else
            None if __name__ == "__main__" else subprocess.DEVNULL,
        )  # fmt: skip
        asks = bool(shown and shown.startswith("python -m bench.recommend"))
        if done.returncode not in (0, asks):  # 1 is an answer too: undecided
            raise RuntimeError(f"{shown or block['text']} ended with {done.returncode}")
        if asks:
            kinds.append("undecided" if done.returncode else "decided")
        patterns = {"train": r"  (python .* --no-race)$", "cell": r"\[1/\d+\] (\S+)  ok"}
        for name in patterns if asks or is_undecided else ():
            if match := re.search(f"^{patterns[name]}", done.stdout, re.MULTILINE):
                answer[name] = match[1]
        if block["kind"] is None:
            return block[0]
        new = {"shown": shown, "text": re.sub(r" +$", "", done.stdout, flags=re.MULTILINE)}
        head = f"<!-- {block['kind']} {digest(new)} -->\n```console\n$ {new['shown']}\n"
        return f"{head}{new['text']}```"

    return BLOCK.sub(renewed, PAGE.read_text("utf-8"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(outputs(sys.argv[1:] or ["same", "times"], place), "utf-8")
