"""FastAPI on bare uvicorn. Argument: the port."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Said(BaseModel):
    s: str


web = FastAPI()


@web.post("/")
async def echo(said: Said):
    return {"s": said.s}


uvicorn.run(web, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
