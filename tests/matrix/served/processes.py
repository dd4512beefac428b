"""Children of multiprocessing that ask a model: python processes.py fork|spawn|forkserver."""

from __future__ import annotations

import multiprocessing
import sys

import questions


def work(user: str) -> None:
    with questions.on_behalf_of(user):
        questions.plain(user)
        questions.streamed(user)


if __name__ == "__main__":
    work("ada")
    kind = multiprocessing.get_context(sys.argv[1])
    children = [kind.Process(target=work, args=(user,)) for user in ("bob", "cyd")]
    for child in children:
        child.start()
    for child in children:
        child.join()
    with kind.Pool(2) as pool:
        pool.map(work, ["ada"])
    work("ada")
    sys.exit(sum(child.exitcode or 0 for child in children))
