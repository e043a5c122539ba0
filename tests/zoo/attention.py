"""Models that attend to all that was read."""

from __future__ import annotations

from .making import CONTEXT, FEED_FORWARD, HEAD, HEADS, WIDTH, Making, Value


def llama(model: Making, width: int = WIDTH, head: int = HEAD, **more: Value) -> None:
    del width
    model.shape(
        attention__key_length=head, attention__value_length=head, rope__dimension_count=head, **more
    )
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.attention(block, HEADS * head, head)
        model.feed_forward(block)


def llama_80(model: Making) -> None:
    """A head that Q8_0's blocks of 32 do not divide."""
    llama(model, head=80)


def qwen2(model: Making) -> None:
    model.shape()
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.attention(block, bias=True)
        model.feed_forward(block)


def qwen3(model: Making, experts: int = 0, pooling: int | None = None) -> None:
    model.shape(attention__key_length=HEAD, attention__value_length=HEAD)
    if experts:
        model.say(expert_count=experts, expert_used_count=2, expert_feed_forward_length=WIDTH)
    if pooling is not None:
        model.say(pooling_type=pooling)
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.norm(f"{block}.attn_q_norm", f"{block}.attn_k_norm", width=HEAD)
        model.attention(block)
        if experts:
            model.experts(block, experts)
        else:
            model.feed_forward(block)


def qwen3moe(model: Making) -> None:
    qwen3(model, experts=8)


def phi3(model: Making) -> None:
    model.shape(rope__dimension_count=HEAD, rope__scaling__original_context_length=CONTEXT)
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.joined_attention(block, HEAD)
        model.add(f"{block}.ffn_up.weight", WIDTH, 2 * FEED_FORWARD)
        model.add(f"{block}.ffn_down.weight", FEED_FORWARD, WIDTH)


def gpt2(model: Making) -> None:
    model.shape(context_length=1024, attention__head_count_kv=HEADS)
    model.say(attention__layer_norm_epsilon=1e-5)
    model.embedding(bias=True)
    model.add("position_embd.weight", WIDTH, 1024, size=0.5)
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm", bias=True)
        model.joined_attention(block, HEADS * HEAD, bias=True)
        model.feed_forward(block, gate=False, bias=True)


def falcon(model: Making) -> None:
    model.shape()
    model.say(attention__layer_norm_epsilon=1e-5)
    model.embedding(bias=True)
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm", bias=True)
        model.joined_attention(block, HEAD)
        model.feed_forward(block, gate=False)


def deepseek2(model: Making) -> None:
    """Multi-head latent attention: K and V are of different sizes, and V is a part of K."""
    rope, value, low_q, low_kv, experts = 32, 32, 32, 64, 4
    model.shape(
        leading_dense_block_count=1,
        attention__q_lora_rank=low_q,
        attention__kv_lora_rank=low_kv,
        attention__key_length=low_kv + rope,
        attention__value_length=low_kv,
        attention__key_length_mla=HEAD + rope,
        attention__value_length_mla=value,
        rope__dimension_count=rope,
        expert_count=experts,
        expert_used_count=2,
        expert_feed_forward_length=WIDTH,
        expert_shared_count=1,
        expert_weights_scale=1.0,
    )
    model.embedding()
    for layer, block in enumerate(("blk.0", "blk.1")):
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.norm(f"{block}.attn_q_a_norm", width=low_q)
        model.norm(f"{block}.attn_kv_a_norm", width=low_kv)
        model.add(f"{block}.attn_q_a.weight", WIDTH, low_q)
        model.add(f"{block}.attn_q_b.weight", low_q, HEADS * (HEAD + rope))
        model.add(f"{block}.attn_kv_a_mqa.weight", WIDTH, low_kv + rope)
        model.add(f"{block}.attn_k_b.weight", HEAD, low_kv, HEADS)
        model.add(f"{block}.attn_v_b.weight", low_kv, value, HEADS)
        model.add(f"{block}.attn_output.weight", HEADS * value, WIDTH)
        if layer == 0:
            model.feed_forward(block)
            continue
        model.experts(block, experts)
        for part in ("gate", "up", "down"):
            model.add(f"{block}.ffn_{part}_shexp.weight", WIDTH, WIDTH)
