"""The rows of the matrix, in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.matrix.subject import Subject
from tests.matrix.subjects.adapters import ADAPTERS
from tests.matrix.subjects.encoder_decoder import TRANSLATORS
from tests.matrix.subjects.experts import MIXTURES
from tests.matrix.subjects.image_text import IMAGES_AND_TEXT
from tests.matrix.subjects.loaded import LOADED
from tests.matrix.subjects.optimizers import OPTIMIZERS
from tests.matrix.subjects.settings import SETTINGS
from tests.matrix.subjects.speech import SPEECH
from tests.matrix.subjects.text import DECODERS, ENCODERS
from tests.matrix.subjects.vision import IMAGES

GROUPS: Mapping[str, Sequence[Subject]] = {
    "Decoders": DECODERS,
    "Mixtures of experts": MIXTURES,
    "Encoders and heads": ENCODERS,
    "Encoders with decoders": TRANSLATORS,
    "Images": IMAGES,
    "Images and text": IMAGES_AND_TEXT,
    "Speech": SPEECH,
    "Models loaded from files": LOADED,
    "The same models in other ways": SETTINGS,
    "Adapters": ADAPTERS,
    "Optimizers": OPTIMIZERS,
}
