"""Any server that speaks the OpenAI chat protocol and takes audio: vLLM, llama.cpp, LiteLLM, OpenAI itself."""

import base64
import functools
import json
import zlib
from collections.abc import Mapping, Set
from typing import Any

from annot_hf.proxies.backend import Answer, Ask, Busy, Rejected, Stopped
from annot_hf.proxies.server import GAVE_UP, LARGEST, LONGEST_BODY, REJECTING, STOPPING, Server, count_of, retry_after


class OpenAIServer(Server):
    """Questions as chat completions with an `input_audio` part.

    For its arguments see `Server`; a server of one's own, at a `base_url`, may do without a key.
    """

    kind, needed_library, usual_key, usual_address = "openai", "openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"

    def _connect(self, base_url: str | None) -> Any:
        return self.library.AsyncOpenAI(
            api_key=self.key.value or "none",
            base_url=base_url,
            timeout=self.timeout,
            max_retries=0,
            http_client=self.web,
        )

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        openai = self.library
        text = f"{ask.system}\n\n{ask.user}" if "system" in omit else ask.user
        system = [] if "system" in omit else [{"role": "system", "content": ask.system}]
        content = [
            {"type": "input_audio", "input_audio": {"data": _encoded(ask.audio), "format": "wav"}},
            {"type": "text", "text": text},
        ]
        most = "max_completion_tokens" if "max_tokens" in omit else "max_tokens"
        options = {"temperature": ask.temperature, "seed": ask.seed, most: self.max_tokens}
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[*system, {"role": "user", "content": content}],
                extra_headers={"Idempotency-Key": ask.key},
                **{name: value for name, value in options.items() if name not in omit},
            )
            body = raw.http_response.text
        except openai.APIStatusError as error:
            raise self._failure(error) from None
        except openai.APIConnectionError as error:  # a time-out too
            cause = error.__cause__ or error
            reached = not isinstance(cause, self.http.ConnectError | self.http.ConnectTimeout)
            raise Busy(f"{type(cause).__name__}: {self.said(str(cause))}", paid=reached) from None
        except (self.http.HTTPError, UnicodeDecodeError, zlib.error) as error:  # while the body comes
            raise Busy(f"{type(error).__name__}: {self.said(str(error))}", paid=True) from None
        try:
            return read_completion(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            shown = self.key.mask(body)[:LONGEST_BODY]
            raise Busy(f"the body is no chat completion ({type(error).__name__})", paid=True, body=shown) from None

    def _failure(self, error: Any) -> Exception:
        """What an HTTP status means for the questions."""
        # FastAPI and others have no message, but a list of what is wrong
        said = error.body.get("message", error.body) if isinstance(error.body, Mapping) else error.body
        named = f" ({error.param})" if error.param and str(error.param) not in str(said) else ""
        status, said = error.status_code, self.said(f"{said or error.message}{named}")
        if status == 429 and error.code == "insufficient_quota":
            return Stopped(f"The server says that the account has no credit left ({said}); add some and run again.")
        if status in STOPPING:
            return Stopped(
                f"The server answers {status} to a question for model {self.model!r} ({said}); check the key, the address and "
                "the name of the model."
            )
        if status in REJECTING:
            return Rejected(f"{status}: {said}")
        return Busy(f"{status}: {said}", retry_after=retry_after(error.response.headers), paid=status in GAVE_UP)


def read_completion(body: Mapping[str, Any]) -> Answer:
    """The answer in a chat completion's JSON; an empty list of choices is an answer without a reply.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is something else.
    """
    choices = body["choices"]
    if not isinstance(choices, list):
        raise TypeError(f"choices is a {type(choices).__name__}")
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}  # what was paid for is not thrown away for want of its counts
    choice = choices[0] if choices else {}
    message = choice.get("message") or {}
    reply = message.get("content")
    if isinstance(reply, list):  # some servers send parts, of which thoughts are no answer
        reply = "".join(part.get("text", "") for part in reply if part.get("type", "text") in ("text", "output_text"))
    if reply is None:
        reply = message.get("refusal")
    if reply is not None and not isinstance(reply, str):
        raise TypeError(f"content is a {type(reply).__name__}")
    cost = usage.get("cost")
    return Answer(
        reply,
        model=str(body.get("model") or ""),
        revision=str(body.get("system_fingerprint") or ""),
        cut=choice.get("finish_reason") == "length",
        refused=bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter",
        input_tokens=count_of(usage.get("prompt_tokens")),
        output_tokens=count_of(usage.get("completion_tokens")),
        cost=float(cost)
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= LARGEST
        else None,
    )


@functools.lru_cache(maxsize=8)
def _encoded(audio: bytes) -> str:
    """Base64; the annotators of an item follow each other."""
    return base64.b64encode(audio).decode()
