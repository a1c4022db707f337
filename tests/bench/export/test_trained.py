"""The checkpoint of a cell, as others can get it."""

import shutil

from bench.export import trained
from bench.export.trained import describe_base
from bench.plan.models import find_model
from minbert.files import sha256_of
from tests.bench.export.small import base_folder

COMMIT = "a1" * 20
CARD = "---\nlanguage: en\nlicense: 'mit'\n---\n# A model\nlicense: gpl\n"


def test_the_embedded_model_is_known_by_its_digest_wherever_it_is(minilm, monkeypatch):
    for name in ("minilm", str(minilm)):
        base = describe_base(find_model(name, "pretrained", "auto"))
        assert base.name == "sentence-transformers/all-MiniLM-L6-v2"
        assert (base.on_hub, len(base.revision), base.licence) == (True, 40, "apache-2.0")
        assert base.sha256 == sha256_of(minilm / base.file)
    monkeypatch.setattr(trained, "sha256_of", lambda _: "0" * 64)
    other = describe_base(find_model(str(minilm), "pretrained", "auto"))
    assert (other.on_hub, other.revision, other.licence) == (False, None, None)


def test_a_checkpoint_of_the_hub_has_its_name_commit_and_licence(tmp_path):
    folder = tmp_path / "models--some--model-x" / "snapshots" / COMMIT
    base_folder(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    base = describe_base(find_model(str(folder), "pretrained", "auto"))
    assert (base.name, base.revision, base.on_hub) == ("some/model-x", COMMIT, True)
    assert base.licence == "mit"
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    (own / "README.md").write_text("license: gpl\n", encoding="utf-8")
    base = describe_base(find_model(str(own), "pretrained", "auto"))
    assert (base.name, base.revision, base.on_hub, base.licence) == ("own", None, False, None)
