# SPDX-License-Identifier: Apache-2.0
"""Tensors: on the CPU by the reference, on a GPU where there is one."""

import numpy
import pytest
from reference import NAMES, assert_close, evaluate, make_arrays

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import flashexpert_rtc as fex  # noqa: E402
from flashexpert_rtc import _torch as operators  # noqa: E402

FLOATS = (0, 1, 2, 4)  # positions that are differentiable
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA"))]

pytestmark = pytest.mark.parametrize("device", DEVICES)


def tensors_of(arrays, device, dtype="float32", routing_dtype=None,
               requires_grad=True):
    """Leaves with the arrays' values, floats in dtype."""
    found = []
    for position, array in enumerate(arrays):
        tensor = torch.from_numpy(array.copy()).to(device)
        if position in FLOATS:
            wanted = routing_dtype if position == 4 else None
            tensor = tensor.to(getattr(torch, wanted or dtype))
            tensor.requires_grad_(requires_grad)
        found.append(tensor)
    return found


def in_float64(tensor):
    return tensor.detach().double().cpu().numpy()


def plain(x, down, up, indices, routing):
    """The operation in torch alone; for dense, valid indices."""
    scores = torch.einsum("...h,...kh->...k", x, down[indices])
    gates = torch.nn.functional.silu(scores) * routing
    return torch.einsum("...k,...kh->...h", gates, up[indices])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("leading", [(5,), (2, 3), (), (0,), (2, 0)])
def test_both_passes_match_the_formula(device, dtype, index_dtype, leading):
    tensors = tensors_of(
        make_arrays(leading, index_dtype=index_dtype), device, dtype)
    exact = [tensors[3].cpu().numpy() if n == 3 else in_float64(tensor)
             for n, tensor in enumerate(tensors)]
    expert_states = fex.flash_expert_func(*tensors)
    assert expert_states.dtype == tensors[0].dtype
    assert_close(in_float64(expert_states), evaluate(*exact)[0], dtype)
    dy = torch.from_numpy(make_arrays(leading, seed=1)[0])
    dy = dy.to(device, tensors[0].dtype)
    expert_states.backward(dy)
    wanted = evaluate(*exact, in_float64(dy))
    for position, want in zip(FLOATS, wanted):
        grad = tensors[position].grad
        assert grad.dtype == tensors[position].dtype
        assert_close(in_float64(grad), want, dtype)


def test_routing_weights_in_float32(device):
    tensors = tensors_of(make_arrays(), device, "bfloat16", "float32")
    fex.flash_expert_func(*tensors).sum().backward()
    assert tensors[4].grad.dtype == torch.float32
    exact = [tensors[3].cpu().numpy() if n == 3 else in_float64(tensor)
             for n, tensor in enumerate(tensors)]
    wanted = evaluate(*exact, numpy.ones_like(exact[0]))
    assert_close(in_float64(tensors[4].grad), wanted[3], "float32")


@pytest.mark.filterwarnings("ignore:Input #. requires gradient")
def test_finite_differences(device):
    """What autograd derives from, without our formula of it. In float32
    steps must be large, and so is the tolerance."""
    tensors = tensors_of(make_arrays((3,), 8, 3, 6), device)
    assert torch.autograd.gradcheck(
        fex.flash_expert_func, tensors, eps=1e-2, atol=2e-2, rtol=2e-2,
        nondet_tol=0.0, fast_mode=False)


def test_opcheck(device):
    tensors = tensors_of(make_arrays((2, 3)), device)
    for save_scores in (True, False):
        torch.library.opcheck(operators.experts, (*tensors, save_scores))
    dense = [tensor.detach() for tensor in tensors]
    scores = operators.experts(*dense, True)[1]
    for saved in (scores, scores.new_empty(0)):
        torch.library.opcheck(operators.experts_backward, (
            torch.ones_like(dense[0]), *dense, saved,
            [True, False, True, True]))


@pytest.mark.parametrize("needed", FLOATS)
def test_only_what_is_needed_is_computed(device, needed, monkeypatch):
    asked = []

    def spy(*arguments):
        asked.append(arguments[-1])
        return backward(*arguments)

    backward = operators.experts_backward
    monkeypatch.setattr(operators, "experts_backward", spy)
    whole = tensors_of(make_arrays(), device)
    fex.flash_expert_func(*whole).sum().backward()
    some = tensors_of(make_arrays(), device, requires_grad=False)
    some[needed].requires_grad_()
    fex.flash_expert_func(*some).sum().backward()
    torch.testing.assert_close(
        some[needed].grad, whole[needed].grad, rtol=1e-5, atol=1e-5)
    assert asked == [[True] * 4, [n == needed for n in FLOATS]]


def test_scores_are_not_saved_without_gradients(device):
    tensors = tensors_of(make_arrays(), device)
    scores = operators.experts(*tensors, False)[1]
    assert scores.numel() == 0
    with torch.no_grad():
        assert not fex.flash_expert_func(*tensors).requires_grad


LAYOUTS = {
    "row strides": lambda t: torch.nn.functional.pad(t, (0, 8))[..., :-8],
    "columns": lambda t: t.t().contiguous().t(),
    "steps": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.nn.functional.pad(t, (1, 0))[..., 1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device, layout):
    views = [LAYOUTS[layout](tensor.detach()) for tensor in tensors_of(
        make_arrays(), device)]
    results = []
    for inputs in (views, [view.contiguous() for view in views]):
        for position in FLOATS:
            inputs[position].requires_grad_()
        y = fex.flash_expert_func(*inputs)
        dy = LAYOUTS[layout](torch.ones_like(y) * 0.5)
        results.append([y, *torch.autograd.grad(
            y, [inputs[n] for n in FLOATS], dy)])
    # A stride may change how wide a GPU loads, and so the order of its sums.
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_row_strides_are_not_copied(device):
    wide = torch.zeros(2, 3, 8, device=device)
    for view, stride in ((wide[..., :5], 8), (wide[0, :, :5], 8),
                         (wide[0], 0), (wide[0, :, 1], 1)):
        view = view if view.dim() > 1 else view[:, None]
        rows, found = operators._rows(view)
        assert rows.data_ptr() == view.data_ptr()
        assert found in (stride, 8)
    assert operators._rows(wide[0, :1].expand(3, 8))[1] == 0


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device, backend, dynamic):
    if backend == "inductor" and device == "cpu":
        pytest.skip("inductor for CPUs needs a C++ compiler of its liking")

    def loss(x, down, up, i, g):
        y = fex.flash_expert_func(torch.tanh(x), down, up, i, g.softmax(-1))
        return (y * y).sum()

    torch._dynamo.reset()
    compiled = torch.compile(
        loss, backend=backend, fullgraph=True, dynamic=dynamic)
    for tokens in (4, 7):
        results = []
        for function in (loss, compiled):
            tensors = tensors_of(make_arrays((tokens,)), device)
            value = function(*tensors)
            results.append([value, *torch.autograd.grad(
                value, [tensors[n] for n in FLOATS])])
        for one, other in zip(*results):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("routing_dtype", ["float32", "float16"])
def test_autocast(device, routing_dtype):
    tensors = tensors_of(make_arrays(), device, "float32", routing_dtype)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = fex.flash_expert_func(*tensors)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    halves = [tensor.detach() if n == 3 else tensor.detach().bfloat16()
              for n, tensor in enumerate(tensors)]
    if routing_dtype == "float32":
        halves[4] = tensors[4].detach()
    for position in FLOATS:
        halves[position].requires_grad_()
        assert tensors[position].grad.dtype == tensors[position].dtype
    again = fex.flash_expert_func(*halves)
    again.sum().backward()
    assert torch.equal(y, again)
    assert torch.equal(tensors[1].grad, halves[1].grad.float())


def test_autocast_compiled(device):
    def loss(*tensors):
        return fex.flash_expert_func(*tensors).float().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    grads = []
    for function in (loss, compiled):
        tensors = tensors_of(make_arrays(), device)
        with torch.autocast(device, dtype=torch.bfloat16):
            value = function(*tensors)
        value.backward()
        grads.append([tensors[n].grad for n in FLOATS])
    for one, other in zip(*grads):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(device, reentrant):
    results = []
    for wrap in (lambda f, *a: f(*a),
                 lambda f, *a: checkpoint(f, *a, use_reentrant=reentrant)):
        tensors = tensors_of(make_arrays(), device)
        y = wrap(fex.flash_expert_func, *tensors)
        y.sum().backward()
        results.append([y] + [tensors[n].grad for n in FLOATS])
    for one, other in zip(*results):
        assert torch.equal(one, other)


def test_second_derivatives_are_refused(device):
    tensors = tensors_of(make_arrays(), device)
    y = fex.flash_expert_func(*tensors).sum()
    grad, = torch.autograd.grad(y, tensors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="again"):
        grad.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_named(device, name):
    position = NAMES.index(name)
    for change in (lambda t: t.double(), lambda t: t.bool()):
        tensors = tensors_of(make_arrays(), device)
        tensors[position] = change(tensors[position].detach())
        with pytest.raises(fex.ArgumentError, match=name):
            fex.flash_expert_func(*tensors)
    tensors = tensors_of(make_arrays(), device)
    tensors[position] = tensors[position].detach().to("meta")
    with pytest.raises(fex.ArgumentError, match="is on .*meta|on meta"):
        operators._shape(*tensors)


def test_meta_tensors(device):
    tensors = [tensor.to("meta") for tensor in tensors_of(
        make_arrays((2, 3)), device)]
    y = fex.flash_expert_func(*tensors)
    assert y.shape == tensors[0].shape and y.is_meta


def test_indices_past_the_table(device):
    indices = torch.tensor([[0, 4], [5, 1]], device=device)
    fex.check_indices(indices, 6)
    with pytest.raises(fex.FlashExpertError, match=r"indices\[1, 0\]"):
        fex.check_indices(indices, 5)


def test_no_experts_a_token(device):
    tensors = tensors_of(make_arrays((2, 3), top_k=0), device)
    with pytest.raises(fex.ArgumentError, match="top_k is 0"):
        fex.flash_expert_func(*tensors)


def test_module(device):
    layer = fex.FlashExperts(11, 24, device=device)
    assert {name: tuple(table.shape) for name, table
            in layer.state_dict().items()} == {
        "down_embed.weight": (11, 24), "up_embed.weight": (11, 24)}
    x, down, up, i, g = tensors_of(make_arrays(), device)
    layer.load_state_dict({"down_embed.weight": down.detach(),
                           "up_embed.weight": up.detach()})
    y = layer(x, i, g)
    assert torch.equal(y, fex.triton_flash_expert_func(x, down, up, i, g))
    y.sum().backward()
    fex.flash_expert_func(x, down, up, i, g).sum().backward()
    assert torch.equal(layer.down_embed.weight.grad, down.grad)
    assert torch.equal(layer.up_embed.weight.grad, up.grad)


def test_training_follows_plain_torch(device):
    x, down, up, i, g = tensors_of(make_arrays((16,)), device)
    i = i.clamp(min=0)
    curves = []
    for function in (fex.flash_expert_func, plain):
        tables = [table.detach().clone().requires_grad_()
                  for table in (down, up)]
        optimizer = torch.optim.SGD(tables, lr=0.1)
        losses = []
        for _ in range(10):
            y = function(x.detach(), *tables, i, g.detach())
            loss = (y - x.detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.9 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
