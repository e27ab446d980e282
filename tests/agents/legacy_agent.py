"""A LangGraph agent on the gateway through langchain-mcp-adapters, with a model that follows a plan.

Runs in the environment of `legacy.lock`. Arguments and output are those of `modern_agent.py`.
"""

import asyncio
import json
import sys
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_mcp_adapters.client import MultiServerMCPClient
from langgraph.prebuilt import create_react_agent
from pydantic import Field


class Planned(BaseChatModel):
    """A model that makes the calls of a plan, one a turn."""

    plan: list[Any]
    tools: list[str] = Field(default_factory=list)
    shown: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "planned"

    def bind_tools(self, tools: Any, **_: Any) -> "Planned":
        self.tools[:] = [tool.name for tool in tools]
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        if isinstance(messages[-1], ToolMessage):
            self.shown.append(messages[-1].text)
        made = sum(isinstance(message, AIMessage) for message in messages)
        message = AIMessage("done")
        if made < len(self.plan):
            name, arguments = self.plan[made]
            message = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call{made}"}])
        return ChatResult(generations=[ChatGeneration(message=message)])


async def main(url: str, key: str, plan: list[Any]) -> None:
    """One run of the agent."""
    headers = {"Authorization": f"Bearer {key}"}
    client = MultiServerMCPClient({"gateway": {"transport": "http", "url": url, "headers": headers}})
    model = Planned(plan=plan)
    agent = create_react_agent(model, await client.get_tools())
    end = await agent.ainvoke({"messages": [("user", "Go.")]})
    print(json.dumps({"tools": model.tools, "shown": model.shown, "end": end["messages"][-1].text}, default=str))


asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
