"""Gemini, through Google's own client; arXiv 2601.14620 asked Gemini 2.5 Pro."""

import zlib
from collections.abc import Mapping, Set
from typing import Any

from annot_hf.proxies.backend import Answer, Ask, Busy, Rejected, Stopped
from annot_hf.proxies.server import (
    GAVE_UP,
    LONGEST_BODY,
    REJECTING,
    STOPPING,
    Server,
    count_of,
    retry_after,
    seconds_of,
)

_BLOCKED = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "RECITATION", "SPII")
_ODD = (ValueError, TypeError, AttributeError, LookupError, RecursionError)  # what odd bodies raise in the client


class Gemini(Server):
    """Questions as `generateContent` with the clip as inline data.

    For its arguments see `Server`; `base_url` is that of a proxy, and `max_tokens` has room for the thoughts of a model that
    thinks.
    """

    kind, needed_library, usual_key, needs_key = "gemini", "google.genai", "GEMINI_API_KEY", True
    usual_address = "GOOGLE_GEMINI_BASE_URL"

    def _connect(self, base_url: str | None) -> Any:
        self.types, self.errors = self.library.types, self.library.errors
        options = self.types.HttpOptions(
            base_url=base_url,
            timeout=round(self.timeout * 1000),
            retry_options=self.types.HttpRetryOptions(attempts=1),
            # named, or the client would take aiohttp where that happens to be installed, whose errors are others
            httpx_async_client=self.web,
        )
        return self.library.Client(api_key=self.key.value, vertexai=False, http_options=options)

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        types = self.types
        config = types.GenerateContentConfig(
            system_instruction=None if "system" in omit else ask.system,
            temperature=None if "temperature" in omit else ask.temperature,
            seed=None if "seed" in omit else ask.seed,
            max_output_tokens=self.max_tokens,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        text = f"{ask.system}\n\n{ask.user}" if "system" in omit else ask.user
        contents = [types.Part.from_bytes(data=ask.audio, mime_type="audio/wav"), types.Part.from_text(text=text)]
        try:
            found = await self.client.aio.models.generate_content(model=self.model, contents=contents, config=config)
            return _answer_in(found)
        except Stopped:
            raise
        except self.errors.APIError as error:
            raise self._failure(error) from None
        except (self.http.HTTPError, TimeoutError, OSError) as error:
            reached = not isinstance(error, self.http.ConnectError | self.http.ConnectTimeout)
            raise Busy(f"{type(error).__name__}: {self.said(str(error))}", paid=reached) from None
        except (self.errors.UnknownApiResponseError, zlib.error, *_ODD) as error:
            shown, name = self.key.mask(str(error))[:LONGEST_BODY], type(error).__name__
            raise Busy(f"the body is no generateContent response ({name})", paid=True, body=shown) from None

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.client.aio.aclose()
        await super().close()

    def _failure(self, error: Any) -> Exception:
        """What an HTTP status means for the questions."""
        status, said = error.code, self.said(str(error.message))
        if status in STOPPING or (status == 400 and "api key" in str(error.message).lower()):
            return Stopped(
                f"Gemini answers {status} to a question for model {self.model!r} ({said}); check the key and the name of the "
                "model."
            )
        if status in REJECTING:
            return Rejected(f"{status}: {said}")
        pause = retry_after(getattr(error.response, "headers", None) or {})
        pause = _retry_delay(error.details) if pause is None else pause
        return Busy(f"{status}: {said}", retry_after=pause, paid=status in GAVE_UP)


def _retry_delay(body: Any) -> float | None:
    """Seconds that the google.rpc.RetryInfo of an error's JSON asks for, such as "34s"; None without a readable one."""
    error = body.get("error") if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for one in details if isinstance(details, list) else ():
        if isinstance(one, Mapping) and str(one.get("@type")).endswith("google.rpc.RetryInfo"):
            return seconds_of(str(one.get("retryDelay")).removesuffix("s"))
    return None


def _answer_in(found: Any) -> Answer:
    """What a `GenerateContentResponse` says; without a candidate it is an answer without a reply."""
    candidate = found.candidates[0] if found.candidates else None
    parts = (candidate.content.parts or []) if candidate is not None and candidate.content is not None else []
    texts = [part.text for part in parts if part.text is not None and not part.thought]
    usage = found.usage_metadata
    blocked = found.prompt_feedback is not None and found.prompt_feedback.block_reason is not None
    finish = getattr(getattr(candidate, "finish_reason", None), "name", "")
    names = ("prompt_token_count", "candidates_token_count", "thoughts_token_count")
    read, *written = (count_of(getattr(usage, name, None)) for name in names)
    return Answer(
        "".join(texts) if texts else None,
        model=found.model_version or "",
        revision=found.model_version or "",
        refused=blocked or finish in _BLOCKED,
        cut=finish == "MAX_TOKENS",
        input_tokens=read,
        output_tokens=sum(count or 0 for count in written) if any(count is not None for count in written) else None,
    )
