"""Fine-tune one model while pulling its Bayesian prediction towards that of several others (B-Tuning)."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchard.core.callback import Callback, TrainingRun
from torchard.core.data.batch import Batch
from torchard.core.features import extract, penultimate, to_vectors
from torchard.core.method import Method
from torchard.core.surgery import Flags, classifier_name, flags, flags_kept
from torchard.select.logme import LogMEFit, fit_logme

METHOD = Method(
    shapes=("loss",),
    source="You et al., JMLR 2022, arXiv 2110.10545",
    claim="With three well-ranked teachers, one to two points above fine-tuning the model alone.",
)

CALIBRATION_BATCHES = 5
Kind = Literal["classification", "multilabel", "regression"]
Transform = Callable[[Tensor], Tensor]


def b_tuning_loss(
    features: Float[Tensor, "b d"],
    weight: Float[Tensor, "c d"],
    teacher_features: Sequence[Float[Tensor, "b _"]],
    teacher_weights: Sequence[Float[Tensor, "c _"]],
    mixture: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """Return the mean squared distance between the student's Bayesian prediction and the teachers' average.

    You et al. 2022, sec. 6: features times the posterior mean of the LogME model, which is fitted once on the
    initial features and fixed; the teachers' predictions are averaged with ``mixture``. Works across feature
    sizes, since predictions live in label space. In float32 at least; the gradient reaches ``features`` only.

    Raises:
        ValueError: if numbers of teachers, classes or features do not agree.
    """
    _check_sizes(features, weight, teacher_features, teacher_weights, mixture)
    wide = torch.promote_types(features.dtype, torch.float32)
    prediction = features.to(wide) @ weight.detach().to(wide).T
    with torch.no_grad():
        target = sum(
            share.to(wide) * (rows.to(wide) @ matrix.to(wide).T)
            for share, rows, matrix in zip(mixture, teacher_features, teacher_weights)
        )
    return (prediction - target).square().mean()


def mixture_weights(scores: Sequence[float], temperature: float = 0.1) -> Float[Tensor, " k"]:
    """Return the teachers' shares, the softmax of their LogME scores over ``temperature``.

    Raises:
        ValueError: if there are no scores, one is not finite, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature={temperature}` must be positive.")
    values = torch.tensor(list(scores), dtype=torch.float64)
    if len(values) == 0 or not bool(torch.isfinite(values).all()):
        raise ValueError(f"`scores={list(scores)}` must be some finite numbers.")
    return (values / temperature).softmax(dim=0).float()


def prepare_b_tuning(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    top_k: int | None = None,
    temperature: float = 0.1,
    task: Kind = "classification",
    feature_layer: str | None = None,
    teacher_transforms: Mapping[str, Transform] | None = None,
) -> "BTuningFit":
    """Fit the Bayesian models that B-Tuning needs, before training, and keep the ``top_k`` best teachers.

    ``top_k=None`` keeps three, as the paper advises, or all if there are fewer.
    ``loader`` gives the training images with their targets and without augmentation. It is run through every
    model once. ``teacher_transforms`` resizes and normalises a batch for a teacher that sees images otherwise
    than the student; without an entry it gets the student's batch. With fewer samples than features the fits
    pass through the labels and say nothing more than these, but on images that are augmented or unlabelled.

    Raises:
        ValueError: if there are no teachers, ``top_k`` is not between 1 and their number, the loader is
            empty, or features hold NaN.
    """
    top_k = min(3, len(teachers)) if top_k is None else top_k
    if not teachers or not 1 <= top_k <= len(teachers):
        raise ValueError(f"`top_k={top_k}` must lie between 1 and the number of teachers, {len(teachers)}.")
    transforms = dict(teacher_transforms or {})
    unknown = transforms.keys() - teachers.keys()
    if unknown:
        raise ValueError(f"`teacher_transforms` names {sorted(unknown)}, which are no teachers.")
    fit = _fit(student, loader, task, layer=feature_layer)
    fits = {
        name: _fit(model, loader, task, transform=transforms.get(name)) for name, model in teachers.items()
    }
    best = sorted(fits, key=lambda name: fits[name].score, reverse=True)[:top_k]
    return BTuningFit(
        student=fit,
        teachers={name: fits[name] for name in best},
        models={name: teachers[name] for name in best},
        transforms={name: transforms[name] for name in best if name in transforms},
        mixture=mixture_weights([fits[name].score for name in best], temperature),
        feature_layer=feature_layer,
    )


@dataclass(frozen=True, eq=False)
class BTuningFit:
    """The fitted Bayesian models of a student and its teachers; ``mixture`` is in the teachers' order."""

    student: LogMEFit
    teachers: dict[str, LogMEFit]
    models: dict[str, nn.Module]
    transforms: dict[str, Transform]
    mixture: Float[Tensor, " k"]
    feature_layer: str | None = None

    def loss(
        self, inputs: Float[Tensor, "b ..."], student_features: Float[Tensor, "b d"]
    ) -> Float[Tensor, ""]:
        """Return :func:`b_tuning_loss` of a batch: its inputs, and the student's features of them.

        The teachers run in eval mode without gradients and keep their flags.

        Raises:
            ValueError: if the student's features are not those that were fitted.
        """
        width = self.student.weight.shape[1]
        if student_features.shape[1] != width:
            raise ValueError(
                f"the student's features have {student_features.shape[1]} columns, but "
                f"{self.feature_layer or 'the input of its classifier'} had {width} when they were fitted."
            )
        device = student_features.device
        rows = [self._features(name, inputs) for name in self.teachers]
        weights = [fit.weight.float().to(device) for fit in self.teachers.values()]
        return b_tuning_loss(
            student_features, self.student.weight.float().to(device), rows, weights, self.mixture.to(device)
        )

    def _features(self, name: str, inputs: Tensor) -> Tensor:
        model, transform = self.models[name], self.transforms.get(name)
        with flags_kept(model), torch.no_grad():
            return penultimate(model.eval(), inputs if transform is None else transform(inputs))


class Tradeoff:
    """The weight of the B-Tuning term: a number, or found from the gradients of the first batches.

    The paper's constant of 100 made training collapse on small features; so, by default (ours), the weight is
    the mean over five batches of the ratio of gradient norms, task loss over B-Tuning term, with respect to
    the features, held between 0.1 and 100 and warmed up over the first 5 % of the budget.
    """

    def __init__(self, value: float | Literal["auto"] = "auto") -> None:
        if value != "auto" and not value >= 0:
            raise ValueError(f"`tradeoff={value!r}` must be 'auto' or a number that is not negative.")
        self.fixed = None if value == "auto" else float(value)
        self.ratios: list[float] = []
        self.first: float | None = None

    def weight(self, task_loss: Tensor, term: Tensor, features: Tensor, fraction: float = 1.0) -> float:
        """Return the weight for this batch; ``fraction`` of the training budget is used up."""
        self._watch(term.item())
        if self.fixed is not None:
            return self.fixed
        if len(self.ratios) < CALIBRATION_BATCHES:
            self.ratios.append(_gradient_ratio(task_loss, term, features))
        mean = sum(self.ratios) / len(self.ratios)
        return min(max(mean, 0.1), 100.0) * min(1.0, fraction / 0.05)

    def _watch(self, term: float) -> None:
        first = self.first if self.first is not None else term
        if self.first is None:
            self.first = term
        elif first > 0 and term > 10 * first:
            warnings.warn(
                f"the B-Tuning term is {term / first:.0f} times its first value: the features drift away "
                "from their fit. Use a smaller `tradeoff` or learning rate.",
                stacklevel=3,
            )
            self.first = term  # warn again only if it grows tenfold once more


class BTuning(Callback):
    """Add the B-Tuning term to the loss of the Trainer; see :func:`prepare_b_tuning` for the arguments.

    ``unlabeled_loader`` gives further target images, which the term can use as it needs no labels (ours).
    """

    def __init__(
        self,
        teachers: Mapping[str, nn.Module],
        loader: Iterable[Any],
        *,
        top_k: int | None = None,
        temperature: float = 0.1,
        tradeoff: float | Literal["auto"] = "auto",
        task: Kind = "classification",
        feature_layer: str | None = None,
        teacher_transforms: Mapping[str, Transform] | None = None,
        unlabeled_loader: Iterable[Any] | None = None,
    ) -> None:
        self.teachers = teachers
        self.loader = loader
        self.top_k = top_k
        self.temperature = temperature
        self.tradeoff = Tradeoff(tradeoff)
        self.task: Kind = task
        self.feature_layer = feature_layer
        self.teacher_transforms = teacher_transforms
        self.unlabeled = None if unlabeled_loader is None else _Cycle(unlabeled_loader)
        self.fit: BTuningFit | None = None
        self.seen: list[Tensor] = []
        self._handle: Any = None
        self._flags: list[Flags] = []

    def on_fit_start(self, run: TrainingRun) -> None:
        """Fit all models in their present state; of a resumed training that is the initial one again."""
        device = next(run.model.parameters()).device
        self._flags = [flags(teacher) for teacher in self.teachers.values()]
        for teacher in self.teachers.values():
            teacher.to(device).eval()
        self.fit = prepare_b_tuning(
            run.model,
            self.teachers,
            self.loader,
            top_k=self.top_k,
            temperature=self.temperature,
            task=self.task,
            feature_layer=self.feature_layer,
            teacher_transforms=self.teacher_transforms,
        )
        self._handle = self._listen(run.model)
        shares = dict(zip(self.fit.teachers, self.fit.mixture.tolist()))
        run.log(**{f"b_tuning/pi/{name}": share for name, share in shares.items()})

    def on_loss(self, run: TrainingRun, outputs: Any, batch: Batch, loss: Tensor) -> Tensor:
        """Return the loss with the weighted term added."""
        features = self.seen.pop() if self.seen else None
        self.seen.clear()
        if self.tradeoff.fixed == 0:
            return loss
        if features is None or self.fit is None:
            raise RuntimeError("B-Tuning saw no features in this step: the classifier was not called.")
        term = self.fit.loss(batch.inputs, features)
        if self.unlabeled is not None:
            term = self._with_unlabeled(run.model, term, batch)
        weight = self.tradeoff.weight(loss, term, features, run.fraction)
        run.log(**{"b_tuning/loss": term.item(), "b_tuning/tradeoff": weight})
        return loss + weight * term

    def on_fit_end(self, run: TrainingRun) -> None:
        """Stop listening and give the teachers their flags back."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.seen.clear()
        for before in self._flags:
            before.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return the calibration so far and the place in the unlabelled images."""
        taken = 0 if self.unlabeled is None else self.unlabeled.taken
        return {"ratios": list(self.tradeoff.ratios), "first": self.tradeoff.first, "taken": taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the weight and the images where they were."""
        self.tradeoff.ratios, self.tradeoff.first = list(state["ratios"]), state["first"]
        if self.unlabeled is not None:
            self.unlabeled.taken = state["taken"]

    def _listen(self, model: nn.Module) -> Any:
        """Note the features of every training forward pass."""
        if self.feature_layer is not None:
            layer = model.get_submodule(self.feature_layer)
            return layer.register_forward_hook(lambda _m, _i, output: self._note(model, output))
        classifier = model.get_submodule(classifier_name(model))
        return classifier.register_forward_pre_hook(lambda _m, inputs: self._note(model, inputs[0]))

    def _note(self, model: nn.Module, features: Any) -> None:
        if model.training and torch.is_grad_enabled():
            self.seen.append(to_vectors(features[0] if isinstance(features, tuple) else features))

    def _with_unlabeled(self, model: nn.Module, term: Tensor, batch: Batch) -> Tensor:
        """The mean over labelled and unlabelled images together."""
        assert self.unlabeled is not None
        assert self.fit is not None
        inputs = _inputs_of(self.unlabeled.take()).to(batch.inputs.device)
        count = len(self.seen)
        features = self._student_features(model, inputs)
        del self.seen[count:]
        share = len(inputs) / (len(inputs) + len(batch.inputs))
        return (1 - share) * term + share * self.fit.loss(inputs, features)

    def _student_features(self, model: nn.Module, inputs: Tensor) -> Tensor:
        if self.feature_layer is None:
            return penultimate(model, inputs)
        model(inputs)
        return self.seen[-1]


class _Cycle:
    """A loader without end that can go on where it was: ``taken`` batches are taken."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.taken = 0
        self._batches: Iterator[Any] | None = None
        self._at = -1

    def take(self) -> Any:
        if self._batches is None or self._at != self.taken:
            self._batches = itertools.islice(self._endless(), self.taken, None)
        self.taken += 1
        self._at = self.taken
        return next(self._batches)

    def _endless(self) -> Iterator[Any]:
        for epoch in itertools.count():
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(epoch)
            yield from self.loader


def _gradient_ratio(task_loss: Tensor, term: Tensor, features: Tensor) -> float:
    (by_task,) = torch.autograd.grad(task_loss, features, retain_graph=True)
    (by_term,) = torch.autograd.grad(term, features, retain_graph=True)
    return (by_task.float().norm() / by_term.float().norm().clamp_min(1e-12)).item()


def _check_sizes(
    features: Tensor,
    weight: Tensor,
    teacher_features: Sequence[Tensor],
    teacher_weights: Sequence[Tensor],
    mixture: Tensor,
) -> None:
    if not len(teacher_features) == len(teacher_weights) == len(mixture) > 0:
        raise ValueError(
            f"{len(teacher_features)} `teacher_features`, {len(teacher_weights)} `teacher_weights` and "
            f"{len(mixture)} shares in `mixture` do not go together."
        )
    pairs = [(features, weight), *zip(teacher_features, teacher_weights)]
    for number, (rows, matrix) in enumerate(pairs):
        who = "the student" if number == 0 else f"teacher {number}"
        if rows.shape[1] != matrix.shape[1]:
            raise ValueError(f"{who} has {rows.shape[1]} features, but a weight for {matrix.shape[1]}.")
        if len(matrix) != len(weight):
            raise ValueError(f"{who} predicts {len(matrix)} classes, the student {len(weight)}.")


def _fit(
    model: nn.Module,
    loader: Iterable[Any],
    task: Kind,
    *,
    layer: str | None = None,
    transform: Transform | None = None,
) -> LogMEFit:
    """Features and targets of one pass, so that a loader may shuffle."""
    targets: list[Tensor] = []

    def inputs() -> Iterator[Tensor]:
        for batch in loader:
            targets.append((batch.targets if hasattr(batch, "targets") else batch[1]).cpu())
            yield _inputs_of(batch) if transform is None else transform(_inputs_of(batch))

    features = extract(model, inputs(), layer=layer)
    return fit_logme(features, torch.cat(targets), task=task)


def _inputs_of(batch: Any) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    inputs: Tensor = batch.inputs if hasattr(batch, "inputs") else batch[0]
    return inputs
