"""What goes with the steps of a search: its batches, the steps it takes now and then, the training of what it found."""

import copy

from benchmarks.floors import derived_floor
from benchmarks.splitting import selection_seconds
from benchmarks.steps import lstm_step, optimizers, pipeline, reference_weight_step, subject, weight_step
from benchmarks.timing import apart, in_turn
from growdarts.growth import grow_node


def test_weight_step_of_the_derived_cell(benchmark, measured, effort, size):
    made = subject(size)
    network, reference = made.fixed()
    variants = {"mixed": weight_step(made.network, made), "derived": weight_step(network, made),
                "reference": reference_weight_step(reference, made), "floor": derived_floor(made, network).run}
    if size.space != "convolutional":
        variants["lstm"] = lstm_step(made)
    measured.add("growth", size, seconds=in_turn(benchmark, variants, "derived", effort))


def test_the_batches_of_a_step(benchmark, measured, effort, size):
    batches = pipeline(size).search_batches()
    next(batches)  # the first one shuffles or cuts the data
    benchmark.pedantic(next, args=(batches,), rounds=effort.least)
    measured.add("growth", size, batches=list(benchmark.stats.stats.data))


def test_growing_a_node(benchmark, measured, effort, size):
    made = subject(size)
    network = made.network
    start = network, *optimizers(network.theta_parameters(), network.alpha_parameters())
    benchmark.pedantic(lambda *parts: grow_node(*parts, morphism=True, epsilon=1e-3, noise=0.1),
                       setup=lambda: (copy.deepcopy(start), {}), rounds=effort.least)  # each round grows a fresh copy
    measured.add("growth", size, grow_node=list(benchmark.stats.stats.data))


def test_selecting_an_operation_to_split(benchmark, measured, effort, size):
    found = benchmark.pedantic(selection_seconds, args=(subject(size), effort.sampled), rounds=1)
    measured.add("growth", size, selection=found | {"peak_mib": apart(size, "splitting")["peak_mib"]})
