"""Backends that ask a server: any with the OpenAI chat protocol that accepts audio, and Gemini through Google's own client."""

import base64
import email.utils
import functools
import json
import math
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import replace
from types import UnionType
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from annot_hf.data.questions import printable
from annot_hf.models.access import needs
from annot_hf.proxies.backend import NO_ADDRESS, OMITTABLE, Answer, Ask, Busy, Rejected, Stopped, check_address

# tokens, or USD, of one answer: a larger number is not credible
LARGEST = 10**9
# characters to keep of a body that is no answer, and to show of a message from a server
LONGEST_BODY, LONGEST_SAID = 2000, 300
# seconds (s) to wait for a connection
CONNECT = 10.0
# bytes of a decompressed response: many times what long thoughts take
LONGEST_RESPONSE = 4 << 20
# characters of a key that is masked inside other words too
SHORTEST_KEY = 8
# statuses for a question that the server will never accept, and when it can answer none
REJECTING, STOPPING = (400, 413, 415, 422), (401, 402, 403, 404)
# a gateway gave up, and the server behind it may have answered; 408 is LiteLLM's, 520 and 524 are Cloudflare's
GAVE_UP = (408, 502, 504, 520, 524)

# words for a parameter, and words near them that say that the server does not support it
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
    """The parameters that an error message of a server calls unsupported, in the order of the message.

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
    """A backend that asks a server through a library, without its retries: a run knows all questions under way.

    `key_name` is an environment variable. `revision` is for the record only, as a request cannot name one. `omit` are
    parameters to leave out of every question; `omitted` has those too that the server turned out not to support.
    """

    kind: ClassVar[str]
    needed_library: ClassVar[str]
    # environment variables of the key, and from which the library reads the address
    usual_key: ClassVar[str]
    usual_address: ClassVar[str]
    # whether a key is needed at any address; a local server may work without
    needs_key: ClassVar[bool] = False
    # in the message of a run that stops
    who: ClassVar[str] = "The server"
    to_check: ClassVar[str] = "the key, the address and the name of the model"
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
        self.library, self.http = (
            needs(package, "alm", f"Backend {self.kind} needs") for package in (self.needed_library, "httpx2")
        )
        needed, base_url = self.needs_key or base_url is None, base_url or os.environ.get(self.usual_address) or None
        check_address(base_url)
        address, login, secrets = split_address(base_url)
        self.key = Key(key_name or self.usual_key, needed=needed, model=model, secrets=secrets)
        self.model, self.revision, self.max_tokens, self.timeout = model, revision, max_tokens, timeout
        self.omitted, self._needed = set(omit), set[str]()
        self._origin: tuple[Any, ...] | None = None
        # as it may be shown, and whether anything ever came from there
        self._address, self._answers = "", False
        self._patience = self.http.Timeout(timeout, connect=min(timeout, CONNECT))
        try:
            self.web = self._web(login)
            self.client = self._connect(address)
        except self.http.InvalidURL:
            raise ValueError(NO_ADDRESS) from None

    def _connect(self, base_url: str | None) -> Any:
        """The library's client on top of `self.web`."""
        raise NotImplementedError

    def _web(self, login: tuple[str, str] | None) -> Any:
        """An HTTP client that talks to one server only and limits the size of a response."""
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
            url = request.url
            origin, address = (
                (url.scheme, url.host, url.port),
                self.said(f"{url.scheme}://{url.netloc.decode('ascii')}"),
            )
            self._origin, self._address = self._origin or origin, self._address or address
            if origin != self._origin:
                raise Stopped(
                    f"The server redirects to {address}, which is not the one that was named; name that one with --base-url "
                    "if it may have the clips."
                )

        async def bound(response: Any) -> None:
            self._answers = True
            packing = response.headers.pop("content-encoding", "").strip().lower() or "identity"
            if packing not in ("identity", "gzip", "deflate"):
                raise Busy(f"the response is packed as {self.said(packing)}, which was not asked for", paid=True)
            response.stream = Bounded(response.stream, packing != "identity")

        return http.AsyncClient(
            auth=login,
            timeout=self._patience,
            headers={"accept-encoding": "identity"},
            limits=http.Limits(max_connections=None, max_keepalive_connections=100),
            follow_redirects=True,
            event_hooks={"request": [stay], "response": [bound]},
        )

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """See `Backend.ask`; a parameter that the server calls unsupported is left out, from then on if that helps."""
        (ask,) = asks
        omit = set(self.omitted)
        while True:
            try:
                # where the server takes no system message, its text comes first
                user = f"{ask.system}\n\n{ask.user}" if "system" in omit else ask.user
                answer = self.key.mask_answer(await self._answer(replace(ask, user=user), omit))
            except Rejected as error:
                named = [name for name in refused_parts(str(error)) if name in OMITTABLE[self.kind]]
                new = [name for name in named if name not in omit | self._needed]
                if not new:
                    # still named although it was left out: it was not the cause
                    self._needed |= (omit - self.omitted) & set(named)
                    raise
                omit.add(new[0])
            else:
                self.omitted |= omit
                return [replace(answer, omitted=tuple(sorted(omit)))]

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        """The answer to a question that is sent without the parameters in `omit`; it may contain the key."""
        raise NotImplementedError

    def _failure(self, status: int, said: str, pause: float | None, *, stops: bool) -> Exception:
        """The exception for an HTTP status."""
        if stops or status in STOPPING:
            return Stopped(
                f"{self.who} answers {status} to a question for model {self.model!r} ({said}); check {self.to_check}."
            )
        if status in REJECTING:
            return Rejected(f"{status}: {said}")
        return Busy(f"{status}: {said}", retry_after=pause, paid=status in GAVE_UP)

    def _broken(self, error: BaseException) -> Exception:
        """The exception for a connection that failed; paid, perhaps, if there was one."""
        reached = not isinstance(error, self.http.ConnectError | self.http.ConnectTimeout)
        what = f"{type(error).__name__}: {self.said(str(error))}"
        if reached or self._answers:
            return Busy(what, paid=reached)
        return Stopped(f"No server answers at {self._address} ({what}); start it, or correct --base-url.")

    def _unreadable(self, kind: str, error: Exception, body: str) -> Busy:
        """The exception for a body that is not of the kind it should be."""
        shown = self.key.mask(body)[:LONGEST_BODY]
        return Busy(f"the body is no {kind} ({type(error).__name__})", paid=True, body=shown)

    def said(self, text: str) -> str:
        """A message from a server as it may be shown: without the key and control characters, and cut."""
        return printable(self.key.mask(text)[:LONGEST_SAID])

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.web.aclose()


def split_address(base_url: str | None) -> tuple[str | None, tuple[str, str] | None, list[str]]:
    """An address without its login, the login, and all secrets in it: a password, or a name without one, and long values."""
    # a library that is given the login in the address might log it
    if base_url is None:
        return None, None, []
    parts, login = urlsplit(base_url), None
    secrets = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST_KEY]
    if "@" in parts.netloc:
        login = unquote(parts.username or ""), unquote(parts.password or "")
        secrets += [login[1] or login[0], parts.password or parts.username or ""]
        secrets.append(base64.b64encode(":".join(login).encode()).decode())
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), login, secrets


class Key:
    """The secrets of a server, which are masked in all that is written: a key, and a password in the address.

    `name` is that of an environment variable. A short secret, such as "none", is masked as a whole word only.
    """

    def __init__(self, name: str, *, needed: bool, model: str, secrets: Sequence[str]) -> None:
        self.value = os.environ.get(name, "").strip()
        if needed and not self.value:
            # this could be a key that was given in place of its name
            shown = name if re.fullmatch("[A-Z][A-Z0-9_]*", name) else "variable of the name that key_env gives"
            raise ValueError(f"The environment has no {shown}; set it to your key.")
        if not (self.value.isascii() and self.value.isprintable() and " " not in self.value):
            odd = "a blank, a control character or one that is not ASCII"
            raise ValueError(f"{name} in the environment has {odd}; set it to the key only.")
        found = sorted({self.value, *secrets} - {""}, key=len, reverse=True)
        self._found = [re.compile(_spelt(one)) for one in found]
        if self.mask(model) != model:
            raise ValueError(
                f"{name} in the environment{' or the password in base_url' if len(found) > 1 else ''} stands in the name of "
                "the model, which is written down; set it to the key alone, or to another word for a server that wants none."
            )

    def mask(self, text: str) -> str:
        """The text without the secrets, which some servers repeat, also as JSON or a URL escapes them."""
        for found in self._found:
            text = found.sub("[key]", text)
        return text

    def mask_answer(self, answer: Answer) -> Answer:
        """The answer without the secrets, except in `said`."""
        reply = None if answer.reply is None else self.mask(answer.reply)
        masked = {name: self.mask(getattr(answer, name))[:LONGEST_SAID] for name in ("model", "revision")}
        return replace(answer, reply=reply, said=None if reply == answer.reply else answer.reply, **masked)


def _spelt(secret: str) -> str:
    """A pattern for a secret as it is, or as JSON or a URL escapes it: a backslash before a character, or its code."""
    letters = (rf"(?:\\?{re.escape(one)}|\\u(?i:{ord(one):04x})|%(?i:{ord(one):02x}))" for one in secret)
    word = "".join(letters)
    return word if len(secret) >= SHORTEST_KEY else rf"(?<!\w){word}(?!\w)"


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds (s) that a Retry-After header asks for, as a number or a date; None without a readable one."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        seconds = seconds_of(headers.get(name))
        if seconds is not None:
            return seconds / unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after")).timestamp()
        return max(date - (time.time() if now is None else now), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def seconds_of(said: Any) -> float | None:
    """A number of seconds (s), 0 or more, from text; None if it is not a number."""
    try:
        seconds = float(said)
    except (TypeError, ValueError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def credible(value: Any, kind: type | UnionType = int) -> Any:
    """A number of tokens, or a cost (USD), as a server reports it; None if it cannot be one."""
    return value if isinstance(value, kind) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


class OpenAIServer(Server):
    """Questions as chat completions with an `input_audio` part; with a `base_url`, a key is optional."""

    kind, needed_library, usual_key, usual_address = "openai", "openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"

    def _connect(self, base_url: str | None) -> Any:
        options = {"base_url": base_url, "timeout": self._patience, "http_client": self.web}
        return self.library.AsyncOpenAI(api_key=self.key.value or "none", max_retries=0, **options)

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        system = [] if "system" in omit else [{"role": "system", "content": ask.system}]
        content = [
            {"type": "input_audio", "input_audio": {"data": _encoded(ask.audio), "format": "wav"}},
            {"type": "text", "text": ask.user},
        ]
        most = "max_completion_tokens" if "max_tokens" in omit else "max_tokens"
        options = {"temperature": ask.temperature, "seed": ask.seed, most: self.max_tokens}
        try:
            # `chat.completions.create` takes longer to copy the question than the rest of the work on it
            body = {"model": self.model, "messages": [*system, {"role": "user", "content": content}]}
            response = await self.client.post(
                "/chat/completions",
                cast_to=self.http.Response,
                body=body | {name: value for name, value in options.items() if name not in omit},
                options={"headers": {"Idempotency-Key": ask.key}},
            )
            body = response.text
        except self.library.APIStatusError as error:
            raise self._status_failure(error) from None
        except self.library.APIConnectionError as error:
            # a time-out too
            raise self._broken(error.__cause__ or error) from None
        except (self.http.HTTPError, UnicodeDecodeError, zlib.error) as error:
            # while the body arrives
            raise self._broken(error) from None
        try:
            return read_completion(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._unreadable("chat completion", error, body) from None

    def _status_failure(self, error: Any) -> Exception:
        # FastAPI and others send a list of errors instead of a message
        said = error.body.get("message", error.body) if isinstance(error.body, Mapping) else error.body
        named = f" ({error.param})" if error.param and str(error.param) not in str(said) else ""
        said = self.said(f"{said or error.message}{named}")
        if error.status_code == 429 and error.code == "insufficient_quota":
            return Stopped(f"The server says that the account has no credit left ({said}); add some and run again.")
        return self._failure(error.status_code, said, retry_after(error.response.headers), stops=False)


def read_completion(body: Mapping[str, Any]) -> Answer:
    """Read the JSON of a chat completion (else it raises); an empty list of choices is an answer without a reply."""
    choices = body["choices"]
    if not isinstance(choices, list):
        raise TypeError(f"choices is a {type(choices).__name__}")
    usage = body.get("usage")
    # an answer that was paid for is kept even without its counts
    usage = usage if isinstance(usage, Mapping) else {}
    choice = choices[0] if choices else {}
    message = choice.get("message") or {}
    reply = message.get("content")
    # some servers send parts, and thoughts are not part of the answer
    if isinstance(reply, list):
        reply = "".join(part.get("text", "") for part in reply if part.get("type", "text") in ("text", "output_text"))
    if reply is None:
        reply = message.get("refusal")
    if reply is not None and not isinstance(reply, str):
        raise TypeError(f"content is a {type(reply).__name__}")
    return Answer(
        reply,
        model=str(body.get("model") or ""),
        revision=str(body.get("system_fingerprint") or ""),
        cut=choice.get("finish_reason") == "length",
        refused=bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter",
        input_tokens=credible(usage.get("prompt_tokens")),
        output_tokens=credible(usage.get("completion_tokens")),
        cost=credible(usage.get("cost"), int | float),
    )


@functools.lru_cache(maxsize=8)
def _encoded(audio: bytes) -> str:
    """The clip in Base64; cached, since all annotators of an item are asked in a row."""
    return base64.b64encode(audio).decode()


_BLOCKED = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "RECITATION", "SPII")
# what malformed bodies raise in the client
_ODD = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


class Gemini(Server):
    """Questions as `generateContent` with the clip as inline data; `max_tokens` includes the thoughts of a model."""

    kind, needed_library, usual_key, needs_key = "gemini", "google.genai", "GEMINI_API_KEY", True
    usual_address = "GOOGLE_GEMINI_BASE_URL"
    who, to_check = "Gemini", "the key and the name of the model"

    def _connect(self, base_url: str | None) -> Any:
        self.types, self.errors = self.library.types, self.library.errors
        options = self.types.HttpOptions(
            base_url=base_url,
            timeout=round(self.timeout * 1000),
            retry_options=self.types.HttpRetryOptions(attempts=1),
            # without it the client uses aiohttp where that is installed, which raises other errors
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
        clip = types.Part.from_bytes(data=ask.audio, mime_type="audio/wav")
        contents = [clip, types.Part.from_text(text=ask.user)]
        try:
            found = await self.client.aio.models.generate_content(model=self.model, contents=contents, config=config)
            return _answer_in(found)
        except Stopped:
            raise
        except self.errors.APIError as error:
            raise self._status_failure(error) from None
        except (self.http.HTTPError, TimeoutError, OSError) as error:
            raise self._broken(error) from None
        except (self.errors.UnknownApiResponseError, zlib.error, *_ODD) as error:
            raise self._unreadable("generateContent response", error, str(error)) from None

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.client.aio.aclose()
        await super().close()

    def _status_failure(self, error: Any) -> Exception:
        pause = retry_after(getattr(error.response, "headers", None) or {})
        pause = _retry_delay(error.details) if pause is None else pause
        wrong_key = error.code == 400 and "api key" in str(error.message).lower()
        return self._failure(error.code, self.said(str(error.message)), pause, stops=wrong_key)


def _retry_delay(body: Any) -> float | None:
    """Seconds (s) that the google.rpc.RetryInfo in the JSON of an error asks for, such as "34s"; None if unreadable."""
    error = body.get("error") if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for one in details if isinstance(details, list) else ():
        if isinstance(one, Mapping) and str(one.get("@type")).endswith("google.rpc.RetryInfo"):
            return seconds_of(str(one.get("retryDelay")).removesuffix("s"))
    return None


def _answer_in(found: Any) -> Answer:
    """Read a `GenerateContentResponse`; without a candidate it is an answer without a reply."""
    candidate = found.candidates[0] if found.candidates else None
    parts = (candidate.content.parts or []) if candidate is not None and candidate.content is not None else []
    texts = [part.text for part in parts if part.text is not None and not part.thought]
    usage = found.usage_metadata
    blocked = found.prompt_feedback is not None and found.prompt_feedback.block_reason is not None
    finish = getattr(getattr(candidate, "finish_reason", None), "name", "")
    names = ("prompt_token_count", "candidates_token_count", "thoughts_token_count")
    read, *written = (credible(getattr(usage, name, None)) for name in names)
    return Answer(
        "".join(texts) if texts else None,
        model=found.model_version or "",
        revision=found.model_version or "",
        refused=blocked or finish in _BLOCKED,
        cut=finish == "MAX_TOKENS",
        input_tokens=read,
        output_tokens=sum(count or 0 for count in written) if any(count is not None for count in written) else None,
    )
