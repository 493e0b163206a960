"""What is of a node run of another worker is asked of its owner: to be shown, and to be acted on."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from web.answers import RefusedError, refused
from web.data import ErrorShown
from web.health import Readiness
from web.here import Here, NotHereError
from web.others import Answer, NoAnswerError, Others, Question


@dataclass(frozen=True)
class Owners:
    """Asks the owners of partitions that are not here, and says in which way they cannot be asked."""

    here: Here
    readiness: Readiness
    others: Others

    async def ask(self, away: NotHereError, question: Question) -> Answer:
        """Return what the owner answers, whatever that is; `passed_on` makes a refusal of it.

        Raises:
            RefusedError: 421 where another worker is to be asked, 503 where nobody can be now; nothing was done then,
                but where the message says that this is not known.
        """
        try:
            answer = await self.others.ask_owner(away.partition, question)
        except NoAnswerError as error:
            raise self._away(away.partition, question, error) from None
        if answer is None and not away.owned and self.readiness.obstacle() is None:
            raise self._missing("no-owner", f"{_where(away.partition)} has no worker now", away.partition)
        if answer is None:
            raise self.not_here(away)
        if answer.status == HTTPStatus.MISDIRECTED_REQUEST:
            raise self._missing("moving", f"{_where(away.partition)} moves to another worker", away.partition)
        return answer

    def not_here(self, away: NotHereError) -> RefusedError:
        """Return why this worker says nothing of a partition."""
        where, obstacle = _where(away.partition), self.readiness.obstacle()
        if away.owned or obstacle is not None:
            why = obstacle.value if obstacle is not None else "recovering"
            return self._missing(why, f"{where} cannot be told now: this worker is {why}", away.partition)
        message = f"{where} belongs to another worker: ask that one"
        return self.placed(refused(HTTPStatus.MISDIRECTED_REQUEST, "not-here", message), away.partition)

    def placed(self, error: RefusedError, partition: int) -> RefusedError:
        """Return it with the partition that was asked for, and who answers."""
        update = {"partition": partition, "worker": self.here.worker.incarnation}
        return RefusedError(error.status, error.shown.model_copy(update=update), error.headers)

    def _away(self, partition: int, question: Question, error: NoAnswerError) -> RefusedError:
        message = f"{_where(partition)} is missing: {error}"
        if question.body is not None and error.asked:
            message += "; whether it was done is not known: look before you ask again"
        return self._missing("owner-away", message, partition)

    def _missing(self, error: str, message: str, partition: int) -> RefusedError:
        answer = refused(HTTPStatus.SERVICE_UNAVAILABLE, error, message, {"Retry-After": "2"})
        return self.placed(answer, partition)


def passed_on(answer: Answer) -> RefusedError:
    """Return the refusal of another worker as one of this one; 502 where what it answers is none."""
    try:
        status, shown = HTTPStatus(answer.status), ErrorShown.model_validate_json(answer.body)
    except ValueError:
        message = f"worker {answer.peer.worker} at {answer.peer.url} answers {answer.status}"
        return refused(HTTPStatus.BAD_GATEWAY, "owner-fails", message)
    again = {"Retry-After": "2"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return RefusedError(status, shown, again)


def _where(partition: int) -> str:
    return f"partition {partition}, in which this node run would be,"
