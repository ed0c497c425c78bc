"""The one place that says which predictor answers now."""

from __future__ import annotations

import logging

from data.errors import TwinError
from data.settings import Settings
from serving.answer import warm_up
from serving.predictor import Predictor
from training.release import load_release

logger = logging.getLogger(__name__)


class Champion:
    """Holds the predictor of the champion release, or the reason why there is none.

    A request reads `predictor` once and answers from what it got; replacing it is one assignment.
    """

    def __init__(self) -> None:
        self.predictor: Predictor | None = None
        self.problem = "the champion release is being loaded: try again in some seconds"

    def load(self, settings: Settings) -> None:
        """Load `models:/<domain>-twin@champion`.

        Where that is not possible the present predictor goes on answering; without one, `problem` says why.
        """
        try:
            predictor = Predictor(load_release(settings.domain, settings=settings))
        except TwinError as error:
            self.problem = f"{error.sentence}; then start the service again"
            logger.error("no champion: %s", error.sentence)
        else:
            warm_up(predictor)
            self.predictor = predictor
            logger.info("%s answers", predictor.label)
