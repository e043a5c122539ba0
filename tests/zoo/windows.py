"""Models of which some layers see no more than the last `WINDOW` tokens, or those of a chunk."""

from __future__ import annotations

from .making import HEAD, HEADS, WIDTH, WINDOW, Making, Value


def _gemma(model: Making, layers: int, norm: bool, **more: Value) -> None:
    """Gemma 2, and with a `norm` of q and k Gemma 3."""
    model.shape(
        layers,
        attention__key_length=HEAD,
        attention__value_length=HEAD,
        attention__sliding_window=WINDOW,
        **more,
    )
    model.embedding(output=False)
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            model.norm(f"{block}.{name}")
        if norm:
            model.norm(f"{block}.attn_q_norm", f"{block}.attn_k_norm", width=HEAD)
        model.attention(block)
        model.feed_forward(block)


def gemma2(model: Making) -> None:
    _gemma(model, 2, False, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)


def gemma3(model: Making) -> None:
    _gemma(model, 6, True)


def gemma_embedding(model: Making) -> None:
    _gemma(model, 6, True, pooling_type=1)


def cohere2(model: Making) -> None:
    model.shape(4, attention__sliding_window=WINDOW, logit_scale=0.25, rope__dimension_count=HEAD)
    model.say(attention__layer_norm_epsilon=1e-5)
    model.embedding(output=False)
    for layer in range(4):
        model.norm(f"blk.{layer}.attn_norm")
        model.attention(f"blk.{layer}")
        model.feed_forward(f"blk.{layer}")


def olmo2(model: Making) -> None:
    model.shape(4, attention__head_count_kv=HEADS, attention__sliding_window=WINDOW)
    model.embedding()
    for layer in range(4):
        block = f"blk.{layer}"
        for name in ("post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"):
            model.norm(f"{block}.{name}")
        model.attention(block, kv=HEADS * HEAD)
        model.feed_forward(block)


def gpt_oss(model: Making) -> None:
    model.shape(
        4,
        attention__key_length=HEAD,
        attention__value_length=HEAD,
        attention__sliding_window=WINDOW,
        rope__dimension_count=HEAD,
        expert_count=8,
        expert_used_count=2,
        expert_feed_forward_length=WIDTH,
    )
    model.embedding()
    for layer in range(4):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm", f"{block}.post_attention_norm")
        model.attention(block, bias=True)
        model.add(f"{block}.attn_output.bias", WIDTH, size=0.1)
        model.add(f"{block}.attn_sinks.weight", HEADS, size=1.0)
        model.experts(block, 8, bias=True)


def llama4(model: Making) -> None:
    """Three layers of four see the tokens of their chunk of 8192, which llama.cpp has fixed."""
    model.shape(
        4,
        context_length=16384,
        attention__key_length=HEAD,
        attention__value_length=HEAD,
        rope__dimension_count=HEAD,
        interleave_moe_layer_step=2,
        expert_count=4,
        expert_used_count=1,
        expert_feed_forward_length=WIDTH,
    )
    model.embedding()
    for layer in range(4):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.attention(block)
        if layer % 2:
            model.experts(block, 4)
            for part in ("gate", "down", "up"):
                model.add(f"{block}.ffn_{part}_shexp.weight", WIDTH, WIDTH)
        else:
            model.feed_forward(block)
