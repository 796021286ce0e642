"""Branching stories: one beginning, several ways on, and a change of mind.

    charloom serve                          # in another terminal
    python examples/branching_story.py

Shows: a primed state that others start from, copies of a session (also of an earlier point), and that the original
stays what it was.
"""

from __future__ import annotations

import argparse

from charloom.client import Client

BEGINNING = "KING RICHARD:\nNow is the winter of our discontent\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051")
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--length", type=int, default=160)
    arguments = parser.parse_args()
    with Client(arguments.target) as client, client.session(seed=7) as story:
        story.feed(BEGINNING)
        print(BEGINNING, end="")
        print(story.complete(max_tokens=arguments.length, temperature=0.6).text)
        crossroads = story.info.position

        for number, branch in enumerate(story.forks(arguments.branches, seed=100), start=1):
            with branch:
                text = branch.complete(max_tokens=arguments.length, temperature=0.8).text
                print(f"\n--- way {number} ---\n{text}")

        # The original goes on from the crossroads as if no branch had been; and one more starts before it.
        with story.fork(position=len(BEGINNING), seed=8) as other:
            text = other.complete(max_tokens=arguments.length, temperature=0.6).text
            print(f"\n--- from the very beginning ---\n{text}")
        assert story.refresh().position == crossroads


if __name__ == "__main__":
    main()
