"""Describe the HTTP server: an OpenAPI document, and a page for people."""

import json
from html import escape
from typing import Any

from flax_ner import __version__
from flax_ner.serving.server_settings import ServerSettings

ERRORS = {
    400: "The body is not JSON, or a field is missing, unknown or invalid.",
    401: "The API key is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body, a text, or all texts together are too large, or there are too many texts.",
    415: "The body is not application/json in UTF-8, or it is compressed.",
    500: "The model failed on these texts.",
    503: "The queue is full, too many bodies arrive at once, or the model is still loading. The header "
    "Retry-After says when to retry.",
    504: "There was no result in time. Texts that had not been started were dropped.",
}
EXAMPLE = {
    "texts": ["王建国在东海市工作。"],
    "threshold": 0.5,
    "scoring": "strict",
}
OFFSETS = (
    "start and end count Unicode code points of the text, as Python does; end is exclusive. JavaScript and "
    "Java count UTF-16 code units, so characters beyond U+FFFF, such as emoji, count twice there."
)


def openapi_document(settings: ServerSettings, conventions: tuple[str, ...]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the server.

    Args:
        settings: the limits.
        conventions: names of the scoring conventions that the model supports.
    """
    post: dict[str, Any] = {
        "summary": "Find the entities of texts.",
        "description": OFFSETS,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _request_schema(settings, conventions), "example": EXAMPLE}
            },
        },
        "responses": {
            "200": _json_response("The entities of each text, in order.", _result_schema()),
            **{str(status): _error(text) for status, text in ERRORS.items()},
        },
    }  # fmt: skip
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "flax_ner",
            "version": __version__,
            "description": "Named-entity tagger.",
        },
        "paths": {
            "/tag": {"post": post},
            "/health": {"get": _get("Whether the process is alive.")},
            "/ready": {
                "get": _get(
                    "Whether texts can be tagged.",
                    {"503": _error("The model is loading.")},
                )
            },
            "/metrics": {"get": _get("Metrics in Prometheus's text format.", kind="text/plain")},
        },
    }
    if settings.api_key is not None:
        document["components"] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        post["security"] = [{"key": []}]
    return document


def _request_schema(settings: ServerSettings, conventions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["texts"],
        "additionalProperties": False,
        "properties": {
            "texts": {
                "type": "array", "minItems": 1, "maxItems": settings.max_texts,
                "items": {"type": "string", "maxLength": settings.max_text_characters},
                "description": f"Texts to tag, with at most {settings.max_characters:,} characters together.",
            },
            "threshold": {
                "type": "number", "minimum": 0, "maximum": 1, "default": 0,
                "description": "Entities with a lower score are omitted.",
            },
            "scoring": {
                "type": "string", "enum": list(conventions), "default": "strict",
                "description": "How tags are read as entities.",
            },
        },
    }  # fmt: skip


def _result_schema() -> dict[str, Any]:
    kinds = {
        "type": "string", "start": "integer", "end": "integer", "text": "string", "score": "number",
    }  # fmt: skip
    entity = {
        "type": "object",
        "required": list(kinds),
        "properties": {name: {"type": kind} for name, kind in kinds.items()},
    }
    results = {"type": "array", "items": {"type": "array", "items": entity}}
    return {"type": "object", "required": ["results"], "properties": {"results": results}}


def _json_response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return _json_response(description, error)


def _get(
    summary: str, more: dict[str, Any] | None = None, kind: str = "application/json"
) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": {kind: {}}}, **(more or {})}
    return {"summary": summary, "responses": responses}


def openapi_page(document: dict[str, Any], url: str) -> str:
    """Return the OpenAPI document as a page of HTML, which loads nothing from elsewhere.

    Args:
        document: result of `openapi_document`.
        url: URL of the server, for the example.
    """
    post = document["paths"]["/tag"]["post"]
    key = " -H 'Authorization: Bearer KEY'" if "security" in post else ""
    body = json.dumps(EXAMPLE, ensure_ascii=False)
    curl = f"curl {url}tag -H 'Content-Type: application/json'{key} -d '{body}'"
    paths = "".join(
        f"<tr><td><code>{method.upper()} {path}</code><td>{escape(operation['summary'])}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    statuses = "".join(
        f"<tr><td>{status}<td>{escape(response['description'])}"
        for status, response in post["responses"].items()
    )
    schemas = "".join(
        f"<h2>{title}</h2><pre>{escape(json.dumps(schema, ensure_ascii=False, indent=2))}</pre>"
        for title, schema in (
            ("Request", post["requestBody"]["content"]["application/json"]["schema"]),
            ("Answer", post["responses"]["200"]["content"]["application/json"]["schema"]),
        )
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>flax_ner</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:16px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}pre{background:#f4f4f4;padding:1rem;"
        "white-space:pre-wrap}</style>"
        f"<h1>flax_ner {escape(document['info']['version'])}</h1><table>{paths}</table>"
        f"<h2>Example</h2><pre>{escape(curl)}</pre><p>{escape(OFFSETS)}</p>"
        f"<h2>Statuses of /tag</h2><table>{statuses}</table>"
        '<p>An error is <code>{"error": "..."}</code>. The document for programs is '
        f'<a href="openapi.json">openapi.json</a>.</p>{schemas}</html>'
    )
