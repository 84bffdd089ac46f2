from __future__ import annotations

from engine.model.states import FINAL_TASK_STATES, TRANSITIONS, Move, TaskState, mermaid


def test_every_move_has_its_transition() -> None:
    assert set(TRANSITIONS) == set(Move)


def test_only_a_rerun_leaves_a_final_state() -> None:
    leaving = {move for move, change in TRANSITIONS.items() if change.sources & FINAL_TASK_STATES}
    assert leaving == {Move.RERUN}


def test_no_move_stays_where_it_is() -> None:
    assert all(change.target not in change.sources for change in TRANSITIONS.values())


def test_every_state_can_be_reached_and_every_open_one_left() -> None:
    targets = {change.target for change in TRANSITIONS.values()}
    assert targets == set(TaskState)
    sources = set().union(*(change.sources for change in TRANSITIONS.values()))
    assert set(TaskState) - FINAL_TASK_STATES <= sources


def test_running_is_entered_by_a_claim_only() -> None:
    assert [m for m, change in TRANSITIONS.items() if change.target is TaskState.RUNNING] == [Move.CLAIM]


def test_the_diagram_has_one_line_per_source_and_move() -> None:
    lines = mermaid().splitlines()
    arrows = sum(len(change.sources) for change in TRANSITIONS.values())
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 3 + arrows == len(set(lines))
    assert "    running --> succeeded: succeed" in lines
