"""Conversations as token ids, with what each token weighs in a training."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from luq.pocket import skills
from luq.pocket.drawing import GRID, Scene
from luq.pocket.drills import Turn
from luq.pocket.tokenizer import token_id

IMAGE_TOKENS = GRID * GRID
ASK_ALL = "Ask about the image, and answer."


class Chat(NamedTuple):
    """How a model writes a conversation, and what it is taught to say of a picture."""

    ask: str  # a question, with {image} and {question}
    reply: str  # with {answer}, up to the token that ends a turn
    image: str  # the picture, before the first question
    token: str  # of the picture; one for each of its cells
    between: str = ""  # after a reply, before the next question
    caption: Callable[[Scene], str] = skills.caption


class Written(NamedTuple):
    """A conversation."""

    ids: NDArray[np.int64]  # tokens [length]
    weight: NDArray[np.float32]  # how much each token counts in the loss [length]


class Writer:
    """Writes conversations as a model's chat template does.

    Args:
        tokenizer: The model's tokenizer.
        chat: How the model writes a conversation.
        evenness: A token of an answer of n tokens weighs n ** -evenness.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, chat: Chat, evenness: float):
        self.tokenizer = tokenizer
        self.chat = chat
        self.evenness = evenness
        self.image_token = token_id(tokenizer, chat.token)
        self.start_ids: list[int] = tokenizer("").input_ids  # what stands before every text

    def conversation(self, scene: Scene | None, turns: list[Turn]) -> Written:
        """Token ids of a conversation, and what each weighs: 0 unless it is an answer's."""
        ids = list(self.start_ids)
        weight = [0.0] * len(ids)
        for i, (question, answer) in enumerate(turns):
            ask_ids = self._question_ids(question, scene, is_first=i == 0)
            reply_ids = self._encode(self.chat.reply.format(answer=answer))
            ids += ask_ids + reply_ids
            token_weight = len(reply_ids) ** -self.evenness
            weight += [0.0] * len(ask_ids) + [token_weight] * len(reply_ids)
        return Written(np.asarray(ids, np.int64), np.asarray(weight, np.float32))

    def one_reply(self, scene: Scene | None, turns: list[Turn]) -> Written:
        """`conversation` of one turn, whose reply asks and answers; answers alone have a weight.

        Each answer begins a line, as it begins a reply elsewhere.
        """
        before, after = self.chat.reply.split("{answer}")
        ids = [*self.start_ids, *self._question_ids(ASK_ALL, scene, is_first=True)]
        ids += self._encode(before)
        weight = [0.0] * len(ids)
        for question, answer in turns:
            question_ids = self._encode(f"{question}\n")
            answer_ids = self._encode(f"{answer}\n")
            ids += question_ids + answer_ids
            token_weight = len(answer_ids) ** -self.evenness
            weight += [0.0] * len(question_ids) + [token_weight] * len(answer_ids)
        end_ids = self._encode(after)
        ids += end_ids
        weight += [0.0] * len(end_ids)
        return Written(np.asarray(ids, np.int64), np.asarray(weight, np.float32))

    def _question_ids(self, question: str, scene: Scene | None, is_first: bool) -> list[int]:
        """A user's turn, up to where the reply begins; the first one shows the picture."""
        image = self.chat.image if is_first and scene is not None else ""
        ask = self.chat.ask.format(image=image, question=question)
        ids = self._encode(ask if is_first else self.chat.between + ask)
        if image:
            place = ids.index(self.image_token)
            ids[place : place + 1] = [self.image_token] * IMAGE_TOKENS
        return ids

    def _encode(self, piece: str) -> list[int]:
        encoding = self.tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids
