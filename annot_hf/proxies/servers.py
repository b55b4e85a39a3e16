"""What the backends that ask a server have in common.

Any server that speaks the OpenAI chat protocol and takes audio: vLLM, llama.cpp, LiteLLM, OpenAI itself.

Gemini, through Google's own client; arXiv 2601.14620 asked Gemini 2.5 Pro.
"""

import base64
import email.utils
import functools
import importlib
import json
import math
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from annot_hf.data.yaml_text import printable
from annot_hf.proxies.backend import NO_ADDRESS, OMITTABLE, Answer, Ask, Busy, Rejected, Stopped, check_address

LARGEST = 10**9  # tokens, or USD, of one answer: more is no report
LONGEST_BODY = 2000  # characters kept of a body that is no answer
LONGEST_SAID = 300  # characters shown of what a server says
LONGEST_RESPONSE = 4 << 20  # bytes of a response, unpacked: many times what a long thought takes
SHORTEST = 8  # characters of a key that is taken for one inside other words too
REJECTING = (400, 413, 415, 422)  # what a server says of a question that it will never take
STOPPING = (401, 402, 403, 404)
# somebody in between gave up waiting, and what stands behind may have answered; 408 is LiteLLM's, 520 and 524 Cloudflare's
GAVE_UP = (408, 502, 504, 520, 524)


# how a server names what it does not take, and how it says so, near to each other
_NAMES = {
    "seed": r"\bseed\b",
    "system": r"\bsystem\b|\broles?\b|\bdeveloper instruction",
    "max_tokens": r"\bmax_tokens\b",
    "temperature": r"\btemperature\b",
}
_NOT = (
    r"n['’]t\b|\b(?:not|no longer|un(?:supported|known|recogni[sz]ed|expected)|cannot|invalid|extra|forbidden|only|must|"
    r"should|instead|deprecated|disabled|remove|omit|reject(?:s|ed)?)\b"
)


def refused_parts(said: str) -> list[str]:
    """What of a question an error of a server says that it does not take, in the order that it says so.

    Example:
        >>> refused_parts("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        ['max_tokens']
        >>> refused_parts("The audio is longer than 30 seconds.")
        []
    """
    found = {}
    for name, words in _NAMES.items():
        hit = re.search(rf"(?P<a>{words}).{{0,80}}?(?:{_NOT})|(?:{_NOT}).{{0,80}}?(?P<b>{words})", said, re.IGNORECASE)
        if hit:
            found[name] = hit.start("a" if hit["a"] else "b")
    return sorted(found, key=found.get)


class Server:
    """A backend that asks a server through a library, one question at a time.

    The library's own retries are off: waiting is the business of `annotate`, which knows of all questions under way.

    Args:
        model: Name of the model on the server.
        base_url: Address of the server; that of whoever makes the library when None.
        key_name: Environment variable that holds the key; `usual_key` by default.
        timeout: Seconds (s) until an answer is given up, from the question to its last byte.
        max_tokens: Most tokens of a reply.
        revision: Revision of the model, for the record; no server can be asked for one.
        omit: What is left out of every question (`backend.OMITTABLE`).

    Attributes:
        omitted: What is left out: that, and what the server was found not to take.

    Raises:
        ValueError: The library is not installed, the address is none, or there is no key where one is needed.
    """

    kind: ClassVar[str]
    needed_library: ClassVar[str]
    usual_key: ClassVar[str]
    usual_address: ClassVar[str]  # environment variable that the library takes the address from
    needs_key: ClassVar[bool] = False  # at any address: a server of one's own may do without
    batch_size = 1
    max_concurrency = None

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_name: str = "",
        timeout: float = 60.0,
        max_tokens: int = 64,
        revision: str = "",
        omit: Sequence[str] = (),
    ) -> None:
        self.library, self.http = needs(self.needed_library), needs("httpx2")
        needed, base_url = self.needs_key or base_url is None, base_url or os.environ.get(self.usual_address) or None
        check_address(base_url)
        self.key = Key(key_name or self.usual_key, needed=needed, model=model, base_url=base_url)
        self.model, self.revision, self.max_tokens, self.timeout = model, revision, max_tokens, timeout
        self.omitted, self._needed = set(omit), set[str]()
        self._origin: tuple[Any, ...] | None = None
        try:
            self.web = self._web(base_url)
            self.client = self._connect(_without_login(base_url))
        except self.http.InvalidURL:
            raise ValueError(NO_ADDRESS) from None

    def _connect(self, base_url: str | None) -> Any:
        """The library's client, on top of `self.web`."""
        raise NotImplementedError

    def _web(self, base_url: str | None) -> Any:
        """The HTTP client: it asks no server but the first, and takes no more from it than it can hold."""
        most, http = LONGEST_RESPONSE, self.http

        class Bounded(http.AsyncByteStream):
            def __init__(self, stream: Any, packed: bool) -> None:
                self.stream, self.unpack = stream, zlib.decompressobj(47).decompress if packed else None

            async def __aiter__(self) -> AsyncIterator[bytes]:
                size = 0
                async for part in self.stream:
                    part = self.unpack(part, most + 1) if self.unpack else part
                    size += len(part)
                    if size > most:
                        raise Busy(f"the response is longer than {most >> 20} MB", paid=True)
                    yield part

            async def aclose(self) -> None:
                await self.stream.aclose()

        async def stay(request: Any) -> None:
            origin = request.url.scheme, request.url.host, request.url.port
            self._origin = self._origin or origin
            if origin != self._origin:
                other = self.said(f"{request.url.scheme}://{request.url.netloc.decode('ascii')}")
                raise Stopped(
                    f"The server passes questions on to {other}, which is not the one that was named; name that one with "
                    "--base-url if it may have the clips."
                )

        async def bound(response: Any) -> None:
            packing = response.headers.pop("content-encoding", "").strip().lower() or "identity"
            if packing not in ("identity", "gzip", "deflate"):
                raise Busy(f"the response is packed as {self.said(packing)}, which was not asked for", paid=True)
            response.stream = Bounded(response.stream, packing != "identity")

        return http.AsyncClient(
            auth=_login(base_url),
            timeout=self.timeout,
            headers={"accept-encoding": "identity"},
            limits=http.Limits(max_connections=None, max_keepalive_connections=100),
            follow_redirects=True,
            event_hooks={"request": [stay], "response": [bound]},
        )

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """See `Backend.ask`; what the server says that it does not take is left out, once, and for good if that helps."""
        (ask,) = asks
        omit = set(self.omitted)
        while True:
            try:
                answer = self.key.mask_answer(await self._answer(ask, omit))
            except Rejected as error:
                named = [name for name in refused_parts(str(error)) if name in OMITTABLE[self.kind]]
                new = [name for name in named if name not in omit | self._needed]
                if not new:
                    self._needed |= (omit - self.omitted) & set(named)  # it is named still: that was not what is wrong
                    raise
                omit.add(new[0])
            else:
                self.omitted |= omit
                return [replace(answer, omitted=tuple(sorted(omit)))]

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        """The answer to a question that goes out without what is in `omit`; the key may stand in it."""
        raise NotImplementedError

    def said(self, text: str) -> str:
        """What a server says, as it may be shown: without the key and what a terminal would obey, and not for ever."""
        return printable(self.key.mask(text)[:LONGEST_SAID])

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.web.aclose()


def _login(base_url: str | None) -> tuple[str, str] | None:
    """Name and password in an address, which no library is told as part of it: what it logs would have them."""
    parts = urlsplit(base_url or "")
    return (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None


def _without_login(base_url: str | None) -> str | None:
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _secrets_of(base_url: str | None) -> list[str]:
    """What an address may hold that is nobody's business: a password, or a name without one, and what a query gives."""
    parts, login = urlsplit(base_url or ""), _login(base_url)
    secrets = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST]
    if login is not None:
        secrets += [login[1] or login[0], parts.password or parts.username or ""]
        secrets.append(base64.b64encode(":".join(login).encode()).decode())
    return secrets


class Key:
    """A key from the environment, and a password in the address, which nothing that is written down may hold.

    A short one, such as the "a" or "none" that servers of one's own are given, is left out where it is a word of its own,
    not inside other words.

    Args:
        name: Environment variable.
        needed: Whether there must be one.
        model: Name of the model, which is written down.
        base_url: Address of the server.

    Raises:
        ValueError: There is none, it holds what no key does, or the model is called so; the message has its name only.
    """

    def __init__(self, name: str, *, needed: bool, model: str = "", base_url: str | None = None) -> None:
        self.value = os.environ.get(name, "").strip()
        if needed and not self.value:
            # a key that was given in place of its name is not shown
            shown = name if re.fullmatch("[A-Z][A-Z0-9_]*", name) else "variable of the name that key_env gives"
            raise ValueError(f"The environment has no {shown}; set it to your key.")
        if not (self.value.isascii() and self.value.isprintable() and " " not in self.value):
            raise ValueError(
                f"{name} in the environment has a blank, a control character or one that is not ASCII; set it to the key "
                "alone."
            )
        secrets = sorted({self.value, *_secrets_of(base_url)} - {""}, key=len, reverse=True)
        self._found = [re.compile(_spelt(one)) for one in secrets]
        if self.mask(model) != model:
            raise ValueError(
                f"{name} in the environment{' or the password in base_url' if len(secrets) > 1 else ''} stands in the name of "
                "the model, which is written down; set it to the key alone, or to another word for a server that wants none."
            )

    def mask(self, text: str) -> str:
        """The text without the key, which some servers repeat, also as JSON or an address spells it."""
        for found in self._found:
            text = found.sub("[key]", text)
        return text

    def mask_answer(self, answer: Answer) -> Answer:
        """The answer without the key, but for `said`."""
        reply = None if answer.reply is None else self.mask(answer.reply)
        return replace(
            answer,
            reply=reply,
            said=None if reply == answer.reply else answer.reply,
            model=self.mask(answer.model)[:LONGEST_SAID],
            revision=self.mask(answer.revision)[:LONGEST_SAID],
        )


def _spelt(secret: str) -> str:
    """A pattern of a secret as it is, or as JSON or an address may spell it: a backslash before a character, or its number."""
    word = "".join(
        rf"(?:\\?{re.escape(letter)}|\\u(?i:{ord(letter):04x})|%(?i:{ord(letter):02x}))" for letter in secret
    )
    return word if len(secret) >= SHORTEST else rf"(?<!\w){word}(?!\w)"


def needs(name: str) -> ModuleType:
    """An optional library.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"This backend needs the package {error.name}, which is not installed; pip install 'annot-hf[alm]'."
        ) from error


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without a readable one."""
    said = headers.get("retry-after")
    milliseconds, seconds = seconds_of(headers.get("retry-after-ms")), seconds_of(said)
    if milliseconds is not None:
        return milliseconds / 1000
    if seconds is not None:
        return seconds
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - (time.time() if now is None else now), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def seconds_of(said: Any) -> float | None:
    """A number of seconds (s), 0 or more, from its text; None if it is none."""
    try:
        seconds = float(said)
    except (TypeError, ValueError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def count_of(value: Any) -> int | None:
    """A number of tokens as a server reports it; None if it is none, or one that no answer has."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


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
