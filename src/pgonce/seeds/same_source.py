"""Whether a source is what it was at the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds import calls
from pgonce.seeds.calls import Checkpoint
from pgonce.seeds.seed import Fingerprint, Seed
from pgonce.seeds.source import Fingerprinted, as_jsonb


def check_form(whole: Checkpoint | None, parts: Sequence[Checkpoint], *, in_parts: bool) -> None:
    """Refuse what a run would refuse: a seed with partitions that has run without, or the reverse.

    Raises:
        InvalidArgument: it would bring the same rows once more.
    """
    if whole and (whole.cursor is not None if in_parts else parts):
        how, other = ("without partitions", "with") if in_parts else ("in partitions", "without")
        raise InvalidArgument(
            f"the seed {whole.seed_name} has run {how}, and {other} them it would bring its rows once more: --restart "
            "begins at the start"
        )


def check_source(
    seed: Seed, source: object, at: Checkpoint | None, *, accept_change: bool = False
) -> Fingerprint | None:
    """The function that takes fingerprints, when the source is what it was at the checkpoint.

    Raises:
        SourceChanged: it is another one; the message names the ways to go on.
    """
    own = source if isinstance(source, Fingerprinted) else None
    take = seed.fingerprint or (own.fingerprint if own else None)
    if take is None or at is None or at.fingerprint is None or accept_change:
        return take
    if own and seed.fingerprint is None:
        changed = own.same(at.fingerprint) == "changed"
    else:
        changed = as_jsonb(calls.jsonb(take(at.cursor), "fingerprint").obj) != as_jsonb(at.fingerprint)
    if changed:
        raise SourceChanged(
            f"the source of {seed.name} has changed since row {at.rows_seen:,}: begin at the start "
            f"({_restart_advice(seed)}), resume at the checkpoint (--accept-change), or use another --name"
        )
    return take


def _restart_advice(seed: Seed) -> str:
    if not seed.key:
        return f"empty {seed.into} first, then --restart"
    if seed.on_conflict == "skip":
        return "--restart --on-conflict update; without the second rows that are there stay as they are"
    return "--restart"
