"""Any server that speaks the OpenAI chat protocol and takes audio: vLLM, llama.cpp, LiteLLM, OpenAI itself."""

import base64
import email.utils
import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from annot_hf.proxies.backend import Answer, Ask, Busy, Key, Rejected, Stopped, check_address, needs

KEY = "OPENAI_API_KEY"
LONGEST_BODY = 2000  # characters kept of a body that is no answer
_REJECTING = (400, 413, 415, 422)  # what a server says of a question that it will never take
_STOPPING = (401, 402, 403, 404)
_LARGEST = 10**9  # tokens, or USD, of one answer: more is no report


class OpenAIServer:
    """Questions as chat completions with an `input_audio` part.

    The key comes from the environment. The library's own retries are off: waiting is the business of `annotate`, which
    knows of all questions under way.

    Args:
        model: Name of the model on the server.
        base_url: Address such as "http://127.0.0.1:8000/v1"; that of OpenAI when None.
        key_name: Environment variable that holds the key. A server of one's own may do without.
        timeout: Seconds (s) until an answer is given up, from the question to its last byte.
        max_tokens: Most tokens of a reply.
        revision: Revision of the model, for the record; the protocol has no way to ask for one.

    Raises:
        ValueError: The library is not installed, the address is none, or OpenAI itself is asked without a key.
    """

    batch_size = 1
    max_concurrency = None

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_name: str = KEY,
        timeout: float = 60.0,
        max_tokens: int = 64,
        revision: str = "",
    ) -> None:
        self.library, self.http = needs("openai"), needs("httpx2")
        check_address(base_url)
        self.key = Key(key_name, needed=base_url is None)
        self.model, self.revision, self.max_tokens, self.timeout = model, revision, max_tokens, timeout
        self.client = self.library.AsyncOpenAI(
            api_key=self.key.value or "none", base_url=base_url, timeout=timeout, max_retries=0
        )

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """See `Backend.ask`."""
        (ask,) = asks
        openai = self.library
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[
                    {"role": "system", "content": ask.system},
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_audio", "input_audio": {"data": _encoded(ask.audio), "format": "wav"}},
                            {"type": "text", "text": ask.user},
                        ],
                    },
                ],
                temperature=ask.temperature,
                seed=ask.seed,
                max_tokens=self.max_tokens,
                extra_headers={"Idempotency-Key": ask.key},
            )
            body = raw.http_response.text
        except openai.APIStatusError as error:
            raise self._failure(error) from None
        except openai.APIConnectionError as error:  # a time-out too
            cause = error.__cause__ or error
            reached = not isinstance(cause, self.http.ConnectError | self.http.ConnectTimeout)
            raise Busy(f"{type(cause).__name__}: {self.key.mask(str(cause))}", paid=reached) from None
        except (self.http.HTTPError, UnicodeDecodeError) as error:  # while the body comes
            raise Busy(f"{type(error).__name__}: {self.key.mask(str(error))}", paid=True) from None
        try:
            return [self.key.mask_answer(read_completion(json.loads(body)))]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            shown = self.key.mask(body)[:LONGEST_BODY]
            raise Busy(f"the body is no chat completion ({type(error).__name__})", paid=True, body=shown) from None

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.client.close()

    def _failure(self, error: Any) -> Exception:
        """What an HTTP status means for the questions."""
        said = error.body.get("message") if isinstance(error.body, Mapping) else None
        status, said = error.status_code, self.key.mask(str(said or error.message))[:300]
        if status == 429 and error.code == "insufficient_quota":
            return Stopped(f"The server says that the account has no credit left ({said}); add some and run again.")
        if status in _STOPPING:
            return Stopped(
                f"The server answers {status} to a question for model {self.model!r} ({said}); check the key, the address and "
                "the name of the model."
            )
        if status in _REJECTING:
            return Rejected(f"{status}: {said}")
        return Busy(f"{status}: {said}", retry_after=retry_after(error.response.headers))


def read_completion(body: Mapping[str, Any]) -> Answer:
    """The answer in a chat completion's JSON; an empty list of choices is an answer without a reply.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is something else.
    """
    choices = body["choices"]
    if not isinstance(choices, list):
        raise TypeError(f"choices is a {type(choices).__name__}")
    usage = body.get("usage") or {}
    choice = choices[0] if choices else {}
    message = choice.get("message") or {}
    reply = message.get("content")
    if isinstance(reply, list):  # some servers send parts
        reply = "".join(part.get("text", "") for part in reply)
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
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        cost=float(cost)
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= _LARGEST
        else None,
    )


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without a readable one."""
    said = headers.get("retry-after-ms")
    try:
        if said is not None:
            return max(float(said) / 1000, 0.0)
        said = headers.get("retry-after")
        return None if said is None else max(float(said), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - (time.time() if now is None else now), 0.0)
    except (TypeError, ValueError):
        return None


@functools.lru_cache(maxsize=8)
def _encoded(audio: bytes) -> str:
    """Base64; the annotators of an item follow each other."""
    return base64.b64encode(audio).decode()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST else None
