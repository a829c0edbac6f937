"""The order in which named nodes can run, from the nodes that each of them reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def find_cycle(reads: Mapping[str, Iterable[str]]) -> list[str] | None:
    """A cycle as [a, b, a], where a reads b; None when there is none. Unknown names are ignored."""
    done: set[str] = set()
    for start in reads:
        path: list[str] = []
        stack = [(start, iter(reads[start]))] if start not in done else []
        while stack:
            name, rest = stack[-1]
            if not path or path[-1] != name:
                path.append(name)
            for following in rest:
                if following in path:
                    return [*path[path.index(following) :], following]
                if following in reads and following not in done:
                    stack.append((following, iter(reads[following])))
                    break
            else:
                done.add(name)
                stack.pop()
                path.pop()
    return None


def topological_order(reads: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes so that each comes after those it reads; otherwise in the order they were written.

    Depth first, so that a chain is finished before the next one begins (graphlib's order goes level by level, which
    would train everything before anything is scored). The graph must have no cycle (`find_cycle`).
    """
    order: list[str] = []
    seen: set[str] = set()
    for start in reads:
        stack = [(start, False)]  # no recursion: a chain may be longer than Python's stack
        while stack:
            name, sources_done = stack.pop()
            if sources_done:
                order.append(name)
            elif name in reads and name not in seen:
                seen.add(name)
                stack.append((name, True))
                stack.extend((source, False) for source in reversed(list(reads[name])))
    return order


def upstream(reads: Mapping[str, Iterable[str]], name: str) -> set[str]:
    """Every node that `name` needs, directly or not."""
    found: set[str] = set()
    stack = list(reads.get(name, ()))
    while stack:
        source = stack.pop()
        if source not in found:
            found.add(source)
            stack.extend(reads.get(source, ()))
    return found
