"""Which model steps in where one cannot answer. Pure: nothing is loaded and nobody is asked."""

from collections.abc import Callable
from dataclasses import dataclass

from localfusion.messages import AnyModel, CloudLeave, Fallback, FallbackReason, RemoteModel, Substitution


@dataclass(frozen=True, slots=True)
class SteppedIn:
    """The model that a seat has now, the fallbacks that are left to it, and what is said of the change."""

    model: AnyModel
    left: tuple[Fallback, ...]
    substitution: Substitution


def step_in(
    id: str,
    model: AnyModel,
    fallbacks: tuple[Fallback, ...],
    *,
    reason: FallbackReason,
    error: str,
    cloud: CloudLeave,
    is_there: Callable[[AnyModel], bool] = lambda _: True,
) -> SteppedIn | None:
    """The first fallback of the seat `id` that steps in for this reason and may be used, None where there is none.

    Those before it are passed over for good. A provider's model may be used where the run allows it, a file where
    `is_there` says so.
    """
    for place, fallback in enumerate(fallbacks):
        may_be_used = cloud.is_allowed if isinstance(fallback.model, RemoteModel) else is_there(fallback.model)
        if reason in fallback.when and may_be_used:
            said = Substitution(id, model.name, fallback.model.name, reason, error)
            return SteppedIn(fallback.model, fallbacks[place + 1 :], said)
    return None
