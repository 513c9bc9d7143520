"""What a client is told of whatever went wrong with its request, and what the log is told: both name the request's id.

How it is told, as a reply or within one, is not known here.
"""

import logging
import traceback

from localfusion.errors import ConfigError, LocalFusionError, ModelLoadError
from localfusion.server.errors import Told, told, unexpected

REQUEST_ID = "localfusion.request_id"
"""Where a request's scope has the id."""
NO_ID = "-"
_LOG = logging.getLogger("localfusion.server")
_N_PLACES = 6


def telling(error: BaseException, id: str) -> Told:
    """What a client is told of an error of the request `id`; what it is not told is logged.

    Of an error that nobody foresaw the log has where it happened, and never what was said there: messages of foreign
    errors may quote what was asked.
    """
    if isinstance(error, LocalFusionError):
        return told(tellable(error, id))
    frames = traceback.extract_tb(error.__traceback__)[-_N_PLACES:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    _LOG.error("%s failed: %s at %s", id, type(error).__name__, places)
    return unexpected(id)


def tellable(error: LocalFusionError, id: str) -> LocalFusionError:
    """The error as a client may hear of it: what only the operator can mend names his files, and is for the log."""
    match error:
        case ConfigError():
            shown: LocalFusionError = ConfigError(
                f"the server is not set up as it has to be; its log says more under {id}"
            )
        case ModelLoadError(model=model):
            shown = ModelLoadError(model, f"{model} cannot be loaded; the server's log says more under {id}")
        case _:
            return error
    _LOG.error("%s failed: %s (%s)", id, error.message, error.hint)
    return shown
