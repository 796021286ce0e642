"""Other people's clients against a server of the bundled model, each in an environment of its own, made by pip.

    python -m benchmarks.other_clients [--directory DIRECTORY]

lm-evaluation-harness scores a text of one window (`local-completions`, tokens from the server), which has to be what
`charloom score` says to 1e-3 bits per byte; langchain-openai and llm have to get the text that the SDK gets, and
langchain-openai the same again as a stream. `--directory` keeps the environments. The last line is one JSON object with
the versions and what was found; the exit status is 1 where something differs.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.processes import free_ports, serving
from benchmarks.reporting import finish, new_parser, say
from charloom.client import Client
from charloom.models import BUNDLED_MODEL

SECONDS = 600
"""How long an installation or a client may take."""
MODEL, PROMPT, SEED, LENGTH = "shakespeare", "ROMEO:", 7, 60
CLIENTS = {"lm_eval": "lm_eval[api]", "langchain-openai": "langchain-openai", "llm": "llm"}
"""What pip installs, by the name of the distribution."""
TEXT = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.
"""
TASK = """task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/text.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
LANGCHAIN = f"""import json, sys
from langchain_openai import OpenAI
client = OpenAI(base_url=sys.argv[1], api_key="none", model="{MODEL}", seed={SEED}, max_tokens={LENGTH}, temperature=1)
print(json.dumps([client.invoke("{PROMPT}"), "".join(client.stream("{PROMPT}"))]))
"""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


class Environment:
    """One client, installed.

    Args:
        name: of the distribution
        folder: where the environment is, or is to be made
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / name
        self.bin = self.folder / "bin"
        if not (self.folder / "installed").exists():
            venv.create(self.folder, with_pip=True)
            self.run(self.bin / "pip", "install", "--quiet", CLIENTS[name])
            (self.folder / "installed").touch()
        code = f"import importlib.metadata as m; print(m.version('{name}'))"
        self.version = self.run(self.bin / "python", "-c", code).strip()
        say(f"{name} {self.version}")

    def run(self, *command: object, **variables: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it failed; the message has the end of what it said.
        """
        words = [str(word) for word in command]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout


def harness_bits(environment: Environment, address: str) -> float:
    """Bits per byte of the text, as lm-evaluation-harness finds them."""
    folder = environment.folder
    (folder / "text.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    (folder / "local_text.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    options = f"model={MODEL},base_url=http://{address}/v1/completions,tokenizer_backend=remote"
    words = ["--model", "local-completions", "--tasks", "local_text", "--include_path", folder]
    words += ["--model_args", options, "--output_path", folder / "results"]
    environment.run(environment.bin / "lm_eval", *words, **OFFLINE)
    newest = max((folder / "results").rglob("*.json"), key=lambda path: path.stat().st_mtime)
    found: float = json.loads(newest.read_text())["results"]["local_text"]["bits_per_byte,none"]
    return found


def langchain_texts(environment: Environment, address: str) -> list[str]:
    """The text, at once and as a stream."""
    found: list[str] = json.loads(
        environment.run(environment.bin / "python", "-c", LANGCHAIN, f"http://{address}/v1").splitlines()[-1]
    )
    return found


def llm_text(environment: Environment, address: str) -> str:
    """The text."""
    models = f'- model_id: loom\n  model_name: {MODEL}\n  api_base: "http://{address}/v1"\n  completion: true\n'
    (environment.folder / "extra-openai-models.yaml").write_text(models)
    options = [word for pair in (("max_tokens", LENGTH), ("seed", SEED), ("temperature", 1)) for word in ("-o", *pair)]
    return environment.run(
        environment.bin / "llm",
        *("-m", "loom", "--no-log", *options, PROMPT),
        LLM_USER_PATH=str(environment.folder),
        OPENAI_API_KEY="none",
    )


def main() -> int:
    """Run them all and compare."""
    parser = new_parser(__doc__)
    parser.add_argument("--directory", type=Path, help="keep the environments here (default: they are removed)")
    arguments = parser.parse_args()
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        folder = arguments.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environments = {name: Environment(name, folder.resolve()) for name in CLIENTS}
        server = stack.enter_context(serving(BUNDLED_MODEL, "--http-port", str(port)))
        with Client(server.target) as client:
            nats = client.score(TEXT).nats_per_token
            expected = client.complete(PROMPT, max_tokens=LENGTH, seed=SEED).text
        bits = harness_bits(environments["lm_eval"], address)
        langchain = langchain_texts(environments["langchain-openai"], address)
        llm = llm_text(environments["llm"], address)
    found: dict[str, Any] = {
        "bits_per_byte": round(bits, 5),
        "expected_bits_per_byte": round(nats / math.log(2), 5),
        "langchain_is_the_same": langchain == [expected, expected],
        "llm_is_the_same": llm.strip() == expected.strip(),
        "versions": {name: environment.version for name, environment in environments.items()},
    }
    same = abs(bits - nats / math.log(2)) <= 1e-3
    finish(found, [tuple(found), tuple(map(str, found.values()))], only_json=arguments.json)
    return 0 if same and found["langchain_is_the_same"] and found["llm_is_the_same"] else 1


if __name__ == "__main__":
    sys.exit(main())
