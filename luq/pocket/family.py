"""What the training needs of a family of models: `llava`, `qwen`, `wide` and `smol` are some."""

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from luq.pocket import llava, qwen, smol, wide
from luq.pocket.conversations import Chat
from luq.pocket.drawing import Scene
from luq.pocket.stream import Mixture


class Family(Protocol):
    """A module that builds one family's model and says how its parts are reached.

    A model is `Any` here, since transformers gives the parts of its models no types.
    """

    CHAT: Chat
    MIXTURE: Mixture
    PLACES: bool  # the tower can name the row and the column of a cell
    WIDTH: int  # of the tower's features
    IS_TRAINED: bool  # `build` gives weights that know the world already

    @property
    def LAYERS(self) -> int | None:
        """Of the decoder that ships with the project; None: the decoder's file says it."""

    def make_tokenizer(self) -> PreTrainedTokenizerFast: ...

    def make_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any: ...

    def build(self, tokenizer: PreTrainedTokenizerFast, layers: int, vision_layers: int) -> Any: ...

    def tower(self, model: Any) -> nn.Module: ...

    def features(self, model: Any, scenes: list[Scene]) -> Tensor: ...

    def project(self, model: Any, patches: Tensor) -> Tensor: ...

    def positions(self, model: Any, ids: Tensor, images: int) -> Tensor | None: ...

    def target(self, scenes: list[Scene]) -> Tensor | None: ...


FAMILIES: dict[str, Family] = {
    "pocket_llava": llava,
    "pocket_qwen": qwen,
    "pocket_wide": wide,
    "smol_llava": smol,
}
