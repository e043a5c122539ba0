"""Models that keep a state instead of cells, in all of their layers or in some."""

from __future__ import annotations

from collections.abc import Callable

from .making import FEED_FORWARD, HEAD, SCALE, WIDTH, Making, Value

INNER, STATE, RANK, GROUPS = 128 * SCALE, 32, 8 * SCALE, 4 * SCALE


def _ssm(model: Making, block: str, norms: bool = False) -> None:
    """Mamba's; Jamba has `norms` in it."""
    model.add(f"{block}.ssm_in.weight", WIDTH, 2 * INNER)
    model.add(f"{block}.ssm_conv1d.weight", 4, INNER, plain=True)
    model.add(f"{block}.ssm_conv1d.bias", INNER, size=0.1)
    model.add(f"{block}.ssm_x.weight", INNER, RANK + 2 * STATE)
    model.add(f"{block}.ssm_dt.weight", RANK, INNER)
    model.add(f"{block}.ssm_dt.bias", INNER, size=0.1)
    model.add(f"{block}.ssm_a", STATE, INNER, size=0.01, around=-1.0, plain=True)
    model.add(f"{block}.ssm_d", INNER, size=0.1, around=1.0)
    model.add(f"{block}.ssm_out.weight", INNER, WIDTH)
    if norms:
        model.norm(f"{block}.ssm_dt_norm", width=RANK)
        model.norm(f"{block}.ssm_b_norm", f"{block}.ssm_c_norm", width=STATE)


def _ssm2(model: Making, block: str) -> None:
    """Mamba 2's, with one group and `GROUPS` heads."""
    channels = INNER + 2 * STATE
    model.add(f"{block}.ssm_in.weight", WIDTH, INNER + channels + GROUPS)
    model.add(f"{block}.ssm_conv1d.weight", 4, channels, plain=True)
    model.add(f"{block}.ssm_conv1d.bias", channels, size=0.1)
    model.add(f"{block}.ssm_dt.bias", GROUPS, size=0.1)
    model.add(f"{block}.ssm_a", 1, GROUPS, size=0.01, around=-1.0, plain=True)
    model.add(f"{block}.ssm_d", 1, GROUPS, size=0.1, around=1.0, plain=True)
    model.add(f"{block}.ssm_norm.weight", INNER, 1, size=0.1, around=1.0, plain=True)
    model.add(f"{block}.ssm_out.weight", INNER, WIDTH)


def _states(rank: int) -> dict[str, Value]:
    return {
        "ssm__conv_kernel": 4,
        "ssm__inner_size": INNER,
        "ssm__state_size": STATE,
        "ssm__time_step_rank": rank,
    }


def mamba(model: Making) -> None:
    model.shape(
        feed_forward_length=0, attention__head_count=0, attention__head_count_kv=0, **_states(RANK)
    )
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm")
        _ssm(model, block)


def mamba2(model: Making) -> None:
    model.shape(
        feed_forward_length=0, attention__head_count=0, attention__head_count_kv=0,
        ssm__group_count=1, **_states(GROUPS),
    )  # fmt: skip
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm")
        _ssm2(model, block)


def _hybrid(model: Making, state: Callable[[str], None], **more: Value) -> None:
    """Three layers, of which the second attends and the others have a `state`."""
    model.shape(3, attention__head_count_kv=[0, 1, 0], **more)
    model.embedding()
    for layer in range(3):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.feed_forward(block)
        if layer == 1:
            model.attention(block)
        else:
            state(block)


def granite_hybrid(model: Making) -> None:
    _hybrid(model, lambda block: _ssm2(model, block), ssm__group_count=1, **_states(GROUPS))


def jamba(model: Making) -> None:
    _hybrid(model, lambda block: _ssm(model, block, norms=True), **_states(RANK))


def falcon_h1(model: Making) -> None:
    """Attention and a state in each layer."""
    model.shape(
        attention__key_length=HEAD, attention__value_length=HEAD, ssm__group_count=1,
        **_states(GROUPS),
    )  # fmt: skip
    model.embedding()
    for block in ("blk.0", "blk.1"):
        model.norm(f"{block}.attn_norm")
        model.add(f"{block}.ffn_norm", WIDTH, size=0.1, around=1.0)
        model.feed_forward(block)
        model.attention(block)
        _ssm2(model, block)


def lfm2(model: Making) -> None:
    """Short convolutions."""
    model.shape(3, attention__head_count_kv=[0, 1, 0], shortconv__l_cache=3)
    model.add("token_embd.weight", WIDTH, model.n_vocab, size=1.0)
    model.norm("token_embd_norm")
    model.add("output.weight", WIDTH, model.n_vocab)
    for layer in range(3):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm", f"{block}.ffn_norm")
        model.feed_forward(block)
        if layer == 1:
            model.norm(f"{block}.attn_q_norm", f"{block}.attn_k_norm", width=HEAD)
            model.attention(block)
            continue
        model.add(f"{block}.shortconv.conv.weight", 3, WIDTH, plain=True)
        model.add(f"{block}.shortconv.in_proj.weight", WIDTH, 3 * WIDTH)
        model.add(f"{block}.shortconv.out_proj.weight", WIDTH, WIDTH)


def rwkv6(model: Making) -> None:
    extra = 16
    model.shape(
        attention__head_count=0, attention__head_count_kv=0, wkv__head_size=HEAD,
        time_mix_extra_dim=extra, time_decay_extra_dim=extra, rescale_every_n_layers=6,
    )  # fmt: skip
    model.say(attention__layer_norm_epsilon=1e-5)
    model.embedding(bias=True)
    model.norm("token_embd_norm", bias=True)
    for block in ("blk.0", "blk.1"):
        time = f"{block}.time_mix"
        model.norm(f"{block}.attn_norm", f"{block}.attn_norm_2", f"{time}_ln", bias=True)
        model.add(f"{time}_w1.weight", WIDTH, extra * 5)
        model.add(f"{time}_w2.weight", extra, WIDTH, 5)
        model.add(f"{time}_lerp_x.weight", WIDTH, 1, 1, size=0.3, plain=True)
        model.add(f"{time}_lerp_fused.weight", WIDTH, 1, 1, 5, size=0.3, plain=True)
        model.add(f"{time}_first.weight", HEAD, WIDTH // HEAD, size=0.3, plain=True)
        model.add(f"{time}_decay.weight", WIDTH, size=0.3)
        model.add(f"{time}_decay_w1.weight", WIDTH, extra)
        model.add(f"{time}_decay_w2.weight", extra, WIDTH)
        for name in ("key", "value", "receptance", "gate", "output"):
            model.add(f"{time}_{name}.weight", WIDTH, WIDTH)
        channel = f"{block}.channel_mix"
        for name in ("lerp_k", "lerp_r"):
            model.add(f"{channel}_{name}.weight", WIDTH, 1, 1, size=0.3, plain=True)
        model.add(f"{channel}_key.weight", WIDTH, FEED_FORWARD)
        model.add(f"{channel}_value.weight", FEED_FORWARD, WIDTH)
        model.add(f"{channel}_receptance.weight", WIDTH, WIDTH)
