"""What the gateway is compared with: an echo as raw ASGI, and the same in FastAPI as its documentation writes one."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from bench.upstream import Echo


class Call(BaseModel):
    """A body of the same shape as a tool call's."""

    arguments: dict[str, str]


class Result(BaseModel):
    """The arguments, sent back."""

    result: dict[str, str]


raw = Echo()
bare = FastAPI()


@bare.post("/echo")
async def echo(call: Call) -> Result:
    """Answers with the arguments."""
    return Result(result=call.arguments)
