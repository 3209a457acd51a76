"""Where the stock libraries look up what they write and load tensors with, and the names of their files."""

from __future__ import annotations

SAVE_FILE = (
    ("safetensors.torch", "save_file"),
    ("transformers.modeling_utils", "safe_save_file"),
    ("peft.peft_model", "safe_save_file"),
)
"""Where stock writers look up `safetensors.torch.save_file`: module and name there."""
TORCH_FILES = frozenset({"optimizer.pt"})
"""Files of `torch.save` that hold tensors of the state; its others are small, and written as ever."""
TRAINER_STATE_NAME = "trainer_state.json"

LOAD_FILE = (
    ("safetensors.torch", "load_file"),
    ("transformers.trainer_utils", "safe_load_file"),
    ("transformers.modeling_utils", "safe_load_file"),
    ("peft.utils.save_and_load", "safe_load_file"),
    ("accelerate.utils.modeling", "safe_load_file"),
)
"""Where stock code looks up `safetensors.torch.load_file`: module and name there."""
SAFE_OPEN = tuple(
    (module, "safe_open")
    for module in (
        *("safetensors", "safetensors.torch", "transformers.modeling_utils", "transformers.modeling_layers"),
        *("peft.peft_model", "accelerate.utils.modeling"),
    )
)
"""Where stock code looks up `safetensors.safe_open`."""
