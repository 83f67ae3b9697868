"""Serve transformers' token-classification pipeline with FastAPI, to compare with `python -m flax_ner serve`.

    python benchmarks/serving_pipeline.py FOLDER

FOLDER is from `convert/flax_to_torch.py MODEL FOLDER --layout hf`. Started by benchmarks/serving.py, in an
environment with torch, transformers, fastapi and uvicorn. Prints the port at which it listens.
"""

import socket
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Body(BaseModel):
    texts: list[str]


def main() -> None:
    tagger = pipeline("token-classification", sys.argv[1], aggregation_strategy="simple")
    app, lock = FastAPI(), threading.Lock()

    @app.post("/tag")
    def tag(body: Body) -> dict[str, Any]:
        with lock:  # a fast tokenizer cannot be used by two threads at once
            predicted = [tagger(text) for text in body.texts]
        return {
            "results": [
                [
                    {
                        "type": entity["entity_group"],
                        "start": entity["start"],
                        "end": entity["end"],
                        "score": float(entity["score"]),
                    }
                    for entity in entities
                ]
                for entities in predicted
            ]
        }

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
