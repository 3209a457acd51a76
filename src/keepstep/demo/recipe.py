"""Settings of the demonstration fine-tune, for the embedded model and for a model that the user brings."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a demonstration run unfolds.

    The rows are consecutive cuts of the tokenized text: the first `rows` of them train, the next `eval_rows`
    evaluate. Few rows and a high learning rate are deliberate: the run has to overfit within a minute.
    """

    learning_rate: float
    """Constant AdamW step size, without warm-up or weight decay."""

    lora_rank: int
    """Rank of each LoRA update."""

    lora_alpha: int
    """LoRA scale; the update is multiplied by `lora_alpha / lora_rank`."""

    lora_dropout: float
    """Probability, 0 to 1, of dropping an input of a LoRA layer while training."""

    target_modules: tuple[str, ...] | str
    """Names of the linear layers that get LoRA; the string "all-linear" means all but the output layer."""

    rows: int
    """Number of training rows."""

    tokens_per_row: int
    """Length of each training and evaluation row, in tokens."""

    eval_rows: int
    """Number of held-out rows."""

    batch_size: int
    """Rows per optimizer step."""

    epochs: int
    """Passes over the training rows."""

    eval_every_steps: int
    """Optimizer steps between two evaluations; each evaluation is followed by a save."""

    prompt: str
    """Opening words of the sample sentences."""

    seed: int
    """Seed of the LoRA initialisation, of the row order and of sampling."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * -(-self.rows // self.batch_size)


EMBEDDED = Recipe(
    learning_rate=5e-3,
    lora_rank=8,
    lora_alpha=16,
    lora_dropout=0.05,
    target_modules="all-linear",
    rows=80,
    tokens_per_row=64,
    eval_rows=64,
    batch_size=8,
    epochs=6,
    eval_every_steps=4,
    prompt="The old man looked",
    seed=0,
)
"""For the embedded model and its text: 60 steps, the validation loss being lowest near step 20."""


BRIEF = replace(EMBEDDED, epochs=3)
"""Half of it: for what is to be seen within a minute."""


def for_model(parameters: int) -> Recipe:
    """Picks the settings for a model of this many parameters.

    They are measured on 15 million parameters; for much larger models the learning rate is extrapolated.
    """
    return replace(
        EMBEDDED,
        learning_rate=_learning_rate_for(parameters),
        rows=64,
        eval_rows=32,
    )


def _learning_rate_for(parameters: int) -> float:
    """Smaller steps for larger models, which overfit a given number of rows sooner."""
    if parameters < 5_000_000:
        return EMBEDDED.learning_rate
    if parameters < 100_000_000:
        return 1e-3
    if parameters < 1_000_000_000:
        return 5e-4
    return 2e-4
