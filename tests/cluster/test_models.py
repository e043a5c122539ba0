"""`models/`: what is found below the directories of models, listed and chosen by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llambo9p.cluster import models as module
from llambo9p.cluster.models import Models
from llambo9p.engine import gguf
from llambo9p.errors import Error, ModelError, NotFound
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.engine.test_gguf import model
from tests.files import Files, story, turns_of_the_loop

from .harness import cluster


@contextlib.asynccontextmanager
async def serving(*directories: Path) -> AsyncIterator[Files]:
    """An orchestrator that looks for models there."""
    async with cluster(models=directories) as running:
        yield running.files


def put(directory: Path, name: str, data: bytes | None = None) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model() if data is None else data)
    return path


@story
async def test_the_bundled_model_is_there_without_any_directory():
    async with serving() as files:
        assert await files.ls("models") == ["default"]
        attrs = await files.attrs("models/default")
        assert attrs["path"] == str(gguf.default_model())
        assert (attrs["quantisation"], attrs["chat_template"]) == ("Q4_1", "yes")


@story
async def test_a_model_says_what_it_is(tmp_path):
    path = put(tmp_path, "a/b/small.Q4.gguf")
    async with serving(tmp_path) as files:
        assert await files.ls("models") == ["default", "small.Q4"]
        assert await files.read("models/small.Q4") == (
            f"name small.Q4\npath {path}\nkind decoder\nsize {path.stat().st_size}\ntitle Small\n"
            "architecture llama\ncontext 4096\nquantisation Q4_K_M\nchat_template no\n"
            "parameters 101\nexact unknown\nexact_required unknown\n"
        )


@story
async def test_what_no_host_can_be_started_with_says_what_it_is_and_why(tmp_path):
    put(tmp_path, "seeing.gguf", model({"general.architecture": "clip"}))
    put(tmp_path, "translator.gguf", model({"general.architecture": "t5", "t5.context_length": 9}))
    async with serving(tmp_path) as files:
        for name, kind, why in (
            ("seeing", "projector", "a projector: a part of a model that sees or hears"),
            ("translator", "encoder-decoder", "an encoder-decoder (t5): llama.cpp keeps one"),
        ):
            attrs = await files.attrs(f"models/{name}")
            assert attrs["kind"] == kind and attrs["error"].startswith(why)
            with pytest.raises(Error, match=f"model '{name}': {re.escape(why)}"):
                await files.write("ctl", f"spawn --model {name}")


@story
async def test_the_listing_is_what_is_there_now(tmp_path):
    async with serving(tmp_path) as files:
        path = put(tmp_path, "one.gguf")
        directory = await files.open("models")
        assert await files.ls("models") == ["default", "one"]
        (entry,) = [e for e in await files.entries("models") if e.name == "one"]
        fid, reply = await files.walk("models/one")
        assert reply.wqid[-1] == entry.qid
        put(tmp_path, "two.gguf")
        walks = await asyncio.gather(*(files.walk("models/two") for _ in range(5)))
        assert len({reply.wqid for _, reply in walks}) == 1
        (tmp_path / "two.gguf").unlink()
        put(tmp_path, "one.gguf", model({"llama.context_length": 99}))
        os.utime(path, ns=(1, 1))
        assert (await files.attrs("models/one"))["context"] == "99"
        path.unlink()
        with pytest.raises(NotFound):
            await files.client.call(m.Topen(0, fid, c.OREAD), m.Ropen)
        for gone in ("models/one", "models/one/below", "models/default/below"):
            with pytest.raises(Error):
                await files.open(gone)
        assert await files.ls("models") == ["default"]
        assert await files.attrs("models/../models/../status")
        await directory.clunk()


@story
async def test_what_is_no_model_is_listed_with_the_reason(tmp_path):
    put(tmp_path, "garbage.gguf", b"garbage")
    put(tmp_path, "half.GGUF", model()[:100])
    put(tmp_path, "notes.txt")
    put(tmp_path, ".hidden.gguf")
    put(tmp_path, ".hidden/x.gguf")
    (tmp_path / "dangling.gguf").symlink_to("nowhere")
    (tmp_path / "circle.gguf").symlink_to("circle.gguf")
    os.mkfifo(tmp_path / "fifo.gguf")
    async with serving(tmp_path, tmp_path / "none") as files:
        none = f"{tmp_path}/none".strip("/").replace("/", "-")
        reasons = {
            "garbage": f"{tmp_path}/garbage.gguf: not a GGUF file (it begins with b'garb')",
            "half": "it is not complete",
            "dangling": "No such file or directory",
            "circle": "Too many levels of symbolic links",
            "fifo": "not a regular file",
            none: "No such file or directory",
        }
        assert set(await files.ls("models")) == {"default", *reasons}
        for name, reason in reasons.items():
            attrs = await files.attrs(f"models/{name}")
            assert reason in attrs["error"]
            assert "path" in attrs and "size" not in attrs


@story
async def test_names_are_one_line_of_text_whatever_a_file_is_called(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/bad\xffname\n.gguf", os.O_CREAT))
    put(tmp_path, "t.gguf", model({"general.name": "two\nlines"}))
    async with serving(tmp_path) as files:
        name = "bad\ufffdname\ufffd"
        assert await files.ls("models") == ["default", name, "t"]
        assert [*await files.attrs(f"models/{name}")] == ["name", "path", "error"]
        assert (await files.attrs("models/t"))["title"] == "two\ufffdlines"


@story
async def test_a_name_that_several_files_have_chooses_none(tmp_path):
    paths = [put(tmp_path, f"{where}/same.gguf") for where in ("a", "b")]
    put(tmp_path, "default.gguf")
    put(tmp_path, "simulated.gguf")
    models = Models([tmp_path])
    for name in ("same", "default"):
        with pytest.raises(ModelError, match=f"model '{name}': 2 files have this name: use a path"):
            await models.path(name)
    assert await models.path(str(paths[0])) == str(paths[0])
    assert await models.path("simulated") == "simulated"
    async with serving(tmp_path) as files:
        text = await files.read("models/same")
        assert text.splitlines()[1:3] == [f"path {path}" for path in paths]
        assert "use the path" in await files.read("models/simulated")


@story
async def test_a_name_that_is_not_found_is_told_what_there_is(tmp_path):
    put(tmp_path, "good.gguf")
    put(tmp_path, "bad.gguf", b"")
    models = Models([tmp_path])
    assert await models.path("good") == f"{tmp_path}/good.gguf"
    with pytest.raises(ModelError) as caught:
        await models.path("goood")
    assert str(caught.value) == "no model 'goood'; there are default good simulated, and paths"
    with pytest.raises(ModelError, match="model 'bad': .*bad.gguf: not a GGUF file"):
        await models.path("bad")


@story
async def test_links_and_depth_and_number_are_bounded(tmp_path, monkeypatch):
    put(tmp_path / "real", "linked.gguf")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "real")
    deep = tmp_path.joinpath(*"abcdefghij")
    put(deep, "deep.gguf")
    found = await Models([tmp_path, tmp_path / "real"]).found()
    assert found["linked"].error == ""
    (error,) = [model.error for model in found.values() if model.error]
    assert error == f"more than 8 directories below {tmp_path}"
    monkeypatch.setattr(module, "ENTRIES", 4)
    found = await Models([tmp_path]).found()
    (error,) = [model.error for model in found.values() if model.error]
    assert error == "more than 4 files below it: some were not seen"


@story
async def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path = put(tmp_path, "one.gguf")
    reads = []

    def read(path: Path) -> gguf.Header:
        reads.append(path)
        return gguf_read(path)

    gguf_read = gguf.read
    monkeypatch.setattr(gguf, "read", read)
    models = Models([tmp_path])
    for _ in range(3):
        await models.found()
    assert reads.count(path) == 1
    os.utime(path, ns=(5, 5))
    await models.found()
    assert reads.count(path) == 2


@story
async def test_a_crowd_that_looks_at_once_searches_twice_at_most():
    class Counting(Models):
        searches = 0

        def _search(self) -> dict[str, module.Model]:
            self.searches += 1
            return super()._search()

    models = Counting()
    first = asyncio.create_task(models.found())
    await turns_of_the_loop()
    crowd = await asyncio.gather(*(models.found() for _ in range(100)))
    assert models.searches <= 2
    assert [list(found) for found in (await first, *crowd)] == [["default"]] * 101
