"""Break the core in one line at a time and see that the tests notice: ``python tests/mutants.py [--jobs N] [NUMBER …]``.

Each mutant is a copy of the package and of studies/ with one piece of one line replaced. It is killed if the tests
named beside it fail.
The exit status is 1 if one survives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    what: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("the least influential units are flipped", "masks.py", ".mul_(-2).add_(1)", ".mul_(2).sub_(1)", "test_masks.py"),
    Mutant("units without gain are flipped", "masks.py", " ^ (ranked[:, :k] > 0)", " ^ (ranked[:, :k] > -1)", "test_masks.py"),
    Mutant("ties are left to topk", "masks.py", "and not ambiguous.any()", "", "test_masks.py"),
    Mutant("the unit at the threshold is always flipped", "masks.py", "above = gain > threshold", "above = gain >= threshold", "test_masks.py"),
    Mutant("one tie too few", "masks.py", "<= room)", "< room)", "test_masks.py"),
    Mutant("ties are counted over the batch", "masks.py", "tied.cumsum(dim=1)", "tied.cumsum(dim=0)", "test_masks.py"),
    Mutant("rounding noise costs a flip", "masks.py", "_FLOAT_NOISE = 1e-12", "_FLOAT_NOISE = 0.0", "test_masks.py"),
    Mutant("p is the probability of keeping", "masks.py", "bernoulli_(1 - p,", "bernoulli_(p,", "test_masks.py"),
    Mutant("p is the probability of keeping, drawn quickly", "masks.py", "device=where) < 1 - p", "device=where) < p", "test_masks.py"),
    Mutant("KL without the target's entropy", "divergences.py", "(log_t - _log_softmax", "(0 - _log_softmax", "test_divergences.py"),
    Mutant("quadratic error summed over classes", "divergences.py", "(t - q).square().mean(dim=-1)", "(t - q).square().sum(dim=-1)", "test_divergences.py"),
    Mutant("KL's target is detached", "divergences.py", 'log_t = _log_softmax("target", target)', 'log_t = _log_softmax("target", target).detach()', "test_divergences.py"),
    Mutant("softmax over the batch", "divergences.py", "F.log_softmax(logits, dim=-1)", "F.log_softmax(logits, dim=0)", "test_divergences.py"),
    Mutant("divided by p", "layers.py", "factors.div_(1 - self.p)", "factors.div_(self.p)", "test_layers.py"),
    Mutant("sum-rescaling by the batch's mean", "layers.py", "scale = units / kept.clamp(min=1)", "scale = units / kept.clamp(min=1).double().mean()", "test_layers.py"),
    Mutant("the mask is drawn in evaluation", "layers.py", "elif self.training:", "elif True:", "test_layers.py"),
    Mutant("J is taken with the rescaling", "layers.py", "(h * mask).to(h.dtype)", "(h * mask / (1 - self.p)).to(h.dtype)", "regularizers"),
    Mutant("the last mask is not reused", "regularizers/search.py", "layer._last_mask if self._from_last_masks else None", "None", "regularizers"),
    Mutant("a regulariser's pass replaces the last mask", "regularizers/base.py", "with preserving_last_masks(model):", "if True:", "regularizers"),
    Mutant("unlabelled rows count in the mean", "regularizers/base.py", "labelled = y != UNLABELLED", "labelled = y != -2", "regularizers"),
    Mutant("the search changes buffers", "regularizers/search.py", ", buffers=Tensor.clone", "", "regularizers"),
    Mutant("the search builds a graph for parameters", "regularizers/search.py", "parameters=Tensor.detach, ", "", "regularizers"),
    Mutant("the search leaves the generators moved", "regularizers/search.py", "            self._preserving_noise(),\n", "", "regularizers"),
    Mutant("the search differentiates D(prediction, target)", "regularizers/search.py", "divergence(target, prediction)", "divergence(prediction, target)", "regularizers"),
    Mutant("repeated rows are flipped", "regularizers/layer_masks.py", "mask = base.where(", "mask = mask.where(", "regularizers"),
    Mutant("the adversarial pass runs under the base mask", "regularizers/search.py", "if mask is None else mask", "if True else mask", "regularizers"),
    Mutant("detach_target is inverted", "regularizers/virtual_adversarial_dropout.py", "if self.detach_target else", "if not self.detach_target else", "regularizers"),
    Mutant("shared noise is not replayed", "regularizers/virtual_adversarial_dropout.py", "repeat_noise=shared", "repeat_noise=False", "regularizers"),
    Mutant("outputs below the layer are not recorded", "regularizers/search.py", "stack.enter_context(self._replay.recording(h))", "pass", "regularizers/test_replay.py"),
    Mutant("a search differentiates below the layer", "regularizers/recorded_call.py", "tensor.detach() if detached else tensor", "tensor", "regularizers/test_replay_effects.py"),
    Mutant("a recorded output is changed by a pass", "regularizers/recorded_call.py", "output.clone() if self.copied else output", "output", "regularizers/test_replay.py"),
    Mutant("a changed output is used again", "regularizers/replay.py", "if not call.unchanged()]", "if False]", "regularizers/test_replay_unseen.py"),
    Mutant("a hook on an output sees the gradient of both passes", "regularizers/replay.py", "if call.has_hooks()]", "if False]", "regularizers/test_replay.py"),
    Mutant("noise below the layer is not skipped", "regularizers/recorded_call.py", "None if all(map(torch.equal, before, after)) else after", "None", "regularizers/test_replay.py"),
    Mutant("a view is recorded as a tensor of its own", "regularizers/recorded_call.py", " or memory(made) & memory(inputs)", "", "regularizers/test_replay.py"),
    Mutant("a module that changes its argument is skipped", "regularizers/recorded_call.py", "len(still_given) == len(given)", "True", "regularizers/test_replay.py"),
    Mutant("the pass that records counts in buffers above the layer", "regularizers/replay.py", "self._buffers.restore(but={", "set({", "regularizers/test_replay.py"),
    Mutant("the pass that records leaves the generators moved", "regularizers/replay.py", "            finally:\n                self._noise.restore(self._start)", "            finally:\n                pass", "regularizers/test_replay.py"),
    Mutant("a recording that is not used counts in buffers", "regularizers/replay.py", "        if self._buffers is not None:\n            self._buffers.restore()", "        if self._buffers is not None:\n            pass", "regularizers/test_replay_limits.py"),
    Mutant("recorded calls may be left out", "regularizers/replay.py", "and self._next < len(self._calls):", "and False:", "regularizers/test_replay_limits.py"),
    Mutant("a recording is used with other noise", "regularizers/replay.py", " or not all(map(torch.equal, self._noise.states(), self._start))", "", "regularizers/test_replay_effects.py"),
    Mutant("hooks are skipped", "regularizers/replayable.py", "    if _has_any_global_hook() or any(", "    if False and any(", "regularizers/test_replay_limits.py"),
    Mutant("the masks of with_output are not kept", "regularizers/virtual_adversarial_dropout.py", "        search.keep_base_masks()\n", "", "regularizers/test_replay_effects.py"),
    Mutant("VAT's passes see different noise", "regularizers/virtual_adversarial_training.py", "with preserving_noise(model, x), ", "with ", "regularizers"),
    Mutant("VAT moves against the gradient of x itself", "regularizers/virtual_adversarial_training.py", "xi * direction, lambda", "xi * direction * 0 + xi, lambda", "regularizers"),
    Mutant("AT's step is not a sign", "regularizers/adversarial_training.py", "gradient.sign()", "gradient", "regularizers"),
    Mutant("AT goes downhill", "regularizers/adversarial_training.py", "self.eps * gradient", "-self.eps * gradient", "regularizers"),
    Mutant("a gradient in x leaves the generators moved", "regularizers/perturbation.py", "                preserving_noise(self._model, x),\n", "", "regularizers"),
    Mutant("perturbed passes change buffers", "regularizers/perturbation.py", "with replacing(self._model, buffers=Tensor.clone):", "if True:", "regularizers"),
    Mutant("shared buffers are copied twice", "regularizers/passes.py", "copies.setdefault(buffer, buffers(buffer))", "buffers(buffer)", "regularizers"),
    Mutant("outputs that a model changes unseen are used", "regularizers/replay.py", "if not torch.equal(tensor, copy)]", "if False]", "regularizers/test_replay_unseen.py"),
    Mutant("what a mask leaves out reaches the gradient", "logits.py", "    if mask is None:\n        return values\n    positions", "    if mask is not None:\n        return values\n    positions", "test_divergences_of_positions.py"),
    Mutant("buffers that a pass creates stay", "regularizers/passes.py", "module._buffers.clear()", "pass", "regularizers"),
    Mutant("mean-only normalisation does not scale the mean", "experiments/models/mean_only_batch_norm.py", "self.bias - self.weight * mean", "self.bias - mean", "experiments/models/test_mean_only_batch_norm.py"),
    Mutant("conv-large leaks like ReLU", "experiments/models/conv_large.py", "_LEAK = 0.1", "_LEAK = 0.0", "experiments/models/test_networks.py"),
    Mutant("images never move to the far side", "experiments/data/pixels.py", "torch.randint(2 * most + 1", "torch.randint(2 * most", "experiments/data/test_pixels.py"),
    Mutant("whitening without the square root", "experiments/data/pixels.py", "vectors / values.sqrt()", "vectors / values", "experiments/data/test_pixels.py"),
    Mutant("labelled images stay among the unlabelled", "experiments/data/splits.py", "if config.overlap else", "if True else", "experiments/data/test_data.py"),
    Mutant("the cross-entropy's pass is not the target", "experiments/run/step.py", "target=goal if labelled_alone else None", "target=None", "experiments/run/test_views.py"),
    Mutant("linearised at the base mask", "regularizers/search.py", "torch.ones_like(base, dtype=dtype)", "base.to(dtype)", "regularizers"),
    Mutant("the autoencoder's target is its own output", "experiments/run/step.py", ".mean(), images", ".mean(), output", "experiments/studies/test_autoencoder.py"),
    Mutant("the spot counts as its neighbourhood", "experiments/studies/autoencoders/features.py", "ring = outside &", "ring = lit &", "experiments/studies/test_spots.py"),
    Mutant("pixels that never see light count", "experiments/studies/autoencoders/features.py", ".sqrt() * lit", ".sqrt()", "experiments/studies/test_spots.py"),
    Mutant("gradient descent trains with Adam", "experiments/run/optimizers.py", "return SGD(", "return Adam(", "experiments/run/test_optimizers.py"),
    Mutant("adversarial training is quadratic in δ alone", "experiments/studies/theory/theory.py", "quadratic=delta**2 *", "quadratic=delta *", "experiments/studies/test_theory.py"),
    Mutant("the graph edit distance forgets the units above", "experiments/studies/theory/distances.py", "return (below + above) *", "return below *", "experiments/studies/test_distances.py"),
    Mutant("the Jaccard distance counts what is common", "experiments/studies/theory/distances.py", "int((first ^ second).sum()) / union", "int((first & second).sum()) / union", "experiments/studies/test_distances.py"),
    Mutant("the worst mask never overshoots", "experiments/studies/theory/paths.py", "cp.maximum(r + up, down - r, 0)", "cp.maximum(r + up, -r, 0)", "experiments/studies/test_paths.py"),
    Mutant("coefficients stay near 0 and not at it", "experiments/studies/theory/paths.py", "w.value[j] = 0", "w.value[j] *= 0.5", "experiments/studies/test_paths.py"),
    Mutant("eq. 14 loses its sign condition", "experiments/studies/theory/theory.py", "lowest.clamp(max=0)", "lowest", "experiments/studies/test_theory.py"),
    Mutant("eq. 9 is expanded around 0", "experiments/studies/theory/equations.py", "at_one + ((mask - 1) * jacobian)", "at_one + (mask * jacobian)", "experiments/studies/test_linearisation.py"),
    Mutant("eq. 11 forgets h", "experiments/studies/theory/equations.py", "return h.detach() * gradient", "return gradient", "experiments/studies/test_linearisation.py"),
    Mutant("the third term of eq. 16 is not squared", "experiments/studies/theory/penalties.py", "(dropped @ w).square()", "(dropped @ w).abs()", "experiments/studies/test_penalties.py"),
    Mutant("a kept feature counts as penalised", "experiments/studies/theory/penalties.py", "(1 - dropout_masks(w, x, y, k=k)) * x * gradients != 0", "dropout_masks(w, x, y, k=k) * x * gradients != 0", "experiments/studies/test_penalties.py"),
    Mutant("not every mask is tried", "studies/mask_problems.py", "for size in range(1, most + 1)", "for size in range(1, most)", "experiments/scripts/test_mask_problems.py"),
    Mutant("a bar in a cell begins another", "experiments/show/table.py", r'text.replace("|", r"\|")', "text", "experiments/show/test_table.py"),
    Mutant("the terminal reads markup in a cell", "experiments/show/table.py", "add_row(*map(Text, row))", "add_row(*row)", "experiments/show/test_table.py"),
    Mutant("the inspected search does not oppose the own class", "experiments/studies/inspection/inspection.py", 'against="class"', 'against="prediction"', "experiments/studies/test_inspection.py"),
    Mutant("the adversarial pass sees the first view", "experiments/terms.py", "x = given.first if term.views == 1 else given.second", "x = given.first", "experiments/run/test_views.py"),
    Mutant("a replay searches from the masks of the one before", "experiments/run/captured.py", "self._streams.reseed()", "pass", "experiments/run/test_captured.py"),
    Mutant("a recording goes on with the old β₁", "experiments/run/captured.py", " or self._frozen() != self._settings", "", "experiments/run/test_captured.py"),
    Mutant("a replay sees the batch of the recording", "experiments/run/captured.py", "static.copy_(tensor)", "pass", "experiments/run/test_captured.py"),
    Mutant("batches of another form are counted over replays", "experiments/run/captured.py", "        self._newest = None\n", "", "experiments/run/test_captured.py"),
    Mutant("a replay with the ramp of the step before", "experiments/run/captured.py", "if numbers != self._filled:", "if numbers == self._filled:", "experiments/run/test_captured.py"),
    Mutant("all layers of a search have one base mask", "experiments/run/captured.py", "manual_seed(seed + index)", "manual_seed(seed)", "experiments/run/test_captured.py"),
    Mutant("a ramp in a tensor raises the precision of the loss", "experiments/run/step.py", "weight.to(value.dtype) if", "weight if", "experiments/run/test_captured.py"),
    Mutant("a lack of memory on a GPU is not explained", "experiments/run/run.py", "explaining(step) if", "step if", "experiments/run/test_step.py"),
    Mutant("every error is a lack of memory", "experiments/run/step.py", "if should_reduce_batch_size(error) or any(sign in str(error) for sign in _NOT_COUNTED):", "if True:", "experiments/run/test_memory.py"),
    Mutant("a lack of memory in cuBLAS is not explained", "experiments/run/step.py", " or any(sign in str(error) for sign in _NOT_COUNTED)", "", "experiments/run/test_memory.py"),
    Mutant("the masks of a vmap stay in the layer", "tracing.py", "return None if transformed(tensor) else tensor", "return tensor", "regularizers/test_tools_func.py"),
    Mutant("a search runs under torch.func", "regularizers/base.py", "if under_transform():", "if False:", "regularizers/test_tools_func.py"),
    Mutant("passes change the buffers of TorchScript", "regularizers/passes.py", ".copy_(values)", ".detach()", "regularizers/test_tools_scripted.py"),
    Mutant("restored statistics spoil the graph of the pass", "regularizers/passes.py", "(buffer.data if buffer._version == version else buffer)", "buffer", "regularizers/test_tools_scripted.py"),
    Mutant("fused Transformer layers skip the layer", "regularizers/passes.py", "set_fastpath_enabled(False)", "set_fastpath_enabled(True)", "regularizers/test_tools_transformer.py"),
    Mutant("sum-rescaling counts the units of a time step", "layers.py", "examples = mask.movedim(self.batch_dim, 0)", "examples = mask", "test_layers.py"),
    Mutant("a feature of time-first input is shared over the examples", "layers.py", "if dim in own else 1", "if dim in own[1:] else 1", "test_layers.py"),
    Mutant("flips are ranked over time steps", "regularizers/layer_masks.py", "batch_dim = masks.layer.batch_dim", "batch_dim = 0", "regularizers/test_batch_dim.py"),
    Mutant("time-first input passes in silence", "layers.py", "if shape[here] % examples:", "if False:", "regularizers/test_batch_dim.py"),
    Mutant("a replaced layer forgets its p", "replacing.py", "cast(float, old.p) if p is None else p", "0.5 if p is None else p", "test_replacing.py"),
    Mutant("a shared layer is replaced under one name", "replacing.py", "if old in new]", "if name in chosen]", "test_replacing.py"),
    Mutant("R-Drop has one direction", "regularizers/r_drop.py", "divergence(second, first, mask)) / 2", "divergence(first, second, mask)) / 2", "regularizers/test_baselines.py"),
    Mutant("the teacher's average has no warm-up", "regularizers/mean_teacher.py", "min(self.decay, 1 - 1 / (self._updates + 1))", "self.decay", "regularizers/test_baselines.py"),
    Mutant("the teacher stays in its mode", "regularizers/mean_teacher.py", "module.training = of_model.training", "pass", "regularizers/test_baselines.py"),
    Mutant("an example counts from its first use", "regularizers/temporal_ensembling.py", "return values.where(seen, torch.zeros_like(values))", "return values", "regularizers/test_baselines.py"),
    Mutant("the ensemble forgets its earlier predictions", "regularizers/temporal_ensembling.py", "self.momentum * self.sums[rows] + (1 - self.momentum)", "(1 - self.momentum)", "regularizers/test_baselines.py"),
    Mutant("labels that choose the epoch are trained on", "experiments/data/splits.py", "labelled = labelled[~torch.isin(labelled, choosing)]", "labelled = labelled", "experiments/data/test_data.py"),
    Mutant("of equal epochs the first is kept", "experiments/run/run.py", "wrong[CHOOSING] <= self", "wrong[CHOOSING] < self", "experiments/run/test_loop.py"),
    Mutant("the last weights are saved, whatever epoch was chosen", "experiments/run/run.py", "return self._weights or self.model", "return self.model", "experiments/run/test_loop.py"),
    Mutant("shear and zoom share one number", "experiments/data/pixels.py", "_SHEAR * shear", "_SHEAR * zoom_x", "experiments/data/test_pixels.py"),
    Mutant("all channels are lit alike", "experiments/data/pixels.py", "torch.rand(n, channels, 1, 1", "torch.rand(n, 1, 1, 1", "experiments/data/test_pixels.py"),
    Mutant("weight decay is forgotten", "experiments/run/optimizers.py", "weight_decay=training.weight_decay", "weight_decay=0.0", "experiments/run/test_optimizers.py"),
    Mutant("one random flip too many", "regularizers/random_flips.py", "< flips.unsqueeze(1)", "<= flips.unsqueeze(1)", "regularizers/test_random_flips.py"),
    Mutant("statistics of features are those of the test images too", "experiments/run/frozen.py", "network.fit(features[training]", "network.fit(features[torch.cat([training, evaluation])]", "experiments/run/test_pretrained.py"),
    Mutant("training sees one view of the features", "experiments/data/features.py", "drawn = torch.randint(stored.shape[1], (len(stored),)", "drawn = torch.randint(1, (len(stored),)", "experiments/run/test_pretrained.py"),
    Mutant("the errors of bins count alike", "experiments/trained/classification.py", "part.examples * abs(part.accuracy", "abs(part.accuracy", "experiments/trained/test_classification.py"),
)  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Whether the tests of ``mutant`` pass in spite of it."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("src", "studies"):
            shutil.copytree(ROOT / part, Path(folder) / part)
        path = place(mutant.file, Path(folder))
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        return passes(mutant.tests, Path(folder))


def place(file: str, root: Path) -> Path:
    """Where ``file`` lies below ``root``: a study, or else a module of the package."""
    return root / file if file.startswith("studies/") else root / "src" / "adversarial_dropout" / file


def passes(tests: str, root: Path) -> bool:
    """Whether ``tests`` pass on the package and the studies below ``root``."""
    folders = f"{ROOT / 'benchmarks'} {ROOT / 'docs'} {root / 'studies'}"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={folders}"]
    command = [sys.executable, "-m", "pytest", *options, str(ROOT / "tests" / tests)]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        sys.exit(f"error: pytest did not run:\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", type=int, nargs="*", help="only these mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    arguments = parser.parse_args()
    chosen = {number: MUTANTS[number] for number in arguments.numbers or range(len(MUTANTS))}
    for mutant in chosen.values():
        found = place(mutant.file, ROOT).read_text().count(mutant.old)
        if found != 1:
            sys.exit(f"error: expected {mutant.old!r} once in {mutant.file}, got it {found} times; renew the mutant")
    for tests in sorted({mutant.tests for mutant in chosen.values()}):
        if not passes(tests, ROOT):
            sys.exit(f"error: {tests} fails without any mutant")
    survivors = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for (number, mutant), alive in zip(chosen.items(), pool.map(survives, chosen.values()), strict=True):
            survivors += alive
            print(f"{number:3} {'SURVIVED' if alive else 'killed  '} {mutant.file}: {mutant.what}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
