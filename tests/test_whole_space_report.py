"""What is read from the table of a whole space, against counting by hand."""

from itertools import product

import numpy as np
import pytest

from growdarts_study.report import whole_space
from growdarts_study.report.whole_space import best_of, compare, holds_product, nodes_of, over_tasks, products_in_best, read

SEEDS = [0, 1, 2, 3, 4]
ONE = {"a": 0.5, "hadamard": 0.4, "mul_b": None}


def record(cells, dataset="bilinear", floor=(0.1,) * 5, lstm=0.5):
    noise = [1.0, 1.01, 0.99, 1.02, 0.98]
    errors = [[None if value is None else value * factor for factor in noise] for value in cells.values()]
    rivals = {"mean": 1.0, "ridge": 0.6, "last": 0.7, "lstm": lstm, "gru": 0.45}
    size = {"nodes": max(map(nodes_of, cells)), "operations": sorted({name for cell in cells for name in cell.split("+")})}
    return {"config": {"dataset": dataset, "seeds": SEEDS, **size}, "cells": list(cells), "validation": errors, "test": errors,
            "floor": floor and list(floor),
            "rivals": {name: {"validation": [value] * 5, "test": [value] * 5} for name, value in rivals.items()}}


def test_records_of_both_sizes_are_joined():
    (task,) = read([record(ONE), record({"a+hadamard": 0.3, "a+a": 0.45})])
    assert task.cells(1) == list(ONE) and task.cells(2) == ["a+hadamard", "a+a"]
    assert (task.chosen(), task.chosen(1)) == ("a+hadamard", "hadamard")
    assert list(task.errors("mul_b")) == [1.0] * 5  # diverged: the mean's
    assert task.share("hadamard") == pytest.approx((1 - 0.4) / (1 - 0.1))
    assert task.best_name == "known" and not task.one_draw()


def test_three_nodes_are_compared_with_fewer_of_the_same_operations():
    three = {"a+a+a": 0.2, "a+c+a": 0.25}
    made = [record(ONE | {"a": 0.4, "c": 0.5}), record({"a+c": 0.3, "a+hadamard": 0.1}), record(three), record(ONE, "setar")]
    (task, _) = read(made)
    assert task.cells(3) == []  # in no other table
    found = whole_space.third_node(made)
    assert (found.index.tolist(), found["cell"].item(), found["rival"].item()) == (["bilinear"], "a+a+a", "a+c")  # not the one with hadamard
    assert found["mean"].item() == pytest.approx(100 * np.log(0.2 / 0.3)) and whole_space.third_node(made[:2]).empty


def test_without_a_floor_the_best_closed_form_takes_its_place():
    (task,) = read([record(ONE, "log_range", None)])
    assert task.best_name == "ridge" and task.share("a") == pytest.approx((1 - 0.5) / (1 - 0.6)) and task.one_draw()
    (nothing,) = read([record(ONE, "g7_brics", None)])
    assert np.isnan(nothing.share("a"))


def test_effects_are_log_ratios_and_three_outcomes_are_told_apart():
    tasks = [read([record({"a": 0.5 * ratio}, name)])[0] for name, ratio in
             (("bilinear", 0.8), ("setar", 1.0), ("narma10", 1.25))]
    found = compare(tasks, lambda task: ("a", "lstm"))
    assert found["mean"].tolist() == pytest.approx([100 * np.log(0.8), 0, 100 * np.log(1.25)], abs=0.05)
    assert found["outcome"].tolist() == ["better", "equal within 2 %", "worse"]
    over, outcome = over_tasks(found)
    assert over.n == 3 and outcome == "undecided"


def test_holm_counts_the_tasks():
    one = compare([read([record({"a": 0.5}, "setar")])[0]], lambda task: ("a", "gru"))
    three = compare([read([record({"a": 0.5}, name)])[0] for name in ("setar", "narma10", "bilinear")],
                    lambda task: ("a", "gru"))
    assert three["p"].iloc[0] == pytest.approx(3 * one["p"].iloc[0])


def test_best_of_k_by_counting_all_draws():
    (task,) = read([record({"a": 0.5, "b": 0.3, "c": 0.9, "d": 0.4})])
    for k in (1, 2, 3):
        counted = np.mean([[np.log(task.test[seed].iloc[min(draw, key=lambda i: task.validation[seed].iloc[i])])
                            for draw in product(range(4), repeat=k)] for seed in SEEDS])
        assert best_of(task, k) == pytest.approx(np.exp(counted))


def test_shares_of_products():
    cells = {f"a+{'hadamard' if i < 3 else 'b'}{i}": 0.1 * (i + 1) for i in range(9)} | {"mul_x": 0.01}
    (task,) = read([record(cells)])
    assert products_in_best(task, 0.2) == (1.0, 0.4)
    assert [holds_product(cell) for cell in ("a+mul_tanh", "hadamard", "a+b")] == [True, True, False]
    assert [nodes_of(cell) for cell in ("a", "a+b")] == [1, 2]


def test_the_picture_has_a_row_a_series():
    tasks = read([record(ONE), record(ONE, "log_range", None)])
    (ax,) = whole_space.picture(tasks).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bilinear", "log_range"]
