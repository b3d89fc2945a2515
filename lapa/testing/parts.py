"""The contract sweep of encoders, quantizers, conditioners, decoders and frame decoders.

Each check is a function of its own, so that a test can be parametrized by :data:`CHECKS`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner, Decoder, Encoder, FrameDecoder, Quantized, Quantizer
from lapa.data.frames import to_float
from lapa.nn.layers import over_grid

LATENT_DIM = 8
FEATURES = 32
FRAME_SIZES = ((210, 160), (84, 84), (64, 64), (144, 160))
LATENT_GRIDS = ((7, 5), (1, 1), (1, 4))
GRID = (5, 4)
"""Of a frame of 18 x 16, each place of which is 4 pixels wide."""
FITTING_STEPS = 300
"""In which a frame decoder must learn to tell black from white."""
STEPS = 50
"""Directions in which a latent is moved by its margin."""


class Subject:
    """What is checked: a class and options to make it with.

    Args:
        cls: a member of a role.
        config: its options; ``cls.Config()`` if None.
    """

    facts: dict[str, Any]

    def __init__(self, cls: type[Any], config: Any = None) -> None:
        self.cls = cls
        self.config = cls.Config() if config is None else config
        self.role, self.facts = next((role, facts) for base, (role, facts) in _ROLES.items() if issubclass(cls, base))

    def make(self, **facts: Any) -> Any:
        """A new module, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.cls(self.config, **(self.facts | facts))

    def inputs(self, seed: int = 1) -> tuple[Tensor, ...]:
        """What the module is called with."""
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "encoder": [(2, 1, 64, 64)] * 2,
            "quantizer": [(2, LATENT_DIM, 7, 5)],
            "conditioner": [(2, FEATURES, 7, 5), (2, LATENT_DIM, 7, 5)],
            "decoder": [(2, 1, 210, 160), (2, LATENT_DIM, 7, 5)],
            "frame_decoder": [(2, LATENT_DIM, *GRID)],
        }[self.role]
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)


class Added(Conditioner):
    """Adds a projection of the latent, place by place: a conditioner to check decoders with."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """It has no options."""

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(latent_dim, features, 1)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        return features + self.project(over_grid(latent, features))


def added(features: int) -> Conditioner:
    """An :class:`Added` for features of so many channels."""
    return Added(Added.Config(), features=features, latent_dim=LATENT_DIM)


_ROLES: dict[type, tuple[str, dict[str, Any]]] = {
    Encoder: ("encoder", {"channels": 1, "latent_dim": LATENT_DIM}),
    Quantizer: ("quantizer", {"latent_dim": LATENT_DIM}),
    Conditioner: ("conditioner", {"features": FEATURES, "latent_dim": LATENT_DIM}),
    Decoder: (
        "decoder",
        {"channels": 1, "frame_size": (210, 160), "latent_dim": LATENT_DIM, "make_conditioner": added},
    ),
    FrameDecoder: (
        "frame_decoder",
        {"channels": 1, "frame_size": (18, 16), "grid": GRID, "latent_dim": LATENT_DIM},
    ),
}

Check = Callable[[Subject], None]


def check_encoder(cls: type[Encoder], config: Any = None) -> None:
    """Runs all checks of an encoder.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    _run_all("encoder", cls, Encoder, config)


def check_quantizer(cls: type[Quantizer], config: Any = None) -> None:
    """Runs all checks of a quantizer.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    _run_all("quantizer", cls, Quantizer, config)


def check_conditioner(cls: type[Conditioner], config: Any = None) -> None:
    """Runs all checks of a conditioner.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    _run_all("conditioner", cls, Conditioner, config)


def check_decoder(cls: type[Decoder], config: Any = None) -> None:
    """Runs all checks of a decoder.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    _run_all("decoder", cls, Decoder, config)


def check_frame_decoder(cls: type[FrameDecoder], config: Any = None) -> None:
    """Runs all checks of a frame decoder.

    Args:
        cls: the frame decoder.
        config: an instance of its ``Config`` for places of 4 x 4 pixels; the default if None.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    _run_all("frame_decoder", cls, FrameDecoder, config)


def _run_all(role: str, cls: type[Any], contract: type[Any], config: Any) -> None:
    derives = isinstance(cls, type) and issubclass(cls, contract)
    require(derives, f"{cls!r} does not derive from lapa.{contract.__name__}")
    options_are_a_frozen_dataclass(cls)
    subject = Subject(cls, config)
    for check in CHECKS[role]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            check(subject)


def require(condition: bool, message: str) -> None:
    """Raises an :class:`AssertionError` with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


# Every role


def options_are_a_frozen_dataclass(cls: type[Any], section: str = "Config") -> None:
    """``Config``, or another section, is a frozen dataclass with defaults."""
    config = getattr(cls, section, None)
    require(dataclasses.is_dataclass(config), f"{cls.__name__}.{section} must be a dataclass")
    frozen = getattr(config, "__dataclass_params__").frozen  # noqa: B009 - it has no public name
    require(frozen, f"{cls.__name__}.{section} must be frozen: @dataclasses.dataclass(frozen=True)")
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        require(default, f"{cls.__name__}.{section}.{field.name} needs a default")


def state_is_complete(subject: Subject) -> None:
    """A module that has trained gives the same output after its state dict went into a new one."""
    trained, fresh = subject.make(), subject.make()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trained(*subject.inputs())  # in training mode, so that statistics move too
    fresh.load_state_dict(trained.state_dict())
    expected, output = (_tensor(module.eval()(*subject.inputs())) for module in (trained, fresh))
    require(torch.equal(output, expected), "state_dict misses something: a reloaded module gives another output")


def double_precision_agrees(subject: Subject) -> None:
    """In double precision the output is of that precision, and that of single precision up to rounding."""
    single, double = subject.make().eval(), subject.make().double().eval()
    inputs = subject.inputs()
    output = _tensor(double(*(value.double() for value in inputs)))
    require(output.dtype == torch.float64, f"with float64 inputs the output is {output.dtype}: do not cast down")
    close = torch.allclose(output.float(), _tensor(single(*inputs)), atol=1e-4)
    require(close, "single and double precision differ by more than rounding")
    trained = _tensor(subject.make().double()(*(value.double() for value in inputs)))
    require(trained.dtype == torch.float64, f"in training with float64 inputs the output is {trained.dtype}")


def autocast_gives_finite_values(subject: Subject) -> None:
    """Under autocast to bfloat16 the output is finite."""
    with torch.autocast("cpu", torch.bfloat16):
        output = _tensor(subject.make()(*subject.inputs()))
    require(bool(output.isfinite().all()), "under autocast to bfloat16 the output is not finite")


def eval_mode_repeats_itself(subject: Subject) -> None:
    """In eval mode the same input gives the same output, and nothing in the state moves."""
    module = subject.make().eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first, second = (_tensor(module(*subject.inputs())) for _ in range(2))
    require(torch.equal(first, second), "in eval mode the same input gives two outputs")
    moved = [key for key, value in module.state_dict().items() if not torch.equal(value, before[key])]
    require(not moved, f"in eval mode the state moves: {', '.join(moved)}")


def every_parameter_learns(subject: Subject) -> None:
    """Each parameter gets a finite gradient that is not all zero."""
    module = subject.make()
    output = module(*(value.requires_grad_() for value in subject.inputs()))
    loss = _tensor(output).square().sum()
    (loss + output.loss if isinstance(output, Quantized) else loss).backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        require(gradient is not None and bool(gradient.isfinite().all()), f"{name} gets no finite gradient")
        require(gradient is not None and bool(gradient.any()), f"{name} gets a gradient of zero: it takes no part")


# Encoders


def encoder_keeps_its_grid(subject: Subject) -> None:
    """The latent has the grid that ``grid`` promised, for several frame sizes, in grey and in colour."""
    for channels in (1, 3):
        encoder = subject.make(channels=channels).eval()
        for size in FRAME_SIZES:
            with torch.no_grad():
                latent = encoder(*torch.rand(2, 1, channels, *size))
            promised = (1, LATENT_DIM, *encoder.grid(size))
            require(
                latent.shape == promised, f"frames of {size} give {tuple(latent.shape)}, grid() promised {promised}"
            )
            require(bool(latent.isfinite().all()), f"frames of {size} give a latent that is not finite")


def encoder_takes_any_number_of_frames(subject: Subject) -> None:
    """Made for another number of frames it keeps its grid, and sees them all; one that is made for pairs need not."""
    if "frames" not in inspect.signature(subject.cls).parameters:
        return
    for count in (1, 3, 4):
        try:
            encoder = subject.make(frames=count).eval()
        except ValueError:  # it says that it cannot: the difference of one frame, for instance
            continue
        frames = list(torch.rand(count, 1, 1, 64, 64))
        with torch.no_grad():
            latent = encoder(*frames)
            promised = (1, LATENT_DIM, *encoder.grid((64, 64)))
            require(latent.shape == promised, f"{count} frames give {tuple(latent.shape)}, grid() promised {promised}")
            for place in range(count):
                changed = [torch.rand(1, 1, 64, 64) if i == place else frame for i, frame in enumerate(frames)]
                require(
                    not torch.allclose(encoder(*changed), latent), f"of {count} frames, frame {place} does not matter"
                )


def encoder_tells_changes_as_it_encodes(subject: Subject) -> None:
    """Where an encoder says for labelling what changes, it says what ``forward`` gives."""
    for share in (0.0, 0.003, 1.0):
        encoder = subject.make().double().eval().requires_grad_(False)
        encoder.optimize_for_inference()
        before, other = torch.randint(256, (2, 3, 1, 64, 64), dtype=torch.uint8)
        after = torch.where(torch.rand(before.shape) < share, other, before)
        found = encoder.changes(before, after)
        if found is None:
            continue
        a, b = (to_float(frame).double() for frame in (before, after))
        latent = encoder(a, a).movedim(1, -1).contiguous()
        latent.flatten(0, 2)[found.places] = found.latents
        same = torch.allclose(latent.movedim(-1, 1), encoder(a, b))
        require(same, "changes, with the latents of equal frames elsewhere, must give what forward gives")


def encoder_sees_both_frames(subject: Subject) -> None:
    """Another next frame, and another order, give another latent."""
    encoder = subject.make().eval()
    a, b = subject.inputs()
    forth, back, same = (encoder(*pair) for pair in ((a, b), (b, a), (a, a)))
    require(not torch.allclose(forth, back), "the order of the two frames does not matter")
    require(not torch.allclose(forth, same), "the next frame does not matter")


# Quantizers


def quantizer_returns_what_it_says(subject: Subject) -> None:
    """Shapes, types and ranges of all that ``forward`` returns, on several grids."""
    for grid in LATENT_GRIDS:
        quantizer = subject.make()
        quantized = quantizer(torch.randn(3, LATENT_DIM, *grid))
        shape = tuple(quantized.latent.shape)
        require(shape == (3, LATENT_DIM, *grid), f"a grid of {grid} gives a latent of {shape}")
        finite = quantized.loss.shape == () and bool(quantized.loss.isfinite())
        require(finite, "loss must be a finite scalar tensor")
        for name, value in quantized.metrics.items():
            require(value.ndim == 0 and not value.requires_grad, f"metrics[{name!r}] must be a detached scalar")
        if quantizer.num_codes is None:
            require(quantized.codes is None, "num_codes is None: so must codes be")
            continue
        codes, expected = quantized.codes, (3, grid[0], grid[1] * quantizer.codes_per_place)
        require(tuple(codes.shape) == expected, f"codes of {tuple(codes.shape)} where {expected} were promised")
        require(codes.dtype == torch.int64, f"codes must be int64, not {codes.dtype}")
        inside = bool(((codes >= 0) & (codes < quantizer.num_codes)).all())
        require(inside, f"codes lie outside of [0, {quantizer.num_codes})")


def has_loss_says_whether_there_is_a_loss(subject: Subject) -> None:
    """In training, latents that are new to it have a loss, unless the quantizer says that it has none."""
    quantizer = _warm(subject)
    loss = float(quantizer(*subject.inputs(seed=3)).loss.detach())
    require(loss != 0 or not quantizer.has_loss, "the loss is 0: compute it, or let has_loss be False")
    require(loss == 0 or quantizer.has_loss, f"has_loss is False, but the loss is {loss:.3g}")


def different_latents_get_different_codes(subject: Subject) -> None:
    """After the first batch, 70 random latents have more than one code."""
    quantizer = _warm(subject)
    codes = quantizer.eval()(*subject.inputs()).codes
    require(codes is None or len(codes.unique()) > 1, "all latents get the same code")


def codes_lead_back_to_the_latent(subject: Subject) -> None:
    """``codes_to_latent`` gives what ``forward`` gave in eval mode."""
    quantizer = _warm(subject).eval()
    quantized = quantizer(*subject.inputs())
    if quantized.codes is not None:
        latent = quantizer.codes_to_latent(quantized.codes)
        require(latent.shape == quantized.latent.shape, f"codes_to_latent gives {tuple(latent.shape)}")
        close = torch.allclose(latent, quantized.latent, atol=1e-5)
        require(close, "codes_to_latent(codes) is not the latent that forward gave for them")


def gradients_reach_the_encoder(subject: Subject) -> None:
    """The latent passes a gradient to the encoding, and so does the loss, if it has any."""
    quantizer = _warm(subject)
    for part in ("latent", "loss"):
        latent = subject.inputs(seed=3)[0].requires_grad_()
        output = getattr(quantizer(latent), part)
        if part == "loss" and not (quantizer.has_loss and output.requires_grad):
            continue
        output.sum().backward()
        passed = latent.grad is not None and bool(latent.grad.isfinite().all()) and bool(latent.grad.any())
        require(passed, f"{part} passes no gradient to the encoder")


def margin_is_a_lower_bound(subject: Subject) -> None:
    """A latent that moves by less than ``margin`` keeps its code; on a border the margin is 0."""
    quantizer = _warm(subject).double().eval()
    latent = torch.randn(4, LATENT_DIM, 7, 5, dtype=torch.float64)
    margin = None if quantizer.num_codes is None else quantizer.margin(latent)
    if margin is None:
        return
    require(tuple(margin.shape) == (4, 7, 5), f"margin must be (B, h, w), not {tuple(margin.shape)}")
    require(bool((margin >= 0).all()) and bool((margin > 0).any()), "margin must not be negative, nor always 0")
    codes = quantizer(latent).codes
    rows = latent.movedim(1, -1).flatten(0, 2)  # (N, D)
    assigned, same_margin = quantizer.assign(rows)
    decided = margin.flatten() > 0
    every = codes.unflatten(2, (-1, quantizer.codes_per_place)).flatten(0, 2)  # (N, n)
    agrees = torch.equal(assigned[decided], every[decided]) and same_margin is not None
    agrees = agrees and torch.allclose(same_margin, margin.flatten())
    require(agrees, "assign must give the codes of forward, and margin")
    others = quantizer.codes_to_latent(codes).roll(1, 0) - latent
    for direction in [others, -others, *torch.randn(STEPS, *latent.shape, dtype=torch.float64)]:
        step = nn.functional.normalize(direction, dim=1) * margin[:, None] * 0.999
        kept = torch.equal(quantizer(latent + step).codes, codes)
        require(kept, "a latent changed its code though it moved by less than its margin")
    low = rows[:1, :, None, None]
    high = rows[:, :, None, None][(every != every[0]).any(1).nonzero()[0]]
    for _ in range(60):  # bisects the way from one code to another
        middle = (low + high) / 2
        stays = torch.equal(quantizer(middle).codes.flatten(), every[0])
        low, high = (middle, high) if stays else (low, middle)
    on_border = float(quantizer.margin(low).detach())
    require(abs(on_border) < 1e-9, f"on the border between two codes the margin is {on_border:.2g}, not 0")


# Conditioners


def conditioner_keeps_the_shape(subject: Subject) -> None:
    """The features keep their shape, whatever their grid and that of the latent."""
    conditioner = subject.make().eval()
    for features in ((7, 5), (10, 8), (3, 3), (1, 1)):
        for grid in LATENT_GRIDS:
            output = conditioner(torch.randn(1, FEATURES, *features), torch.randn(1, LATENT_DIM, *grid))
            shape = tuple(output.shape)
            expected = (1, FEATURES, *features)
            require(shape == expected, f"features {expected} and a latent grid of {grid} give {shape}")


def every_place_of_the_latent_steers(subject: Subject) -> None:
    """A change of the latent at any place changes the output."""
    module = subject.make().eval()
    steered = subject.inputs()[0][:1]
    for grid in LATENT_GRIDS:
        latent = torch.randn(1, LATENT_DIM, *grid)
        before = module(steered, latent)
        for place in range(grid[0] * grid[1]):
            moved = latent.clone()
            moved.flatten(2)[..., place] += 3.0
            changed = not torch.allclose(module(steered, moved), before)
            require(changed, f"place {place} of a latent grid of {grid} steers nothing")


def rows_of_a_batch_stay_apart(subject: Subject) -> None:
    """In eval mode a row's output does not depend on the rows beside it."""
    module = subject.make().eval()
    steered, latent = subject.inputs()
    alone = module(steered[:1], latent[:1])
    close = torch.allclose(module(steered, latent)[:1], alone, atol=1e-5)
    require(close, "in eval mode a row depends on the rows beside it")


# Decoders


def decoder_keeps_the_size(subject: Subject) -> None:
    """The prediction is of the frame's size, in grey and in colour, whatever the grid of the latent."""
    for channels in (1, 3):
        for size in FRAME_SIZES:
            decoder = subject.make(channels=channels, frame_size=size).eval()
            for grid in LATENT_GRIDS:
                with torch.no_grad():
                    output = decoder(torch.rand(1, channels, *size), torch.randn(1, LATENT_DIM, *grid))
                require(output.shape == (1, channels, *size), f"frames of {size} give {tuple(output.shape)}")
                require(bool(output.isfinite().all()), f"frames of {size} give a prediction that is not finite")


def frame_decoder_gives_frames(subject: Subject) -> None:
    """Frames have the size and the channels that were asked for, in [0, 1]; a row does not depend on the others."""
    for channels in (1, 3):
        decoder = subject.make(channels=channels).eval()
        latent = 3 * torch.randn(4, LATENT_DIM, *GRID)
        with torch.no_grad():
            frames = decoder.to_frame(decoder(latent))
            alone = decoder.to_frame(decoder(latent[:1]))
            errors = decoder.pixel_errors(decoder(latent), torch.rand(4, channels, 18, 16))
        require(tuple(frames.shape) == (4, channels, 18, 16), f"frames are {tuple(frames.shape)}, not (4, C, 18, 16)")
        inside = bool(frames.isfinite().all()) and float(frames.min()) >= 0 and float(frames.max()) <= 1
        require(inside, "frames have values outside of [0, 1]")
        sound = tuple(errors.shape) == (4, 18, 16) and bool(errors.isfinite().all()) and float(errors.min()) >= 0
        require(sound, f"pixel_errors must be (4, 18, 16), finite and not negative, not {tuple(errors.shape)}")
        require(torch.allclose(frames[:1], alone, atol=1e-5), "in eval mode a row depends on the others of its batch")


def frame_decoder_reaches_black_and_white(subject: Subject) -> None:
    """It learns to give a black frame for one latent and a white one for another.

    With a ReLU before its sigmoid, it would never get below 0.5.
    """
    decoder = subject.make()
    latent = torch.randn(2, LATENT_DIM, *GRID)
    wanted = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 18, 16)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        decoder.pixel_errors(decoder(latent), wanted).mean().backward()
        optimizer.step()
    with torch.no_grad():
        black, white = decoder.eval().to_frame(decoder(latent))
    reached = f"{float(black.mean()):.2f} for black and {float(white.mean()):.2f} for white"
    spans = float(black.mean()) < 0.1 and float(white.mean()) > 0.9
    require(spans, f"frames do not span [0, 1]: it learns {reached}; leave out a ReLU before the last sigmoid")


def current_frame_matters(subject: Subject) -> None:
    """Another current frame gives another prediction, even if the two differ in one corner only."""
    decoder = subject.make().eval()
    current, latent = (values[:1] for values in subject.inputs())
    other = current.clone()
    other[..., -4:, -4:] += 1
    require(not torch.allclose(decoder(other, latent), decoder(current, latent)), "the current frame is not seen")


_EVERY_ROLE: tuple[Check, ...] = (
    eval_mode_repeats_itself,
    state_is_complete,
    double_precision_agrees,
    autocast_gives_finite_values,
    every_parameter_learns,
)

CHECKS: dict[str, tuple[Check, ...]] = {
    "encoder": (
        *_EVERY_ROLE,
        encoder_keeps_its_grid,
        encoder_sees_both_frames,
        encoder_tells_changes_as_it_encodes,
        encoder_takes_any_number_of_frames,
    ),
    "quantizer": (
        *_EVERY_ROLE,
        quantizer_returns_what_it_says,
        has_loss_says_whether_there_is_a_loss,
        different_latents_get_different_codes,
        codes_lead_back_to_the_latent,
        gradients_reach_the_encoder,
        margin_is_a_lower_bound,
    ),
    "conditioner": (
        *_EVERY_ROLE,
        conditioner_keeps_the_shape,
        every_place_of_the_latent_steers,
        rows_of_a_batch_stay_apart,
    ),
    "frame_decoder": (
        *_EVERY_ROLE,
        frame_decoder_gives_frames,
        frame_decoder_reaches_black_and_white,
    ),
    "decoder": (
        *_EVERY_ROLE,
        decoder_keeps_the_size,
        current_frame_matters,
        every_place_of_the_latent_steers,
        rows_of_a_batch_stay_apart,
    ),
}
"""The checks of each role."""


def _tensor(output: Any) -> Tensor:
    return output.latent if isinstance(output, Quantized) else output


def _warm(subject: Subject) -> Any:
    """A quantizer in training mode that has seen two batches: the first may start its codes."""
    quantizer = subject.make()
    for seed in (1, 2):
        quantizer(*subject.inputs(seed))
        quantizer.update()
    return quantizer
