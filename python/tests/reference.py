# SPDX-License-Identifier: Apache-2.0
"""The formula in float64, in numpy, and data to try it on."""

import numpy

NAMES = ("hidden_states", "down_weights", "up_weights", "indices",
         "routing_weights")


def make_arrays(leading=(5,), hidden_size=24, top_k=6, num_experts=11,
                dtype="float32", index_dtype="int64", routing_dtype=None,
                seed=0):
    """Inputs with empty slots, repeated experts and an expert of none."""
    rng = numpy.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(numpy.float32)

    indices = rng.integers(-1, num_experts - 1, (*leading, top_k))
    scale = numpy.float32(hidden_size ** -0.5)
    return (normal(*leading, hidden_size).astype(dtype),
            (normal(num_experts, hidden_size) * scale).astype(dtype),
            normal(num_experts, hidden_size).astype(dtype),
            indices.astype(index_dtype),
            normal(*leading, top_k).astype(routing_dtype or dtype))


def evaluate(x, down, up, indices, routing, grad_output=None):
    """expert_states and scores; with grad_output the four gradients too."""
    shape, slots = x.shape, indices.shape
    i = indices.reshape(-1, slots[-1])
    x, down, up, g = (array.astype(numpy.float64) for array in (
        x.reshape(-1, shape[-1]), down, up, routing.reshape(i.shape)))
    used = (i >= 0) & (i < len(down))
    e = numpy.where(used, i, 0)
    scores = numpy.where(used, numpy.einsum("th,tkh->tk", x, down[e]), 0)
    sigmoid = 1 / (1 + numpy.exp(-scores))
    gates = numpy.where(used, g * scores * sigmoid, 0)
    y = numpy.einsum("tk,tkh->th", gates, up[e]).reshape(shape)
    if grad_output is None:
        return y, scores.reshape(slots)
    dy = grad_output.astype(numpy.float64).reshape(x.shape)
    p = numpy.where(used, numpy.einsum("th,tkh->tk", dy, up[e]), 0)
    ds = p * g * sigmoid * (1 + scores * (1 - sigmoid))
    ddown, dup = numpy.zeros_like(down), numpy.zeros_like(up)
    numpy.add.at(ddown, e, ds[..., None] * x[:, None, :])
    numpy.add.at(dup, e, gates[..., None] * dy[:, None, :])
    dx = numpy.einsum("tk,tkh->th", ds, down[e]).reshape(shape)
    return dx, ddown, dup, (p * scores * sigmoid).reshape(slots)


# A rounding to the result's type, and of a float32 sum, relative to the
# largest element.
TOLERANCE = {"float32": 4e-6, "float16": 1e-3, "bfloat16": 8e-3}


def assert_close(found, wanted, dtype):
    found = numpy.asarray(found).astype(numpy.float64)
    assert found.shape == wanted.shape
    limit = TOLERANCE[dtype] * max(numpy.abs(wanted).max(initial=0), 1e-30)
    assert numpy.abs(found - wanted).max(initial=0) <= limit
