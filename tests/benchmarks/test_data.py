"""A data set of a million examples, split and checked within 2 GiB of memory."""

import json
import subprocess
import sys

from pytest_benchmark.fixture import BenchmarkFixture

_CODE = """
import json
import random
import resource

import numpy as np

from bench.examples.checks import check, leaks
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.splitting import sides

COUNT = 1_000_000
draw = random.Random(0)
words = [f"word{number}" for number in range(30_000)]
texts = tuple(" ".join(draw.choices(words, k=draw.randint(5, 25))) for _ in range(COUNT - 1000))
texts += texts[:500] + tuple(text.upper() for text in texts[500:1000])
examples = Examples(texts, None, np.arange(COUNT) % 3)
places = np.array(sides(examples.text_a))
train, dev = (examples.taken(np.flatnonzero(chosen).tolist())
              for chosen in (places == "train", places != "train"))
del examples, texts, places
# the first sentences of dev are in train too, and each with a label of its own
labels = np.concatenate([train.labels, (dev.labels[:700] + 1) % 3])
train = Examples(train.text_a + dev.text_a[:700], None, labels)
data = TaskData(Task("million", "", ("a", "b", "c")), train, dev)
found = check(data, (np.full(len(train), 30), np.full(len(dev), 30)))
print(json.dumps({
    "duplicates": found.duplicates.total,
    "leaks": found.leaks.train,
    "left out": len(leaks(data)),
    "conflicts": found.conflicts.train,
    "compared": found.compared,
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
"""


def test_check_a_million_examples(benchmark: BenchmarkFixture) -> None:
    def split_and_check() -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", _CODE], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)

    found = benchmark.pedantic(split_and_check, rounds=1)
    benchmark.extra_info |= found
    assert found["peak_rss_mib"] < 2048
    assert found["duplicates"] == 1000
    assert found["leaks"] == 700
    assert found["left out"] >= found["leaks"]
    assert found["conflicts"] == 700
    assert 19_000 < found["compared"] <= 20_000
