"""A pydantic-ai agent on the gateway, with a model that follows a plan. Runs in the environment of `modern.lock`.

Arguments: URL, key, and the plan as JSON: a list of [tool, arguments]. Prints what the model was shown: the tools, what
came back for each call, and how the run ended.
"""

import asyncio
import json
import sys

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


async def main(url: str, key: str, plan: list[tuple[str, dict[str, object]]]) -> None:
    """One run of the agent."""
    tools: list[str] = []
    shown: list[object] = []
    steps = iter(plan)

    def model(messages: list[ModelMessage], about: AgentInfo) -> ModelResponse:
        tools[:] = [tool.name for tool in about.function_tools]
        shown.extend(p.content for p in messages[-1].parts if isinstance(p, ToolReturnPart | RetryPromptPart))
        step = next(steps, None)
        return ModelResponse(parts=[TextPart("done") if step is None else ToolCallPart(step[0], step[1])])

    agent = Agent(FunctionModel(model), toolsets=[MCPToolset(url, headers={"Authorization": f"Bearer {key}"})])
    run = await agent.run("Go.")
    print(json.dumps({"tools": tools, "shown": shown, "end": run.output}, default=str))


asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
