"""Convolutions under glibc's malloc checks: a write outside of an array ends the process with a signal.

torch's weight gradient of a 1 x 1 convolution with a stride, few input channels and `channels_last` does so on processors
without AVX-512 (uxlfoundation/oneDNN issue 6035). `make test` runs this file with the instruction sets of such a processor.
"""

import os
import subprocess
import sys
import textwrap

import pytest

HEADER = """
import torch
from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, build_operation
from growdarts.forms import plain_forms


def train(module, channels):
    x = torch.randn(12, channels, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    for _ in range(30):
        torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])

"""
CHECKS = {
    "operations of stride 2": """
        for channels in (2, 4, 6):
            for name in CONVOLUTIONAL:
                if name != "none":
                    train(build_operation(name, channels, 2, search=True), channels)
    """,
    "a searched network": """
        from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
        with plain_forms():
            for channels in (2, 4):
                train(SearchImageNetwork(channels, 3, 3, 2, list(CONVOLUTIONAL)[:8], image_size=8), 3)
    """,
}


@pytest.mark.skipif(not os.path.exists("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0"),
                    reason="the checks are part of glibc on x86-64")
@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_written_outside_of_an_array(name):
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", HEADER + textwrap.dedent(CHECKS[name])], env={**os.environ, **checked},
                         capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
