"""The saved form of telemetry: where spans go, and how they hang together with Prefect's own."""

from collections import OrderedDict
from pathlib import Path
from typing import Self, final
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext
from prefect.blocks.core import Block
from prefect.context import FlowRunContext
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY, TRACEPARENT_KEY
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from blocks.sinks.otel import OtelSink, Outlet
from blocks.sinks.otlp import OtlpReceiver, exporter, resource
from blocks.sinks.span_file import SpanFile
from swarmc.contracts.completions import Stage
from swarmc.tracing.live import LiveSpans, Place

MOST_TASKS = 1000


@final
class Telemetry(Block):
    """Where a run's OpenTelemetry spans go: to a collector, to a file, or to both."""

    _block_type_name = "swarmc telemetry"
    _block_type_slug = "swarmc-telemetry"
    _description = "Shows swarmc's runs as OpenTelemetry traces: stages, program runs, predictors, model calls."

    # A refused header is not to be read in the error.
    model_config = ConfigDict(hide_input_in_errors=True)

    endpoint: str | None = Field(
        default=None,
        title="OTLP endpoint",
        description="An OTLP/HTTP receiver, e.g. http://localhost:4318; /v1/traces is added where there is no path",
    )
    # One hidden text: Prefect hides no value inside of a table.
    headers: SecretStr = Field(
        default=SecretStr(""),
        title="Headers",
        description="Sent with every request: name=value, separated by commas, as in OTEL_EXPORTER_OTLP_HEADERS",
    )
    file: Path | None = Field(
        default=None, title="File", description="Spans are appended here, one a line as JSON; `~` is your home"
    )
    include_content: bool = Field(
        default=False,
        title="Include content",
        description=(
            "Also tell inputs, outputs and the words of failures. Left out by default: they are what users typed "
            "and what models said"
        ),
    )
    service_name: str = Field(
        default="swarmc", title="Service name", min_length=1, description="What the receiver is to call this service"
    )

    @field_validator("endpoint")
    @classmethod
    def _must_be_http(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"{endpoint!r} is no OTLP/HTTP address; give one like http://localhost:4318")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _must_be_named(cls, headers: SecretStr) -> SecretStr:
        for place, (name, equals, _) in enumerate(_pairs(headers), start=1):
            if not (name and equals):
                # Without the words: they may be the secret.
                raise ValueError(f"header {place} has no name; write name=value, separated by commas")
        return headers

    @model_validator(mode="after")
    def _must_go_somewhere(self) -> Self:
        if self.endpoint is None and self.file is None:
            raise ValueError("the spans go nowhere; give an endpoint, a file, or both")
        return self

    def open(self) -> OtelSink:
        """The sink, which the stream closes. Open it inside of the flow, so that its spans join the flow's trace.

        Raises:
            StoreError: the file cannot be written.
        """
        above = place_here()
        tasks = _tasks_of(trace.get_tracer_provider())
        live = LiveSpans(
            above,
            above_stage=(lambda stage: tasks.place(above, stage)) if above and tasks else None,
            include_content=self.include_content,
        )
        outlets: list[Outlet] = [SpanFile(self.file)] if self.file else []
        if self.endpoint:
            outlets.append(OtlpReceiver(self.endpoint, self._headers(), self.service_name))
        return OtelSink(live, outlets)

    def show_prefect(self) -> bool:
        """Send Prefect's own spans of flows and tasks to the endpoint too, for as long as this process lives.

        Call it before the flow begins. The spans of a run then hang under its flow's and its tasks', and a
        retried flow continues the trace that its labels name.

        Returns:
            Whether that is so now: not without an endpoint, nor where something else has set up OpenTelemetry.
        """
        if not self.endpoint or isinstance(trace.get_tracer_provider(), TracerProvider):
            return False
        provider = TracerProvider(resource=resource(self.service_name))
        batches = BatchSpanProcessor(exporter(self.endpoint, self._headers()), schedule_delay_millis=1000)
        provider.add_span_processor(batches)
        trace.set_tracer_provider(provider)
        return True

    def _headers(self) -> dict[str, str]:
        return {name: value for name, _, value in _pairs(self.headers)}


def _pairs(headers: SecretStr) -> list[tuple[str, str, str]]:
    """Name, `=` and value of each; the value may be written with `%2C` for a comma."""
    parts = [one.strip().partition("=") for one in headers.get_secret_value().split(",") if one.strip()]
    return [(name.strip(), equals, unquote(value.strip())) for name, equals, value in parts]


def place_here() -> Place | None:
    """The span that this code runs in: the current one, or the one that the Prefect flow run's labels name."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        flow = FlowRunContext.get()
        labels = flow.flow_run.labels if flow and flow.flow_run else {}
        carrier = {TRACEPARENT_KEY: str(labels.get(LABELS_TRACEPARENT_KEY, ""))}
        context = trace.get_current_span(extract(carrier)).get_span_context()
    return _place(context) if context.is_valid else None


def _place(context: SpanContext) -> Place:
    return Place(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")


class _Tasks(SpanProcessor):
    """Remembers the newest span of every Prefect task, by its trace and the task's name.

    A stage is a task of its name, but is told on a queue that has forgotten the task's context.
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str], Place] = OrderedDict()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's
        attributes = span.attributes or {}
        context = span.get_span_context()
        if attributes.get("prefect.run.type") != "task" or context is None:
            return
        place = _place(context)
        self._newest[place.trace_id, span.name.rpartition("-")[0]] = place
        if len(self._newest) > MOST_TASKS:
            self._newest.popitem(last=False)

    def on_end(self, span: ReadableSpan) -> None:
        """A task's place stays known: its stage may be told later."""

    def place(self, above: Place, stage: Stage) -> Place | None:
        return self._newest.get((above.trace_id, stage))


_TASKS: WeakKeyDictionary[TracerProvider, _Tasks] = WeakKeyDictionary()


def _tasks_of(provider: trace.TracerProvider) -> _Tasks | None:
    """What listens to the process's provider, where it has a real one; a provider cannot be left again."""
    if not isinstance(provider, TracerProvider):
        return None
    if provider not in _TASKS:
        _TASKS[provider] = _Tasks()
        provider.add_span_processor(_TASKS[provider])
    return _TASKS[provider]
