"""The configuration of a run: what can be set, its defaults, and how presets, files and overrides are merged.

The defaults are the reference model's; a preset says where it differs. Facts that are known only at run time, such as
the frame size, are not settings: they are measured on the recordings. ``lapa config`` prints what the docstrings say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lapa import registry
from lapa.errors import ConfigError, RegistryError
from lapa.presets import presets as presets
from lapa.presets import read_preset
from lapa.sections import BOOLEAN_WORDS, merge, plugin_config, read_yaml, require, to_object

DEFAULT_PRESET = "breakout"
DEFAULT_SYSTEM = "latent_action"
PLUGIN_SECTIONS: dict[str, registry.Registry[Any]] = {
    "encoder": registry.encoders,
    "quantizer": registry.quantizers,
    "conditioner": registry.conditioners,
    "decoder": registry.decoders,
    "frame_decoder": registry.frame_decoders,
}
"""Keys of a section ``model`` that name a plugin, where the system has them."""
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "model.decoder.mean_frame": ("model.decoder.base", {True: "mean", False: "zero"}),
}
"""Keys of older configurations: what they are called now, and what their values are."""
EVERY = (
    "reseed_every",
    "log_every",
    "validate_every",
    "usage_every",
    "examples_every",
    "checkpoint_every",
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which recordings are used, and what the model sees of them.

    Attributes:
        root: folder of recorded episodes, of pictures or of videos; a video file; a packed store, or a folder of
            packed stores; or a list of these.
        store: file of the packed store; null puts it inside ``root``.
        color: ``grey`` (ITU-R 601 luma) or ``rgb``.
        downsample: k; each block of k x k pixels becomes one pixel.
        resize: rows and columns that every frame is brought to first, such as [64,64]; null keeps the recorded size.
            Needed for pictures and videos of different sizes.
        fit: how ``data.resize`` treats another shape: ``crop`` cuts the centre, ``pad`` adds black bars, ``stretch``
            scales both sides by themselves.
        placement: where the prepared frames are kept during training: on the ``device``, in host ``memory``, or on
            ``disk`` (worker processes read them); ``auto`` takes the first of these with enough room.
        split: shares of the episodes for training, validation and test; they sum to 1. Episodes that begin at one
            named start are dealt by themselves, so that each split has some of them.
        split_seed: seed of the split, and of the clips that ``data.max_frames`` draws.
        skip_first: number of frames at the beginning of each episode that are not trained on.
        stride: train on every n-th clip of an episode only.
        max_frames: largest number of clips of an episode that are trained on, drawn at random; null means all.
        min_gap: least distance in frames between the beginnings of two of these.
        mirror: share of the training clips that are shown as in a mirror, left and right exchanged; for systems that
            do not learn from actions.
    """

    root: Any = "bulk_videos"
    store: str | None = None
    color: Literal["grey", "rgb"] = "grey"
    downsample: int = 1
    resize: tuple[int, int] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    placement: Literal["auto", "device", "memory", "disk"] = "auto"
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_seed: int = 0
    skip_first: int = 0
    stride: int = 1
    max_frames: int | None = None
    min_gap: int = 5
    mirror: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.root, int | float):  # a folder called 2024, which YAML takes for a number
            object.__setattr__(self, "root", str(self.root))
        roots = [self.root] if isinstance(self.root, str) else self.root
        require(isinstance(roots, (list, tuple)) and bool(roots), "root", "must be a path, or a list of paths")
        require(all(isinstance(root, str) for root in roots), "root", "must be a path, or a list of paths")
        require(self.downsample >= 1, "downsample", f"must be at least 1, not {self.downsample}")
        if self.resize is not None:
            object.__setattr__(self, "resize", tuple(self.resize))
            sides = len(self.resize) == 2 and min(self.resize) >= 1
            require(sides, "resize", f"must be [rows,columns] of at least 1 each, not {list(self.resize)}")
        even = min(self.split) > 0 and abs(sum(self.split) - 1) < 1e-6
        require(even, "split", f"must be three positive shares that sum to 1, not {list(self.split)}")
        for name in ("split_seed", "skip_first"):
            require(getattr(self, name) >= 0, name, f"must be at least 0, not {getattr(self, name)}")
        for name in ("stride", "min_gap"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        limited = self.max_frames is None or self.max_frames >= 1
        require(limited, "max_frames", f"must be at least 1, or null for all clips, not {self.max_frames}")
        require(0 <= self.mirror <= 1, "mirror", f"must be a share in [0, 1], not {self.mirror}")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train, and what is kept. Intervals are in optimizer steps.

    Attributes:
        out: folder of the run.
        steps: number of optimizer steps.
        epochs: number of passes over the training clips, in place of ``steps``; null: ``steps`` says how long.
        max_minutes: time limit in minutes; schedules are compressed to fit; null means none.
        batch_size: clips per step, over all micro-batches and all ranks.
        accumulate: micro-batches that each rank's share of a batch is split into; more of them need less memory.
        learning_rate: learning rate at the start.
        final_learning_rate: learning rate at the end; it follows a cosine from start to end.
        warmup: share of the training in which the learning rate rises from 0.
        clip_norm: largest norm of the gradient; a larger gradient is scaled down to it.
        reseed_every: steps between re-seedings of unused codes.
        reseed_until: share of the training after which codes are no longer re-seeded.
        log_every: steps between lines of training metrics.
        validate_every: steps between validations on held-out episodes.
        validate_pairs: largest number of held-out clips in a validation, evenly spaced.
        usage_every: steps between histograms of code use on held-out episodes.
        examples_every: steps between example pictures of held-out clips.
        checkpoint_every: steps between checkpoints that training can resume from.
        keep_last: number of these checkpoints that are kept; older ones are deleted.
        max_non_finite: number of consecutive steps with a non-finite loss or gradient that ends the run.
        max_zero: number of consecutive steps at which a loss term with a weight is exactly 0 that ends the run; 0: any.
        collapse_share: a codebook counts as collapsed if its perplexity is below this share of its number of codes.
        collapse_steps: number of steps over which that perplexity is averaged.
        device: ``cpu``, ``cuda`` or another device of PyTorch; ``auto`` uses CUDA if available.
        precision: ``fp32``, ``bf16``, or ``fp16`` with loss scaling; ``auto`` uses bf16 if the hardware has it.
        channels_last: use the channels-last memory layout for convolutions.
        activation_checkpointing: recompute activations in the backward pass; needs less memory and more computation.
        compile: compile the model with ``torch.compile``; the first steps then take minutes.
        num_workers: processes that read frames from disk; 0 reads them in the training process.
        seed: seed of the weights, the batches and the re-seedings.
    """

    out: str = "checkpoints/latent_action"
    steps: int = 100_000
    epochs: float | None = None
    max_minutes: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-4
    warmup: float = 0.0
    clip_norm: float = 1.0
    reseed_every: int = 10_000
    reseed_until: float = 1.0
    log_every: int = 1
    validate_every: int = 1_000
    validate_pairs: int = 4_096
    usage_every: int = 5_000
    examples_every: int = 2_500
    checkpoint_every: int = 10_000
    keep_last: int = 3
    max_non_finite: int = 10
    max_zero: int = 100
    collapse_share: float = 0.01
    collapse_steps: int = 500
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    activation_checkpointing: bool = False
    compile: bool = False
    num_workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "validate_pairs", "keep_last", "max_non_finite", "collapse_steps", *EVERY):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "num_workers", "final_learning_rate", "max_zero"):
            require(getattr(self, name) >= 0, name, f"must be at least 0, not {getattr(self, name)}")
        for name in ("clip_norm", "learning_rate"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        require(self.batch_size >= 2, "batch_size", f"must be at least 2 (batch norm), not {self.batch_size}")
        counted = self.epochs is None or 0 < self.epochs < math.inf
        require(counted, "epochs", f"must be positive, or null to count steps, not {self.epochs}")
        limited = self.max_minutes is None or self.max_minutes > 0
        require(limited, "max_minutes", f"must be positive, or null for no limit, not {self.max_minutes}")
        require(0 <= self.reseed_until <= 1, "reseed_until", f"must be a share in [0, 1], not {self.reseed_until}")
        for name in ("warmup", "collapse_share"):
            require(0 <= getattr(self, name) < 1, name, f"must be a share in [0, 1), not {getattr(self, name)}")
        parts = self.accumulate
        even = parts >= 1 and self.batch_size % parts == 0 and self.batch_size // parts >= 2
        require(even, "accumulate", f"must divide batch_size into parts of 2 or more (batch norm), not {parts}")


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go besides ``metrics.jsonl``, which is always written.

    Attributes:
        wandb: Weights & Biases: ``off``, ``online``, ``offline``, or ``auto``, which is ``online`` with an API key and
            ``offline`` without; the environment variable ``WANDB_MODE`` takes precedence.
        project: name of the Weights & Biases project.
        name: name of the run; null takes the name of its folder.
        init_timeout: seconds to wait for the server at the start.
        tensorboard: write event files into the run's folder.
    """

    wandb: Literal["off", "auto", "online", "offline"] = "off"
    project: str = "lapa"
    name: str | None = None
    init_timeout: float = 15.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require(self.init_timeout > 0, "init_timeout", f"must be positive, not {self.init_timeout}")


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run's configuration.

    Attributes:
        system: name of the model family; ``lapa plugins`` lists them.
        data: which recordings are used, and what the model sees of them.
        model: the parts of the model; an instance of the system's ``Config``.
        loss: weights of the loss terms; an instance of the system's ``Loss``.
        training: how long and how fast to train, and what is kept.
        tracking: where metrics go besides ``metrics.jsonl``.
    """

    system: str = DEFAULT_SYSTEM
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: Any = dataclasses.field(default_factory=lambda: registry.systems.get(DEFAULT_SYSTEM).Config())
    loss: Any = dataclasses.field(default_factory=lambda: registry.systems.get(DEFAULT_SYSTEM).Loss())
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)


def sections(system: str) -> dict[str, type[Any]]:
    """The dataclass of each section of a system's configuration.

    Raises:
        RegistryError: there is no such system, or it is unusable.
    """
    family = registry.systems.get(system)
    return {
        "data": DataConfig,
        "model": family.Config,
        "loss": family.Loss,
        "training": TrainingConfig,
        "tracking": TrackingConfig,
    }


def load_config(preset: str | None = None, file: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The system's defaults, then the preset, then the file, then the dotted overrides; all values are checked.

    Args:
        preset: one of :func:`presets`. If None: the file's ``base``; else :data:`DEFAULT_PRESET`, unless file or
            overrides name another system than its own.
        file: a YAML file that says what differs from the preset.
        overrides: ``dotted.key=value``, in order.

    Raises:
        ConfigError: an unknown key, preset, system or option, a wrong type, or an impossible value.
    """
    given = [(f"{file}: ", "", renamed(read_yaml(file)))] if file is not None else []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise ConfigError(f"override '{override}' is not of the form dotted.key=value")
        try:
            is_word = value.strip().lower() in BOOLEAN_WORDS
            change = OmegaConf.from_dotlist([f"{key}='{value.strip()}'" if is_word else override])
            given.append(("", RENAMED[key][0] if key in RENAMED else key, renamed(change)))
        except (YAMLError, OmegaConfBaseException):
            raise ConfigError(f"{key}: the value in '{override}' is not valid YAML; quote it") from None
    base = given[0][2].pop("base", None) if file is not None else None
    if base and preset:
        raise ConfigError(f"{file}: base: is '{base}', and the preset '{preset}' is given too; leave one of them out")
    asked = [str(changes["system"]) for _, _, changes in given if "system" in changes]
    system, below = preset_of(preset or base, asked[-1] if asked else None)
    merged = schema(system)
    for values in below:
        merged = merge(merged, values)
    for _, _, changes in given:
        merged = _drop_foreign_options(merged, changes)
    for where, key, changes in given:
        for section in changes:  # one by one, so that an error can name it
            merged = merge(merged, OmegaConf.create({section: changes[section]}), where=where, at=key or str(section))
    return _finish(merged)


def renamed(changes: DictConfig) -> DictConfig:
    """Changes with :data:`RENAMED` keys by their new names."""
    for old, (new, values) in RENAMED.items():
        section, _, key = old.rpartition(".")
        within = OmegaConf.select(changes, section)
        if isinstance(within, DictConfig) and key in within:
            value = within.pop(key)
            OmegaConf.update(changes, new, values.get(value, value))
    return changes


def preset_of(preset: str | None, system: str | None) -> tuple[str, list[DictConfig]]:
    """The system of the configuration, and the layers of its preset; none if no preset applies.

    Args:
        preset: its name, if one is given.
        system: the system that is asked for, if any.

    Raises:
        ConfigError: no such preset, or it is of another system.
    """
    own, layers = read_preset(preset or DEFAULT_PRESET)
    if system is None or system == own:
        return own, layers
    if preset is None:
        return system, []
    others = ", ".join(name for name in presets() if read_preset(name)[0] == system)
    remedy = f"name one of {others}" if others else "leave the preset out"
    raise ConfigError(f"system: the preset '{preset}' is of the system '{own}', not '{system}'; {remedy}")


def schema(system: str) -> DictConfig:
    """The defaults of a system's configuration; merging an unknown key into them is an error.

    Raises:
        ConfigError: there is no such system, or it is unusable.
    """
    try:
        fields = [(name, cls, dataclasses.field(default_factory=cls)) for name, cls in sections(system).items()]
    except RegistryError as error:
        raise ConfigError(f"system: {error}") from error
    made = dataclasses.make_dataclass("Config", [("system", str, dataclasses.field(default=system)), *fields])
    defaults: DictConfig = OmegaConf.structured(made)
    return defaults


def config_from_dict(values: dict[str, Any]) -> Config:
    """The inverse of :func:`config_to_dict`, as strict as :func:`load_config`.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"a configuration is a mapping of sections, not {type(values).__name__}")
    # Before there were systems, there was one.
    return _finish(merge(schema(str(values.get("system", DEFAULT_SYSTEM))), renamed(OmegaConf.create(values))))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, lists and scalars, for checkpoints and YAML."""
    plain = OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(config)))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config)))


def plugin_roles(model: type[Any]) -> dict[str, registry.Registry[Any]]:
    """The roles of plugins that a system's ``Config`` has a section for."""
    names = {field.name for field in dataclasses.fields(model)}
    return {role: members for role, members in PLUGIN_SECTIONS.items() if role in names}


def _finish(merged: DictConfig) -> Config:
    """Checks values and plugin sections, and fills the sections with their plugins' defaults."""
    found = {name: to_object(merged[name], f"{name}.") for name in sections(merged.system)}
    parts: dict[str, Any] = {}
    for role, members in plugin_roles(type(found["model"])).items():
        section = getattr(found["model"], role)
        if not isinstance(section.get("name"), str):
            raise ConfigError(f"model.{role}.name: give one of {', '.join(members.names())}")
        try:
            options = plugin_config(members, section)
        except RegistryError as error:
            raise ConfigError(f"model.{role}.name: {error}") from error
        parts[role] = {"name": section["name"], **dataclasses.asdict(options)}
    if parts:
        found["model"] = dataclasses.replace(found["model"], **parts)
    return Config(system=merged.system, **found)


def _drop_foreign_options(base: DictConfig, changes: Any) -> DictConfig:
    """Lets one word swap a plugin: options the base set for the old one stay only if the new one has them too."""
    if not isinstance(changes.get("model"), DictConfig):
        return base
    values: Any = OmegaConf.to_container(base)
    for role, members in plugin_roles(sections(base.system)["model"]).items():
        section = changes.model.get(role)
        name = section.get("name") if isinstance(section, DictConfig) else None
        if not isinstance(name, str) or name == values["model"][role].get("name") or name not in members.names():
            continue  # an unknown name is reported by _finish, with its dotted path
        try:
            known = {field.name for field in dataclasses.fields(members.get(name).Config)} | {"name"}
        except RegistryError:
            continue  # likewise
        values["model"][role] = {key: value for key, value in values["model"][role].items() if key in known}
    return merge(schema(base.system), OmegaConf.create(values))
