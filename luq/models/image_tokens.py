"""How many tokens a picture becomes: known from its size, before it is decoded and prepared.

Questions are asked in batches of similar length. Where a picture's tokens depend on its size, they
and not the text decide which questions those are.
"""

from typing import Any

from luq.models.processors import encode_chats


class ImageTokens:
    """The tokens that a processor writes for pictures.

    Args:
        processor: as `load_processor` gives it.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._counts: dict[tuple[int, int], int] = {}  # by (width, height)

    def count(self, width: int, height: int) -> int:
        """Tokens of a picture of so many pixels; 0 if the processor refuses such ones.

        A token more or less than in a chat is possible, and those between the tiles of a picture
        may be left out: it is a measure of length, and no promise.
        """
        size = width, height
        if size not in self._counts:
            try:
                self._counts[size] = self._count(width, height)
            except Exception:  # noqa: BLE001  # processors raise many kinds
                self._counts[size] = 0  # the question will say why, when it is asked
        return self._counts[size]

    def _count(self, width: int, height: int) -> int:
        # transformers has it for servers such as vLLM; not all of its processors do
        token_counter = getattr(self._processor, "_get_num_multimodal_tokens", None)
        if token_counter is not None:
            return int(token_counter(image_sizes=[[height, width]])["num_image_tokens"][0])
        return self._prepared(width, height)

    def _prepared(self, width: int, height: int) -> int:
        """Tokens of a picture that is black all over."""
        from PIL import Image

        token = self._processor.image_token
        blank = Image.new("RGB", (width, height))
        encoded = encode_chats(self._processor, [token], [[blank]])
        return int(encoded["input_ids"].shape[1])
