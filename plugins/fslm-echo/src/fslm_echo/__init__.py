"""The smallest plugin: a tool stage and a stack that says back what it is told."""

from pydantic import BaseModel

from fslm_core import Stack, Stage, hookimpl, tool


class Said(BaseModel):
    text: str


class Echo(BaseModel):
    echo: str


@tool("echo.say", version="1", pure=True)
def say(message: Said) -> Echo:
    """Say it back."""
    return Echo(echo=message.text)


echo = Stack("echo", input=Said, output=Echo, steps=[say], description="Say back what one is told.")


@hookimpl
def fslm_stages() -> list[Stage[Said, Echo]]:
    return [say]


@hookimpl
def fslm_stacks() -> list[Stack[Said, Echo]]:
    return [echo]
