"""Large products by oneDNN: those of `torch.mm`, in full float32."""

import pytest
import torch

from growdarts_fast import products
from growdarts.spaces.precision import product
from growdarts_fast.products import LEAST, add_product, matmul

SHAPES = {"states": (192, 128, 256), "back": (192, 256, 128), "decoder": (64, 40, 1000), "weights": (128, 4096, 64)}


def operands(n, k, m, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, k, generator=generator, dtype=dtype), torch.randn(k, m, generator=generator, dtype=dtype)


@pytest.fixture
def calls(monkeypatch):
    """What goes to oneDNN, which large products do whatever the processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    seen = []

    class Listening:
        @staticmethod
        def default(*arguments):
            seen.append(arguments)
            return torch.ops.mkldnn._linear_pointwise.default(*arguments)

    monkeypatch.setattr(products, "_linear", Listening)
    return seen


@pytest.mark.parametrize("n, k, m", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("given", [False, True])
def test_a_large_product(calls, n, k, m, given):
    x, W = operands(n, k, m)
    exact, out = x.double() @ W.double(), torch.full((n, m), torch.nan) if given else None
    found = matmul(x, W, out=out)
    assert len(calls) == 1 and found.dtype == torch.float32 and (found is out or not given)
    # one product of numbers in bfloat16 or TF32 would be a thousand times as far
    assert (found - exact).norm() < 4 * (x @ W - exact).norm()


def test_transposed_and_cut_out(calls):
    x, W = operands(200, 140, 260)
    for a, b in ((x.t(), x), (x[:, 5:130], W[5:130]), (x, W[:, ::2]), (x.t().contiguous().t(), W.t().contiguous().t())):
        torch.testing.assert_close(matmul(a, b).double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
    assert len(calls) == 4
    # other layouts of the weight would be correct too, and hundreds of times slower
    assert all(weight.is_contiguous() or weight.t().is_contiguous() for _, weight, *_ in calls)


def test_long_sums_in_halves_lose_fewer_digits(calls):
    x, W = operands(128, 300, 128)  # of longer sums some versions of oneDNN make blocks themselves
    exact, out = x.double() @ W.double(), torch.empty(128, 128)
    whole, halves = ((found - exact).norm() for found in (matmul(x, W), matmul(x, W, out=out, halves=True)))
    assert halves < 0.8 * whole and len(calls) == 3
    assert torch.equal(matmul(x[:, :200], W[:200], halves=True), matmul(x[:, :200], W[:200]))  # not long


def test_what_is_left_to_torch_mm(calls):
    small = operands(LEAST // 2**12 - 1, 64, 64)
    for x, W in (small, operands(192, 128, 256, torch.float64), operands(192, 128, 256, torch.bfloat16)):
        out = torch.empty(len(x), W.shape[1], dtype=x.dtype)
        assert torch.equal(matmul(x, W), x @ W) and torch.equal(matmul(x, W, out=out), x @ W)
    assert not calls


def test_tensors_elsewhere_are_left_to_torch(calls):
    """On torch's `meta` device, as on a GPU, there is no oneDNN."""
    x, W = torch.empty(512, 256, device="meta"), torch.empty(256, 512, device="meta")
    assert products.matmul(x, W).device.type == product(x, W).device.type == "meta" and not calls


def test_the_compiler_chooses_for_itself(calls, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x, W = operands(192, 128, 256)
    assert torch.equal(product(x, W), x @ W) and torch.equal(matmul(x, W), x @ W) and not calls


@pytest.mark.parametrize("processor, mkl, mkldnn, found", [
    ("AMD EPYC", True, True, True), ("", True, True, True), ("Intel Xeon", True, True, False),
    ("AMD EPYC", False, True, False), ("AMD EPYC", True, False, False)])
def test_only_where_mkl_is_the_slower_one(monkeypatch, processor, mkl, mkldnn, found):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    assert (products._onednn_product(processor) is not None) == found


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(products, "_linear", None)
    x, W = operands(192, 128, 256)
    assert torch.equal(matmul(x, W), x @ W) and torch.equal(product(x, W), x @ W)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("onednn", [True, False])
def test_a_product_is_added(calls, monkeypatch, dtype, onednn):
    if not onednn:
        monkeypatch.setattr(products, "_linear", None)
    x, W = operands(192, 128, 256, dtype)
    start = torch.randn(192, 256, dtype=torch.promote_types(dtype, torch.float32))
    total = start.clone()
    add_product(total, x, W)
    assert len(calls) == (onednn and dtype == torch.float32)
    # a product in bfloat16 is rounded to it before it is added
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close((total - start).double(), x.double() @ W.double(), rtol=tolerance, atol=40 * tolerance)


def test_autograd_follows_a_product_as_often_as_one_likes(calls):
    x, W = operands(200, 140, 260)
    leaves = x.view(4, 50, 140).requires_grad_(), W.requires_grad_()

    def outcome(multiply, x, W):
        y = multiply(x, W)
        first = torch.autograd.grad(y.sin().sum(), (x, W), create_graph=True)
        return y, *first, *torch.autograd.grad(first[0].square().sum() + first[1].cos().sum(), (x, W))

    found = outcome(product, *leaves)
    assert len(calls) > 3
    exact = outcome(torch.matmul, *(leaf.detach().double().requires_grad_() for leaf in leaves))
    plain = outcome(torch.matmul, *leaves)
    for a, b, c in zip(found, exact, plain, strict=True):
        assert a.shape == b.shape and (a - b).norm() < 4 * (c - b).norm()


def test_only_the_gradient_that_is_asked_for(calls):
    x, W = operands(200, 140, 260)
    torch.autograd.grad(product(x.requires_grad_(), W).sum(), x)
    assert len(calls) == 2
    small = operands(3, 4, 5)
    assert torch.equal(product(*small), small[0] @ small[1])
