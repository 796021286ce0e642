"""Forms that are always filled in: a byte model trained on records, and JSON that keeps to a schema whatever it knows.

    python examples/filled_forms.py               # makes its data, trains for some seconds, serves, fills in
    python examples/filled_forms.py --records 300 --epochs 2

The records are of sales, as JSON with a line for each; the model is small and has seen little, and left to itself it
soon writes what is no JSON. Under the schema it cannot. Needs what `charloom[server,training]` installs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from random import Random

import torch

import charloom.local
from charloom.bundle import DecoderKind, Unit
from charloom.export import export_bundle
from charloom.training.checkpoint import load_trained
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import read_corpus
from charloom.training.loop import Trainer
from charloom.training.records import Evaluation, Progress
from charloom.training.run_directory import load_validation

CITIES = ("Zürich", "Łódź", "Kraków", "Tromsø", "Málaga", "Köln")
GOODS = ("tea", "coffee", "bread", "cheese", "apples")
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": list(CITIES)},
        "goods": {"type": "array", "items": {"enum": list(GOODS)}, "minItems": 1, "maxItems": 3},
        "crates": {"type": "integer", "minimum": 1, "maximum": 99},
        "paid": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 24},
    },
    "required": ["city", "goods", "crates", "paid"],
    "additionalProperties": False,
}


def record(random: Random) -> str:
    """A record as a line of JSON; each city buys its own goods, and small orders are paid at once."""
    place, crates = random.randrange(len(CITIES)), random.randint(1, 99)
    goods = [GOODS[(place + step) % len(GOODS)] for step in range(random.randint(1, 3))]
    made = {"city": CITIES[place], "goods": goods, "crates": crates, "paid": crates < 20}
    if random.random() < 0.3:
        made["note"] = random.choice(("by rail", "fragile", "on Monday", "für Ewa"))
    return json.dumps(made, ensure_ascii=False)


class Quiet:
    """Tells how the training goes."""

    def step(self, progress: Progress) -> None:
        pass

    def evaluation(self, evaluation: Evaluation) -> None:
        print(f"validation: {evaluation.validation_loss:.3f} nats a byte", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=3000, help="records to train on (default: 3,000)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over them (default: 4)")
    parser.add_argument("--forms", type=int, default=5, help="forms to fill in (default: 5)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    torch.set_num_threads(1)  # steps this small are faster on one core than on several

    random = Random(1)
    config = TrainingConfig(
        unit=Unit.BYTE, layers=1, hidden_size=96, embedding_size=24, batch_size=16, epochs=arguments.epochs,
        sequence_length=96, learning_rate=1e-2, warmup_steps=20,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, run, bundle = folder / "records.txt", folder / "run", folder / "records"
        text.write_text("".join(record(random) + "\n" for _ in range(arguments.records)), "utf-8")
        Trainer(config, read_corpus(text, Unit.BYTE), run).train(Quiet())
        export_bundle(load_trained(run), load_validation(run), bundle, name="records", decoders=[DecoderKind.ONNX_FP32])
        with charloom.local.open(bundle) as client:
            print(f"\nleft to itself: {client.complete(max_tokens=60, seed=1).text!r}\n")
            for seed in range(arguments.forms):
                found = client.complete(json_schema=SCHEMA, max_tokens=200, seed=seed)
                form = json.loads(found.text)
                print(f"{json.dumps(form, ensure_ascii=False)}   allowed: e^{found.result.allowed_logprob:.2f}")


if __name__ == "__main__":
    main()
