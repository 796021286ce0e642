"""What answers look like, as JSON Schema, for the document at /openapi.json; the tests hold answers to it."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
TRUTH: Schema = {"type": "boolean"}


def some(schema: Schema) -> Schema:
    """Null is possible too."""
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": schema}


def members(needed: dict[str, Schema], **possible: Schema) -> Schema:
    """An object."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **possible}}


ERROR = members(
    {
        "error": members(
            {"message": TEXT, "type": TEXT, "param": some(TEXT), "code": TEXT},
            request_id=TEXT,
            facts={"type": "object", "additionalProperties": TEXT},
        )
    }
)
HEALTH = members({"status": TEXT})
MODEL = members(
    {
        "id": TEXT,
        "object": TEXT,
        "created": WHOLE,
        "owned_by": TEXT,
        "digest": TEXT,
        "unit": TEXT,
        "vocabulary_size": WHOLE,
        "chat": {"enum": ["template", "transcript"]},
        "max_tokens": WHOLE,
        "max_prompt_characters": WHOLE,
        "task": {"enum": ["language-model", "classification"]},
        "cell": members({"kind": TEXT, "layers": WHOLE, "units": WHOLE, "gates": many(TEXT), "arrays": many(TEXT)}),
    },
    labels=many(TEXT),
)
MODELS = members({"object": TEXT, "data": many(MODEL)})
_USAGE = members({"prompt_tokens": WHOLE, "completion_tokens": WHOLE, "total_tokens": WHOLE})
_ENDING = {
    "index": WHOLE,
    "finish_reason": TEXT,
    "stop_reason": some(TEXT),
    "position": WHOLE,
    "seed": WHOLE,
    "allowed_logprob": NUMBER,
    "resampled": members({"weight": NUMBER, "ancestor": WHOLE, "times": WHOLE, "match_logprob": NUMBER}),
}


def _completion(needed: dict[str, Schema]) -> Schema:
    choice = members({"index": WHOLE, "finish_reason": TEXT, **needed}, **_ENDING, state=TEXT)
    return members(
        {
            "id": TEXT,
            "object": TEXT,
            "created": WHOLE,
            "model": TEXT,
            "system_fingerprint": TEXT,
            "choices": many(choice),
            "usage": _USAGE,
        }
    )


_COLUMNS = members(
    {
        "tokens": many(TEXT),
        "token_logprobs": many(some(NUMBER)),
        "top_logprobs": many(some({"type": "object", "additionalProperties": NUMBER})),
        "text_offset": many(WHOLE),
    },
    allowed_logprobs=many(some(NUMBER)),
)
COMPLETION = _completion({"text": TEXT, "logprobs": some(_COLUMNS)})
_ENTRY = {"token": TEXT, "logprob": NUMBER, "bytes": many(WHOLE)}
_ENTRIES = members(
    {
        "content": many(members({**_ENTRY, "top_logprobs": many(members(_ENTRY))}, allowed_logprob=NUMBER)),
        "refusal": some(TEXT),
    }
)
CHAT = _completion(
    {"message": members({"role": TEXT, "content": TEXT, "refusal": some(TEXT)}), "logprobs": some(_ENTRIES)}
)
_READ = members({"prompt_tokens": WHOLE, "total_tokens": WHOLE})
EMBEDDINGS = members(
    {
        "object": TEXT,
        "model": TEXT,
        "usage": _READ,
        "data": many(members({"object": TEXT, "index": WHOLE, "embedding": {"anyOf": [many(NUMBER), TEXT]}})),
    }
)
SCORES = members(
    {
        "object": TEXT,
        "model": TEXT,
        "data": many(
            members(
                {
                    "object": TEXT,
                    "index": WHOLE,
                    "tokens": WHOLE,
                    "logprob": NUMBER,
                    "nats_per_token": NUMBER,
                    "bits_per_character": NUMBER,
                    "perplexity": NUMBER,
                }
            )
        ),
        "usage": _READ,
    }
)
RANKING = members(
    {
        "object": TEXT,
        "model": TEXT,
        "position": WHOLE,
        "data": many(
            members({"object": TEXT, "index": WHOLE, "logprob": NUMBER, "tokens": WHOLE, "probability": NUMBER})
        ),
        "usage": _READ,
    }
)
_UNKNOWN = members({"text": TEXT, "position": WHOLE})
LABELS = members(
    {
        "object": TEXT,
        "model": TEXT,
        "data": many(
            members(
                {
                    "object": TEXT,
                    "index": WHOLE,
                    "label": TEXT,
                    "probabilities": {"type": "object", "additionalProperties": NUMBER},
                    "tokens": WHOLE,
                    "left_out": WHOLE,
                    "unknown": many(_UNKNOWN),
                    "unknown_count": WHOLE,
                }
            )
        ),
        "usage": _READ,
    }
)
VERDICTS = members(
    {
        "object": TEXT,
        "model": TEXT,
        "data": many(
            members(
                {
                    "object": TEXT,
                    "index": WHOLE,
                    "source": TEXT,
                    "surprise": NUMBER,
                    "threshold": some(NUMBER),
                    "alert": TRUTH,
                    "own_threshold": TRUTH,
                    "drifting": TRUTH,
                    "cut": TRUTH,
                    "nats": NUMBER,
                    "tokens": WHOLE,
                    "lines": WHOLE,
                },
                characters=many(NUMBER),
            )
        ),
        "usage": _READ,
    }
)
SUGGESTIONS = members(
    {
        "object": TEXT,
        "model": TEXT,
        "position": WHOLE,
        "beam": WHOLE,
        "exact": TRUTH,
        "data": many(
            members({"object": TEXT, "index": WHOLE, "text": TEXT, "tokens": WHOLE, "logprob": NUMBER, "ended": TRUTH})
        ),
        "usage": _READ,
    }
)
TOKENS = members({"count": WHOLE, "max_model_len": WHOLE, "tokens": many(WHOLE), "token_strs": some(many(TEXT))})
INSPECTION = members(
    {
        "object": TEXT,
        "model": TEXT,
        "units": WHOLE,
        "tokens": many(TEXT),
        "token_logprobs": many(NUMBER),
        "positions": many(WHOLE),
        "activations": many(
            members({"layer": WHOLE, "name": TEXT, "values": {"anyOf": [many(many(NUMBER)), TEXT]}}),
        ),
    }
)
PROMPT = members({"prompt": TEXT})
TOKENIZER = members(
    {
        "tokenizer_class": TEXT,
        "unit": TEXT,
        "vocab_size": WHOLE,
        "bos_token": TEXT,
        "eos_token": some(TEXT),
        "pad_token": some(TEXT),
        "chat_template": some(TEXT),
    }
)
SESSION = members(
    {
        "id": TEXT,
        "object": TEXT,
        "model": TEXT,
        "digest": TEXT,
        "position": WHOLE,
        "earliest_position": WHOLE,
        "version": WHOLE,
        "seed": WHOLE,
        "adaptive": TRUTH,
        "created_at": NUMBER,
        "updated_at": NUMBER,
        "expires_at": NUMBER,
        "time_to_live": NUMBER,
        "origin": some(members({"session_id": TEXT, "position": WHOLE})),
    },
    exact=TRUTH,
    deleted=TRUTH,
    deleted_at=NUMBER,
)
SESSIONS = members(
    {"object": TEXT, "data": many(SESSION)},
    last_id=some(TEXT),
    has_more=TRUTH,
    unreadable=many(members({"id": TEXT, "problem": TEXT})),
)
STATE = members({"state": TEXT, "expires_at": NUMBER})
INFERENCE_ERROR = members({"error": TEXT})
LIVE = members({"live": TRUTH})
READY = members({"ready": TRUTH}, name=TEXT)
INFERENCE_SERVER = members({"name": TEXT, "version": TEXT, "extensions": many(TEXT)})
_TENSOR = {"name": TEXT, "datatype": TEXT, "shape": many(WHOLE)}
INFERENCE_MODEL = members(
    {
        "name": TEXT,
        "versions": many(TEXT),
        "platform": TEXT,
        "inputs": many(members(_TENSOR)),
        "outputs": many(members(_TENSOR)),
    }
)
INFERENCE = members(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "outputs": many(
            members(
                _TENSOR,
                data=many({"anyOf": [TEXT, WHOLE]}),
                parameters=members({"binary_data_size": WHOLE}),
            )
        ),
    },
    id=TEXT,
    parameters={"type": "object"},
)
REPOSITORY = many(members({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT}))
DOCUMENT: Schema = {"type": "object"}
