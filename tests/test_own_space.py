"""The search space of the tutorial page, as it stands there, through everything that a search does."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from growdarts import Checkpoint, Search, SearchSettings, drawing
from growdarts.spaces.genotype import SPACES, GenotypeError, genotype_from_dict
from growdarts.growth import grow_node
from growdarts.splitting import splitting_matrices

PAGE = Path(__file__).parents[1] / "notebooks" / "08_own_space.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(PAGE.read_text())["cells"]
         if "space" in cell["metadata"].get("tags", [])]


@pytest.fixture(scope="module")
def page():
    names = {"torch": torch}
    exec("\n\n".join(CELLS), names)
    yield SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})
    del SPACES["residual_mlp"]


def settings(page, **changes):
    return SearchSettings.usual(operations=list(page.ACTIVATIONS), **{"max_nodes": 3, "patience": 2, "search_epochs": 8,
                                                                      "prune_below": 0.3, "tune_epochs": 1, **changes})


def run(page, checkpoint=Checkpoint(None, ""), **changes):
    torch.manual_seed(0)
    network = page.ResidualMLP(10, 6, [page.ACTIVATIONS])
    return Search(network, page.diabetes_task(0), settings(page, **changes), checkpoint=checkpoint)


def kinds(result):
    return [event["kind"] for event in result.events]


def test_the_space_is_short():
    assert sum(len(cell.splitlines()) for cell in CELLS[:1]) <= 150


def test_growing_keeps_the_function_and_reaches_every_new_weight(page):
    torch.manual_seed(0)
    network, x = page.ResidualMLP(10, 6, [page.ACTIVATIONS]).double(), torch.randn(20, 10, dtype=torch.float64)
    before = network(x)
    theta, alpha = (torch.optim.Adam(p) for p in (network.theta_parameters(), network.alpha_parameters()))
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
    after = network(x)
    assert 0 < (after - before).norm() < 1e-3 * before.norm()
    gradients = torch.autograd.grad(after.square().sum(), [*network.layers[-1].parameters()])
    assert all(gradient.any() for gradient in gradients)


def test_a_search_grows_prunes_and_draws(page):
    result = run(page, min_gain=0.0, initial_nodes=1).run()
    assert "grow_node" in kinds(result) and len(result.genotype.layers[0]) > 1
    pruned = run(page, prune_below=0.3, keep_all_above=0.9).run()
    assert any(event["what"] for event in pruned.events if event["kind"] == "prune")
    svg = drawing.genotype(result.genotype.to_dict())
    assert svg.count("<svg") == 1 and all(name in svg for names in result.genotype.layers[0] for name in names)
    record = {"search": {"events": result.events, "history": result.history}, "result": {"genotype": result.genotype.to_dict()}}
    assert drawing.growth(record).count(">stage ") == kinds(result).count("stage")


def test_genotypes_are_json(page):
    genotype = page.ResidualGenotype(((("tanh",), ("sine",)),))
    assert page.ResidualGenotype.from_json(genotype.to_json()) == genotype == genotype_from_dict(genotype.to_dict())
    for wrong in ({"space": "residual_mlp"}, {"space": "residual_mlp", "layers": [[["gelu"]]]}):
        with pytest.raises(GenotypeError):
            genotype_from_dict(wrong)


@pytest.mark.parametrize("mode", ["morphism", "splitting"])
def test_operations_are_duplicated(page, mode):
    result = run(page, grow_operations=mode, duplicate_above=0.34, min_gain=1e-6, alpha_learning_rate=0.1, prune="none",
                 max_nodes=1, search_epochs=12).run()
    assert "grow_operation" in kinds(result)


def test_splitting_matrices_are_the_hessian_of_the_truly_split_loss(page):
    """Second derivative of the loss with two copies at theta +- delta, along random delta."""
    torch.manual_seed(0)
    network, task = page.ResidualMLP(10, 6, [["tanh", "sine"]]).double(), page.diabetes_task(0)
    batch = [part.double() for part in task.parts["test"]]
    for matrices in splitting_matrices(network, task.loss, batch):
        delta = torch.randn_like(matrices.pack(matrices.trace.weights))
        predicted = (delta * matrices.product()(delta)).sum()
        key = matrices.operation[1]
        split = page.ResidualMLP(10, 6, [["tanh", "sine"]]).double()
        split.load_state_dict(network.state_dict())
        grown = split.duplicate_operation(split.layers[0].mixture, key)
        parts = matrices.unpack(delta)

        def loss(step):
            with torch.no_grad():
                for name, (original, copy) in grown.weights.items():
                    if name in parts:
                        original.copy_(matrices.trace.weights[name] - step * parts[name])
                        copy.copy_(matrices.trace.weights[name] + step * parts[name])
                return task.loss(split, batch)

        step = 1e-3
        measured = 2 * (loss(step) - loss(0.0)) / step**2
        assert abs(measured - predicted) < 1e-3 * abs(predicted) + 1e-7


def test_a_search_goes_on_after_it_was_killed(page, tmp_path, monkeypatch):
    whole = run(page).run()
    epoch = Search._search_epoch

    def killed(self):
        if self.state.epoch == 5:
            raise KeyboardInterrupt
        return epoch(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Search, "_search_epoch", killed)
        run(page, Checkpoint(tmp_path / "state", "own")).run()
    resumed = run(page, Checkpoint(tmp_path / "state", "own")).run()
    assert resumed.genotype == whole.genotype and resumed.validation_error == whole.validation_error
    assert [row["validation_error"] for row in resumed.history] == [row["validation_error"] for row in whole.history]
