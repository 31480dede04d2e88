"""Growing architecture search [JG Alg. 2]: train, prune, tune, evaluate, grow, stop.

Nothing here knows which search space is grown or what it is trained for: a network is a
`growdarts.space.SearchSpace`, a task has batches, a loss and an evaluation.
"""

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from growdarts.devices.captured import Graphs
from growdarts.bilevel import VirtualStep, alpha_gradient
from growdarts.space import SearchSpace
from growdarts.checkpoints import Checkpoint, fingerprint
from growdarts.settings import SearchSettings
from growdarts.criteria import Operation, gained_since, growing_helps, operation_to_duplicate, stage_is_over
from growdarts.history import Progress, SearchResult, mixture_weights
from growdarts.growth import grow_node, grow_operation, growable_operations, steepest_descent
from growdarts.pruning import held_operations, prune, renew_statistics, resample
from growdarts.training import DivergenceError, MeanLoss, Task, learning_rate, theta_epoch, theta_optimizer, theta_step

# Forward-sized passes of one pair of alpha and weight step: a backward pass costs two forward ones.
PASSES = {1: 3 + 3, 2: 3 + 3 + 3 + 2 * 3}


class Search:
    """One search over one network. Operations are to be grown, but none owns weights: a ValueError.

    Parameters
    ----------
    morphism : new nodes preserve the function; False: they have fresh random weights, which is the control.
    checkpoint : stored after every epoch; a search that finds one goes on from there, bit for bit.
    progress : show a bar also where stderr is no terminal.
    """

    def __init__(self, network: SearchSpace, task: Task, settings: SearchSettings, *,
                 morphism: bool = True, checkpoint: Checkpoint = Checkpoint(None, ""),
                 progress: bool = False) -> None:
        self.network, self.task, self.settings = network, task, settings
        self.morphism, self.checkpoint, self.show = morphism, checkpoint, progress
        self.graphs = Graphs()
        self.state, self.data = Progress(), fingerprint(task) if checkpoint.path else ""
        if settings.grow_operations != "off" and not growable_operations(network):
            raise ValueError(f"grow_operations = {settings.grow_operations!r}: allowed is 'off' with the operations "
                             f"{list(network.operations)}, none of which owns weights")
        self._new_optimizers()

    def run(self) -> SearchResult:
        """Algorithm 2 [JG Alg. 2]; its line numbers are given beside the steps."""
        self._resume()
        settings, state = self.settings, self.state
        while True:
            self._train_backbone()  # line 4
            if settings.prune == "stage" and self._prune():  # 6
                self._tune()  # 7
            with self._note_change("stage") as event:
                state.stage_errors.append(self._stage_error())  # 9
                gained = growing_helps(state.stage_errors, settings.min_gain)  # 10
                event["what"] = ["gain" if gained else "no gain"]
            helped = self._helped(gained)
            if not (helped or state.best):  # the only stage has no finite error, such as one that a pruning ruined
                raise DivergenceError(state.epoch, state.stage_errors[-1], self.checkpoint)
            if not helped:
                break  # 15
            state.best = self._snapshot()  # 11, 13
            if self.network.n_nodes() >= settings.max_nodes or state.epoch >= settings.search_epochs:
                break
            self._grow()  # 12
        self._restore(state.best)
        if settings.prune == "end" and self._prune() and settings.resample:  # 19
            self._tune()  # the operations that were added
        return SearchResult(self.network.genotype(), self.validation_error(), state.epoch, state.seconds,
                            state.flops, state.stage_errors, state.history, state.events)

    def _train_backbone(self) -> None:
        """Alternate alpha and theta steps until the stage brings no more gain; leaves its best weights."""
        settings, state = self.settings, self.state
        with tqdm(total=settings.search_epochs, initial=state.epoch, desc="search", leave=False,
                  disable=None if not self.show else False) as bar:
            while state.epoch < settings.search_epochs and self._duplicate_or_stop():
                started = time.perf_counter()
                self.theta_optimizer.param_groups[0]["lr"] = learning_rate(settings, state.epoch, settings.search_epochs)
                loss, error = self._search_epoch(), self.validation_error()
                if not math.isfinite(loss + error):
                    raise DivergenceError(state.epoch + 1, error if math.isfinite(loss) else loss, self.checkpoint)
                if error < min(state.epoch_errors, default=math.inf):
                    state.stage_best = self._snapshot()
                state.epoch += 1
                state.epoch_errors.append(error)
                state.flops += PASSES[settings.order] * self.task.flops(self.network)
                state.seconds += time.perf_counter() - started
                state.history.append({
                    "epoch": state.epoch, "stage": len(state.stage_errors) + 1, "train_loss": loss, "validation_error": error,
                    "nodes": self.network.n_nodes(), "weights": mixture_weights(self.network),
                    "flops_spent": state.flops, "seconds_spent": state.seconds})
                self.checkpoint.save("search", self.data, {"progress": vars(state), "now": self._now()})
                bar.update()
                bar.set_postfix(validation=f"{error:.4f}", nodes=self.network.n_nodes())
        self._restore(state.stage_best)
        state.epoch_errors, state.split_at, state.stage_best = [], 0, {}

    def _stage_error(self) -> float:
        """The error that a stage is judged by."""
        return self.task.evaluate(self.network, self.settings.select_on)

    def _helped(self, gained: bool) -> bool:
        """Whether the cell may grow on after a stage that gained, or did not."""
        return gained

    def _stage_is_over(self) -> bool:
        """First level of early stopping."""
        return stage_is_over(self.state.epoch_errors, self.settings.patience, self.settings.min_gain, self.state.split_at)

    def _duplicate_or_stop(self) -> bool:
        """Called before every epoch: duplicates an operation if the settings ask for it [JG Alg. 4]; whether the stage goes on.

        This happens after the checkpoint of the epoch before, so a resumed search repeats it.
        """
        state, grow, over = self.state, self.settings.grow_operations, self._stage_is_over()
        if grow == "morphism" and state.epoch_errors and not over:
            self._duplicate_chosen()
        elif grow not in ("off", "morphism") and over and gained_since(state.epoch_errors, self.settings.min_gain, state.split_at):
            self._restore(state.stage_best)  # as before a node is grown
            state.split_at = len(state.epoch_errors)
            return self._duplicate_chosen()
        return not over

    def _duplicate_chosen(self) -> bool:
        """Duplicate what `grow_operations` chooses [JG Alg. 4]; whether there was anything to choose."""
        settings, started, chosen = self.settings, time.perf_counter(), self._chosen_operations()
        self.state.seconds += time.perf_counter() - started
        for (position, key), direction in chosen.items():
            if (position, key) in growable_operations(self.network, max_copies=settings.max_copies):  # else now full
                with self._note_change("grow_operation") as event:
                    twin = grow_operation(self.network, self.theta_optimizer, self.alpha_optimizer, mixture=position, key=key,
                                          step=settings.noise * settings.epsilon**0.5, direction=direction)
                    event["what"] = [f"{self.network.mixture_names()[position]}: {key} -> {twin}"]
        return bool(chosen)

    def _chosen_operations(self) -> dict[Operation, Mapping[str, Tensor] | None]:
        """The operations to duplicate, each with the direction of its split; None: a random direction."""
        settings = self.settings
        if settings.grow_operations == "morphism":
            weights = growable_operations(self.network, max_copies=settings.max_copies)
            one = operation_to_duplicate(weights, settings.duplicate_above)
            return {} if one is None else {one: None}
        splits, passes = steepest_descent(self.network, self.task, settings)
        self.state.flops += passes * self.task.flops(self.network)
        return {split.operation: split.direction for split in splits}

    def _search_epoch(self) -> float:
        """One pass over the training data: an alpha step on validation data before every theta step."""
        settings, losses = self.settings, MeanLoss()
        alphas, thetas = self.network.alpha_parameters(), self.network.theta_parameters()
        clip = settings.grad_clip if settings.virtual_clip else None
        with self.graphs.of(self.network):
            for train_batch, validation_batch in self.task.search_batches():
                gradient = alpha_gradient(self.network, self.task.loss, train_batch, validation_batch,
                                          order=settings.order, step=VirtualStep(self.theta_optimizer, thetas, clip),
                                          radius=settings.radius)
                for alpha, g in zip(alphas, gradient, strict=True):
                    alpha.grad = g
                self.alpha_optimizer.step()
                losses.add(theta_step(self.network, self.task, self.theta_optimizer, train_batch, settings.grad_clip),
                           len(train_batch[1]))
        return losses.value()

    def _grow(self) -> None:
        settings = self.settings
        with self._note_change("grow_node") as event:
            grow_node(self.network, self.theta_optimizer, self.alpha_optimizer, morphism=self.morphism,
                      epsilon=settings.epsilon, noise=settings.noise)
            event["what"] = [f"node {self.network.n_nodes()}"]

    def _prune(self) -> bool:
        """Drop weak operations, with `resample` let others in; whether any was dropped."""
        settings, before = self.settings, held_operations(self.network)
        optimizers = (self.theta_optimizer, self.alpha_optimizer)
        with self._note_change("prune") as event:
            event["what"] = prune(self.network, *optimizers, prune_below=settings.prune_below,
                                  keep_all_above=settings.keep_all_above)
            if event["what"] and renew_statistics(self.network, self.task):
                self.state.flops += self.task.flops(self.network)
        if event["what"] and settings.resample:
            with self._note_change("resample") as refilled:
                refilled["what"] = resample(self.network, *optimizers, before=before, weight=settings.epsilon)
        return bool(event["what"])

    def _tune(self) -> None:
        """Theta-only epochs after a pruning that dropped something; kept if they lower the validation error."""
        with self._note_change("tune") as event:
            started, best = time.perf_counter(), (self.validation_error(), self._snapshot())
            for _ in range(self.settings.tune_epochs):
                with self.graphs.of(self.network):
                    loss = theta_epoch(self.network, self.task, self.theta_optimizer, self.settings.grad_clip)
                if not math.isfinite(loss):
                    raise DivergenceError(self.state.epoch, loss, self.checkpoint)
                best = min(best, (self.validation_error(), self._snapshot()),
                           key=lambda pair: (math.isnan(pair[0]), pair[0]))  # no number is the worst
                self.state.flops += 3 * self.task.flops(self.network)
            self._restore(best[1])
            self.state.seconds += time.perf_counter() - started
            event["what"] = [f"{self.settings.tune_epochs} epochs"]

    @contextmanager
    def _note_change(self, kind: str) -> Iterator[dict[str, Any]]:
        """Notes one change of the architecture, made within the context, which fills `what`; after an error nothing."""
        state = self.state
        entry = {"kind": kind, "epoch": state.epoch, "what": [], "validation_before": self.validation_error()}
        yield entry
        state.events.append(entry | {
            "validation_after": self.validation_error(), "nodes": self.network.n_nodes(),
            "weights": mixture_weights(self.network),
            "parameters": sum(p.numel() for p in self.network.theta_parameters()),
            "flops_spent": state.flops, "seconds_spent": state.seconds})

    def validation_error(self) -> float:
        return self.task.evaluate(self.network, "validation")

    def _new_optimizers(self) -> None:
        settings = self.settings
        self.theta_optimizer = theta_optimizer(self.network.theta_parameters(), settings)
        # DARTS' betas for alpha: a shorter memory of the gradient, which changes with theta.
        self.alpha_optimizer = torch.optim.Adam(
            self.network.alpha_parameters(), lr=settings.alpha_learning_rate, betas=(0.5, 0.999),
            weight_decay=settings.alpha_weight_decay)

    def _now(self) -> dict[str, Any]:
        """Structure, weights and optimiser states, not copied."""
        return {"structure": self.network.structure(), "network": self.network.state_dict(),
                "theta_optimizer": self.theta_optimizer.state_dict(),
                "alpha_optimizer": self.alpha_optimizer.state_dict()}

    def _snapshot(self) -> dict[str, Any]:
        """A copy of `_now`, to come back to."""
        return copy.deepcopy(self._now())

    def _restore(self, snapshot: dict[str, Any]) -> None:
        """Back to a snapshot, whatever has been grown or pruned since."""
        if snapshot["structure"] != self.network.structure():
            with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten: they must not cost draws
                self.network.restructure(snapshot["structure"])
        device = self.network.theta_parameters()[0].device
        # in the snapshot's own memory format: another one would round differently
        self.network.load_state_dict(copy.deepcopy(snapshot["network"]), assign=True)
        self.network.to(device)  # tensors of a checkpoint are on the CPU
        self._new_optimizers()
        self.theta_optimizer.load_state_dict(copy.deepcopy(snapshot["theta_optimizer"]))
        self.alpha_optimizer.load_state_dict(copy.deepcopy(snapshot["alpha_optimizer"]))

    def _resume(self) -> None:
        stored = self.checkpoint.load("search", self.data)
        if stored is not None:
            self.state = Progress(**stored["progress"])
            self._restore(stored["now"])
