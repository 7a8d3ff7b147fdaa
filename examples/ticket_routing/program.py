"""The program to compile: it sends a support ticket to a team."""

from typing import Any

import dspy


class RouteTicket(dspy.Signature):
    """Send the ticket to the right team."""

    text: str = dspy.InputField()
    team: str = dspy.OutputField()


class TicketRouter(dspy.Module):
    """Predicts the team's code word from the ticket's text."""

    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict(RouteTicket)

    def forward(self, text: str) -> dspy.Prediction:
        return self.route(text=text)

    async def aforward(self, text: str) -> dspy.Prediction:
        return await self.route.acall(text=text)


def exact_team(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:  # noqa: ARG001
    """1.0 when the predicted team is the example's, 0.0 when it is another."""
    return float(str(prediction.team).strip() == example.team)
