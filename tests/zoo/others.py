"""Models that do not write one token after the other."""

from __future__ import annotations

from .making import HEAD, HEADS, WIDTH, Making


def bert(model: Making, pooling: int = 1) -> None:
    model.shape(
        context_length=512, attention__head_count_kv=HEADS, attention__causal=False,
        pooling_type=pooling,
    )  # fmt: skip
    model.say(attention__layer_norm_epsilon=1e-5)
    model.text_of_two_kinds()
    model.add("token_embd.weight", WIDTH, model.n_vocab, size=1.0)
    model.add("position_embd.weight", WIDTH, 512, size=0.3)
    model.add("token_types.weight", WIDTH, 2, size=0.3, plain=True)
    model.norm("token_embd_norm", bias=True)
    for block in ("blk.0", "blk.1"):
        model.attention(block, kv=HEADS * HEAD, bias=True)
        model.add(f"{block}.attn_output.bias", WIDTH, size=0.1)
        model.feed_forward(block, gate=False, bias=True)
        model.norm(f"{block}.attn_output_norm", f"{block}.layer_output_norm", bias=True)


def t5(model: Making) -> None:
    model.shape(
        attention__head_count_kv=HEADS, attention__key_length=HEAD, attention__value_length=HEAD,
        attention__relative_buckets_count=32, decoder_start_token_id=0,
    )  # fmt: skip
    model.add("token_embd.weight", WIDTH, model.n_vocab, size=1.0)
    model.norm("enc.output_norm", "dec.output_norm")
    model.add("output.weight", WIDTH, model.n_vocab)
    for layer in range(2):
        for part in ("enc", "dec"):
            block = f"{part}.blk.{layer}"
            model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
            if layer == 0:
                model.add(f"{block}.attn_rel_b.weight", HEADS, 32, size=0.3, plain=True)
            for name in "qkvo":
                model.add(f"{block}.attn_{name}.weight", WIDTH, WIDTH)
            if part == "dec":
                model.norm(f"{block}.cross_attn_norm")
                for name in "qkvo":
                    model.add(f"{block}.cross_attn_{name}.weight", WIDTH, WIDTH)
            model.feed_forward(block)


def llada(model: Making) -> None:
    """Diffusion: all tokens of an answer at once."""
    model.shape(attention__head_count_kv=HEADS)
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.attention(block, kv=HEADS * HEAD)
        model.feed_forward(block)
