"""A local server that speaks the OpenAI chat protocol, with audio in the request; what it says is up to you.

It runs in a thread of its own. A `Reply` may also be what servers do on a bad day: another status, half a body, no JSON, a
stall, a connection that is cut.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Question:
    """A request that was read: the JSON body, the audio it holds, its headers."""

    body: dict[str, Any]
    audio: bytes
    headers: dict[str, str]
    path: str

    @property
    def text(self) -> str:
        """What the user message says beside the audio."""
        parts = self.body["messages"][-1]["content"] if "messages" in self.body else self.body["contents"][-1]["parts"]
        return "\n".join(part["text"] for part in parts if "text" in part)


@dataclass(frozen=True)
class Reply:
    """What the server sends: a chat completion of `text`, or `body` as it is."""

    text: str | None = None
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    stall: float = 0.0
    cut: bool = False
    usage: dict[str, Any] | None = None
    choices: list[Any] | None = None
    finish: str = "stop"
    drip: float = 0.0  # seconds between two bytes


@contextlib.contextmanager
def serve(answer: Callable[[Question], Reply], port: int = 0) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1; yields the base URL, ending in /v1."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    bound: list[int] = []

    async def run() -> None:
        server = await asyncio.start_server(lambda reader, writer: _talk(reader, writer, answer), "127.0.0.1", port)
        bound.append(server.sockets[0].getsockname()[1])
        ready.set()
        async with server:
            await server.serve_forever()

    def work() -> None:
        task = loop.create_task(run())
        stopping.append(task)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        rest = asyncio.all_tasks(loop)
        for one in rest:
            one.cancel()
        if rest:
            loop.run_until_complete(asyncio.wait(rest))
        loop.close()

    stopping: list[asyncio.Task] = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{bound[0]}/v1"
    finally:
        loop.call_soon_threadsafe(stopping[0].cancel)
        thread.join(5)


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Question], Reply]
) -> None:
    """Answer the requests of one connection."""
    # cancelled at the end: asyncio 3.11 prints the traceback of a connection that says so
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            data = await reader.readexactly(int(headers.get("content-length", 0)))
            question = _read(first.split(" ")[1], headers, data)
            reply = Reply(status=400, text="no audio") if question is None else answer(question)
            if reply.stall:
                await asyncio.sleep(reply.stall)
            model = reply.model if reply.model is not None else (question.body.get("model", "") if question else "")
            body = reply.body if reply.body is not None else _completion(reply, model)
            lines = {"content-type": "application/json", **reply.headers, "content-length": str(len(body))}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Status')}\r\n{head}\r\n".encode())
            for byte in body if reply.drip else b"":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.drip)
            if not reply.drip:
                writer.write(body[: len(body) // 2] if reply.cut else body)
            await writer.drain()
            if reply.cut:
                break
    writer.close()


def _read(path: str, headers: dict[str, str], data: bytes) -> Question | None:
    """The question in a request; None without audio."""
    body = json.loads(data)
    for turn in body.get("messages") or body.get("contents") or ():
        parts = turn.get("content") or turn.get("parts")
        for part in parts if isinstance(parts, list) else []:
            found = part.get("input_audio") or part.get("inlineData")  # OpenAI's name, Gemini's name
            if found:
                data = found["data"].replace("-", "+").replace("_", "/")  # Gemini's client writes the URL-safe kind
                return Question(body, base64.b64decode(data), headers, path)
    return None


def _completion(reply: Reply, model: str) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.text or "an error", "type": "error", "code": None}}).encode()
    message = {"role": "assistant", "content": reply.text}
    choices = (
        [{"index": 0, "message": message, "finish_reason": reply.finish}] if reply.choices is None else reply.choices
    )
    usage = reply.usage or {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": model, "choices": choices}
    return json.dumps(answer | {"usage": usage}).encode()
