# SPDX-License-Identifier: Apache-2.0
"""What only a GPU shows: graphs, streams, devices, compiles."""

import copy
import threading

import pytest
from reference import make_arrays

torch = pytest.importorskip("torch")

import flashexpert_rtc as fex  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA")

SHAPE = dict(leading=(33,), hidden_size=256, top_k=16, num_experts=512)


def tensors_of(device="cuda", seed=0, **shape):
    found = []
    for array in make_arrays(seed=seed, **{**SHAPE, **shape}):
        tensor = torch.from_numpy(array).to(device)
        found.append(tensor.bfloat16() if tensor.is_floating_point()
                     else tensor)
    return found


def require_grad(tensors):
    return [tensor.detach().clone().requires_grad_()
            if tensor.is_floating_point() else tensor for tensor in tensors]


def step(tensors):
    """Output and all gradients, on the current stream."""
    leaves = require_grad(tensors)
    y = fex.flash_expert_func(*leaves)
    floats = [leaf for leaf in leaves if leaf.requires_grad]
    return (y.detach(), *torch.autograd.grad(y, floats, torch.ones_like(y)))


def assert_same(found, wanted):
    for one, other in zip(found, wanted):
        assert torch.equal(one, other)


def test_forward_in_a_cuda_graph():
    static, other = tensors_of(), tensors_of(seed=1)
    with torch.no_grad():
        wanted = fex.flash_expert_func(*other)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            fex.flash_expert_func(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = fex.flash_expert_func(*static)
    for target, source in zip(static, other):
        target.copy_(source)
    y.zero_()
    graph.replay()
    assert torch.equal(y, wanted)


def test_make_graphed_callables():
    x, down, up, i, g = tensors_of()

    class Layer(fex.FlashExperts):
        def forward(self, x, g):
            return super().forward(x, i, g)

    # Two modules, since what a backward pass on one stream leaves of a
    # parameter must not be captured on another.
    layer = Layer(512, 256, device="cuda", dtype=torch.bfloat16)
    eager = copy.deepcopy(layer)
    eager_x, graph_x = (x.clone().requires_grad_() for _ in range(2))
    eager_g, graph_g = (g.clone().requires_grad_() for _ in range(2))
    wanted = eager(eager_x, eager_g)
    wanted.sum().backward()
    grads = [table.grad for table in eager.parameters()]
    graphed = torch.cuda.make_graphed_callables(
        layer, (graph_x.detach().clone().requires_grad_(),
                graph_g.detach().clone().requires_grad_()))
    found = graphed(graph_x, graph_g)
    found.sum().backward()
    assert torch.equal(found, wanted)
    assert torch.equal(graph_x.grad, eager_x.grad)
    assert torch.equal(graph_g.grad, eager_g.grad)
    assert_same([table.grad for table in layer.parameters()], grads)


def test_capture_of_what_is_not_loaded_is_refused():
    tensors = tensors_of(hidden_size=248, top_k=3)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(fex.FlashExpertError) as caught:
        with torch.no_grad(), torch.cuda.graph(graph):
            fex.flash_expert_func(*tensors)
    assert caught.value.status is fex.Status.ERROR_NOT_PREPARED
    fex.prepare(248, 3, 512, 33)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.graph(graph):
            y = fex.flash_expert_func(*tensors)
        graph.replay()
        assert torch.equal(y, fex.flash_expert_func(*tensors))


def test_streams():
    """Work queued on a stream waits for what was queued there before."""
    inputs = [tensors_of(seed=seed, leading=(512,)) for seed in range(4)]
    wanted = [step(tensors) for tensors in inputs]
    found = [None] * len(inputs)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    for n, stream in enumerate(streams):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late = [torch.zeros_like(tensor) for tensor in inputs[n]]
            for target, source in zip(late, inputs[n]):
                target.copy_(source)
            found[n] = step(late)
    torch.cuda.synchronize()
    for one, other in zip(found, wanted):
        assert_same(one, other)


def test_threads():
    tensors = tensors_of()
    wanted = step(tensors)
    torch.cuda.synchronize()
    wrong = []

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                found = step(tensors)
            torch.cuda.current_stream().synchronize()
            if not all(map(torch.equal, found, wanted)):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current():
    wanted = step(tensors_of("cuda:0"))
    with torch.cuda.device(0):
        found = step(tensors_of("cuda:1"))
    assert all(tensor.device.index == 1 for tensor in found)
    assert_same([tensor.to("cuda:0") for tensor in found], wanted)
    mixed = tensors_of("cuda:0")
    mixed[1] = mixed[1].to("cuda:1")
    with pytest.raises(fex.ArgumentError, match="down_weights is on cuda:1"):
        fex.flash_expert_func(*mixed)


def test_nothing_is_compiled_once_prepared():
    fex.prepare(256, 16, 512, 33)
    with fex.JitMonitor() as monitor:
        step(tensors_of())
    assert not monitor.kernels
    found = fex.info()
    assert found["device"] == 0 and found["architecture"].startswith("sm_")


def test_nothing_but_results_stays_allocated():
    tensors = tensors_of()
    with torch.no_grad():
        fex.flash_expert_func(*tensors)
        before = torch.cuda.memory_allocated()
        y = fex.flash_expert_func(*tensors)
        assert torch.cuda.memory_allocated() - before <= 512 + y.nbytes


def test_compiled_with_cuda_graphs():
    tensors = tensors_of()
    with torch.no_grad():
        wanted = fex.flash_expert_func(*tensors)
        compiled = torch.compile(
            fex.flash_expert_func, mode="reduce-overhead", fullgraph=True)
        for _ in range(4):
            found = compiled(*tensors).clone()
        assert torch.equal(found, wanted)


def test_host_time_of_a_call():
    """An eager call's time on the host, without work for the GPU to wait
    for; the limit is loose, for machines differ."""
    import time
    tensors = tensors_of(leading=(1,))
    with torch.no_grad():
        for _ in range(20):
            fex.flash_expert_func(*tensors)
        best = float("inf")
        for _ in range(20):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(20):
                fex.flash_expert_func(*tensors)
            best = min(best, (time.perf_counter() - start) / 20)
    print(f"{best * 1e6:.1f} us")
    assert best < 200e-6
